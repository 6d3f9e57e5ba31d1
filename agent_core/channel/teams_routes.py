"""What the connector service of Microsoft Teams can do besides: teams, meetings, and messages to many at once.

Bodies are the JSON of Teams, because it grows faster than any copy of it here would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent_core.activity.activity import Activity
from agent_core.channel.connector_errors import json_object
from agent_core.channel.http_client import HttpAnswer
from agent_core.errors import ChannelError

_BATCH = ["v3", "batch", "conversation"]


class Call(Protocol):
    """Calls a route of the service; see `ConnectorClient.call`."""

    async def __call__(self, method: str, path: Sequence[str], **options: Any) -> HttpAnswer:
        """The answer with a status of 2xx, or ChannelError."""


class TeamsRoutes:
    """The routes of Teams. Every method raises ChannelError for what Teams refuses."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def get_team_details(self, team_id: str) -> dict[str, Any]:
        """`id`, `name`, `aadGroupId`, `channelCount`, `memberCount`.

        https://learn.microsoft.com/microsoftteams/platform/bots/how-to/get-teams-context
        """
        return await self._get("v3", "teams", team_id)

    async def get_team_channels(self, team_id: str) -> list[dict[str, Any]]:
        """`id` and `name` of each channel; the General channel has the team's id and no name."""
        found = (await self._get("v3", "teams", team_id, "conversations")).get("conversations")
        return [each for each in (found if isinstance(found, list) else []) if isinstance(each, dict)]

    async def get_meeting_info(self, meeting_id: str) -> dict[str, Any]:
        """`details`, `conversation` and `organizer` of a meeting, by the id in its `channelData.meeting.id`.

        https://learn.microsoft.com/microsoftteams/platform/apps-in-teams-meetings/meeting-apps-apis
        """
        return await self._get("v1", "meetings", meeting_id)

    async def get_meeting_participant(
        self, meeting_id: str, participant_id: str, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """`user`, `meeting` (with `role` and `inMeeting`) and `conversation`, by the user's aadObjectId."""
        return await self._get("v1", "meetings", meeting_id, "participants", participant_id, tenantId=tenant_id)

    async def send_meeting_notification(self, meeting_id: str, notification: Mapping[str, Any]) -> dict[str, Any]:
        """Notify people in a meeting; `recipientsFailureInfo` in the answer names those who were not reached."""
        return await self._post(["v1", "meetings", meeting_id, "notification"], notification)

    async def send_message_to_list_of_users(self, activity: Activity, tenant_id: str, user_ids: Sequence[str]) -> str:
        """One message to 5 to 100 users, in the background; returns the id of the operation.

        It takes no idempotency key: after a ChannelError that is `ambiguous`, look before sending it again.
        https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages
        """
        return await self._batch("users", activity, tenant_id, members=[{"id": each} for each in user_ids])

    async def send_message_to_all_users_in_tenant(self, activity: Activity, tenant_id: str) -> str:
        """One message to everybody who has the app; returns the id of the operation, as above."""
        return await self._batch("tenant", activity, tenant_id)

    async def send_message_to_all_users_in_team(self, activity: Activity, tenant_id: str, team_id: str) -> str:
        """One message to each member of a team; returns the id of the operation, as above."""
        return await self._batch("team", activity, tenant_id, teamId=team_id)

    async def send_message_to_list_of_channels(
        self, activity: Activity, tenant_id: str, channel_ids: Sequence[str]
    ) -> str:
        """One message to each of these channels; returns the id of the operation, as above."""
        return await self._batch("channels", activity, tenant_id, members=[{"id": each} for each in channel_ids])

    async def get_operation_state(self, operation_id: str) -> dict[str, Any]:
        """How far a message to many is: `state`, `statusMap` (how many got which status), `totalEntriesCount`."""
        return await self._get(*_BATCH, operation_id)

    async def get_failed_entries(
        self, operation_id: str, continuation_token: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Who was not reached, with `entryId` and `error`, and the token that leads to more of them."""
        page = await self._get(*_BATCH, "failedentries", operation_id, continuationToken=continuation_token)
        found = page.get("failedEntries") or page.get("failedEntryResponses")
        following = page.get("continuationToken")
        entries = [each for each in (found if isinstance(found, list) else []) if isinstance(each, dict)]
        return entries, following if isinstance(following, str) and following else None

    async def cancel_operation(self, operation_id: str) -> None:
        """Stop a message to many; whom it reached by then keeps it. May be repeated without harm."""
        await self._call("DELETE", [*_BATCH, operation_id])

    async def _get(self, *path: str, **query: str | None) -> dict[str, Any]:
        return json_object(await self._call("GET", path, query=query))

    async def _post(self, path: Sequence[str], body: Mapping[str, Any]) -> dict[str, Any]:
        return json_object(await self._call("POST", path, body=dict(body)))

    async def _batch(self, kind: str, activity: Activity, tenant_id: str, **body: Any) -> str:
        answer = await self._post([*_BATCH, kind], {"activity": activity.to_dict(), "tenantId": tenant_id, **body})
        operation_id = answer.get("operationId")
        if not isinstance(operation_id, str) or not operation_id:
            raise ChannelError("Teams took a message to many and did not say the operation's id", decision="ambiguous")
        return operation_id
