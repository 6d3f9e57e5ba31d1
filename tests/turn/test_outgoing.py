"""What a handler says is fitted to the channel before anything is sent."""

import json
import random
from typing import Any

import pytest

from agent_core import (
    Activity,
    Attachment,
    CardAction,
    ChannelAccount,
    ConversationAccount,
    Entity,
    Mention,
    MessageFactory,
    SuggestedActions,
    TurnContext,
)
from agent_core.activity.channels import channel_of
from agent_core.activity.citations import Citation, message_entity
from agent_core.errors import MessageTooLarge, NotSupported
from agent_core.testing import ManualClock, TestAdapter
from agent_core.turn.outgoing import fit, split_text

CARD = Attachment(content_type="application/vnd.microsoft.card.adaptive", content={"type": "AdaptiveCard"})


def a_turn(channel_id: str, kind: str = "personal") -> tuple[TurnContext, TestAdapter]:
    clock = ManualClock()
    adapter = TestAdapter(clock, channel_id)
    conversation = ConversationAccount(id="c1", conversation_type=kind)
    return TurnContext(adapter, adapter.activity(text="hi", conversation=conversation), now=clock.now()), adapter


def buttons(number: int) -> list[str | CardAction]:
    return [f"Button {index}" for index in range(number)]


# -- typing and suggested actions


@pytest.mark.parametrize("channel_id", ["sms", "email", "carrier-pigeon"])
async def test_typing_is_dropped_where_it_is_not_shown(channel_id: str) -> None:
    context, adapter = a_turn(channel_id)
    assert (await context.send_activity(Activity(type="typing"))).id is None
    assert not context.responded
    responses = await context.send_activities([Activity(type="typing"), "text", Activity(type="typing"), "more"])
    assert adapter.texts == ["text", "more"]
    assert [response.id for response in responses] == [
        None,
        *list(adapter.messages)[:1],
        None,
        *list(adapter.messages)[1:],
    ]


async def test_typing_goes_where_it_is_shown() -> None:
    context, adapter = a_turn("msteams")
    await context.send_activity(Activity(type="typing"))
    assert [activity.type for activity in adapter.sent] == ["typing"]


@pytest.mark.parametrize(
    ("channel_id", "kind", "kept"),
    [("msteams", "personal", 3), ("msteams", "groupChat", 0), ("line", "", 13), ("facebook", "", 10), ("slack", "", 0)],
)
async def test_suggested_actions_are_cut_to_what_the_channel_shows(channel_id: str, kind: str, kept: int) -> None:
    context, adapter = a_turn(channel_id, kind)
    sent = await context.send_activity(MessageFactory.suggested_actions(buttons(20), "Choose"))
    shown = adapter.sent[0].suggested_actions
    assert [action.title for action in (shown.actions if shown else ())] == buttons(kept)
    assert (shown is None) == (kept == 0), "an empty list is no list of actions"
    if context.channel.supports_update:
        again = MessageFactory.suggested_actions(buttons(20), "Choose").replace(id=sent.id)
        await context.update_activity(again)
        edited = adapter.messages[sent.id or ""].suggested_actions
        assert len(edited.actions if edited else ()) == kept


def test_who_the_actions_are_for_is_kept() -> None:
    actions = SuggestedActions(to=["29:user"], actions=[CardAction(type="imBack", title=str(n)) for n in range(5)])
    (fitted,) = fit(
        Activity(type="message", suggested_actions=actions), channel_of("msteams", conversation_type="personal")
    )
    assert fitted.suggested_actions is not None
    assert fitted.suggested_actions.to == ("29:user",)
    assert len(fitted.suggested_actions.actions) == 3


# -- size


