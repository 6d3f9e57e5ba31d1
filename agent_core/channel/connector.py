"""The routes of one connector service: how what the agent says reaches the channel, and what the channel knows.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.conversation_reference import (
    ChannelAccount,
    ConversationParameters,
    ConversationResourceResponse,
    ResourceResponse,
)
from agent_core.channel.connector_client import ConnectorClient, ConnectorService
from agent_core.channel.connector_errors import id_of, json_list, json_object
from agent_core.channel.http_client import HttpAnswer
from agent_core.channel.teams_routes import TeamsRoutes
from agent_core.errors import BadActivity, ChannelError, NotSupported

# What one view of an attachment may have; a channel's own limit for what is sent is far below.
MAX_ATTACHMENT = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PagedMembers:
    """Some of the members of a conversation; `continuation_token` leads to more, and is None at the end."""

    members: list[ChannelAccount]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class ConversationMembers:
    """A conversation that the agent is in, and who else is."""

    id: str
    members: list[ChannelAccount]


@dataclass(frozen=True, slots=True)
class ConversationsPage:
    """Some of the agent's conversations; `continuation_token` leads to more, and is None at the end."""

    conversations: list[ConversationMembers]
    continuation_token: str | None


@dataclass(frozen=True, slots=True)
class AttachmentInfo:
    """What the channel keeps of an attachment.

    Attributes:
        views: the size in bytes of each of its views, by the view's id; `original` is what was sent.
    """

    name: str | None
    type: str | None
    views: Mapping[str, int | None]


