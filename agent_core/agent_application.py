"""The agent: its handlers, and what happens in a turn."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from agent_core.activity.activity import Activity
from agent_core.activity.activity_values import InvokeResponse
from agent_core.activity.json_text import dump
from agent_core.errors import (
    BadActivity,
    InvalidCallback,
    QueueUnavailable,
    RouteError,
    SignInRequired,
    StoreError,
)
from agent_core.proactive.awaiting_sign_in import AwaitingSignIn
from agent_core.proactive.callbacks import CallbackReceiver, ExpectedCallbacks
from agent_core.proactive.continuations import Continuations
from agent_core.proactive.continuing_later import ContinuingLater
from agent_core.proactive.conversations import Conversations
from agent_core.proactive.dead_letters import DeadLetters, message_of
from agent_core.proactive.deliveries import Deliveries
from agent_core.proactive.delivery import Delivery
from agent_core.proactive.delivery_gate import DeliveryGate
from agent_core.proactive.directory import ConversationDirectory
from agent_core.proactive.erasure import UserData
from agent_core.proactive.inbound import EDITS, InboundTurns
from agent_core.proactive.late_saves import LateSaves
from agent_core.proactive.ledger import Ledger, WhenUnsure
from agent_core.proactive.lifecycle_work import LifecycleWork
from agent_core.proactive.notifications import Notifications
from agent_core.proactive.occurrences import Occurrences
from agent_core.proactive.preferences import PreferenceStore
from agent_core.proactive.proactive import Proactive
from agent_core.proactive.queue import Queue, QueueMessage
from agent_core.proactive.quiet_hours import QuietHours
from agent_core.proactive.schedules import Schedules
from agent_core.proactive.sign_in import SIGN_IN_INVOKES, FailureHandler, SignIn, SuccessHandler, brings_token
from agent_core.proactive.sign_in_records import SignInRecords
from agent_core.proactive.throttle import Throttle
from agent_core.proactive.tickets import Tickets
from agent_core.proactive.timer import Timer
from agent_core.proactive.work import WorkItem, turn_payload
from agent_core.routes import (
    Route,
    Routes,
    Selector,
    conversation_update,
    members,
    message,
    named,
    of_type,
    suggestion,
)
from agent_core.store.document_store import DocumentStore
from agent_core.turn.channel_adapter import Answer, ChannelAdapter
from agent_core.turn.claims_identity import ClaimsIdentity
from agent_core.turn.turn_context import Callbacks, TurnContext
from agent_core.turn.turn_state import Handler
from agent_core.turn.user_tokens import UserTokens

logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)
ErrorHandler = Callable[[TurnContext, Exception], Awaitable[None]]


class AgentApplication:
    """An agent.

        agent = AgentApplication(services.adapter, services.store, services.queue)

        @agent.message("hello")
        async def hello(context: TurnContext, state: TurnState) -> None:
            await context.send_activity("Hello!")

    Every handler takes `(context, state)`. The first route that matches answers, in order of registration.

    Attributes:
        proactive: speak in stored conversations now, and create new ones.
        notifications: speak at a time.
        conversations: the conversations by user, team, channel and status: listed, counted, deleted.
        user_data: everything about a user, to be deleted.
        dead_letters: what could not be delivered, with the reasons; replay or discard it.
        tickets: what admits callbacks, None if each one is admitted.
    """

    def __init__(
        self,
        adapter: ChannelAdapter,
        store: DocumentStore,
        queue: Queue,
        *,
        tickets: Tickets | None = None,
        quiet_hours: QuietHours | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """`queue` is the agent's own work queue; its trigger calls `do_work`.

        Args:
            tickets: who may continue what, `services.tickets`; without it whoever may publish may continue everything.
            quiet_hours: when no recipient is to get notifications, and how many a day; by the recipient's own clock
                where the channel tells it. Recipients may want less: `notifications.set_quiet_hours`, `.mute`.
        """
        self.tickets = tickets
        tickets = tickets or Tickets()
        self._adapter = adapter
        self._queue = queue
        self._new_id = new_id
        self._routes = Routes()
        self._error_handler: ErrorHandler | None = None
        self._continuations = Continuations()
        self.dead_letters = DeadLetters(store, adapter.now, queue)
        self._late_saves = LateSaves(store, queue, self.dead_letters, now=adapter.now, new_id=adapter.new_id)
        self._conversations = Conversations(store, queue, self._late_saves, now=adapter.now)
        self.conversations = ConversationDirectory(store, self._conversations)
        self.user_data = UserData(store, self._conversations)
        self._lifecycle = LifecycleWork(store, self._conversations)
        self._inbound = InboundTurns(
            store, self._conversations, now=adapter.now, sleep=adapter.sleep, new_id=adapter.new_id
        )
        ledger = Ledger(store, now=adapter.now, sleep=adapter.sleep, new_id=new_id)
        self._awaiting = AwaitingSignIn(adapter, store, queue, self.dead_letters, new_id=new_id)
        self._sign_in = SignIn(adapter, SignInRecords(store, adapter.now), self._awaiting, new_id=new_id)
        preferences = PreferenceStore(store, self._conversations, now=adapter.now)
        self._deliveries = Deliveries(
            ledger,
            queue,
            self._conversations,
            self.dead_letters,
            self._awaiting,
            Throttle(store, adapter.now),
            DeliveryGate(preferences, quiet_hours, now=adapter.now),
            now=adapter.now,
        )
        schedules = Schedules(store)
        timer = Timer(schedules, queue, self.dead_letters, now=adapter.now)
        later = ContinuingLater(schedules, timer, self._continuations, now=adapter.now, new_id=new_id)
        self._expected = ExpectedCallbacks(store, self._continuations, tickets, later, now=adapter.now, new_id=new_id)
        self.proactive = Proactive(
            adapter,
            self._conversations,
            callbacks=self._expected,
            user_tokens=self._sign_in,
            on_turn_error=self.on_turn_error,
        )
        self._callbacks = CallbackReceiver(
            self.proactive,
            self._conversations,
            self._continuations,
            self._expected,
            tickets,
            self._deliveries,
            self.dead_letters,
            now=adapter.now,
        )
        self._occurrences = Occurrences(
            schedules,
            self._conversations,
            self.conversations,
            self._continuations,
            self._deliveries,
            self.dead_letters,
            ledger,
            self.proactive,
            now=adapter.now,
        )
        self.notifications = Notifications(
            schedules,
            timer,
            self._conversations,
            self.conversations,
            ledger,
            continuations=self._continuations,
            preferences=preferences,
            now=adapter.now,
            new_id=new_id,
        )

    # -- handlers

    def activity(self, activity_type: str, *, long_running: bool = False) -> Callable[[H], H]:
        """Handle activities of a type that has no decorator of its own.

        Such are `messageUpdate` and `messageDelete` (the user edited or deleted a message), `endOfConversation`,
        `typing`, `handoff`, `deleteUserData`, `contactRelationUpdate`, and whatever a channel invents.

        Raises:
            RouteError: an invoke is to be long-running; its answer is the HTTP response, which the channel waits for.
        """
        if activity_type == "invoke" and long_running:
            raise RouteError(
                "An invoke cannot be long-running: its answer is the HTTP response. Use @agent.invoke(name)"
            )
        return self._route(of_type(activity_type), long_running)

    def message(self, text: str | re.Pattern[str] | None = None, *, long_running: bool = False) -> Callable[[H], H]:
        """Handle messages.

            @agent.message("order laptop")                          # exactly this, in any case
            @agent.message(re.compile(r"order (?P<what>\\w+)"))      # found in it: context.match["what"]
            @agent.message()                                        # whatever nothing above answered

        Args:
            long_running: acknowledge the message at once and run the handler from the queue; the channel waits 15
                seconds at most, and sends again what it thinks was lost.
        """
        return self._route(message(text), long_running)

    def event(self, name: str | re.Pattern[str], *, long_running: bool = False) -> Callable[[H], H]:
        """Handle events of a name."""
        return self._route(named("event", name), long_running)

    def invoke(self, name: str | re.Pattern[str]) -> Callable[[H], H]:
        """Handle invokes of a name; what the handler returns (JSON or None) is the answer, with status 200.

        Return an `InvokeResponse` for another status.

        Raises:
            RouteError: the name is one of `signin/…`, which the library answers itself.
        """
        if name in SIGN_IN_INVOKES:
            raise RouteError(
                f"{name!r} is answered by the library: await context.user_token(…) signs users in, and "
                "@agent.sign_in_success and @agent.sign_in_failure hear of it"
            )
        return self._route(named("invoke", name), False)

    def command(self, name: str | re.Pattern[str]) -> Callable[[H], H]:
        """Handle commands of a name, such as `application/vnd.contoso.order`; answer with a `commandResult`."""
        return self._route(named("command", name), False)

    def conversation_update(self, event_type: str | None = None) -> Callable[[H], H]:
        """Handle changes of the conversation; in Teams those of one kind, `channelData.eventType`.

        Kinds are `channelCreated`, `channelRenamed`, `channelDeleted`, `channelRestored`, `teamRenamed`,
        `teamArchived`, `teamDeleted` and more: https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/subscribe-to-conversation-events
        """
        return self._route(conversation_update(event_type), False)

    def members_added(self, handler: H) -> H:
        """Handle that somebody joined; not called for the agent itself."""
        return self._route(members("members_added"), False)(handler)

    def members_removed(self, handler: H) -> H:
        """Handle that somebody left; not called for the agent itself."""
        return self._route(members("members_removed"), False)(handler)

    def installation(self, handler: H) -> H:
        """Handle that the agent was installed or removed; `context.activity.action` says which."""
        return self._route(of_type("installationUpdate"), False)(handler)

    def reaction(self, handler: H) -> H:
        """Handle reactions to messages: `context.activity.reactions_added` and `.reactions_removed`."""
        return self._route(of_type("messageReaction"), False)(handler)

    def continuation(self, name: str, *, when_unsure: WhenUnsure = "park") -> Callable[[H], H]:
        """Handle callbacks and schedules that name this continuation; `context.activity.value` is what they bring.

        Args:
            when_unsure: what becomes of a new message of which nobody can know whether it arrived, because a process
                died or no answer came while it was sent. `park`: it is listed among the dead letters, and somebody
                decides. `resend`: it is sent again; better twice than never, as for an alarm. An edit of a placeholder
                is never unsure.

        Raises:
            RouteError: another continuation has that name.
        """

        def register(handler: H) -> H:
            self._continuations.add(name, handler, when_unsure)
            return handler

        return register

    def error(self, handler: ErrorHandler) -> ErrorHandler:
        """Handle what any other handler or a middleware raised: `async def handler(context, error)`.

        Say something helpful and never the exception's text. The failure is logged either way, and what the failed
        handler changed in the state is not saved.
        """
        if self._error_handler is not None:
            raise RouteError("There is an @agent.error handler already; one answers for the whole agent")
        self._error_handler = handler
        return handler

    def sign_in_success(self, handler: SuccessHandler) -> SuccessHandler:
        """Handle that a user has signed in: `async def handler(context, name)`; what waited goes on either way."""
        if self._sign_in.on_success is not None:
            raise RouteError("There is an @agent.sign_in_success handler already; one answers for the whole agent")
        self._sign_in.on_success = handler
        return handler

    def sign_in_failure(self, handler: FailureHandler) -> FailureHandler:
        """Handle that a user could not sign in: `async def handler(context, error)`, a `SignInFailed`.

        Without one, the user is told what to do about a wrong code, and of all else nothing.
        """
        if self._sign_in.on_failure is not None:
            raise RouteError("There is an @agent.sign_in_failure handler already; one answers for the whole agent")
        self._sign_in.on_failure = handler
        return handler

    def _route(self, selector: Selector, long_running: bool) -> Callable[[H], H]:
        def register(handler: H) -> H:
            self._routes.add(Route(selector, handler, long_running))
            return handler

        return register

    # -- turns

    @property
    def callbacks(self) -> Callbacks:
        """Where turns say that a callback is to come."""
        return self._expected

    @property
    def user_tokens(self) -> UserTokens:
        """Where turns get the tokens of their users."""
        return self._sign_in

    async def answer_once(self, context: TurnContext, turn: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run the turn of an incoming activity, unless a copy of it was run before; keep the conversation and state."""
        return await self._inbound.answer_once(context, turn)

    async def on_turn(self, context: TurnContext) -> None:
        """Run the first handler that matches, with `context.state`.

        A handler that needs a token and has none is no failure: the user is asked, and it runs again after that.
        """
        try:
            await self._handle(context)
        except SignInRequired as needed:
            context.state.forget_changes()
            await self._sign_in.ask(context, needed)

    async def _handle(self, context: TurnContext) -> None:
        if await self._sign_in.handle(context):
            return
        found = self._routes.find(context.activity)
        if found is None:
            advice = suggestion(context.activity)
            logger.info("No handler for this %r activity; this would have caught it: %s", context.activity.type, advice)
            return
        route, match = found
        context.chosen(getattr(route.handler, "__name__", "a handler"), match)
        answer = await route.handler(context, context.state)
        if context.activity.type == "invoke":
            response = answer if isinstance(answer, InvokeResponse) else InvokeResponse(status=200, body=answer)
            dump(response.body)  # raises here, in the turn, for what no response can carry
            context.invoke_response = response

    async def on_turn_error(self, context: TurnContext, error: Exception) -> None:
        """Let the `@agent.error` handler speak; the caller logs the error itself."""
        unheard = isinstance(error, (StoreError, QueueUnavailable)) and not context.responded
        if unheard:
            # Nothing was said, so the channel or the queue can try again; an apology would make that a second answer.
            return
        if self._error_handler is None or isinstance(error, (BadActivity, SignInRequired)):
            # A value that a handler refuses is the other side's mistake, which the answer names; and that somebody has
            # not signed in yet is no mistake.
            return
        try:
            await self._error_handler(context, error)
        except Exception:
            logger.exception("The @agent.error handler failed as well")

    async def defer(self, activity: Activity, identity: ClaimsIdentity) -> bool:
        """Put a long-running turn on the work queue; False if this turn is none, and is to run now."""
        if brings_token(activity):
            return False
        found = self._routes.find(activity.without_mention_of_recipient())
        if found is None or not found[0].long_running:
            return False
        # An edit of a message has the message's id, and so has the next edit; each is another turn.
        edited = (str(activity.to_dict().get("timestamp")),) if activity.type in EDITS else ()
        parts = (
            activity.type or "",
            activity.channel_id or "",
            activity.conversation_id,
            activity.id or self._new_id(),
            *edited,
        )
        try:
            item = WorkItem("turn", "turn:" + ":".join(parts), turn_payload(activity, identity))
            await self._queue.send(item.to_message())
        except ValueError:
            # An activity that does not fit into a queue message can still be handled here and now.
            logger.warning("Activity %r is too large for the work queue; its turn runs at once", activity.id)
            return False
        return True

    # -- what the triggers bring

    async def receive_callback(self, message: QueueMessage) -> None:
        """A message of the callback queue: continue its conversation, or keep it as a dead letter.

        Raises:
            AgentError: the store or the queue was not reached; the message must be delivered again.
        """
        await self._callbacks.receive(message)

    async def do_work(self, message: QueueMessage) -> None:
        """A message of the agent's own work queue. Raises like `receive_callback`."""
        try:
            item = WorkItem.from_message(message)
            await self._work_on(item)
        except (BadActivity, InvalidCallback, AttributeError, LookupError, TypeError, ValueError) as error:
            # What handlers raise is dealt with further down: this is about the message itself, and stays wrong.
            await self.dead_letters.add(
                key=f"work:{message.message_id}",
                what="work",
                reason=error.reason if isinstance(error, InvalidCallback) else "NotWork",
                explanation="The work queue is for what the agent sends itself; this is none of it",
                payload=message.body,
            )
            logger.warning("Delivery: work dead, message %r is none of ours", message.message_id, exc_info=True)

    async def _work_on(self, item: WorkItem) -> None:
        if item.kind == "callback":
            await self._callbacks.work_on(item)
        elif item.kind == "message":
            await self._callbacks.receive(message_of(item))
        elif item.kind == "occurrence":
            await self._occurrences.work_on(item)
        elif item.kind == "lifecycle":
            await self._lifecycle.work_on(item)
        elif item.kind == "save":
            await self._late_saves.work_on(item)
        elif item.kind == "sign_in":
            await self._awaiting.work_on(item, self._work_on)
        else:
            await self._run_deferred_turn(item)

    async def _run_deferred_turn(self, item: WorkItem) -> None:
        activity = Activity.from_dict(item.payload["activity"])
        identity = ClaimsIdentity(item.payload["claims"], item.payload["serviceUrlVerified"])

        async def run(delivery: Delivery) -> None:
            async def on_error(context: TurnContext, error: Exception) -> None:
                if self._deliveries.gives_up(delivery, error):
                    await self.on_turn_error(context, error)

            context = TurnContext(
                self._adapter,
                activity,
                now=self._adapter.now(),
                callbacks=self._expected,
                user_tokens=self._sign_in,
                identity=identity,
                runtime=self._adapter,
            )
            delivery.watch(context)
            async with self._conversations.turn(context, marks=partial(self._deliveries.last_marks, delivery)):
                await self._adapter.run_turn(context, self.on_turn, on_error)

        await self._deliveries.deliver(item, activity.conversation_id, None, run, what="long-running turn")
