"""Every error of the library, in one tree, so that a caller can catch by what it will do next.

AgentError
├── BadActivity              what came in is no activity: answer with its `status`, do nothing else
├── NotAuthenticated         no token, or one that proves nothing: 401
├── NotAllowed               a valid token, but not for this: 403
├── KeysUnavailable          a token cannot be checked right now: 503, so that the channel does not drop the activity
├── SettingsError            a setting is missing or wrong: name it, stop
│   └── InvalidTimerSchedule a timer's expression is none, or never fires (`local.ncrontab`)
├── InvalidSchedule          what was said about a time cannot be: its `field` says which argument; a ValueError too
├── ScheduleNotFound         no schedule has that id
├── ScheduleConflict         a schedule is not what it would have to be: see `code`
├── Busy                     another copy of the activity is being handled: try again
├── TurnEnded                a context was used after its turn
├── StreamEnded              a streaming response was used outside of its block
├── StreamCancelled          the user stopped a streaming response; its block ends with it, and it goes no further
├── NotSupported             this channel cannot do that; asked of `context.channel` beforehand it says so
│   └── MessageTooLarge      with the size and the limit; nothing was sent
├── AttachmentNotAvailable   what a user sent along cannot be downloaded: see `code`
│   └── AttachmentTooLarge   there is more of it than was asked for
├── RouteError               two handlers claim one name, or a handler has the wrong shape
├── ConversationNotFound     nothing is stored under that id (or several are: `ConversationAmbiguous`)
│   └── ConversationAmbiguous
├── ConversationSuspended    nothing is sent there for now: see `reason`
├── ContinuationNotFound     no `@agent.continuation` has that name
├── InvalidCallback          a queue message that no retry can make right: it becomes a dead letter
├── NotSent                  an HTTP request surely never left
├── NoAnswer                 an HTTP request left, or may have, and no usable answer came
├── DeadLetterAmbiguous      several conversations have a dead letter of that key: name the conversation
├── NotReplayable            a dead letter that would end as it did, or does not fit: publish anew, or discard it
├── SignInRequired           a user's token is needed and there is none: let it out of the handler
├── SignInFailed             a user did not come to sign in: told to `@agent.sign_in_failure`
├── ConsentRequired          the user must first allow that his token is exchanged
├── ChannelError             the channel answered with an error, or did not answer: see `decision`
├── StoreError
│   ├── DocumentExists       a create met a document of that id
│   ├── DocumentChanged      the ETag is no longer the document's: read again, decide again
│   └── StoreUnavailable     not reached, or no answer in time: the outcome may be unknown
├── QueueUnavailable         the queue was not reached: the message may or may not have been taken
└── LockLost                 somebody else holds the message by now (`hosting.queued_message`)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

Decision = Literal["rejected", "throttled", "ambiguous", "gone", "blocked", "misconfigured", "unsent"]


class AgentError(Exception):
    """The root: everything this library raises on purpose."""


class BadActivity(AgentError):
    """The request is no activity that can be processed.

    Attributes:
        status: the HTTP status to answer with (400, 405, 413 or 415).
        code: a stable word for programs, such as `MissingType`.
    """

    def __init__(self, message: str, *, code: str = "BadActivity", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class NotAuthenticated(AgentError):
    """The caller did not prove who it is; `code` names the check that failed, never a value of the token."""

    def __init__(self, message: str, *, code: str = "InvalidToken") -> None:
        super().__init__(message)
        self.code = code


class NotAllowed(AgentError):
    """The caller proved who it is, and may not do this."""

    def __init__(self, message: str, *, code: str = "Forbidden") -> None:
        super().__init__(message)
        self.code = code


class KeysUnavailable(AgentError):
    """The keys to check a token with could not be fetched: nothing is known of the caller yet. Ask again."""


class SettingsError(AgentError):
    """One or more settings are missing or wrong; the message names each and says how to mend it."""


class InvalidSchedule(AgentError, ValueError):
    """A time, a recurrence or quiet hours that cannot be; nothing was stored.

    Attributes:
        field: the argument to mend, such as `zone`.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class ScheduleNotFound(AgentError):
    """No schedule has that id; one that ended is kept for two weeks."""

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"No schedule {schedule_id!r:.200} is stored; one that ended is kept for two weeks.")
        self.schedule_id = schedule_id


class ScheduleConflict(AgentError):
    """A schedule is not what it would have to be; nothing was changed.

    Attributes:
        code: a stable word. `IdTaken`: the caller's own id was used for a schedule that says something else.
            `Ended`: nothing of it is still to come. `Unusable`: its zone or rule is none any more.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class Busy(AgentError):
    """A copy of this activity is being handled, here or on another host, and takes its time: try again later."""


class TurnEnded(AgentError):
    """A turn's context was used after the turn: use `agent.proactive` to speak later."""


class StreamEnded(AgentError):
    """A streaming response was used before its `async with` block, after it, or a second time."""


class StreamCancelled(AgentError):
    """The user stopped a streaming response: do no more work for it."""


class NotSupported(AgentError):
    """The channel of this conversation cannot do what was asked."""


class MessageTooLarge(NotSupported):
    """The channel takes no message of that size; nothing was sent.

    Attributes:
        size, limit: in `unit`s.
        unit: `bytes of UTF-16`, `bytes of UTF-8` or `characters`.
    """

    def __init__(self, message: str, *, size: int, limit: int, unit: str) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit
        self.unit = unit


