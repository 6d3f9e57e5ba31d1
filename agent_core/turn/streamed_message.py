"""What a streaming response has to say: a text that grows, what goes with it, and the messages it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.attachments import Attachment
from agent_core.activity.channels import Channel, SizeLimit
from agent_core.activity.citations import Citation, Citations, SensitivityLabel, message_entity, split_begun_marker
from agent_core.turn.outgoing import fit

# What the end of a stream says more than the message, with plenty to spare.
STREAM_INFO_BYTES = 500


class StreamedMessage:
    """A message in the making.

    Attributes:
        text: what can be shown, citations numbered; it only ever grows.
        attachments, generated_by_ai, feedback, sensitivity: for the complete message only: before, a channel refuses
            them.
    """

    def __init__(self, channel: Channel) -> None:
        self.text = ""
        self.attachments: Sequence[Attachment] = ()
        self.generated_by_ai = False
        self.feedback: str | None = None
        self.sensitivity: SensitivityLabel | None = None
        self._channel = channel
        self._citations = Citations()
        self._begun_marker = ""

    def add(self, text: str, citations: Iterable[Citation]) -> None:
        """Add to the text; what may be half of a citation's marker waits for its other half."""
        self._citations.add(citations)
        whole, self._begun_marker = split_begun_marker(self._begun_marker + text)
        self.text += self._citations.number(whole)

    def complete(self) -> None:
        """Nothing more will be added: half a marker was none."""
        self.text += self._begun_marker
        self._begun_marker = ""

    @property
    def has_text(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.text.strip())

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The sources cited so far."""
        return self._citations.claims

    def draft(self, text: str) -> Activity:
        """A message with that part of the text, and without attachments."""
        cited = [claim for claim in self._citations.claims if f"[{claim['position']}]" in text]
        about = message_entity(cited, generated_by_ai=self.generated_by_ai, sensitivity=self.sensitivity)
        feedback = self.feedback if self._channel.supports_feedback else None
        return Activity(
            type="message",
            text=text or None,
            text_format="markdown" if text else None,
            entities=[about] if about else (),
            # Never together with the older `feedbackLoopEnabled`: the client accepts only one of the two.
            channel_data={"feedbackLoop": {"type": feedback}} if feedback else None,
        )

    def messages(self, text: str, *, beginning: str = "") -> list[Activity]:
        """The complete message with that text, as several where one would be too large.

        Args:
            beginning: the first message has at least this, because the user has seen it there.
        """
        whole = self.draft(text).replace(attachments=self.attachments)
        if not self.too_large(whole):
            return [whole]
        messages = fit(self.draft(text), self._channel) if text else []
        if beginning and len(messages[0].text or "") < len(beginning):
            rest = self.draft(text[len(beginning) :].lstrip()).replace(channel_data=None)
            messages = [self.draft(beginning), *fit(rest, self._channel)]
        if self.attachments:
            messages.append(Activity(type="message", attachments=self.attachments))
        return messages

    def too_large(self, message: Activity) -> bool:
        """Whether it is better sent as several."""
        limit = self._channel.max_message_size
        room = 0 if limit is None or limit.unit == "characters" else STREAM_INFO_BYTES
        return limit is not None and limit.size_of(message.to_dict()) + room > limit.advised

    def was_too_large(self, refused: Activity) -> None:
        """The channel takes less than is known of it: plan with half of what it refused."""
        limit = self._channel.max_message_size or SizeLimit(0, "bytes of UTF-16", 0)
        less = limit.size_of(refused.to_dict()) // 2
        self._channel = replace(self._channel, max_message_size=SizeLimit(less, limit.unit, advised=less))
