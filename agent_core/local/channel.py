"""A channel on this machine: the Bot Connector API towards the agent, a chat page towards the developer.

    channel = LocalChannel(path, agent_url=…, service_url=…, now=…, post=…)
    app = Starlette(routes=channel.routes())
    …
    channel.end_streams()     # before the server shuts down: it waits for open responses
    await channel.close()     # after it

It stands on the other side of the wire, so it knows JSON and nothing of the agent's own types.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from agent_core.errors import StoreUnavailable
from agent_core.local.feed import Feed, Signal
from agent_core.local.inbound import (
    body_of,
    check_origin,
    checked_activity,
    reported_by_browser,
    segments,
    stream_info,
)
from agent_core.local.outbox import Outbox, Post, error_message, unreachable
from agent_core.local.transcript import JsonObject, Refusal, Transcript

_PAGE_FILES = Path(__file__).parent / "page"
_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_CHANNEL_ID = "emulator"
_USER = {"id": "user", "name": "User"}
_AGENT = {"id": "agent", "name": "Agent"}
_ADAPTIVE_CARD = "application/vnd.microsoft.card.adaptive"
# What an agent may answer to an Action.Execute:
# https://learn.microsoft.com/adaptive-cards/authoring-cards/universal-action-model
_MESSAGE_ANSWER = "application/vnd.microsoft.activity.message"
_LOGIN_ANSWER = "application/vnd.microsoft.activity.loginRequest"
_ERROR_ANSWER = "application/vnd.microsoft.error"

Answer = tuple[int, JsonObject | list[JsonObject]]
Handler = Callable[[Request], Awaitable[Response]]


class LocalChannel:
    """One user, one agent, and as many conversations as the user opens; all of it survives a crash.

    Only requests to a loopback name are answered, and none that another web site started.
    """

    def __init__(
        self,
        database: Path,
        *,
        agent_url: str,
        service_url: str,
        now: Callable[[], datetime],
        post: Post,
        new_id: Callable[[], str] = lambda: secrets.token_hex(5),
        answer_within: timedelta = timedelta(seconds=15),
        heartbeat: timedelta = timedelta(seconds=15),
    ) -> None:
        """The file is opened with the first request.

        Args:
            agent_url: where the agent takes activities, such as `http://127.0.0.1:7071/api/messages`.
            service_url: where the agent answers: this server's address and `/channel/`.
            post: sends a request to the agent.
            new_id: makes the ids of conversations; no two may be the same, ever.
            answer_within: how long the agent may take to answer a request.
            heartbeat: how long an event stream may be silent.
        """
        self._service_url = service_url
        self._now = now
        self._new_id = new_id
        self._heartbeat = heartbeat.total_seconds()
        self._feed = Feed()
        self._transcript = Transcript(database, now=now, on_change=self._feed.changed)
        self._outbox = Outbox(self._transcript, post, agent_url, answer_within)
        self._files = {path.name: path.read_bytes() for path in _PAGE_FILES.iterdir() if path.is_file()}

    def routes(self) -> list[BaseRoute]:
        """The page at `/` and `/page/…`, everything else under `/channel/`."""
        return [
            Route("/", _guarded(self._file)),
            Route("/page/{name}", _guarded(self._file)),
            Route("/channel/page/{path:path}", _guarded(self._page), methods=["GET", "POST"]),
            Route("/channel/{path:path}", _guarded(self._connector), methods=["GET", "POST", "PUT", "DELETE"]),
        ]

    def end_streams(self) -> None:
        """End every event stream and accept no new one; replies and reads still work. Open pages keep asking."""
        self._feed.end()

    async def close(self) -> None:
        """End the streams, stop the deliveries and close the file; what was not delivered is kept, and marked so."""
        self.end_streams()
        await self._outbox.close()
        await self._transcript.close()

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            raise Refusal(404, "NotFound", "There is no such page.")
        media_type = _MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        return Response(self._files[name], media_type=media_type)

    # The Bot Connector API: what the agent calls.

    async def _connector(self, request: Request) -> Response:
        # https://github.com/microsoft/Agents/blob/main/specs/typespec/channelapi.tsp
        match request.method, segments(request):
            case "POST", ["channel", "v3", "conversations"]:
                answer = await self._create_conversation(await body_of(request))
            case "GET", ["channel", "v3", "conversations"]:
                known = await self._transcript.conversations()
                answer = 200, {"conversations": [{"id": each["id"], "members": [_USER, _AGENT]} for each in known]}
            case "POST", ["channel", "v3", "conversations", conversation, "activities"]:
                answer = await self._send(conversation, checked_activity(await body_of(request)))
            case "POST", ["channel", "v3", "conversations", conversation, "activities", replied_to]:
                activity = checked_activity(await body_of(request))
                answer = await self._send(conversation, {"replyToId": replied_to, **activity})
            case "PUT", ["channel", "v3", "conversations", conversation, "activities", activity_id]:
                stored = self._stamped(checked_activity(await body_of(request)))
                await self._transcript.edit(conversation, activity_id, lambda _: stored)
                answer = 200, {"id": activity_id}
            case "DELETE", ["channel", "v3", "conversations", conversation, "activities", activity_id]:
                await self._transcript.delete(conversation, activity_id)
                answer = 200, {}
            case "GET", ["channel", "v3", "conversations", conversation, *rest]:
                answer = await self._members(conversation, rest)
            case _:
                raise Refusal(404, "NotFound", "The local channel has no such route.")
        return _json(*answer)

    async def _create_conversation(self, parameters: JsonObject) -> Answer:
        first = parameters.get("activity")
        activity = None if first is None else checked_activity(first)
        conversation = f"chat-{self._new_id()}"
        await self._transcript.create_conversation(conversation)
        created: JsonObject = {"id": conversation, "serviceUrl": self._service_url}
        if activity is not None:
            _, sent = await self._send(conversation, activity)
            created["activityId"] = sent["id"] if isinstance(sent, dict) and "id" in sent else ""
        return 201, created

    async def _send(self, conversation: str, activity: JsonObject) -> Answer:
        activity = self._stamped(activity)
        stream = stream_info(activity)
        if stream is not None:
            entry = await self._transcript.stream(conversation, activity, stream.id, stream.number)
            # The id of the first chunk names the stream from then on; chunks after it are answered without.
            begins = entry.sequence == entry.position
            return (201, {"id": entry.id}) if begins or stream.number is None else (202, {})
        if activity["type"] == "typing":
            await self._transcript.require(conversation)
            self._feed.typing(conversation)
            return 202, {}
        entry = await self._transcript.add(conversation, activity, author="agent", status="sent")
        return 201, {"id": entry.id}

    async def _members(self, conversation: str, path: list[str]) -> Answer:
        await self._transcript.require(conversation)
        members = [_USER, _AGENT]
        match path:
            case ["members"]:
                return 200, [*members]
            case ["pagedmembers"]:
                return 200, {"members": members}
            case ["members", member_id]:
                for member in members:
                    if member["id"] == member_id:
                        return 200, member
                raise Refusal(404, "MemberNotFoundInConversation", "There is no such member in this conversation.")
            case ["activities", activity_id, "members"]:
                await self._transcript.entry(conversation, activity_id)
                return 200, [*members]
        raise Refusal(404, "NotFound", "The local channel has no such route.")

    # What the page calls.

    async def _page(self, request: Request) -> Response:
        if request.method == "POST" and _media_type(request) != "application/json":
            raise Refusal(415, "UnsupportedMediaType", "Send JSON, with Content-Type: application/json.")
        match request.method, segments(request):
            case "GET", ["channel", "page", "conversations"]:
                return _json(200, {"conversations": await self._transcript.conversations()})
            case "POST", ["channel", "page", "conversations"]:
                return _json(201, await self._open_conversation(await body_of(request)))
            case "GET", ["channel", "page", "conversations", conversation, "events"]:
                return await self._event_stream(request, conversation)
            case "POST", ["channel", "page", "conversations", conversation, "messages"]:
                return _json(202, await self._say(conversation, await body_of(request)))
            case "POST", ["channel", "page", "conversations", conversation, "messages", activity_id, "redelivery"]:
                entry = await self._transcript.mark(conversation, activity_id, "pending", was="failed")
                self._outbox.deliver(entry)
                return _json(202, {"id": activity_id})
            case "POST", ["channel", "page", "conversations", conversation, "invokes"]:
                return _json(200, await self._execute(conversation, await body_of(request)))
        raise Refusal(404, "NotFound", "The local channel has no such route.")

    async def _open_conversation(self, body: JsonObject) -> JsonObject:
        conversation = f"chat-{self._new_id()}"
        await self._transcript.create_conversation(conversation)
        await self._deliver(conversation, {"type": "conversationUpdate", "membersAdded": [_USER, _AGENT]}, body)
        return {"id": conversation}

    async def _say(self, conversation: str, body: JsonObject) -> JsonObject:
        given = {key: body[key] for key in ("text", "value", "replyToId", "channelData") if body.get(key) is not None}
        if not isinstance(given.get("text", ""), str) or not (given.get("text", "").strip() or "value" in given):
            raise Refusal(400, "BadArgument", "A message needs a `text` or a `value`.")
        if "text" in given:
            given["textFormat"] = "plain"
        return await self._deliver(conversation, {"type": "message", **given}, body)

    async def _execute(self, conversation: str, body: JsonObject) -> JsonObject:
        """Ask the agent what a card's Action.Execute does; a card that it answers takes the place of the shown one."""
        if not isinstance(body.get("action"), dict):
            raise Refusal(400, "BadArgument", "An invoke needs the card's `action`.")
        shown = await self._transcript.entry(conversation, str(body.get("activityId")))
        activity = {
            "type": "invoke",
            "name": "adaptiveCard/action",
            "value": {"action": body["action"], "trigger": "manual"},
            "replyToId": shown.id,
            "id": f"{conversation}|invoke-{self._new_id()}",
            "conversation": {"id": conversation},
        }
        try:
            status, answer = await self._outbox.ask(self._from_user(activity, body))
        except Exception as error:  # as for any delivery: whatever `post` raises means that there was no answer
            return {"notice": unreachable(error)}
        if status == 501:
            return {"notice": "The agent has no handler for this action (501)."}
        kind, result = (answer.get("type"), answer.get("value")) if isinstance(answer, dict) else (None, None)
        if status >= 400 or (isinstance(kind, str) and kind.startswith(_ERROR_ANSWER)):
            why = error_message(result or answer) or "without an explanation."
            return {"notice": f"The agent answered {status}: {why}"}
        if kind == _ADAPTIVE_CARD and isinstance(result, dict):
            place = body.get("attachment")
            await self._transcript.edit(
                conversation, shown.id, lambda latest: _with_card(latest, place, result), edited=False
            )
        elif kind == _LOGIN_ANSWER:
            return {"notice": "The agent asks you to sign in, which the local chat cannot do."}
        return {"notice": error_message(result) if kind == _MESSAGE_ANSWER else None}

    async def _deliver(self, conversation: str, activity: JsonObject, body: JsonObject) -> JsonObject:
        activity = self._from_user(activity, body)
        entry = await self._transcript.add(conversation, activity, author="user", status="pending")
        self._outbox.deliver(entry)
        return {"id": entry.id}

    async def _event_stream(self, request: Request, conversation: str) -> Response:
        last = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        if not (last.isascii() and last.isdecimal() and len(last) < 16):
            raise Refusal(400, "BadArgument", "`after` is the number of the last event seen.")
        if self._feed.ended:
            raise Refusal(503, "ServiceError", "The local channel is shutting down.")
        await self._transcript.require(conversation)
        return StreamingResponse(self._events(conversation, int(last)), media_type="text/event-stream")

    async def _events(self, conversation: str, after: int) -> AsyncIterator[str]:
        """Every entry changed after that number, a `current` event, then changes as they come.

        An entry is sent in its latest version; its number is the event's id, so a reader that returns with the last
        number it saw misses nothing and gets nothing twice.
        """
        with self._feed.listen(conversation) as signals:
            is_current = False
            while not self._feed.ended:
                try:
                    while entries := await self._transcript.changes(conversation, after):
                        for entry in entries:
                            after = entry.sequence
                            yield f"id: {after}\nevent: change\ndata: {json.dumps(entry.as_json())}\n\n"
                except (Refusal, StoreUnavailable):
                    return  # closed meanwhile: the page comes back, and is told
                if not is_current:
                    is_current = True
                    yield "event: current\ndata: {}\n\n"
                signal = await _next(signals, self._heartbeat)
                if signal is None:
                    yield ": still here\n\n"
                elif signal in ("typing", "elsewhere"):
                    yield f"event: {signal}\ndata: {{}}\n\n"

    # What the channel puts on an activity, in either direction.

    def _timestamp(self) -> str:
        # Seven digits, as the Bot Service writes them: what is read here must be readable there.
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"

    def _stamped(self, activity: JsonObject) -> JsonObject:
        return {"from": _AGENT, **activity, "timestamp": self._timestamp(), "channelId": _CHANNEL_ID}

    def _from_user(self, activity: JsonObject, body: JsonObject) -> JsonObject:
        return {
            **activity,
            "timestamp": self._timestamp(),
            **reported_by_browser(body),
            "channelId": _CHANNEL_ID,
            "serviceUrl": self._service_url,
            "from": {**_USER, "role": "user"},
            "recipient": {**_AGENT, "role": "bot"},
        }


