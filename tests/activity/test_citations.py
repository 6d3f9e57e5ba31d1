"""Sources become numbered claims: only the cited, in the order of the text, and never numbered anew."""

import pytest

from agent_core import Entity
from agent_core.activity.citations import (
    Citation,
    Citations,
    SensitivityLabel,
    cited_in,
    message_entity,
    split_begun_marker,
)

SOURCES = [
    Citation("Handbook", "https://example.com/1"),
    Citation("Price list"),
    Citation("Minutes", abstract="We met"),
]


def test_p1_20_sources_are_numbered_in_the_order_they_are_cited_and_only_the_cited_are_kept() -> None:
    citations = Citations(SOURCES)
    assert citations.number("It is so [doc3], and [doc1] agrees [Doc3].") == "It is so [1], and [2] agrees [1]."
    assert [(claim["position"], claim["appearance"]["name"]) for claim in citations.claims] == [
        (1, "Minutes"),
        (2, "Handbook"),
    ]


def test_p6_3_a_number_that_was_shown_is_never_changed() -> None:
    citations = Citations(SOURCES[:1])
    assert citations.number("One [doc1]") == "One [1]"
    citations.add(SOURCES[1:])
    assert citations.number(" three [doc3] one [doc1] two [doc2]") == " three [2] one [1] two [3]"


def test_a_claim_is_the_json_that_teams_wants() -> None:
    citation = Citation(
        "Handbook",
        "https://example.com/1",
        "How we work",
        keywords=["work"],
        icon="PDF",
        sensitivity=SensitivityLabel("Confidential", "For us"),
    )
    assert citation.claim(2) == {
        "@type": "Claim",
        "position": 2,
        "appearance": {
            "@type": "DigitalDocument",
            "name": "Handbook",
            "abstract": "How we work",
            "url": "https://example.com/1",
            "keywords": ["work"],
            "image": {"@type": "ImageObject", "name": "PDF"},
            "usageInfo": {
                "type": "https://schema.org/Message",
                "@type": "CreativeWork",
                "name": "Confidential",
                "description": "For us",
            },
        },
    }


def test_an_appearance_is_never_empty_and_never_too_long() -> None:
    """Teams answers an empty name or abstract with 400."""
    assert Citation("").claim(4)["appearance"] == {
        "@type": "DigitalDocument",
        "name": "Document 4",
        "abstract": "Document 4",
    }
    long = Citation("word " * 50, abstract="word " * 50).claim(1)["appearance"]
    assert long["name"] == "word " * 14 + "word…"
    assert len(long["abstract"]) <= 160
    assert Citation("x" * 100).claim(1)["appearance"]["name"] == "x" * 79 + "…"


def test_x13_at_most_twenty_are_cited_and_further_markers_lead_nowhere_so_they_go() -> None:
    citations = Citations(Citation(f"Source {number}") for number in range(1, 31))
    text = citations.number("".join(f"[doc{number}]" for number in range(1, 31)) + "[doc20][doc30]")
    assert text == "".join(f"[{number}]" for number in range(1, 21)) + "[20]"
    assert len(citations.claims) == 20


@pytest.mark.parametrize("text", ["a[1] = b[2]", "[doc0]", "[doc9]", "[document1]", "[doc 1]", "[doc99999]"])
def test_what_is_no_marker_of_a_source_stays_text(text: str) -> None:
    citations = Citations(SOURCES)
    assert citations.number(text) == text
    assert citations.claims == []


@pytest.mark.parametrize("begun", ["[", "[d", "[do", "[doc", "[docs", "[doc1", "[DOC12", "[docs123"])
def test_p6_3_the_beginning_of_a_marker_is_told_from_the_text_before_it(begun: str) -> None:
    assert split_begun_marker("See " + begun) == ("See ", begun)


@pytest.mark.parametrize("text", ["", "See", "See [doc1]", "See [dog", "See [doc1] ", "a[1"])
def test_a_text_without_a_begun_marker_is_whole(text: str) -> None:
    assert split_begun_marker(text) == (text, "")


def test_p1_20_there_is_one_root_entity_with_all_that_a_message_says_of_itself() -> None:
    citations = Citations(SOURCES)
    citations.number("[doc2]")
    entity = message_entity(citations.claims, generated_by_ai=True, sensitivity=SensitivityLabel("Secret"))
    assert entity is not None
    assert entity.to_dict() == {
        "type": "https://schema.org/Message",
        "@type": "Message",
        "@context": "https://schema.org",
        "@id": "",
        "additionalType": ["AIGeneratedContent"],
        "citation": [SOURCES[1].claim(1)],
        "usageInfo": {"type": "https://schema.org/Message", "@type": "CreativeWork", "name": "Secret"},
    }
    assert message_entity() is None


def test_a_part_of_a_text_has_the_claims_it_cites() -> None:
    claims = [SOURCES[0].claim(1), SOURCES[1].claim(2)]
    entity = message_entity(claims)
    assert entity is not None
    part = cited_in(entity, "Only [2] here")
    assert part is not None
    assert part.to_dict()["citation"] == [claims[1]]
    assert cited_in(entity, "None here") is None
    label = message_entity(claims, generated_by_ai=True)
    assert label is not None
    assert cited_in(label, "None here") == Entity.from_dict(
        {
            "type": "https://schema.org/Message",
            "@type": "Message",
            "@context": "https://schema.org",
            "@id": "",
            "additionalType": ["AIGeneratedContent"],
        }
    )