class AttachmentNotAvailable(AgentError):
    """The content of an attachment was not fetched, or not to its end; the message says what to do about it.

    Attributes:
        code: a stable word for programs. `NoAddress`: there is nothing to fetch. `HostNotAllowed`: it is kept where
            nothing may be fetched from. `Expired`: it is no longer there, or no longer for us (401, 403, 404, 410).
            `Redirected`: its address leads on to another. `Unreachable`: it may be there later. `ContentMismatch`: it
            is not what it was said to be. `Compressed`, `BadData`: it cannot be read. `TooMany`: there are too many
            in this message. `TooLarge`.
        status: the HTTP status, None where there was none.
    """

    def __init__(self, message: str, *, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class AttachmentTooLarge(AttachmentNotAvailable):
    """There is more of it than the `limit`, in bytes."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message, code="TooLarge")
        self.limit = limit


class RouteError(AgentError):
    """The agent's handlers contradict each other; raised while the app is imported."""


class ConversationNotFound(AgentError):
    """No conversation is stored under that id."""

    def __init__(self, conversation_id: str, message: str | None = None) -> None:
        super().__init__(
            message
            or f"No conversation {conversation_id!r} is stored. It is stored at its first turn; "
            "check the id, and that the user has written to the agent or installed it."
        )
        self.conversation_id = conversation_id


class ConversationAmbiguous(ConversationNotFound):
    """Several channels have a conversation of that id: name the channel too."""


class ConversationSuspended(AgentError):
    """The agent does not speak in this conversation for now: it was removed or blocked, or the team is deleted.

    Attributes:
        reason: a stable word for programs, such as `uninstalled`, `teamDeleted` or `ConversationBlockedByUser`.
        since: since when, an aware time.
    """

    def __init__(self, conversation_id: str, reason: str, since: datetime) -> None:
        super().__init__(
            f"Nothing is sent to conversation {conversation_id!r}: it is suspended ({reason}) since "
            f"{since:%Y-%m-%d %H:%M}. It goes on when the user writes or the agent is installed again; "
            "to try it all the same say even_if_suspended=True."
        )
        self.conversation_id = conversation_id
        self.reason = reason
        self.since = since


class ContinuationNotFound(AgentError):
    """No handler is registered for a continuation of that name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"No continuation is called {name!r}. Register one with @agent.continuation({name!r}); "
            f"known are: {', '.join(known) or 'none'}."
        )
        self.name = name


class InvalidCallback(AgentError):
    """A queue message that can never succeed.

    Attributes:
        reason: a stable word for programs, such as `InvalidJson`; it becomes the dead letter's reason.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotSent(AgentError):
    """The request surely never left: no name, no connection, or none free in time. Sending it again is safe."""


class NoAnswer(AgentError):
    """The request left, or may have, and no usable answer came: it may have been done. Only a GET is safe to repeat."""


class SignInRequired(AgentError):
    """The handler needs the user's token, and he has not signed in. Let it out, and the library does what is right.

    In a conversation of one user the sign-in card is sent, and the handler runs again once he has signed in. A
    continuation or a scheduled notification waits for that without asking. In a group nobody is asked: catch it there,
    and tell the user to write to the agent alone.

    Attributes:
        name: what the handler asked for, such as `graph`.
        connection_name: the OAuth connection of the Azure Bot.
        user_id, channel_id: whose token.
    """

    def __init__(self, message: str, *, name: str, connection_name: str, user_id: str, channel_id: str) -> None:
        super().__init__(message)
        self.name = name
        self.connection_name = connection_name
        self.user_id = user_id
        self.channel_id = channel_id


class SignInFailed(AgentError):
    """A sign-in that was asked for did not come about.

    Attributes:
        name: what the handler had asked for; empty where the channel does not say which sign-in it was.
        code: a stable word: `WrongCode`, `Cancelled`, `ExchangeFailed`, or what the channel says.
    """

    def __init__(self, message: str, *, name: str, code: str) -> None:
        super().__init__(message)
        self.name = name
        self.code = code


class ConsentRequired(AgentError):
    """The token service exchanges no token until the user has allowed it."""


class ChannelError(AgentError):
    """A call to the channel did not succeed.

    Attributes:
        decision: what the failure calls for. `unsent`: the request never left, repeat it freely. `throttled`: the
            channel refused for now (429, 412), repeat after `retry_after`. `ambiguous`: it may have been done (5xx
            after it left, a time-out): a blind repeat can double a message. `gone`: the conversation or activity is no
            more. `blocked`: the user or an admin stopped the agent. `misconfigured`: the agent's own registration
            or token. `rejected`: this request is wrong and stays wrong.
        status: the HTTP status, None where no answer came.
        code, sub_code: the channel's own error codes, where it gave any.
        said: the channel's own message, where it gave one.
        retry_after: how long the channel asked us to wait.
        request_id: the channel's id of the request, for its support.
    """

    def __init__(
        self,
        message: str,
        *,
        decision: Decision,
        status: int | None = None,
        code: str | None = None,
        sub_code: str | None = None,
        said: str | None = None,
        retry_after: timedelta | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.decision = decision
        self.status = status
        self.code = code
        self.sub_code = sub_code
        self.said = said
        self.retry_after = retry_after
        self.request_id = request_id


class StoreError(AgentError):
    """The document store could not do what was asked."""


class DocumentExists(StoreError):
    """A create met a document with the same id in the same partition.

    After a time-out that document can be the caller's own write: put a token into what is created, and compare.
    """


class DocumentChanged(StoreError):
    """The document was changed or deleted since its ETag was read; nothing was written."""


class StoreUnavailable(StoreError):
    """The store was not reached or gave no answer in time; a write may or may not have happened."""


class QueueUnavailable(AgentError):
    """The queue was not reached; the message may or may not have been taken. Sending the same id again is safe."""


class DeadLetterAmbiguous(AgentError):
    """Two conversations have a dead letter of one key, as two publishers may use one id."""


class NotReplayable(AgentError):
    """Doing this again as it is cannot help; the message says what can."""
