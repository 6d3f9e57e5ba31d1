"""What each channel can do, in one table, so that a turn can ask before it tries and degrade instead of failing.

Sources, by column; what they do not settle is marked "unverified" in the table:

* typing in Microsoft 365 Copilot, update there:
  https://learn.microsoft.com/microsoft-365-copilot/extensibility/known-issues
* streaming, its pace and its end: https://learn.microsoft.com/microsoftteams/platform/bots/streaming-ux for Teams;
  https://learn.microsoft.com/microsoft-365-copilot/extensibility/custom-engine-agent-asynchronous-flow for Copilot;
  `StreamingResponse.cs` of microsoft/Agents-for-net and `streamingResponse.ts` of microsoft/Agents-for-js for the rest.
* suggested actions, buttons of a card, creation of conversations, deletion: `Channels.cs` of microsoft/Agents-for-net.
* members added: https://learn.microsoft.com/azure/bot-service/bot-service-channels-reference.
* size in Teams: https://learn.microsoft.com/microsoftteams/platform/bots/how-to/format-your-bot-messages; elsewhere the
  limits are the provider's own, and what the Bot Service makes of them is unverified.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

KB = 1024


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """How large a message may be.

    Attributes:
        number: of `unit`s; what is larger the channel refuses.
        unit: what is counted: the whole message's JSON in UTF-16 or in UTF-8, without pictures inside of it, or the
            UTF-16 code units of its text, which are never fewer than what a provider calls characters.
        advised: where a text is better split.
    """

    number: int
    unit: Literal["bytes of UTF-16", "bytes of UTF-8", "characters"]
    advised: int

    def size_of(self, message: dict[str, Any]) -> int:
        """The size of a message, given as its JSON object."""
        if self.unit == "characters":
            text = message.get("text")
            return _utf16_bytes(text) // 2 if isinstance(text, str) else 0
        return self._bytes(json.dumps(_without_pictures(message), ensure_ascii=False, separators=(",", ":")))

    def size_of_text(self, text: str) -> int:
        """What this text adds to the size of a message; the sum over parts of a text is that of the whole."""
        if self.unit == "characters":
            return _utf16_bytes(text) // 2
        return self._bytes(json.dumps(text, ensure_ascii=False)[1:-1])

    def _bytes(self, text: str) -> int:
        return _utf16_bytes(text) if self.unit == "bytes of UTF-16" else len(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's abilities, as they are in one conversation on it.

    Attributes:
        supports_typing: shows that the agent is typing.
        supports_streaming: shows a text while it grows; else a streaming response is one message at its end.
        stream_interval: the least time between two requests of a stream.
        stream_limit: how long after its first request the channel ends a stream; None: it does not.
        end_stream_after: when we end it ourselves, so that it ends well.
        first_response_within: how soon after the user's message something must come; None: no such rule.
        keep_alive_after: after how long without an update we send one, lest the channel gives the stream up.
        client_makes_stream_id: the sender names the stream; else the answer to the first request does.
        supports_update: a message that was sent can be edited, by the same id.
        supports_delete: a message that was sent can be taken back.
        max_suggested_actions: buttons under a message; 0: none are shown.
        max_card_actions: buttons on a card.
        supports_cards: shows cards.
        supports_create_conversation: the agent can begin a conversation with a user.
        supports_members_added: says when somebody joins.
        supports_feedback: has buttons under an answer for what the user thinks of it.
        max_message_size: None: not known, so nothing is split or refused before it is sent.
        personal_only: streaming and suggested actions exist only where the agent is alone with one user.
    """

    id: str
    supports_typing: bool = False
    supports_streaming: bool = False
    stream_interval: timedelta = timedelta(milliseconds=500)
    stream_limit: timedelta | None = None
    end_stream_after: timedelta | None = None
    first_response_within: timedelta | None = None
    keep_alive_after: timedelta | None = None
    client_makes_stream_id: bool = False
    supports_update: bool = False
    supports_delete: bool = False
    max_suggested_actions: int = 0
    max_card_actions: int = 0
    supports_cards: bool = False
    supports_create_conversation: bool = False
    supports_members_added: bool = False
    supports_feedback: bool = False
    max_message_size: SizeLimit | None = None
    personal_only: bool = False


def _characters(number: int) -> SizeLimit:
    return SizeLimit(number, "characters", advised=number)


# "Approximately 100 KB … the whole payload, in UTF-16"; it advises 80 KB.
_TEAMS_SIZE = SizeLimit(100 * KB, "bytes of UTF-16", advised=80 * KB)
# unverified; no primary source was found.
_DIRECT_LINE_SIZE = SizeLimit(256 * KB, "bytes of UTF-8", advised=240 * KB)

_TEAMS = Channel(
    "msteams",
    supports_typing=True,
    supports_streaming=True,
    stream_interval=timedelta(seconds=1),
    stream_limit=timedelta(minutes=2),
    end_stream_after=timedelta(minutes=1, seconds=55),
    supports_update=True,
    supports_delete=True,
    max_suggested_actions=3,
    max_card_actions=50,
    supports_cards=True,
    supports_create_conversation=True,
    supports_members_added=True,
    supports_feedback=True,
    max_message_size=_TEAMS_SIZE,
    personal_only=True,
)

