"""Tickets: who may continue what, shown by a signature; whoever may publish could otherwise name any conversation."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from agent_core.activity.activity_types import CallbackTypes
from agent_core.activity.conversation_reference import split_channel_id
from agent_core.activity.json_text import dump
from agent_core.errors import InvalidCallback
from agent_core.proactive.callback_message import Callback
from agent_core.proactive.conversation import Counterpart

TicketMode = Literal["required", "optional", "off"]
TICKET_MODES: tuple[TicketMode, ...] = ("required", "optional", "off")

# The form of the ticket, and part of what is signed.
_FORM = "t1"
_USER = re.compile(r"user\|[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an external system sends back, with a `value` added, to continue the conversation.

    Attributes:
        id: of the expectation that it fulfils.
        kinds: what may be said with it.
        expires: it is good until then.
        user: where the state of the user is kept who spoke when it was given out, and
        tenant_id: the tenant of the conversation. They prove nothing; known with the callback, they save a round trip.
        text: the ticket as it travels.
    """

    conversation_id: str
    channel_id: str | None
    continuation: str
    id: str
    kinds: frozenset[CallbackTypes]
    expires: datetime
    user: str | None = None
    tenant_id: str | None = None
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The callback message as JSON, but for its `value`."""
        named: dict[str, Any] = {
            "conversationId": self.conversation_id,
            "continuation": self.continuation,
            "ticket": self.text,
        }
        return {**named, "channelId": self.channel_id} if self.channel_id else named


class Tickets:
    """Signs tickets, and admits callbacks by them.

    Without a key a ticket is an opaque id: it says which expectation is meant, and proves nothing.

    Args:
        keys: the first one signs, each one verifies; to rotate, put the new key first, and take the old one away when
            the last ticket signed with it has expired.
        mode: `required`: no callback without a good ticket; `optional`: a ticket that comes must be good; `off`: none
            is looked at.
    """

    def __init__(self, keys: Sequence[bytes] = (), mode: TicketMode = "off") -> None:
        self._keys = tuple(keys)
        self._mode = mode
        if mode == "required" and not self._keys:
            raise ValueError("Where tickets are required, there must be a key to sign them with")

    def sign(self, ticket: Ticket) -> Ticket:
        """The ticket with its text."""
        if not self._keys:
            return replace(ticket, text=ticket.id)
        kinds = sorted(kind.name for kind in ticket.kinds)
        expires = int(ticket.expires.timestamp())
        bound = [ticket.id, ticket.conversation_id, ticket.channel_id, ticket.continuation, kinds, expires]
        claims = [*bound, ticket.user, ticket.tenant_id]
        signed = f"{_FORM}.{_base64(dump(claims))}"
        return replace(ticket, text=f"{signed}.{_signature(self._keys[0], signed)}")

    def admit(self, callback: Callback, now: datetime) -> Callback:
        """The callback, with the channel that its ticket names if it names none itself.

        Raises:
            InvalidCallback: it may not be; the reason is one of `TicketMissing`, `TicketInvalid`, `TicketExpired`,
                `TicketForAnotherConversation`, `TicketForAnotherContinuation`, `TicketForAnotherKind`.
        """
        if self._mode == "off":
            return callback
        if callback.ticket is None:
            if self._mode == "required":
                raise InvalidCallback(
                    "Send the ticket that context.expect_callback gave out back in 'ticket'", reason="TicketMissing"
                )
            return callback
        if not self._keys:
            return callback
        claims = self._verified(callback.ticket)
        if claims is None:
            raise InvalidCallback("The ticket is none of ours, or was changed", reason="TicketInvalid")
        _, conversation_id, channel_id, continuation, kinds, expires = claims[:6]
        named = split_channel_id(callback.channel_id)[0]
        if callback.conversation_id != conversation_id or (named is not None and named != channel_id):
            raise InvalidCallback(
                "The ticket was given out in another conversation", reason="TicketForAnotherConversation"
            )
        if callback.continuation not in (None, continuation):
            raise InvalidCallback(
                f"The ticket is for the continuation {continuation!r}", reason="TicketForAnotherContinuation"
            )
        if callback.type.name not in kinds:
            raise InvalidCallback(f"The ticket is for {', '.join(kinds)}", reason="TicketForAnotherKind")
        if now.timestamp() > expires:
            raise InvalidCallback("The ticket has expired", reason="TicketExpired")
        return callback if named is not None else replace(callback, body={**callback.body, "channelId": channel_id})

    def _verified(self, text: str) -> list[Any] | None:
        signed, _, signature = text.rpartition(".")
        # All keys are tried, whichever fits.
        fits = [hmac.compare_digest(_signature(key, signed).encode(), signature.encode()) for key in self._keys]
        return _read(text) if any(fits) else None


def expectation_of(ticket: str) -> str:
    """The id of the expectation that a ticket means; this proves nothing."""
    claims = _read(ticket)
    return str(claims[0]) if claims else ticket


def counterpart_of(ticket: str | None) -> Counterpart | None:
    """With whom the ticket says that its conversation is; this proves nothing, and tickets of before do not say."""
    match _read(ticket or "")[6:]:
        case [str() | None as user, str() | None as tenant_id] if user is None or _USER.fullmatch(user):
            return Counterpart(user, tenant_id)
    return None


def _read(ticket: str) -> list[Any]:
    signed = ticket.rpartition(".")[0]
    if not signed.startswith(f"{_FORM}."):
        return []
    encoded = signed.partition(".")[2]
    try:
        claims = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError):
        return []
    return claims if isinstance(claims, list) else []


def _signature(key: bytes, signed: str) -> str:
    return _base64(hmac.digest(key, signed.encode(), "sha256"))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
