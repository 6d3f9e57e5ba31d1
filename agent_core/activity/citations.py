"""Citations: the sources of an answer, numbered as they are cited, as Teams and Copilot show them.

https://learn.microsoft.com/microsoftteams/platform/bots/how-to/bot-messages-ai-generated-content

Models write `[doc3]` for the third of the sources they were given. People read `[1]`, `[2]`, `[3]` in the order of the
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_core.activity.entities import Entity

# Two pages of Microsoft's disagree, 10 and 20; the newer one, on sensitivity labels, says 20 and answers more with 400.
MAX_CITATIONS = 20
MAX_TITLE = 80
MAX_ABSTRACT = 160
MESSAGE_TYPE = "https://schema.org/Message"

_MARKER = re.compile(r"\[docs?(\d{1,4})\]", re.IGNORECASE)
# What a marker may begin with at the end of a text that goes on.
_BEGUN_MARKER = re.compile(r"\[(d(o(c(s?\d{0,4})?)?)?)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Citation:
    """A source that an answer may cite.

    Attributes:
        title: cut at 80 characters.
        abstract: what the source says, cut at 160 characters; without one the title is repeated, as one is required.
        keywords: at most three are shown.
        icon: the kind of document, such as `Microsoft Word` or `PDF`; Copilot shows none.
        sensitivity: a label on this source.
    """

    title: str
    url: str | None = None
    abstract: str = ""
    keywords: Sequence[str] = ()
    icon: str | None = None
    sensitivity: SensitivityLabel | None = None

    def claim(self, position: int) -> dict[str, Any]:
        """The claim that `[position]` in the text stands for, as it is on the wire."""
        title = _cut(self.title, MAX_TITLE) or f"Document {position}"
        appearance: dict[str, Any] = {
            "@type": "DigitalDocument",
            "name": title,
            "abstract": _cut(self.abstract, MAX_ABSTRACT) or title,
        }
        if self.url:
            appearance["url"] = self.url
        if self.keywords:
            appearance["keywords"] = list(self.keywords)
        if self.icon:
            appearance["image"] = {"@type": "ImageObject", "name": self.icon}
        if self.sensitivity:
            appearance["usageInfo"] = self.sensitivity.usage_info()
        return {"@type": "Claim", "position": position, "appearance": appearance}


@dataclass(frozen=True, slots=True)
class SensitivityLabel:
    """How confidential an answer or a source is, as Teams shows it.

    Attributes:
        name: such as `Confidential \\ Contoso FTE`.
        description: shown when the user asks what that means.
    """

    name: str
    description: str = ""

    def usage_info(self) -> dict[str, Any]:
        """The label as it is on the wire."""
        return {
            "type": MESSAGE_TYPE,
            "@type": "CreativeWork",
            "name": self.name,
            **({"description": self.description} if self.description else {}),
        }


class Citations:
    """The sources of one answer, and the numbers of those that it cites.

    A source gets the next number when its marker is first met in the text, and keeps it: an answer is shown while it
    grows, and what was shown cannot be numbered anew. So the numbers are 1, 2, 3 … in the order of the text, and
    sources that are not cited get none. A marker of a source that is not there stays as it is: hand sources in before,
    or with, the text that cites them. At most 20 can be cited; further markers are taken out of the text.
    """

    def __init__(self, sources: Iterable[Citation] = ()) -> None:
        self._sources = list(sources)
        self._numbers: dict[int, int] = {}

    def add(self, sources: Iterable[Citation]) -> None:
        """Add sources; `[doc1]` is the first one of all."""
        self._sources += sources

    def number(self, text: str) -> str:
        """The text with `[docN]` as the number of source N; numbers that it already has (`[1]`) are just text."""
        return _MARKER.sub(self._numbered, text)

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The cited sources, as they are on the wire, by their numbers."""
        return [self._sources[index].claim(number) for index, number in self._numbers.items()]

    def _numbered(self, marker: re.Match[str]) -> str:
        index = int(marker[1]) - 1
        if not 0 <= index < len(self._sources):
            return marker[0]
        if index not in self._numbers:
            if len(self._numbers) == MAX_CITATIONS:
                return ""
            self._numbers[index] = len(self._numbers) + 1
        return f"[{self._numbers[index]}]"


def split_begun_marker(text: str) -> tuple[str, str]:
    """The text, and what at its end may be the beginning of a marker whose rest is still to come."""
    begun = _BEGUN_MARKER.search(text)
    return (text, "") if begun is None else (text[: begun.start()], text[begun.start() :])


def message_entity(
    claims: Sequence[Mapping[str, Any]] = (),
    *,
    generated_by_ai: bool = False,
    sensitivity: SensitivityLabel | None = None,
) -> Entity | None:
    """What a message says about itself: its citations, that AI wrote it, how confidential it is; None for nothing.

    A message may have one of these only, or Teams answers 400.
    """
    if not (claims or generated_by_ai or sensitivity):
        return None
    entity: dict[str, Any] = {
        "type": MESSAGE_TYPE,
        "@type": "Message",
        "@context": "https://schema.org",
        "@id": "",
    }
    if generated_by_ai:
        entity["additionalType"] = ["AIGeneratedContent"]
    if claims:
        entity["citation"] = [dict(claim) for claim in claims]
    if sensitivity:
        entity["usageInfo"] = sensitivity.usage_info()
    return Entity.from_dict(entity)


def cited_in(entity: Entity, text: str) -> Entity | None:
    """A message's entity for a part of its text: only with the claims whose number the part has; None if it then says
    nothing."""
    whole = entity.to_dict()
    claims = [claim for claim in whole.pop("citation", ()) if f"[{claim.get('position')}]" in text]
    if claims:
        whole["citation"] = claims
    return Entity.from_dict(whole) if claims or whole.keys() & {"additionalType", "usageInfo"} else None


def _cut(text: str, length: int) -> str:
    """At most that many characters, cut between words if it can be."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    at_word = kept.rpartition(" ")[0]
    return (at_word if len(at_word) > length // 2 else kept) + "…"
