"""A user token service on a real socket: keeps users' tokens, notes every call, and fails as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

User = tuple[str, str, str]


@dataclass
class TokenCall:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeTokenService:
    """Knows users by (user, connection, channel).

    Attributes:
        codes: what each code of the sign-in page is good for.
        exchangeable: what each token of a client becomes; what is not in it needs consent.
        answers: what to answer instead, to the next calls.
        before_answer: awaited with each call, after it had its effect.
    """

    tokens: dict[User, str] = field(default_factory=dict)
    codes: dict[str, tuple[User, str]] = field(default_factory=dict)
    exchangeable: dict[str, str] = field(default_factory=dict)
    answers: list[Callable[[], Response]] = field(default_factory=list)
    before_answer: Callable[[TokenCall], Awaitable[None]] | None = None
    calls: list[TokenCall] = field(default_factory=list)

    def called(self, path: str) -> list[TokenCall]:
        """The calls of a route, by the end of its path."""
        return [call for call in self.calls if call.path.endswith(path)]

    def app(self) -> Starlette:
        """The service as an ASGI app."""

        async def anything(request: Request) -> Response:
            body = await request.body()
            path = request.scope["raw_path"].decode().partition("?")[0]
            call = TokenCall(
                request.method,
                path,
                dict(request.query_params),
                dict(request.headers),
                json.loads(body) if body else None,
            )
            self.calls.append(call)
            answer = self.answers.pop(0)() if self.answers else self._answer(call)
            if self.before_answer is not None:
                await self.before_answer(call)
            return answer

        return Starlette(routes=[Route("/{rest:path}", anything, methods=["GET", "POST", "PUT", "DELETE"])])

    def _answer(self, call: TokenCall) -> Response:
        query = call.query
        user = (query.get("userId", ""), query.get("connectionName", ""), query.get("channelId", ""))
        match call.method, call.path:
            case "GET", "/api/usertoken/GetToken":
                if "code" in query:
                    bound, token = self.codes.get(query["code"], (None, ""))
                    if bound != user:
                        return Response(status_code=404)
                    del self.codes[query["code"]]
                    self.tokens[user] = token
                return self._token(user)
            case "GET", "/api/usertoken/GetTokenOrSignInResource":
                if user in self.tokens:
                    return reply({"tokenResponse": self._response(user)})
                return reply({"signInResource": RESOURCE})
            case "POST", "/api/usertoken/exchange":
                exchanged = self.exchangeable.get(call.body.get("token", ""))
                if exchanged is None:
                    return reply({"error": {"code": "ConsentRequired", "message": f"for {call.body}"}}, 400)
                self.tokens[user] = exchanged
                return self._token(user)
            case "POST", "/api/usertoken/GetAadTokens":
                return reply({url: self._response(user) for url in call.body["resourceUrls"]})
            case "GET", "/api/usertoken/GetTokenStatus":
                return reply([{"channelId": user[2], "connectionName": "graph", "hasToken": True}])
            case "DELETE", "/api/usertoken/SignOut":
                self.tokens.pop(user, None)
                return Response(status_code=204)
            case "GET", "/api/botsignin/GetSignInUrl":
                return Response("https://token.example/sign-in")
            case "GET", "/api/botsignin/GetSignInResource":
                return reply(RESOURCE)
        return Response(status_code=405)

    def _response(self, user: User) -> dict[str, Any]:
        return {"channelId": user[2], "connectionName": user[1], "token": self.tokens.get(user, "")}

    def _token(self, user: User) -> Response:
        return reply(self._response(user)) if user in self.tokens else Response(status_code=404)


RESOURCE = {
    "signInLink": "https://token.example/sign-in",
    "tokenExchangeResource": {"id": "exchange-1", "uri": "api://agent", "providerId": "entra"},
    "tokenPostResource": {"sasUrl": "https://token.example/post"},
}


def reply(body: Any, status: int = 200) -> Response:
    """JSON."""
    return Response(json.dumps(body), status, media_type="application/json")


async def hang(call: TokenCall) -> None:
    """Never answer."""
    await asyncio.Event().wait()