class Connector:
    """The REST API of one connector service. Every method raises ChannelError for what the channel refuses.

    Attributes:
        teams: the routes that Microsoft Teams has besides.
    """

    def __init__(self, client: ConnectorClient, service: ConnectorService) -> None:
        self._client = client
        self._service = service
        self.teams = TeamsRoutes(self._call)

    async def send_to_conversation(self, conversation_id: str, activity: Activity) -> ResourceResponse:
        """A new activity; its id is None where the channel gives none."""
        return ResourceResponse(id=id_of(await self._post(_of(conversation_id, "activities"), activity)))

    async def reply_to_activity(self, conversation_id: str, activity_id: str, activity: Activity) -> ResourceResponse:
        """An answer to an activity."""
        return ResourceResponse(id=id_of(await self._post(_of(conversation_id, "activities", activity_id), activity)))

    async def update_activity(self, conversation_id: str, activity_id: str, activity: Activity) -> ResourceResponse:
        """Another version of an activity; may be repeated without harm."""
        path = _of(conversation_id, "activities", activity_id)
        answer = await self._call("PUT", path, body=activity.to_dict())
        return ResourceResponse(id=id_of(answer) or activity_id)

    async def delete_activity(self, conversation_id: str, activity_id: str) -> None:
        """May be repeated without harm."""
        await self._call("DELETE", _of(conversation_id, "activities", activity_id))

    async def create_conversation(self, parameters: ConversationParameters) -> ConversationResourceResponse:
        """A new conversation, or on most channels the one there is. ChannelError also for an answer without its id."""
        answer = json_object(await self._call("POST", _of(), body=parameters.to_dict()))
        if not isinstance(answer.get("id"), str) or not answer["id"]:
            raise ChannelError("The channel created a conversation and did not say its id", decision="ambiguous")
        return ConversationResourceResponse.from_dict({key: text for key, text in answer.items() if _is_text(text)})

    async def get_conversations(self, continuation_token: str | None = None) -> ConversationsPage:
        """The conversations that the agent takes part in, page by page."""
        page = json_object(await self._get(_of(), continuationToken=continuation_token))
        found = page.get("conversations")
        conversations = [
            ConversationMembers(each["id"], _accounts(each.get("members")))
            for each in (found if isinstance(found, list) else [])
            if isinstance(each, dict) and _is_text(each.get("id"))
        ]
        return ConversationsPage(conversations, _text(page.get("continuationToken")))

    async def send_conversation_history(self, conversation_id: str, activities: Sequence[Activity]) -> ResourceResponse:
        """Put a transcript of past activities into a conversation."""
        body = {"activities": [each.to_dict() for each in activities]}
        path = _of(conversation_id, "activities", "history")
        return ResourceResponse(id=id_of(await self._call("POST", path, body=body)))

    async def get_conversation_members(self, conversation_id: str) -> list[ChannelAccount]:
        """All at once; for Teams ask `get_paged_members`, which it limits less."""
        return _accounts(json_list(await self._get(_of(conversation_id, "members"))))

    async def get_conversation_member(self, conversation_id: str, member_id: str) -> ChannelAccount:
        """One member. ChannelError with `gone` for who is none."""
        found = _accounts([json_object(await self._get(_of(conversation_id, "members", member_id)))])
        if not found:
            raise ChannelError("The channel answered with something that is no member", decision="ambiguous")
        return found[0]

    async def get_conversation_paged_members(
        self, conversation_id: str, *, page_size: int | None = None, continuation_token: str | None = None
    ) -> PagedMembers:
        """One page of the members; Teams gives 50 to 500 at once."""
        size = None if page_size is None else str(page_size)
        path = _of(conversation_id, "pagedmembers")
        page = json_object(await self._get(path, pageSize=size, continuationToken=continuation_token))
        return PagedMembers(_accounts(page.get("members")), _text(page.get("continuationToken")))

    async def get_paged_members(
        self, conversation_id: str, *, page_size: int | None = None
    ) -> AsyncIterator[ChannelAccount]:
        """All members, page after page as they are asked for: `async for member in …`."""
        token: str | None = None
        while True:
            page = await self.get_conversation_paged_members(
                conversation_id, page_size=page_size, continuation_token=token
            )
            for member in page.members:
                yield member
            # The same token again would be the same page for ever.
            if page.continuation_token is None or page.continuation_token == token:
                return
            token = page.continuation_token

    async def get_activity_members(self, conversation_id: str, activity_id: str) -> list[ChannelAccount]:
        """Who an activity went to."""
        return _accounts(json_list(await self._get(_of(conversation_id, "activities", activity_id, "members"))))

    async def delete_conversation_member(self, conversation_id: str, member_id: str) -> None:
        """Remove somebody from a conversation; the last one takes the conversation along."""
        await self._call("DELETE", _of(conversation_id, "members", member_id))

    async def upload_attachment(
        self, conversation_id: str, *, name: str, content_type: str, content: bytes, thumbnail: bytes | None = None
    ) -> ResourceResponse:
        """Put a file into the channel's own store; the id in the answer is the attachment's."""
        body = {"type": content_type, "name": name, "originalBase64": base64.b64encode(content).decode()}
        if thumbnail is not None:
            body["thumbnailBase64"] = base64.b64encode(thumbnail).decode()
        path = _of(conversation_id, "attachments")
        return ResourceResponse(id=id_of(await self._call("POST", path, body=body)))

    async def get_attachment_info(self, attachment_id: str) -> AttachmentInfo:
        """What the channel keeps of an attachment: its name, type and views."""
        found = json_object(await self._get(["v3", "attachments", attachment_id]))
        views = found.get("views")
        sizes = {
            each["viewId"]: each["size"] if isinstance(each.get("size"), int) else None
            for each in (views if isinstance(views, list) else [])
            if isinstance(each, dict) and _is_text(each.get("viewId"))
        }
        return AttachmentInfo(_text(found.get("name")), _text(found.get("type")), sizes)

    async def get_attachment(self, attachment_id: str, view_id: str = "original") -> bytes:
        """The bytes of one view, at most MAX_ATTACHMENT. A redirect to somewhere else is refused, not followed."""
        path = ["v3", "attachments", attachment_id, "views", view_id]
        answer = await self._call("GET", path, accept="application/octet-stream", max_body=MAX_ATTACHMENT)
        return answer.body

    async def _get(self, path: Sequence[str], **query: str | None) -> HttpAnswer:
        return await self._call("GET", path, query=query)

    async def _post(self, path: Sequence[str], activity: Activity) -> HttpAnswer:
        # An indicator or a part of a stream that comes late is worth nothing, and the next one follows anyway.
        repeats = activity.type != "typing"
        return await self._call("POST", path, body=activity.to_dict(), repeats=repeats)

    async def _call(self, method: str, path: Sequence[str], **options: Any) -> HttpAnswer:
        return await self._client.call(self._service, method, path, **options)


class CopilotStudioConnector(Connector):
    """Copilot Studio's connector: it takes what the agent says at its own URL, without a token, and nothing else."""

    async def _call(self, method: str, path: Sequence[str], **options: Any) -> HttpAnswer:
        is_message = method == "POST" and path[3:4] == ["activities"] and path[4:] != ["history"]
        if not is_message:
            raise NotSupported(
                "Copilot Studio's connector takes new messages and nothing else: there is nothing to look up, "
                "to edit or to delete"
            )
        return await super()._call(method, [], **options)


def _of(*parts: str) -> list[str]:
    return ["v3", "conversations", *parts]


def _accounts(found: Any) -> list[ChannelAccount]:
    """The accounts in a list; what is none is left out."""
    accounts = []
    for each in found if isinstance(found, list) else []:
        with suppress(BadActivity):
            accounts.append(ChannelAccount.from_dict(each if isinstance(each, dict) else {}))
    return [account for account in accounts if account.id]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