# Microsoft 365 Copilot comes as a sub-channel of Teams. Its messages cannot be edited; "proactive notifications aren't
# supported" (known issues) stands against the page on asynchronous flow, which creates conversations there, so ask for
# none. Suggested actions, and the size of a message: as in Teams, unverified.
_COPILOT = replace(
    _TEAMS,
    id="msteams:COPILOT",
    supports_typing=False,
    stream_limit=timedelta(minutes=1, seconds=45),
    end_stream_after=timedelta(minutes=1, seconds=45),
    first_response_within=timedelta(seconds=15),
    keep_alive_after=timedelta(seconds=35),
    supports_update=False,
    supports_delete=False,
    supports_create_conversation=False,
    supports_feedback=False,
)

_WEBCHAT = Channel(
    "webchat",
    supports_typing=True,
    supports_streaming=True,
    client_makes_stream_id=True,
    max_suggested_actions=100,
    max_card_actions=100,
    supports_cards=True,
    supports_members_added=True,
    max_message_size=_DIRECT_LINE_SIZE,
)

_KNOWN = {
    channel.id: channel
    for channel in (
        _TEAMS,
        _COPILOT,
        _WEBCHAT,
        replace(_WEBCHAT, id="directline"),
        # It speaks; that it cannot show a growing text is unverified.
        replace(_WEBCHAT, id="directlinespeech", supports_streaming=False, client_makes_stream_id=False),
        Channel(
            "emulator",
            supports_typing=True,
            supports_streaming=True,
            supports_update=True,
            supports_delete=True,
            max_suggested_actions=100,
            max_card_actions=100,
            supports_cards=True,
            supports_create_conversation=True,
            supports_members_added=True,
        ),
        # Slack and Telegram: that the Bot Service edits and shows typing there is unverified. 40 000 characters is
        # where Slack cuts (https://api.slack.com/methods/chat.postMessage#truncating); it advises 4 000.
        Channel(
            "slack",
            supports_typing=True,
            supports_update=True,
            supports_delete=True,
            max_card_actions=100,
            supports_cards=True,
            supports_create_conversation=True,
            supports_members_added=True,
            max_message_size=SizeLimit(40_000, "characters", advised=4_000),
        ),
        Channel(
            "telegram",
            supports_typing=True,
            supports_update=True,
            supports_delete=True,
            max_suggested_actions=100,
            max_card_actions=100,
            supports_cards=True,
            supports_create_conversation=True,
            supports_members_added=True,
            max_message_size=_characters(4096),  # https://core.telegram.org/bots/api#sendmessage
        ),
        Channel(
            "facebook",
            supports_typing=True,  # unverified
            max_suggested_actions=10,
            max_card_actions=3,
            supports_cards=True,
            supports_create_conversation=True,
            max_message_size=_characters(2000),  # https://developers.facebook.com/docs/messenger-platform/reference
        ),
        Channel(
            "line",
            supports_typing=True,  # unverified
            max_suggested_actions=13,
            max_card_actions=99,
            supports_cards=True,
            supports_create_conversation=True,
            max_message_size=_characters(5000),  # https://developers.line.biz/en/reference/messaging-api/#text-message
        ),
        Channel(
            "kik",
            supports_typing=True,  # unverified
            max_suggested_actions=20,
            supports_create_conversation=True,
            supports_members_added=True,
        ),
        Channel(
            "groupme",
            supports_typing=True,  # unverified
            supports_create_conversation=True,
            supports_members_added=True,
        ),
        # https://www.twilio.com/docs/glossary/what-sms-character-limit
        Channel("sms", supports_create_conversation=True, max_message_size=_characters(1600)),
        Channel("email", supports_cards=True, supports_create_conversation=True),
    )
}


def channel_of(
    channel_id: str | None,
    product: str | None = None,
    *,
    conversation_type: str | None = None,
    is_group: bool | None = None,
) -> Channel:
    """What a channel can do in one kind of conversation; an unknown channel is given the least.

    Args:
        channel_id: as in the activity; a sub-channel may stand behind a colon (`msteams:COPILOT`).
        product: the id of the activity's ProductInfo entity, which names a sub-channel too.
        conversation_type: `conversation.conversationType`; in Teams `personal`, `groupChat` or `channel`.
        is_group: `conversation.isGroup`; asked where there is no type, as in conversations that the agent created.
    """
    base, _, sub_channel = (channel_id or "").partition(":")
    sub_channel = product or sub_channel
    refined = _KNOWN.get(f"{base}:{sub_channel.upper()}") if sub_channel else None
    channel = refined or _KNOWN.get(base) or Channel(channel_id or "")
    personal = conversation_type == "personal" or (conversation_type is None and is_group is False)
    if channel.personal_only and not personal:
        return replace(channel, supports_streaming=False, max_suggested_actions=0)
    return channel


def _utf16_bytes(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass"))


def _without_pictures(value: Any) -> Any:
    """A copy in which pictures given as data URIs are empty: Teams does not count them."""
    if isinstance(value, dict):
        return {key: _without_pictures(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_pictures(each) for each in value]
    return "" if isinstance(value, str) and value.startswith("data:image/") else value
