"""Fits what a handler says to what the channel can show, before anything is sent.

Pure: a message goes in, and the messages come out that the channel takes instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.channels import Channel, SizeLimit
from agent_core.activity.entities import Entity, Mention
from agent_core.errors import MessageTooLarge
from agent_core.turn.stream_protocol import is_stream

# Where a text may be parted, the best place first.
_BOUNDARIES = (
    re.compile(r"\n[ \t]*\n+"),  # paragraphs
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])"),  # sentences
    re.compile(r"\s+"),  # words
)
_WORD = _BOUNDARIES[-1]
# What belongs to a message as a whole, and is said once.
_SAID_ONCE: dict[str, Any] = {"channel_data": None, "speak": None, "summary": None, "value": None}
# An invisible character that joins the pictures of one emoji.
_JOINER = "\u200d"


def fit(activity: Activity, channel: Channel) -> list[Activity]:
    """What to send instead of this activity, in order; nothing where the channel cannot show it.

    * A typing indicator is dropped where the channel has none.
    * Suggested actions beyond what the channel shows are cut off.
    * A text too long for one message is parted between paragraphs, else sentences, else words, into several messages
      that differ in their text; suggested actions go with the last one, and with the first one what belongs to the
      message as a whole (channelData, speak, summary, value).

    Raises:
        MessageTooLarge: it has attachments, or is no message of text only, and the channel would refuse it.
    """
    if is_stream(activity):
        return [activity]
    if activity.type == "typing" and not channel.supports_typing:
        return []
    if activity.type != "message":
        return [activity]
    activity = with_fewer_actions(activity, channel)
    limit = channel.max_message_size
    if limit is None or limit.size_of(activity.to_dict()) <= limit.advised:
        return [activity]
    if activity.text and not activity.attachments:
        return _split(activity, channel, limit)
    return [within_size(activity, channel)]


def within_size(activity: Activity, channel: Channel) -> Activity:
    """The activity, if the channel takes one of its size. Raises MessageTooLarge."""
    limit = channel.max_message_size
    size = limit.size_of(activity.to_dict()) if limit else 0
    if limit is not None and size > limit.number:
        raise MessageTooLarge(
            f"The message has {size} {limit.unit}, and channel {channel.id!r} takes {limit.number}; "
            "say less, or send its attachments one by one",
            size=size,
            limit=limit.number,
            unit=limit.unit,
        )
    return activity


def with_fewer_actions(activity: Activity, channel: Channel) -> Activity:
    """The activity with as many suggested actions as the channel shows."""
    suggested = activity.suggested_actions
    if suggested is None or len(suggested.actions) <= channel.max_suggested_actions:
        return activity
    kept = suggested.actions[: channel.max_suggested_actions]
    return activity.replace(suggested_actions=suggested.replace(actions=kept) if kept else None)


def split_text(text: str, size_of: Callable[[str], int], limit: int) -> Iterator[str]:
    """Parts of a text of at most that size, which lack nothing but the white space between them.

    Args:
        size_of: the size of a part; adds up, and is at least 1 for each character.
        limit: has room for any one character.
    """
    while size_of(text) > limit:
        # The longest beginning that fits: none of its characters is smaller than 1.
        low, high = 0, min(len(text), limit)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if size_of(text[:middle]) <= limit else (low, middle - 1)
        kept, following = _cut_at_boundary(text, max(low, 1))
        if text[:kept].strip():
            yield text[:kept]
        text = text[following:]
    if text.strip():
        yield text


def _cut_at_boundary(text: str, most: int) -> tuple[int, int]:
    """Where the part ends, and where the next one begins; the part has at most `most` characters."""
    # A boundary counts even if its white space is what no longer fits.
    window = text[: most + 1]
    for boundary in _BOUNDARIES:
        # A part of less than half the size wastes more messages than a better place is worth.
        cuts = [found for found in boundary.finditer(window) if most // 2 < found.start() <= most]
        if cuts:
            return cuts[-1].start() + len(cuts[-1][0].rstrip()), cuts[-1].end()
    cuts = [found for found in _WORD.finditer(window) if 0 < found.start() <= most]
    if cuts:
        return cuts[-1].start(), cuts[-1].end()
    cut = most
    while cut > 1 and _belong_together(text[cut - 1], text[cut]):
        cut -= 1
    # A whole window that must not be cut is cut anyway: it is nothing that people write.
    return (cut, cut) if cut > 1 else (most, most)


def _belong_together(before: str, after: str) -> bool:
    """Whether two characters are one to the reader: letter and accent, or the pictures of one emoji."""
    return _JOINER in (before, after) or bool(unicodedata.combining(after)) or "\ufe00" <= after <= "\ufe0f"


def _split(activity: Activity, channel: Channel, limit: SizeLimit) -> list[Activity]:
    text = activity.text or ""
    room = limit.advised - limit.size_of(activity.replace(text="").to_dict())
    if room < limit.advised // 10:
        # What is large is not the text.
        return [within_size(activity, channel)]
    parts = list(split_text(text, limit.size_of_text, room)) or [text]
    last = len(parts) - 1
    return [
        activity.replace(
            text=part,
            entities=_entities_of(activity.entities, part),
            suggested_actions=activity.suggested_actions if index == last else None,
            **(_SAID_ONCE if index else {}),
        )
        for index, part in enumerate(parts)
    ]


def _entities_of(entities: Sequence[Entity], text: str) -> tuple[Entity, ...]:
    """The entities that a part of the text keeps: a mention must occur in it, and so must a citation's number."""
    from agent_core.activity.citations import MESSAGE_TYPE, cited_in

    kept: list[Entity | None] = []
    for entity in entities:
        if (entity.type or "").lower() == "mention":
            said = Mention.from_dict(entity.to_dict()).text
            kept.append(entity if said and said in text else None)
        elif entity.type == MESSAGE_TYPE:
            kept.append(cited_in(entity, text))
        else:
            kept.append(entity)
    return tuple(entity for entity in kept if entity is not None)
