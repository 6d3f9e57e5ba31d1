"""Signing users in: who is asked and how, what counts as an answer, and what goes on afterwards.

What the channel expects as answers is from `OAuthFlow.cs` of https://github.com/microsoft/Agents-for-net. A token that
comes with an activity is never used as the user's: the token service is asked for it, by the user and the channel that
the validated activity came from.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.activity.activity_values import InvokeResponse
from agent_core.activity.cards import CardFactory
from agent_core.errors import (
    ChannelError,
    ConsentRequired,
    NotSupported,
    QueueUnavailable,
    SignInFailed,
    SignInRequired,
    StoreError,
)
from agent_core.proactive.awaiting_sign_in import TURN_WAITS_FOR, AwaitingSignIn
from agent_core.proactive.conversation import user_partition
from agent_core.proactive.sign_in_records import MAX_TRIES, SignInRecord, SignInRecords
from agent_core.proactive.work import WorkItem, turn_payload
from agent_core.turn.channel_adapter import ChannelAdapter
from agent_core.turn.turn_context import TurnContext
from agent_core.turn.user_tokens import OAuthConnection, SignInResource, TokenResponse

logger = logging.getLogger(__name__)

SuccessHandler = Callable[[TurnContext, str], Awaitable[None]]
FailureHandler = Callable[[TurnContext, SignInFailed], Awaitable[None]]

VERIFY_STATE = "signin/verifyState"
TOKEN_EXCHANGE = "signin/tokenExchange"
FAILURE = "signin/failure"
SIGN_IN_INVOKES = (VERIFY_STATE, TOKEN_EXCHANGE, FAILURE)
TOKENS_RESPONSE = "tokens/response"
CANCELLED = "cancelledbyuser"

# How long a copy waits for the answer to the exchange that another makes; together less than a channel waits for us.
_COPY_LOOKS = tuple(timedelta(seconds=seconds) for seconds in (0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1, 1, 1))
_MAGIC_CODE = re.compile(r"\d{6}", re.ASCII)
_FAILURE_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
# Where the card with a link is the only one (`OAuthFlow.ChannelSupportsOAuthCard`), and where the OAuth card needs the
# link beside the name of the connection (`ChannelRequiresSignInLink`).
_SIGNIN_CARD_ONLY = ("cortana", "skype", "skypeforbusiness")
_NEEDS_LINK = ("msteams",)

WRONG_CODE = "That code is not right. Please enter the six digits that the sign-in page showed."
TOO_MANY_CODES = "That code is not right either. Please ask me again, and sign in once more."
NOT_HERE = "I need you to sign in, which is not possible here. Please write to me in a chat in Teams."


def brings_token(activity: Activity) -> bool:
    """Whether it may hold a user's token, and so must never be stored or queued."""
    return activity.name in (TOKEN_EXCHANGE, TOKENS_RESPONSE)


