"""A handler needs the user's token: who is asked, what counts as an answer, what goes on, and what never happens."""

import asyncio
import logging
import re
from datetime import timedelta
from typing import Any

import pytest

from agent_core import (
    ChannelAccount,
    ContentTypes,
    ConversationAccount,
    InvokeResponse,
    SignInFailed,
    SignInRequired,
    TurnContext,
    TurnState,
)
from agent_core.errors import ChannelError, NotSupported, RouteError, StoreUnavailable
from agent_core.proactive.awaiting_sign_in import LOOKS, TURN_WAITS_FOR, WAITS_FOR
from agent_core.proactive.sign_in import NOT_HERE, TOO_MANY_CODES, WRONG_CODE
from agent_core.proactive.sign_in_records import ASKED_FOR, MAX_TRIES, REFUSAL_KEPT
from agent_core.store.document_store import CONVERSATIONS, USERS
from agent_core.turn.turn_state import Handler
from tests.proactive.setting import Setting

PERSONAL = ConversationAccount(id="c1", conversation_type="personal")
GROUP = ConversationAccount(id="c1", conversation_type="groupChat", is_group=True)


class SignInSetting(Setting):
    """An agent that greets who is signed in."""

    def __init__(self, channel_id: str = "msteams") -> None:
        super().__init__(channel_id)
        self.tokens: list[str] = []
        self.service = self.adapter.user_tokens

        @self.agent.message("profile")
        async def profile(context: TurnContext, state: TurnState) -> None:
            self.tokens.append(await context.user_token("graph"))
            state.conversation["greeted"] = True
            await context.send_activity("Hello, you")

        @self.agent.message("sign out")
        async def sign_out(context: TurnContext, state: TurnState) -> None:
            await context.sign_out("graph")

        @self.agent.message(re.compile(r"hello|me too|\d+"))
        async def other(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("What?")

    async def say(self, text: str, **fields: Any) -> list[str | None]:
        """A message, in a conversation of one user if not said otherwise."""
        before = len(self.adapter.sent)
        await self.process(text=text, **fields)
        return [each.text for each in self.adapter.sent[before:]]

    async def process(self, activity_type: str = "message", **fields: Any) -> TurnContext:
        activity = self.adapter.activity(activity_type, **{"conversation": PERSONAL, **fields})
        return await self.adapter.process(self.agent, activity)

    async def invoke(self, name: str, value: Any, **fields: Any) -> InvokeResponse:
        answer = (await self.process("invoke", name=name, value=value, **fields)).invoke_response
        assert answer is not None
        return answer

    async def exchange(self, token: str = "client token", exchange_id: str = "e1", **fields: Any) -> InvokeResponse:
        value = {"id": exchange_id, "connectionName": "graph", "token": token}
        return await self.invoke("signin/tokenExchange", value, **fields)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The cards that were sent, as JSON."""
        return [each.to_dict() for activity in self.adapter.sent for each in activity.attachments]

    async def work_all(self) -> None:
        while await self.work():
            pass


async def test_the_token_is_given_to_who_is_signed_in() -> None:
    setting = SignInSetting()
    setting.service.tokens["graph"] = "a token"
    assert await setting.say("profile") == ["Hello, you"]
    assert setting.tokens == ["a token"]


async def test_p5_3_who_is_not_is_asked_by_a_card_and_the_turn_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    setting = SignInSetting()

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    with caplog.at_level(logging.INFO):
        assert await setting.say("profile") == [None]
    assert setting.cards == [
        {
            "contentType": ContentTypes.oauth_card,
            "content": {
                "text": "Please sign in to go on.",
                "connectionName": "graph",
                "buttons": [{"type": "signin", "title": "Sign in", "value": "https://token.botframework.com/sign-in"}],
                "tokenExchangeResource": {"id": "exchange-graph", "uri": "api://agent"},
            },
        }
    ]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    conversation = await setting.agent.proactive.get_conversation("c1")
    assert conversation is not None
    assert conversation.state == {}


@pytest.mark.parametrize(
    ("channel_id", "content_type", "link"),
    [
        ("msteams", ContentTypes.oauth_card, True),
        ("webchat", ContentTypes.oauth_card, False),
        ("emulator", ContentTypes.oauth_card, False),
        ("skype", ContentTypes.signin_card, True),
    ],
)
async def test_p5_3_each_channel_has_the_card_it_can_show(channel_id: str, content_type: str, link: bool) -> None:
    setting = SignInSetting(channel_id)
    await setting.say("profile")
    (card,) = setting.cards
    assert card["contentType"] == content_type
    assert ("value" in card["content"]["buttons"][0]) == link


async def test_p5_6_copilot_gets_no_button_to_sign_in_but_what_it_exchanges_silently() -> None:
    setting = SignInSetting("msteams:COPILOT")
    await setting.say("profile")
    (card,) = setting.cards
    assert card["content"]["tokenExchangeResource"]["id"] == "exchange-graph"
    assert "value" not in card["content"]["buttons"][0]
    setting.service.exchanges["client token"] = "a token"
    assert (await setting.exchange()).status == 200
    await setting.work_all()
    assert setting.tokens == ["a token"]


async def test_p5_6_without_single_sign_on_copilot_is_told_where_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SignInSetting("msteams:COPILOT")
    resource = await setting.service.get_token_or_sign_in_resource(
        "user", "graph", setting.adapter.activity().get_conversation_reference()
    )

    async def without_exchange(*arguments: object) -> object:
        return resource.replace(token_exchange_resource=None)  # type: ignore[union-attr]  # nobody is signed in

    monkeypatch.setattr(setting.service, "get_token_or_sign_in_resource", without_exchange)
    assert await setting.say("profile") == [NOT_HERE]
    assert setting.cards == []


async def test_p5_4_a_code_in_a_message_signs_in_and_the_handler_runs_again() -> None:
    setting = SignInSetting("webchat")
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    assert await setting.say(" 123456 ") == []
    await setting.work_all()
    assert setting.tokens == ["a token"]
    assert setting.adapter.sent[-1].text == "Hello, you"
    assert setting.adapter.sent[-1].reply_to_id == "in1"
    await setting.later(timedelta(days=1))
    assert setting.tokens == ["a token"], "it ran again once, and not with every look"


async def test_p5_4_verify_state_is_200_for_the_right_code_and_404_for_a_wrong_one() -> None:
    setting = SignInSetting()
    assert (await setting.invoke("signin/verifyState", {"state": "123456"})).status == 404
    assert setting.service.calls == [], "nobody was asked"
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    assert (await setting.invoke("signin/verifyState", {"state": "000000"})).status == 404
    for value in (None, {}, {"state": 7}, {"state": "12345"}, {"state": "١٢٣٤٥٦"}, "123456"):
        assert (await setting.invoke("signin/verifyState", value)).status == 404
    answer = await setting.invoke("signin/verifyState", {"state": "123456"})
    assert (answer.status, answer.body) == (200, None)
    await setting.work_all()
    assert setting.tokens == ["a token"]


async def test_p5_4_verify_state_is_500_where_the_service_fails_and_costs_no_try() -> None:
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    real, failures = setting.service.get_token, [ChannelError("away", decision="unsent")] * 3

    async def flaky(*arguments: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return await real(*arguments, **named)

    setting.service.get_token = flaky  # type: ignore[method-assign]  # a fault of the service
    for _ in range(3):
        assert (await setting.invoke("signin/verifyState", {"state": "123456"})).status == 500
    assert (await setting.invoke("signin/verifyState", {"state": "123456"})).status == 200


async def test_p5_4_who_closes_the_page_is_answered_200_and_may_try_again() -> None:
    setting = SignInSetting()
    failures: list[tuple[str, str]] = []

    @setting.agent.sign_in_failure
    async def failed(context: TurnContext, error: SignInFailed) -> None:
        failures.append((error.name, error.code))

    await setting.say("profile")
    assert (await setting.invoke("signin/verifyState", {"state": "CancelledByUser"})).status == 200
    assert failures == [("graph", "Cancelled")]
    setting.service.codes["123456"] = ("graph", "a token")
    assert (await setting.invoke("signin/verifyState", {"state": "123456"})).status == 200


async def test_p5_4_a_failure_of_the_client_is_answered_200_and_told_by_its_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = SignInSetting()
    codes: list[str] = []

    @setting.agent.sign_in_failure
    async def failed(context: TurnContext, error: SignInFailed) -> None:
        codes.append(error.code)

    with caplog.at_level(logging.DEBUG):
        value = {"code": "resourcematchfailed", "message": "canary"}
        assert (await setting.invoke("signin/failure", value)).status == 200
        assert (await setting.invoke("signin/failure", {"code": "line\nbreak"})).status == 200
        assert (await setting.invoke("signin/failure", None)).status == 200
    assert codes == ["resourcematchfailed", "Unknown", "Unknown"]
    assert "canary" not in caplog.text


async def test_p5_4_six_digits_among_other_words_are_no_code() -> None:
    setting = SignInSetting("webchat")
    await setting.say("profile")
    asked = setting.service.calls.copy()
    for text in ("hello 123456", "1234567", "12345"):
        assert await setting.say(text) == ["What?"]
    assert setting.service.calls == asked


async def test_p5_4_two_wrong_codes_and_the_right_one_is_too_late() -> None:
    setting = SignInSetting("webchat")
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    assert await setting.say("000000") == [WRONG_CODE]
    assert await setting.say("000001") == [TOO_MANY_CODES]
    assert await setting.say("123456") == ["What?"]
    assert setting.service.calls.count("get_token") == 3
    await setting.say("profile")
    assert await setting.say("123456") == []


async def test_p5_5_guesses_at_the_same_time_are_no_more_than_two_tries() -> None:
    setting = SignInSetting("webchat")
    await setting.say("profile")
    before = setting.service.calls.count("get_token")
    await asyncio.gather(
        *(setting.invoke("signin/verifyState", {"state": f"{number:06}"}) for number in range(20)),
        *(setting.say(f"{number:06}") for number in range(20)),
    )
    assert setting.service.calls.count("get_token") - before <= MAX_TRIES


async def test_p5_4_after_15_minutes_a_code_is_a_number_like_any_other_and_the_turn_is_dropped() -> None:
    setting = SignInSetting("webchat")
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    await setting.clock.advance(ASKED_FOR)
    assert await setting.say("123456") == ["What?"]
    assert (await setting.exchange()).status == 400
    await setting.later(timedelta(0))
    setting.service.tokens["graph"] = "too late"
    await setting.later(timedelta(days=3))
    assert setting.tokens == []
    assert await setting.dead_letters() == []
    assert setting.queue.messages == []


async def test_p5_5_a_code_is_taken_from_the_user_who_was_asked_where_he_was_asked_and_nowhere_else() -> None:
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    asked = setting.service.calls.copy()
    other = ChannelAccount(id="other")
    elsewhere = ConversationAccount(id="c2", conversation_type="personal")
    fields: dict[str, Any]
    for fields in ({"from_property": other}, {"conversation": elsewhere}, {"conversation": GROUP}):
        if fields != {"conversation": GROUP}:
            assert (await setting.invoke("signin/verifyState", {"state": "123456"}, **fields)).status == 404
            assert (await setting.exchange(**fields)).status == 400
            value = {"connectionName": "graph", "token": "forged"}
            await setting.process("event", name="tokens/response", value=value, **fields)
        assert await setting.say("123456", **fields) == ["What?"]
    assert setting.service.calls == asked


async def test_p5_5_in_a_group_nobody_is_asked_and_the_app_may_say_why(caplog: pytest.LogCaptureFixture) -> None:
    setting = SignInSetting()

    @setting.agent.message("politely")
    async def politely(context: TurnContext, state: TurnState) -> None:
        try:
            await context.user_token("graph")
        except SignInRequired as error:
            await context.send_activity(str(error).partition("tell the user to ")[2])

    with caplog.at_level(logging.INFO):
        assert await setting.say("profile", conversation=GROUP) == []
    assert "Nobody is asked to sign in to 'graph'" in caplog.text
    assert setting.queue.messages == []
    assert await setting.say("profile", conversation=ConversationAccount(id="c1")) == [], "Teams does not say: a group"
    assert await setting.say("politely", conversation=GROUP) == ["write to the agent alone"]
    setting.service.tokens["graph"] = "a token"
    assert await setting.say("profile", conversation=GROUP) == ["Hello, you"]


async def test_an_app_that_catches_it_asks_nobody() -> None:
    setting = SignInSetting()

    @setting.agent.message("maybe")
    async def maybe(context: TurnContext, state: TurnState) -> None:
        try:
            await context.user_token("graph")
        except SignInRequired:
            await context.send_activity("Without it, then")

    assert await setting.say("maybe") == ["Without it, then"]
    assert (setting.cards, setting.queue.messages) == ([], [])


async def test_p5_4_a_hint_that_there_is_a_token_is_checked_and_its_token_is_never_used() -> None:
    """`tokens/response`, from Web Chat and the Emulator."""
    setting = SignInSetting("webchat")
    await setting.say("profile")
    hint = {"connectionName": "graph", "token": "forged"}
    await setting.process("event", name="tokens/response", value=hint)
    await setting.work_all()
    assert setting.tokens == []
    setting.service.tokens["graph"] = "a token"
    await setting.process("event", name="tokens/response", value={"connectionName": "github"})
    await setting.process("event", name="tokens/response", value=hint)
    await setting.work_all()
    assert setting.tokens == ["a token"]


async def test_what_brings_a_token_is_never_put_on_the_queue() -> None:
    setting = SignInSetting("webchat")

    @setting.agent.activity("event", long_running=True)
    async def events(context: TurnContext, state: TurnState) -> None: ...

    await setting.process("event", name="tokens/response", value={"connectionName": "graph", "token": "canary"})
    assert setting.queue.messages == []
    await setting.process("event", name="other", value={})
    assert len(setting.queue.messages) == 1


async def test_p5_4_an_exchange_signs_in_and_its_copies_get_the_same_answer() -> None:
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.exchanges["client token"] = "a token"
    expected = InvokeResponse(status=200, body={"id": "e1", "connectionName": "graph"})
    for _ in range(3):
        assert await setting.exchange() == expected
    assert setting.service.calls.count("exchange_token") == 1
    await setting.work_all()
    assert setting.tokens == ["a token"]


async def test_p5_4_consent_is_412_and_asked_again_afterwards() -> None:
    """The client sends the same id again once the user has consented."""
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.consent_required = True
    for _ in range(3):
        answer = await setting.exchange()
        assert answer.status == 412
        assert set(answer.body) == {"id", "connectionName", "failureDetail"}
    assert setting.service.calls.count("exchange_token") == 1
    setting.service.consent_required = False
    setting.service.exchanges["client token"] = "a token"
    await setting.clock.advance(REFUSAL_KEPT)
    assert (await setting.exchange()).status == 200
    assert setting.service.calls.count("exchange_token") == 2


async def test_p5_4_a_token_that_is_good_for_nothing_is_412_too() -> None:
    setting = SignInSetting()
    await setting.say("profile")
    assert (await setting.exchange("unknown")).status == 412


async def test_p5_4_what_is_no_exchange_or_for_another_connection_is_400() -> None:
    setting = SignInSetting()
    assert (await setting.exchange()).status == 400, "nobody was asked"
    await setting.say("profile")
    values: tuple[Any, ...] = (
        None,
        [],
        {"id": "e1", "connectionName": "github", "token": "t"},
        {"id": "e1", "connectionName": "graph"},
        {"id": 1, "connectionName": "graph", "token": "t"},
        {"connectionName": "graph", "token": "t"},
    )
    for value in values:
        answer = await setting.invoke("signin/tokenExchange", value)
        assert answer.status == 400
        assert "failureDetail" in answer.body
    assert "exchange_token" not in setting.service.calls


async def test_p5_4_a_service_that_fails_an_exchange_is_400_and_told() -> None:
    setting = SignInSetting()
    codes: list[str] = []

    @setting.agent.sign_in_failure
    async def failed(context: TurnContext, error: SignInFailed) -> None:
        codes.append(error.code)

    await setting.say("profile")

    async def away(*arguments: Any, **named: Any) -> Any:
        raise ChannelError("canary", decision="ambiguous", status=500)

    setting.service.exchange_token = away  # type: ignore[method-assign]  # a fault of the service
    answer = await setting.exchange()
    assert answer.status == 400
    assert "canary" not in str(answer.body)
    assert codes == ["ExchangeFailed"]


async def test_a_second_connection_is_asked_for_after_the_first() -> None:
    setting = SignInSetting("webchat")

    @setting.agent.message("both")
    async def both(context: TurnContext, state: TurnState) -> None:
        setting.tokens.append(await context.user_token("graph") + await context.user_token("github"))

    await setting.say("both")
    for name, code in (("graph", "111111"), ("github", "222222")):
        setting.service.codes[code] = (name, name)
        assert await setting.say(code) == []
        await setting.work_all()
    assert setting.tokens == ["graphgithub"]
    assert len(setting.cards) == 2


async def test_everything_that_waits_for_a_connection_goes_on_and_nothing_else() -> None:
    setting = SignInSetting("webchat")

    @setting.agent.message("code")
    async def code(context: TurnContext, state: TurnState) -> None:
        setting.tokens.append(await context.user_token("github"))

    for text in ("profile", "profile", "code"):
        await setting.say(text)
    setting.service.codes["123456"] = ("graph", "a token")
    await setting.say("123456")
    await setting.work_all()
    assert setting.tokens == ["a token", "a token"]


async def test_who_signs_in_by_other_means_is_noticed_before_long() -> None:
    """What waits looks by itself: nothing depends on an answer that may be lost."""
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.tokens["graph"] = "a token"
    await setting.later(LOOKS[0])
    assert setting.tokens == ["a token"]


async def test_signing_out_forgets_the_token_and_what_was_asked() -> None:
    setting = SignInSetting("webchat")
    setting.service.tokens["graph"] = "a token"
    await setting.say("sign out")
    assert setting.service.tokens == {}
    await setting.say("profile")
    await setting.say("sign out")
    assert await setting.say("123456") == ["What?"]


async def test_the_app_hears_of_success_and_one_handler_answers_for_all() -> None:
    setting = SignInSetting("webchat")
    names: list[str] = []

    @setting.agent.sign_in_success
    async def signed_in(context: TurnContext, name: str) -> None:
        names.append(name)
        await context.send_activity("Welcome")

    @setting.agent.sign_in_failure
    async def failed(context: TurnContext, error: SignInFailed) -> None: ...

    with pytest.raises(RouteError):
        setting.agent.sign_in_success(signed_in)
    with pytest.raises(RouteError):
        setting.agent.sign_in_failure(failed)
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    assert await setting.say("000000") == []
    assert await setting.say("123456") == ["Welcome"]
    assert names == ["graph"]


async def test_an_invoke_is_answered_412_and_not_run_again() -> None:
    setting = SignInSetting()

    @setting.agent.invoke("task/fetch")
    async def fetch(context: TurnContext, state: TurnState) -> dict[str, str]:
        return {"token": "used " + await context.user_token("graph")}

    answer = await setting.invoke("task/fetch", {})
    assert (answer.status, answer.body["error"]["code"]) == (412, "SignInRequired")
    assert len(setting.cards) == 1
    assert setting.queue.messages == []
    setting.service.exchanges["client token"] = "a token"
    assert (await setting.exchange()).status == 200
    await setting.work_all()
    assert await setting.invoke("task/fetch", {}) == InvokeResponse(status=200, body={"token": "used a token"})
    assert (await setting.invoke("task/fetch", {}, conversation=GROUP)).status == 200


async def test_a_long_running_turn_asks_as_well() -> None:
    setting = SignInSetting("webchat")

    async def report(context: TurnContext, state: TurnState) -> None:
        setting.tokens.append(await context.user_token("graph"))

    setting.agent._routes._routes.clear()
    setting.agent.message("report", long_running=True)(report)
    await setting.say("report")
    await setting.work_all()
    assert len(setting.cards) == 1
    setting.service.codes["123456"] = ("graph", "a token")
    await setting.say("123456")
    await setting.work_all()
    assert setting.tokens == ["a token"]


def a_continuing_agent(handler: Handler | None = None, channel_id: str = "webchat") -> SignInSetting:
    setting = SignInSetting(channel_id)

    async def report(context: TurnContext, state: TurnState) -> None:
        setting.tokens.append(await context.user_token("graph"))
        await context.send_activity("Report")

    setting.agent.continuation("report")(handler or report)
    return setting


CALLBACK = {"conversationId": "c1", "continuation": "report"}


async def test_6_13_a_continuation_without_a_token_waits_and_goes_on_after_the_sign_in() -> None:
    setting = a_continuing_agent()
    await setting.say("hello")
    await setting.callback(CALLBACK)
    await setting.later(timedelta(hours=5))
    assert (setting.tokens, setting.cards) == ([], []), "nobody is asked in a turn that nobody began"
    assert await setting.dead_letters() == []
    await setting.say("profile")
    setting.service.codes["123456"] = ("graph", "a token")
    await setting.say("123456")
    await setting.work_all()
    assert setting.tokens == ["a token", "a token"]
    assert setting.adapter.texts.count("Report") == 1
    await setting.callback(CALLBACK)
    await setting.later(timedelta(days=8))
    assert setting.adapter.texts.count("Report") == 1


async def test_6_13_a_scheduled_continuation_waits_likewise() -> None:
    setting = a_continuing_agent()
    await setting.say("hello")
    await setting.agent.notifications.schedule("c1", at=setting.clock.now(), continuation="report")
    await setting.later(timedelta(minutes=1))
    assert setting.tokens == []
    setting.service.tokens["graph"] = "a token"
    await setting.later(LOOKS[1])
    assert setting.adapter.texts.count("Report") == 1


async def test_6_13_what_waits_too_long_is_a_dead_letter() -> None:
    setting = a_continuing_agent()
    await setting.say("hello")
    await setting.callback(CALLBACK)
    looks = 0
    while setting.queue.messages:
        await setting.later(timedelta(hours=1))
        looks += 1
    assert timedelta(hours=looks) == WAITS_FOR
    (letter,) = await setting.dead_letters()
    assert (letter.reason, letter.key, letter.conversation) == ("SignInExpired", "callback:m1", "c1")
    assert setting.service.calls.count("get_token") < 20
    setting.service.tokens["graph"] = "a token"
    await setting.later(timedelta(days=2))
    assert setting.tokens == []


async def test_6_13_the_same_callback_again_while_it_waits_has_one_effect() -> None:
    setting = a_continuing_agent()
    await setting.say("hello")
    for number in range(3):
        await setting.callback({**CALLBACK, "id": "r1"}, f"m{number}")
    await setting.later(LOOKS[0])
    assert len(setting.queue.messages) == 1, "only the newest goes on looking"
    setting.service.tokens["graph"] = "a token"
    await setting.later(timedelta(days=8))
    assert setting.adapter.texts.count("Report") == 1
    assert await setting.dead_letters() == []


async def test_6_13_a_continuation_that_spoke_before_it_asked_cannot_wait() -> None:
    async def hasty(context: TurnContext, state: TurnState) -> None:
        await context.send_activity("One moment")
        await context.user_token("graph")

    setting = a_continuing_agent(hasty)
    await setting.say("hello")
    await setting.callback(CALLBACK)
    assert [letter.reason for letter in await setting.dead_letters()] == ["SignInRequired"]
    assert setting.queue.messages == []


async def test_6_13_the_error_handler_hears_nothing_of_it() -> None:
    setting = a_continuing_agent()

    @setting.agent.error
    async def apologise(context: TurnContext, error: Exception) -> None:
        await context.send_activity("Sorry")

    await setting.say("hello")
    await setting.callback(CALLBACK)
    with pytest.raises(SignInRequired):
        await setting.agent.proactive.continue_conversation("c1", setting.agent._continuations["report"])
    assert "Sorry" not in setting.adapter.texts


async def test_6_13_in_a_group_the_user_must_be_named_and_it_waits_for_him() -> None:
    """The group's stored reference names whoever wrote last: his token must not be taken for another's."""

    async def report(context: TurnContext, state: TurnState) -> None:
        with pytest.raises(NotSupported, match="whose token"):
            await context.user_token("graph")
        setting.tokens.append(await context.user_token("graph", user_id="user"))

    setting = a_continuing_agent(report, "msteams")
    await setting.say("hello", conversation=GROUP)
    await setting.say("me too", conversation=GROUP, from_property=ChannelAccount(id="other"))
    await setting.callback(CALLBACK)
    assert setting.tokens == []
    await setting.say("profile", conversation=ConversationAccount(id="c2", conversation_type="personal"))
    setting.service.exchanges["client token"] = "a token"
    private = ConversationAccount(id="c2", conversation_type="personal")
    assert (await setting.exchange(conversation=private)).status == 200
    await setting.work_all()
    assert setting.tokens == ["a token", "a token"]


async def test_who_has_no_user_has_no_token() -> None:
    setting = SignInSetting()
    refusals: list[str] = []

    @setting.agent.message("whose")
    async def whose(context: TurnContext, state: TurnState) -> None:
        with pytest.raises(NotSupported) as refused:
            await context.user_token("graph", user_id="other")
        refusals.append(str(refused.value))

    @setting.agent.message("agentic")
    async def agentic(context: TurnContext, state: TurnState) -> None:
        with pytest.raises(NotSupported) as refused:
            await context.user_token("graph")
        refusals.append(str(refused.value))

    await setting.say("whose")
    await setting.say("agentic", recipient=ChannelAccount(id="agent", role="agenticUser"))
    assert len(refusals) == 2
    bare = TurnContext(setting.adapter, setting.adapter.activity(), now=setting.clock.now())
    with pytest.raises(NotSupported, match="AgentApplication"):
        await bare.user_token("graph")
    assert setting.service.calls == []


async def test_a_store_that_is_away_when_the_user_signs_in_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SignInSetting()
    await setting.say("profile")
    setting.service.exchanges["client token"] = "a token"

    async def away(*arguments: object, **named: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(setting.store, "query", away)
        assert (await setting.exchange()).status == 200
    assert setting.tokens == []
    await setting.later(LOOKS[0])
    assert setting.tokens == ["a token"]


async def test_no_token_is_stored_queued_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    setting = a_continuing_agent(channel_id="msteams")
    with caplog.at_level(logging.DEBUG):
        await setting.say("hello")
        await setting.callback(CALLBACK)
        await setting.say("profile")
        setting.service.consent_required = True
        await setting.exchange("canary-client-token-1")
        setting.service.consent_required = False
        setting.service.exchanges["canary-client-token-2"] = "canary-user-token"
        await setting.clock.advance(REFUSAL_KEPT)
        await setting.exchange("canary-client-token-2")
        queued = str(setting.queue.messages)
        await setting.work_all()
        await setting.process("event", name="tokens/response", value={"connectionName": "graph", "token": "canary"})
    assert setting.tokens == ["canary-user-token"] * 2
    assert "canary" not in caplog.text
    assert "canary" not in queued
    for container in (CONVERSATIONS, USERS):
        page = await setting.store.query(container)
        assert page.documents
        assert "canary" not in str([document.body for document in page.documents])


def test_a_turn_waits_as_long_as_its_user_may_take() -> None:
    assert TURN_WAITS_FOR == ASKED_FOR
