"""What each channel can do, in one table, so that a turn can ask before it tries.

Sources: https://learn.microsoft.com/azure/bot-service/bot-service-channels-reference for what channels support;
`Channels.cs` of microsoft/Agents-for-net for the creation of conversations;
https://learn.microsoft.com/microsoft-365-copilot/extensibility/known-issues for Microsoft 365 Copilot (no update).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel's abilities. `supports_update`: a message that was sent can be edited, by the same id."""

    id: str
    supports_update: bool = False
    supports_delete: bool = False
    supports_typing: bool = True
    supports_create_conversation: bool = False


_KNOWN = {
    channel.id: channel
    for channel in (
        Channel("msteams", supports_update=True, supports_delete=True, supports_create_conversation=True),
        Channel("msteams:COPILOT", supports_typing=False),
        Channel("emulator", supports_update=True, supports_delete=True, supports_create_conversation=True),
        Channel("slack", supports_update=True, supports_delete=True, supports_create_conversation=True),
        Channel("telegram", supports_update=True, supports_delete=True, supports_create_conversation=True),
        Channel("webchat"),
        Channel("directline"),
        Channel("email", supports_typing=False, supports_create_conversation=True),
        Channel("facebook", supports_create_conversation=True),
        Channel("groupme", supports_create_conversation=True),
        Channel("kik", supports_create_conversation=True),
        Channel("line", supports_create_conversation=True),
        Channel("sms", supports_typing=False, supports_create_conversation=True),
    )
}


def channel_of(channel_id: str | None, product: str | None = None) -> Channel:
    """The channel by its id, refined by the ProductInfo entity's id; an unknown one is given the least."""
    name = channel_id or ""
    refined = _KNOWN.get(f"{name}:{product.upper()}") if product else None
    return refined or _KNOWN.get(name) or Channel(name, supports_typing=False)