def _guarded(handler: Handler) -> Handler:
    """Let only this machine's own requests through, and answer every refusal in the Bot Connector's shape."""

    async def answer(request: Request) -> Response:
        try:
            check_origin(request)
            response = await handler(request)
        except Refusal as refusal:
            response = _json(refusal.status, _error(refusal.code, str(refusal)))
        except StoreUnavailable as error:
            response = _json(503, _error("ServiceError", str(error)))
        response.headers.update(_HEADERS)
        return response

    return answer


async def _next(signals: asyncio.Queue[Signal], seconds: float) -> Signal | None:
    """The next signal, or None after so many seconds without one."""
    try:
        async with asyncio.timeout(seconds):
            return await signals.get()
    except TimeoutError:
        return None


def _with_card(activity: JsonObject, place: object, card: JsonObject) -> JsonObject | None:
    """The activity with another card as its attachment number `place`; None if there is no Adaptive Card there."""
    attachments = activity.get("attachments") or []
    if not isinstance(place, int) or not 0 <= place < len(attachments):
        return None
    shown = attachments[place]
    if not isinstance(shown, dict) or shown.get("contentType") != _ADAPTIVE_CARD:
        return None
    return {**activity, "attachments": [*attachments[:place], {**shown, "content": card}, *attachments[place + 1 :]]}


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _error(code: str, message: str) -> JsonObject:
    return {"error": {"code": code, "message": message}}


def _json(status: int, body: Any) -> Response:
    # ASCII with escapes: a lone surrogate, which JSON can hold, has no other form.
    return Response(json.dumps(body), status, media_type="application/json")