async def test_p4_22_a_long_text_is_sent_as_several_and_the_first_ones_id_comes_back() -> None:
    context, adapter = a_turn("telegram")
    text = "\n\n".join(f"Paragraph {number}: " + "word " * 300 for number in range(8))
    first, second = await context.send_activities([text, "next"])
    *parts, last = adapter.sent
    assert len(parts) == 4
    assert all(len(part.text or "") <= 4096 for part in parts)
    assert all((part.text or "").startswith("Paragraph") for part in parts), "parted between paragraphs"
    assert "\n".join(f"{part.text}" for part in parts).split() == text.split()
    assert last.text == "next"
    assert first.id == next(iter(adapter.messages))
    assert second.id == list(adapter.messages)[-1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One paragraph.\n\nAnother one, longer.", ["One paragraph.", "Another one, longer."]),
        ("A line of words\nand another line of words", ["A line of words", "and another line of words"]),
        ('He said "Go on." So they all went on.', ['He said "Go on."', "So they all went on."]),
        ("Wörter ohne Satzzeichen sind Wörter", ["Wörter ohne Satzzeichen", "sind Wörter"]),
        ("x" * 60, ["x" * 25, "x" * 25, "x" * 10]),
        (
            "今天天气很好。我们去公园吧。然后一起吃饭吧。再见了朋友",
            ["今天天气很好。我们去公园吧。然后一起吃饭吧。", "再见了朋友"],
        ),
        ("    indented\n    code of some\n    length", ["    indented\n    code of", "some\n    length"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_a_text_is_parted_at_paragraphs_lines_sentences_or_words(text: str, parts: list[str]) -> None:
    assert list(split_text(text, len, 25)) == parts


def test_what_is_one_character_to_the_reader_is_not_parted() -> None:
    family = "👨\u200d👩\u200d👧"
    assert list(split_text("xxx" + family, len, 5)) == ["xxx", family]
    assert list(split_text("abcde\u0301f", len, 5)) == ["abcd", "e\u0301f"]


def test_p4_22_no_part_is_too_large_and_no_word_is_lost() -> None:
    """Random texts, with quotes and control characters that grow in JSON, against every unit of the table."""
    generator = random.Random(22)
    alphabet = ["word", "Wörter", "😀", '"', "\\", "\n\n", "\n", ". ", "! ", " ", "\u0001", "x" * 300, "字。"]
    for _ in range(150):
        text = "".join(generator.choice(alphabet) for _ in range(generator.randrange(600)))
        for name in ("telegram", "msteams", "directline"):
            limit = channel_of(name).max_message_size
            assert limit is not None
            most = generator.randrange(12, 700)
            parts = list(split_text(text, limit.size_of_text, most))
            assert all(limit.size_of_text(part) <= most for part in parts)
            assert "".join("".join(parts).split()) == "".join(text.split())


def test_p4_22_every_part_of_a_message_for_teams_stays_within_80_kb_of_utf_16() -> None:
    channel = channel_of("msteams")
    parts = fit(MessageFactory.text('Say "grüße". ' * 20_000), channel)
    assert len(parts) > 5
    for part in parts:
        assert (
            len(json.dumps(part.to_dict(), ensure_ascii=False, separators=(",", ":")).encode("utf-16-le")) <= 80 * 1024
        )


def test_what_belongs_to_the_whole_message_is_said_once() -> None:
    claims = [Citation("Handbook").claim(1), Citation("Prices").claim(2)]
    about = message_entity(claims, generated_by_ai=True)
    mention = Mention(text="<at>Ada</at>", mentioned=ChannelAccount(id="29:ada"))
    message = MessageFactory.suggested_actions(["Yes"], "First [1]. " * 371 + "\n\n<at>Ada</at> last [2]. " * 100)
    parts = fit(
        message.replace(channel_data={"a": 1}, speak="x", entities=[about, mention, Entity(type="other")]),
        channel_of("telegram"),
    )
    first, *_, last = parts
    assert (first.channel_data, first.speak, first.suggested_actions) == ({"a": 1}, "x", None)
    assert (last.channel_data, last.speak) == (None, None)
    assert last.suggested_actions is not None
    assert all(part.text_format == "markdown" for part in parts)

    def kinds(part: Activity) -> list[str | None]:
        return [entity.type for entity in part.entities]

    assert kinds(first) == ["https://schema.org/Message", "other"]
    assert kinds(last) == ["https://schema.org/Message", "mention", "other"]
    assert first.entities[0].to_dict()["citation"] == claims[:1]
    assert last.entities[0].to_dict()["citation"] == claims[1:]


async def test_p4_22_what_cannot_be_split_is_refused_before_anything_is_sent() -> None:
    context, adapter = a_turn("msteams")
    card: dict[str, Any] = {"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "x" * 60_000}]}
    with pytest.raises(MessageTooLarge, match=r"120\d+ bytes of UTF-16.*102400") as caught:
        await context.send_activities(["before", MessageFactory.adaptive_card(card)])
    assert isinstance(caught.value, NotSupported)
    assert (caught.value.limit, caught.value.unit) == (102_400, "bytes of UTF-16")
    assert 120_000 < caught.value.size < 121_000
    assert adapter.sent == []
    assert not context.responded


async def test_p4_22_pictures_inside_a_message_do_not_count_in_teams() -> None:
    context, adapter = a_turn("msteams")
    picture = Attachment(content_type="image/png", content_url="data:image/png;base64," + "A" * 200_000)
    await context.send_activity(MessageFactory.attachment(picture, "Look"))
    assert len(adapter.sent) == 1


def test_a_card_with_a_text_that_is_too_long_is_refused_where_only_the_text_counts() -> None:
    with pytest.raises(MessageTooLarge, match=r"5000 characters.*'telegram' takes 4096"):
        fit(MessageFactory.attachment(CARD, "x" * 5000), channel_of("telegram"))


def test_data_that_leave_no_room_for_a_text_are_refused() -> None:
    with pytest.raises(MessageTooLarge):
        fit(MessageFactory.text("short").replace(channel_data={"a": "x" * 60_000}), channel_of("msteams"))


async def test_p4_22_an_edit_cannot_be_split_and_says_so() -> None:
    context, adapter = a_turn("telegram")
    sent = await context.send_activity("short")
    with pytest.raises(MessageTooLarge):
        await context.update_activity(MessageFactory.text("x" * 5000).replace(id=sent.id))
    assert adapter.texts == ["short"]


def test_a_channel_of_unknown_size_is_sent_everything() -> None:
    assert len(fit(MessageFactory.text("x" * 1_000_000), channel_of("carrier-pigeon"))) == 1


async def test_hooks_see_the_messages_that_are_sent() -> None:
    context, adapter = a_turn("sms")
    seen: list[int] = []

    async def count(context: TurnContext, activities: Any, send: Any) -> Any:
        seen.append(len(activities))
        return await send(activities)

    context.on_send_activities(count)
    await context.send_activity("word " * 1000)
    assert seen == [len(adapter.sent)] == [4]


async def test_a_plain_activity_does_not_choose_its_id() -> None:
    """P4.4: only the parts of a stream go out with an id."""
    context, adapter = a_turn("msteams")
    await context.send_activity(Activity(type="message", id="mine", text="x"))
    assert adapter.sent[0].id is None
