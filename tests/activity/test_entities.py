"""Entities are read where they can be relied on, kept where they cannot, and say in which sub-channel one speaks."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_core import (
    Activity,
    ActivityTreatment,
    AIEntity,
    ChannelAccount,
    ClientCitation,
    ClientCitationAppearance,
    ClientInfo,
    ConversationReference,
    Entity,
    Mention,
    MessageFactory,
    ProductInfo,
    ScreenContext,
    SensitivityUsageInfo,
    StreamInfo,
)

PAYLOADS = Path(__file__).parent.parent / "payloads"
ACCOUNT = ChannelAccount(id="28:agent")


def payload(name: str) -> Activity:
    return Activity.from_json((PAYLOADS / f"{name}.json").read_bytes())


def with_entities(*entities: Any) -> Activity:
    return Activity.from_dict({"type": "message", "text": "hi", "entities": list(entities)})


def test_p1_20_malformed_entities_are_kept_and_ignored() -> None:
    """A2104, A2105."""
    activity = payload("malformed_entities")
    assert activity.get_mentions() == ()
    assert activity.stream_info is None
    assert activity.entities_of(AIEntity) == ()
    assert [each.images for each in activity.entities_of(ScreenContext)] == [()]
    assert [each.type for each in activity.entities] == [
        "mention", None, None, "streaminfo", "https://schema.org/Message", "context", "https://example.com/unknown",
    ]  # fmt: skip
    assert activity.to_dict()["entities"][:3] == ["mention", None, 7]


def test_p1_20_entities_are_found_by_their_class() -> None:
    activity = payload("teams_channel_message")
    (mention,) = activity.get_mentions()
    assert (mention.text or "?") in (activity.text or "")
    assert mention.mentioned == activity.recipient
    (client,) = activity.entities_of(ClientInfo)
    assert (client.locale, client.country, client.platform, client.timezone) == (
        "en-US", "US", "Windows", "Europe/Paris",
    )  # fmt: skip


def test_p1_20_citations_and_sensitivity_are_read() -> None:
    (about,) = payload("ai_message_with_citations").entities_of(AIEntity)
    assert about.is_generated_by_ai
    (citation,) = about.citation
    assert citation.position == 1
    source = citation.appearance
    assert source is not None
    assert (source.name, source.keywords) == ("Shipping plan", ("laptop", "shipping"))
    assert source.usage_info is not None
    assert source.usage_info.pattern is not None
    assert source.usage_info.pattern.term_code == "#454545"
    assert about.usage_info is not None
    assert about.usage_info.at_id == source.usage_info.at_id == "sensitivity1"


def test_p1_20_an_ai_message_is_built_as_teams_wants_it() -> None:
    about = AIEntity(
        additional_type=["AIGeneratedContent"],
        citation=[ClientCitation(position=1, appearance=ClientCitationAppearance(name="Plan", abstract="It ships."))],
        usage_info=SensitivityUsageInfo(name="Confidential"),
    )
    assert about.to_dict() == {
        "type": "https://schema.org/Message",
        "@type": "Message",
        "@context": "https://schema.org",
        "@id": "",
        "additionalType": ["AIGeneratedContent"],
        "citation": [
            {
                "@type": "Claim",
                "position": 1,
                "appearance": {"@type": "DigitalDocument", "name": "Plan", "abstract": "It ships."},
            }
        ],
        "usageInfo": {"type": "https://schema.org/Message", "@type": "CreativeWork", "name": "Confidential"},
    }


def test_p1_20_one_root_message_entity_takes_the_place_of_another() -> None:
    message = MessageFactory.text("hi").with_entity(AIEntity()).with_entity(Mention(text="hi", mentioned=ACCOUNT))
    message = message.with_entity(AIEntity(additional_type=["AIGeneratedContent"]))
    assert [each.type for each in message.entities] == ["mention", "https://schema.org/Message"]
    assert message.entities_of(AIEntity)[0].is_generated_by_ai
    assert message.without_entities(AIEntity).without_entities(Mention).to_dict() == MessageFactory.text("hi").to_dict()


@pytest.mark.parametrize("spelled", ["streaminfo", "streamInfo", "StreamInfo"])
def test_p1_20_stream_info_is_known_in_any_case(spelled: str) -> None:
    info = with_entities({"type": spelled, "streamId": "s", "streamType": "streaming", "streamSequence": 2}).stream_info
    assert info is not None
    assert (info.stream_id, info.stream_type, info.stream_sequence) == ("s", "streaming", 2)


def test_p1_20_of_several_stream_infos_all_are_ignored() -> None:
    """A9246; one of them malformed makes no difference."""
    one = StreamInfo(stream_type="final").to_dict()
    assert with_entities(one).stream_info is not None
    assert with_entities(one, one).stream_info is None
    assert with_entities(one, {"type": "streaminfo", "streamId": 5}).stream_info is None


def test_p1_20_a_targeted_message_says_so() -> None:
    assert payload("targeted_message").is_targeted
    assert not payload("teams_message").is_targeted
    assert MessageFactory.text("hi").with_entity(ActivityTreatment(treatment="targeted")).is_targeted


def test_p1_20_an_entity_of_the_wrong_json_type_reads_as_missing() -> None:
    mention = Mention.from_dict({"type": "mention", "text": ["x"], "mentioned": {"id": 3}})
    assert (mention.text, mention.mentioned) == (None, None)
    assert mention.to_dict()["text"] == ["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<at>Agent</at> order laptop", "order laptop"),
        ("order <at>Agent</at> laptop", "order laptop"),
        ("order laptop\u00a0<at>Agent</at>", "order laptop"),
        ("order<at>Agent</at>laptop", "orderlaptop"),
        ("<at>Agent</at> tell <at>Ada</at>  two  spaces", "tell <at>Ada</at>  two  spaces"),
        ("no mention of it", "no mention of it"),
    ],
)
def test_p1_20_only_the_agents_own_mention_is_taken_out(text: str, expected: str) -> None:
    activity = with_entities(
        Mention(text="<at>Agent</at>", mentioned=ChannelAccount(id="28:AGENT")),
        Mention(text="<at>Ada</at>", mentioned=ChannelAccount(id="29:ada")),
        {"type": "mention", "text": "spaces", "mentioned": "28:agent"},
    ).replace(text=text, recipient=ACCOUNT)
    assert activity.without_mention_of_recipient().text == expected


@pytest.mark.parametrize("name", ["copilot_message", "copilot_sub_channel_id"])
def test_p1_21_a_sub_channel_is_said_by_an_entity_or_by_the_channels_id(name: str) -> None:
    activity = payload(name)
    assert (activity.channel, activity.sub_channel) == ("msteams", "COPILOT")
    reference = ConversationReference.from_json(activity.get_conversation_reference().to_json())
    assert (reference.channel_id, reference.channel, reference.sub_channel) == ("msteams:COPILOT", "msteams", "COPILOT")


def test_p1_21_what_goes_to_a_sub_channel_says_so_in_an_entity() -> None:
    reference = payload("copilot_message").get_conversation_reference()
    for message in (
        MessageFactory.text("hi"),
        MessageFactory.text("hi").with_entity(ProductInfo(id="OTHER")),
        MessageFactory.text("hi").with_entity(ProductInfo(id="COPILOT")),
    ):
        answer = message.addressed_to(reference)
        assert answer.channel_id == "msteams"
        assert [each.to_dict() for each in answer.entities] == [{"type": "ProductInfo", "id": "COPILOT"}]


def test_p1_21_what_goes_elsewhere_does_not_say_it() -> None:
    reference = payload("teams_message").get_conversation_reference()
    assert (reference.channel_id, reference.sub_channel) == ("msteams", None)
    answer = MessageFactory.text("hi").with_entity(ProductInfo(id="COPILOT")).addressed_to(reference)
    assert "entities" not in answer.to_dict()


def test_an_unknown_entity_is_an_entity() -> None:
    (entity,) = with_entities({"type": "https://example.com/unknown", "n": 1}).entities_of(Entity)
    assert entity.to_dict()["n"] == 1
    assert json.loads(entity.to_json()) == entity.to_dict()