class SignIn:
    """Gives turns the tokens of their users, asks users to sign in, and takes their answers.

    Attributes:
        on_success: told that a user has signed in, and to what.
        on_failure: told that a sign-in failed; without one, the user is told what to do about a wrong code.
    """

    def __init__(
        self, adapter: ChannelAdapter, records: SignInRecords, awaiting: AwaitingSignIn, *, new_id: Callable[[], str]
    ) -> None:
        self.on_success: SuccessHandler | None = None
        self.on_failure: FailureHandler | None = None
        self._adapter = adapter
        self._records = records
        self._awaiting = awaiting
        self._new_id = new_id

    # -- what a handler asks for

    async def token(self, context: TurnContext, name: str, user_id: str | None) -> str:
        """See `TurnContext.user_token`."""
        user, channel = _user_of(context, user_id), context.activity.channel or ""
        service = self._adapter.user_tokens
        connection = service.connection(name)
        found = await service.get_token(user, connection.connection_name, channel)
        if found is not None:
            return found.token
        if context.is_personal:
            advice = "let this error out of the handler, and the user is asked, or what the agent began waits"
        else:
            advice = "nobody is asked in a group: catch this, and tell the user to write to the agent alone"
        raise SignInRequired(
            f"The user is not signed in to {name!r}; {advice}",
            name=name,
            connection_name=connection.connection_name,
            user_id=user,
            channel_id=channel,
        )

    async def sign_out(self, context: TurnContext, name: str) -> None:
        """See `TurnContext.sign_out`."""
        user, channel = _user_of(context, None), context.activity.channel or ""
        service = self._adapter.user_tokens
        connection_name = service.connection(name).connection_name
        await service.sign_out(user, connection_name, channel)
        await self._records.forget(user_partition(channel, user), connection_name)

    async def ask(self, context: TurnContext, needed: SignInRequired) -> None:
        """A handler of an incoming activity ended for want of a token: ask the user, and remember the activity.

        The answer to an invoke must come at once, so an invoke is not remembered: it is answered with 412, and the user
        repeats what he did.

        Raises:
            AgentError: the user could not be asked; the turn has failed.
        """
        activity = context.activity
        is_invoke = activity.type == "invoke"
        if is_invoke:
            error = {"code": "SignInRequired", "message": "The user must sign in first; then do this again"}
            context.invoke_response = InvokeResponse(status=412, body={"error": error})
        if not context.is_personal:
            logger.info("Nobody is asked to sign in to %r in the group %r", needed.name, activity.conversation_id)
            return
        service = self._adapter.user_tokens
        connection = service.connection(needed.name)
        found = await service.get_token_or_sign_in_resource(
            needed.user_id, connection.connection_name, activity.get_conversation_reference()
        )
        partition = user_partition(needed.channel_id, needed.user_id)
        if isinstance(found, SignInResource):
            # Before anybody can answer.
            await self._records.ask(partition, connection, activity.conversation_id)
        if not is_invoke:
            await self._remember(context, needed)
        if isinstance(found, TokenResponse):
            # He signed in at this very moment.
            await self._awaiting.resume(partition, connection.connection_name)
        else:
            await context.send_activity(_prompt(context, connection, found))

    async def _remember(self, context: TurnContext, needed: SignInRequired) -> None:
        activity = context.activity
        # Its replies go through the connector when it runs again: the request that takes them is long over.
        again = activity.replace(delivery_mode=None)
        named = ":".join(("turn", activity.channel or "", activity.conversation_id, activity.id or self._new_id()))
        item = WorkItem("turn", f"{named}:signed-in:{self._new_id()}", turn_payload(again, context.identity))
        await self._awaiting.wait(
            item, needed, named=named, conversation_id=activity.conversation_id, what="turn", most=TURN_WAITS_FOR
        )

    # -- what users and channels answer

    async def handle(self, context: TurnContext) -> bool:
        """Take the activity if it answers a sign-in; False if it is for the agent's own routes."""
        activity = context.activity
        name = activity.name
        if activity.type == "message" and _MAGIC_CODE.fullmatch((activity.text or "").strip()):
            if not await self._code_was_said(context, (activity.text or "").strip()):
                return False
        elif activity.type == "event" and name == TOKENS_RESPONSE:
            await self._tokens_response(context)
        elif activity.type == "invoke" and name == VERIFY_STATE:
            context.invoke_response = await self._verify_state(context)
        elif activity.type == "invoke" and name == TOKEN_EXCHANGE:
            context.invoke_response = await self._token_exchange(context)
        elif activity.type == "invoke" and name == FAILURE:
            await self._sign_in_failure(context)
            context.invoke_response = InvokeResponse(status=200)
        else:
            return False
        context.chosen("the sign-in")
        return True

    async def _asked(self, context: TurnContext) -> list[SignInRecord]:
        """What this user was asked in this conversation, and nobody else, and nowhere else."""
        if not context.is_personal or context.identity.calling_agent is not None:
            return []
        return await self._records.asked_in(_partition(context), context.activity.conversation_id)

    async def _code_was_said(self, context: TurnContext, code: str) -> bool:
        asked = await self._asked(context)
        if not asked:
            # A number like any other.
            return False
        if not await self._redeem(context, asked, code):
            await self._wrong_code(context, asked[0])
        return True

    async def _verify_state(self, context: TurnContext) -> InvokeResponse:
        """200 signed in or cancelled; 404 wrong, the channel gives up; 500 not known, the channel asks again."""
        state = _value(context).get("state")
        asked = await self._asked(context)
        if isinstance(state, str) and state.lower() == CANCELLED:
            name = asked[0].name if asked else ""
            await self._failed(context, SignInFailed("The user closed the sign-in page", name=name, code="Cancelled"))
            return InvokeResponse(status=200)
        if not isinstance(state, str) or not _MAGIC_CODE.fullmatch(state) or not asked:
            return InvokeResponse(status=404)
        try:
            redeemed = await self._redeem(context, asked, state)
        except ChannelError as error:
            logger.warning("A sign-in code could not be checked: %s", error)
            return InvokeResponse(status=500)
        if redeemed:
            return InvokeResponse(status=200)
        await self._wrong_code(context, asked[0])
        return InvokeResponse(status=404)

    async def _redeem(self, context: TurnContext, asked: list[SignInRecord], code: str) -> bool:
        """Whether the code was right for something that was asked; of what was asked, each counts a try."""
        user = _user_of(context, None)
        for record in asked:
            # Counted before it is tried, so that guesses at the same time do not get more of them.
            trying = await self._records.change(record, tries=record.tries + 1)
            if trying is None:
                continue
            try:
                token = await self._adapter.user_tokens.get_token(
                    user, record.connection_name, context.activity.channel or "", code=code
                )
            except ChannelError:
                await self._records.change(trying, tries=record.tries)
                raise
            if token is not None:
                if await self._records.change(trying, signedIn=True) is not None:
                    await self._signed_in(context, record)
                return True
        return False

    async def _wrong_code(self, context: TurnContext, record: SignInRecord) -> None:
        last = record.tries + 1 >= MAX_TRIES
        error = SignInFailed("The code that the user gave is wrong", name=record.name, code="WrongCode")
        await self._failed(context, error, TOO_MANY_CODES if last else WRONG_CODE)

    async def _tokens_response(self, context: TurnContext) -> None:
        """A channel says that the user has a token. It is taken as a hint, and the service is asked."""
        connection_name = _value(context).get("connectionName")
        for record in await self._asked(context):
            if record.connection_name == connection_name:
                found = await self._adapter.user_tokens.get_token(
                    _user_of(context, None), record.connection_name, context.activity.channel or ""
                )
                if found is not None and await self._records.change(record, signedIn=True) is not None:
                    await self._signed_in(context, record)
                return
        logger.info("A %s that nobody asked for, conversation %r", TOKENS_RESPONSE, context.activity.conversation_id)

    async def _sign_in_failure(self, context: TurnContext) -> None:
        # The user can still use the button on the card, so nothing ends here.
        code = _value(context).get("code")
        code = code if isinstance(code, str) and _FAILURE_CODE.fullmatch(code) else "Unknown"
        asked = await self._asked(context)
        name = asked[0].name if asked else ""
        await self._failed(context, SignInFailed("The user's client could not sign in", name=name, code=code))

    async def _token_exchange(self, context: TurnContext) -> InvokeResponse:
        """Every client of the user that shows the card sends one: the first is exchanged, and all get its answer.

        200 signed in; 412 the client asks for consent and sends again; 400 the client gives up.
        """
        value = _value(context)
        exchange_id, connection_name, token = value.get("id"), value.get("connectionName"), value.get("token")
        if not (isinstance(exchange_id, str) and isinstance(connection_name, str) and isinstance(token, str) and token):
            return _exchanged(value, 400, "It needs strings in 'id', 'connectionName' and 'token'")
        if context.identity.calling_agent is not None:
            return _exchanged(value, 400, "An agent that calls this one signs its users in itself")
        for delay in (*_COPY_LOOKS, None):
            record = await self._records.get(_partition(context), connection_name)
            now = self._adapter.now()
            if record is None or not _is_for(context, record) or record.expired(now):
                return _exchanged(value, 400, "No sign-in to that connection is under way here")
            answer = record.answer_to(exchange_id, now)
            if answer is not None:
                return _exchanged(value, *answer)
            if not record.exchange_held(now):
                claimed = await self._records.claim_exchange(record, exchange_id)
                if claimed is not None:
                    return await self._exchange(context, claimed, token)
            if delay is not None:
                await self._adapter.sleep(delay)
        # The channel asks again.
        return _exchanged(value, 500, "Another client's exchange is still under way")

    async def _exchange(self, context: TurnContext, claimed: SignInRecord, token: str) -> InvokeResponse:
        status, failure = 412, "The token cannot be exchanged yet; let the user consent, or sign in by the card"
        try:
            found = await self._adapter.user_tokens.exchange_token(
                _user_of(context, None), claimed.connection_name, context.activity.channel or "", token=token
            )
            if found is not None:
                status, failure = 200, ""
        except ConsentRequired:
            pass
        except ChannelError as error:
            logger.warning("A token could not be exchanged for connection %r: %s", claimed.connection_name, error)
            status, failure = 400, "The token service could not exchange the token; the agent's log says why"
        await self._records.answer_exchange(claimed, status, failure or None)
        if status == 200:
            await self._signed_in(context, claimed)
        elif status == 400:
            error_ = SignInFailed("The token service failed", name=claimed.name, code="ExchangeFailed")
            await self._failed(context, error_)
        return _exchanged(_value(context), status, failure or None)

    async def _signed_in(self, context: TurnContext, record: SignInRecord) -> None:
        logger.info("Signed in to %r, conversation %r", record.name, context.activity.conversation_id)
        try:
            await self._awaiting.resume(_partition(context), record.connection_name)
        except (QueueUnavailable, StoreError) as error:
            # The user is signed in, and what waits looks by itself before long.
            logger.warning("What waits for the sign-in to %r goes on later: %s", record.name, error)
        if self.on_success is not None:
            await self.on_success(context, record.name)

    async def _failed(self, context: TurnContext, error: SignInFailed, text: str | None = None) -> None:
        logger.info(
            "Sign-in to %r failed (%s), conversation %r", error.name, error.code, context.activity.conversation_id
        )
        if self.on_failure is not None:
            await self.on_failure(context, error)
        elif text is not None:
            await context.send_activity(text)


