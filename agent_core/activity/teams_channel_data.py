"""What Teams adds to an activity in its channelData."""

from __future__ import annotations

from collections.abc import Sequence

from agent_core.activity.wire import WireObject, wire


class TenantInfo(WireObject, lenient=True):
    """A Microsoft Entra tenant."""

    id: str | None = None


class TeamInfo(WireObject, lenient=True):
    """A team; its `id` is also that of its General channel."""

    id: str | None = None
    name: str | None = None
    aad_group_id: str | None = None


class ChannelInfo(WireObject, lenient=True):
    """A channel of a team; `type` is `standard`, `private` or `shared`."""

    id: str | None = None
    name: str | None = None
    type: str | None = None


class TeamsMeetingInfo(WireObject, lenient=True):
    """A meeting."""

    id: str | None = None


class TeamsChannelDataSettings(WireObject, lenient=True):
    """What was chosen when the agent was installed."""

    selected_channel: ChannelInfo | None = None


class NotificationInfo(WireObject, lenient=True):
    """Whether a message is announced to the user."""

    alert: bool | None = None
    alert_in_meeting: bool | None = None
    external_resource_url: str | None = None


class OnBehalfOf(WireObject, lenient=True):
    """For whom the agent speaks."""

    item_id: int | None = wire("itemid", default=None)
    mention_type: str | None = None
    mri: str | None = None
    display_name: str | None = None


class AppInfo(WireObject, lenient=True):
    """The installed app; personal chats only, and not always there."""

    id: str | None = None
    version: str | None = None


class SourceInfo(WireObject, lenient=True):
    """Where in Teams the activity began, such as `message` or `compose`."""

    name: str | None = None


class FeedbackLoop(WireObject, lenient=True):
    """The buttons for what the user thinks of a message; `type` is `default` or `custom`."""

    type: str | None = "default"


class TeamsChannelData(WireObject, lenient=True):
    """The channelData of Teams; what it does not name stays too, and what has the wrong JSON type reads as missing."""

    tenant: TenantInfo | None = None
    team: TeamInfo | None = None
    channel: ChannelInfo | None = None
    event_type: str | None = None
    meeting: TeamsMeetingInfo | None = None
    settings: TeamsChannelDataSettings | None = None
    notification: NotificationInfo | None = None
    on_behalf_of: Sequence[OnBehalfOf] = ()
    app: AppInfo | None = None
    source: SourceInfo | None = None
    feedback_loop: FeedbackLoop | None = None
    stream_id: str | None = None
    stream_type: str | None = None
    stream_sequence: int | None = None
