"""An activity answers where it came from, and goes out as a sender should write it."""

from agent_core import Activity, CardAction, ChannelAccount, ConversationAccount, Mention, MessageFactory
from agent_core.activity.activity import continuation_activity
from agent_core.activity.channels import channel_of


def incoming(**changes: object) -> Activity:
    return Activity(
        type="message",
        id="in1",
        timestamp="2026-11-21T06:04:38.4796355Z",
        channel_id="msteams",
        service_url="https://smba.trafficmanager.net/emea/",
        from_property=ChannelAccount(id="29:user", role="user"),
        recipient=ChannelAccount(id="28:agent", name="Agent"),
        conversation=ConversationAccount(id="a:1", tenant_id="t"),
        locale="de-DE",
        delivery_mode="expectReplies",
    ).replace(**changes)


def test_a_reference_names_agent_and_user_by_their_sides() -> None:
    reference = incoming().get_conversation_reference()
    assert reference.to_dict() == {
        "activityId": "in1",
        "user": {"id": "29:user", "role": "user"},
        "bot": {"id": "28:agent", "name": "Agent"},
        "conversation": {"id": "a:1", "tenantId": "t"},
        "channelId": "msteams",
        "serviceUrl": "https://smba.trafficmanager.net/emea/",
        "locale": "de-DE",
        "deliveryMode": "expectReplies",
    }


def test_an_answer_is_addressed_and_leaves_to_the_channel_what_is_the_channels() -> None:
    message = Activity(type="message", id="x", text="Hi", timestamp="t", service_url="s", caller_id="c", attachments=[])
    answer = message.addressed_to(incoming().get_conversation_reference()).to_dict()
    assert answer == {
        "type": "message",
        "text": "Hi",
        "channelId": "msteams",
        "from": {"id": "28:agent", "name": "Agent"},
        "recipient": {"id": "29:user", "role": "user"},
        "conversation": {"id": "a:1", "tenantId": "t"},
        "replyToId": "in1",
        "locale": "de-DE",
    }


def test_nulls_and_empty_lists_do_not_go_out() -> None:
    message = Activity.from_dict({"type": "message", "text": "", "label": None, "entities": []})
    answer = message.addressed_to(incoming().get_conversation_reference()).to_dict()
    assert answer["text"] == ""
    assert "label" not in answer
    assert "entities" not in answer


def test_a_continuation_has_no_id_that_an_answer_could_reply_to() -> None:
    event = continuation_activity(incoming().get_conversation_reference(), name="ContinueConversation", value={"n": 1})
    assert event.value == {"n": 1}
    answer = MessageFactory.text("Done").addressed_to(event.get_conversation_reference())
    assert answer.reply_to_id is None
    assert answer.recipient is not None
    assert answer.recipient.id == "29:user"


def test_the_mention_of_the_agent_is_taken_out_and_no_other() -> None:
    text = "<at>Agent</at> tell <at>Ada</at> hello"
    mentions = [
        Mention(text="<at>Agent</at>", mentioned=ChannelAccount(id="28:AGENT")),
        Mention(text="<at>Ada</at>", mentioned=ChannelAccount(id="29:ada")),
    ]
    activity = incoming(text=text, entities=mentions)
    assert activity.without_mention_of_recipient().text == "tell <at>Ada</at> hello"
    assert incoming(text=text).without_mention_of_recipient().text == text


def test_the_message_factory_builds_the_usual_messages() -> None:
    assert MessageFactory.text("*Hi*").text_format == "markdown"
    card = MessageFactory.adaptive_card({"type": "AdaptiveCard"}, "See")
    assert card.attachments[0].content == {"type": "AdaptiveCard"}
    assert card.text == "See"
    asked = MessageFactory.suggested_actions(
        ["Yes", CardAction(type="openUrl", title="Read", value="https://x")], "Well?"
    )
    assert asked.suggested_actions is not None
    assert [(each.type, each.value) for each in asked.suggested_actions.actions] == [
        ("imBack", "Yes"),
        ("openUrl", "https://x"),
    ]


def test_a_channel_is_known_by_its_id_and_product_and_an_unknown_one_can_little() -> None:
    assert channel_of("msteams").supports_update
    assert not channel_of("msteams", "COPILOT").supports_update
    assert not channel_of("carrier-pigeon").supports_update
    assert channel_of(None).id == ""