def _user_of(context: TurnContext, user_id: str | None) -> str:
    """Whose token a turn may have. Raises NotSupported where that is nobody's."""
    activity = context.activity
    if activity.is_agentic:
        raise NotSupported("An agent with an identity of its own has no user who could sign in")
    if context.identity.calling_agent is not None:
        # It names users as it likes, and would act with the token of any.
        raise NotSupported("An agent that calls this one has no users here: it signs them in itself")
    user = activity.from_property.id if activity.from_property else None
    if user_id is not None and user_id != user:
        if not context.proactive:
            raise NotSupported("A turn has the token of the user who wrote, and of nobody else: leave user_id out")
        user = user_id
    elif user_id is None and context.proactive and not context.is_personal:
        raise NotSupported(
            "In a group, a turn that the agent began has no user of its own: say whose token, with user_id=…"
        )
    if not user:
        raise NotSupported("This conversation has no user yet, so there is nobody who could sign in")
    return user


def _partition(context: TurnContext) -> str:
    return user_partition(context.activity.channel or "", _user_of(context, None))


def _is_for(context: TurnContext, record: SignInRecord) -> bool:
    return context.is_personal and record.conversation_id == context.activity.conversation_id


def _value(context: TurnContext) -> dict[str, Any]:
    value = context.activity.value
    return value if isinstance(value, dict) else {}


def _exchanged(value: dict[str, Any], status: int, failure: str | None = None) -> InvokeResponse:
    """The answer to a `signin/tokenExchange`."""
    body = {name: each for name in ("id", "connectionName") if isinstance(each := value.get(name), str)}
    return InvokeResponse(status=status, body={**body, "failureDetail": failure} if failure else body)


def _prompt(context: TurnContext, connection: OAuthConnection, resource: SignInResource) -> Activity | str:
    """What asks the user to sign in, as far as the channel can show it."""
    channel, link = context.activity.channel or "", resource.sign_in_link
    if (context.activity.sub_channel or "").upper() == "COPILOT":
        # It shows no sign-in card. What it can do is exchange a token by itself, and the card only says for what.
        if resource.token_exchange_resource is None:
            return NOT_HERE
        card = CardFactory.oauth_card(
            connection.connection_name,
            connection.title,
            text=connection.text,
            token_exchange_resource=resource.token_exchange_resource,
        )
    elif channel in _SIGNIN_CARD_ONLY:
        card = CardFactory.signin_card(connection.title, link or "", connection.text)
    else:
        card = CardFactory.oauth_card(
            connection.connection_name,
            connection.title,
            text=connection.text,
            link=link if channel in _NEEDS_LINK else None,
            token_exchange_resource=resource.token_exchange_resource,
            token_post_resource=resource.token_post_resource,
        )
    return Activity(type="message", input_hint="acceptingInput", attachments=[card])
