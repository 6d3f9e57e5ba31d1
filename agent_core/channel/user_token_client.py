"""The Bot Service's user token service over REST: it keeps the users' tokens, so that the agent need not.

The routes and their spelling are those of `tokenservice.tsp` in https://github.com/microsoft/Agents; what the statuses
mean is from `UserTokenRestClient.cs` of https://github.com/microsoft/Agents-for-net.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from agent_core.activity.conversation_reference import ConversationReference, split_channel_id
from agent_core.activity.json_text import dump
from agent_core.activity.wire import WireObject
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.errors import BadActivity, ChannelError, ConsentRequired, Decision, NoAnswer, NotSent
from agent_core.turn.user_tokens import OAuthConnection, SignInResource, TokenResponse

# The agent's own token for the service; True asks for a fresh one, because the service refused the last.
AgentToken = Callable[[bool], Awaitable[str]]

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class TokenStatus(WireObject):
    """Whether a user is signed in to a connection."""

    channel_id: str | None = None
    connection_name: str | None = None
    has_token: bool | None = None
    service_provider_display_name: str | None = None


class UserTokenClient:
    """Calls the service; nothing it answers is kept here.

    Tokens are not cached: the service is asked each time, so a user who signs out is signed out in every instance, and
    no token outlives its turn in this process.

    A user is named by his id on the channel; of a channel such as `msteams:COPILOT` the service knows `msteams` only.
    Every call raises ChannelError where the service failed or was not reached. Its message has the service's error code
    and never its text, which may repeat what was sent.
    """

    def __init__(
        self,
        http: HttpClient,
        agent_token: AgentToken,
        *,
        app_id: str,
        base_url: str,
        connections: Callable[[str], OAuthConnection],
    ) -> None:
        """`base_url` receives the agent's token: let `token_service_url` check it."""
        self._http = http
        self._agent_token = agent_token
        self._app_id = app_id
        self._base_url = base_url.rstrip("/")
        self._connections = connections

    def connection(self, name: str) -> OAuthConnection:
        """What a name that handlers use stands for."""
        return self._connections(name)

    async def get_token(
        self, user_id: str, connection_name: str, channel_id: str, *, code: str | None = None
    ) -> TokenResponse | None:
        """The user's token; None if he is not signed in or the code is wrong: the service does not say which."""
        query = _user(user_id, connection_name, channel_id, code=code)
        answer = await self._call("GET", "api/usertoken/GetToken", query, missing=(404,))
        return None if answer is None else _token(_object(answer), connection_name)

    async def get_token_or_sign_in_resource(
        self,
        user_id: str,
        connection_name: str,
        reference: ConversationReference,
        *,
        code: str | None = None,
        final_redirect: str | None = None,
        forward_url: str | None = None,
    ) -> TokenResponse | SignInResource:
        """The user's token, or else how he gets one in that conversation."""
        query = _user(
            user_id,
            connection_name,
            reference.channel_id,
            state=self.state(connection_name, reference),
            code=code,
            finalRedirect=final_redirect,
            fwdUrl=forward_url,
        )
        answer = await self._call("GET", "api/usertoken/GetTokenOrSignInResource", query, missing=(404,))
        found = {} if answer is None else _object(answer)
        token = _token(found.get("tokenResponse"), connection_name)
        if token is not None:
            return token
        if isinstance(found.get("signInResource"), dict):
            return _resource(found["signInResource"])
        return await self.get_sign_in_resource(connection_name, reference, final_redirect=final_redirect)

    async def exchange_token(
        self,
        user_id: str,
        connection_name: str,
        channel_id: str,
        *,
        token: str | None = None,
        uri: str | None = None,
    ) -> TokenResponse | None:
        """Sign the user in with a token of his client, or get one for a resource; None if there is none for it.

        Raises:
            ConsentRequired: the user must first allow it.
        """
        body = {name: value for name, value in (("token", token), ("uri", uri)) if value is not None}
        query = _user(user_id, connection_name, channel_id)
        try:
            answer = await self._call("POST", "api/usertoken/exchange", query, body, missing=(404,))
        except ChannelError as error:
            # A 400 without a code is taken for the same, as the Agents SDK takes every 400.
            if error.status == 400 and (error.code or "ConsentRequired").lower() == "consentrequired":
                raise ConsentRequired(
                    f"The user must first consent to connection {connection_name!r}; let him sign in by the card"
                ) from None
            raise
        return None if answer is None else _token(_object(answer), connection_name)

    async def get_aad_tokens(
        self, user_id: str, connection_name: str, channel_id: str, resource_urls: Sequence[str]
    ) -> dict[str, TokenResponse]:
        """Tokens for several resources, by their URLs; those that there are no tokens for are left out."""
        query = _user(user_id, connection_name, channel_id)
        answer = await self._call("POST", "api/usertoken/GetAadTokens", query, {"resourceUrls": list(resource_urls)})
        found = {} if answer is None else _object(answer)
        tokens = ((url, _token(each, connection_name)) for url, each in found.items())
        return {url: token for url, token in tokens if token is not None}

    async def get_token_status(
        self, user_id: str, channel_id: str | None = None, *, include: str | None = None
    ) -> list[TokenStatus]:
        """To which connections the user is signed in; `include` names those to look at, with commas in between."""
        query = _user(user_id, None, channel_id, include=include)
        answer = await self._call("GET", "api/usertoken/GetTokenStatus", query)
        found = None if answer is None else _parsed(answer)
        return [TokenStatus.from_dict(each) for each in found or () if isinstance(each, dict)]

    async def sign_out(self, user_id: str, connection_name: str | None = None, channel_id: str | None = None) -> None:
        """Let the service forget the user's token, or all of them if no connection is named."""
        # Who has no token is signed out already.
        query = _user(user_id, connection_name, channel_id)
        await self._call("DELETE", "api/usertoken/SignOut", query, missing=(404,))

    async def get_sign_in_url(
        self,
        connection_name: str,
        reference: ConversationReference,
        *,
        code_challenge: str | None = None,
        emulator_url: str | None = None,
        final_redirect: str | None = None,
    ) -> str:
        """The page where the user of that conversation signs in."""
        query = self._sign_in(connection_name, reference, code_challenge, emulator_url, final_redirect)
        answer = await self._call("GET", "api/botsignin/GetSignInUrl", query)
        text = "" if answer is None else answer.body.decode("utf-8", "replace").strip()
        return text.strip('"')

    async def get_sign_in_resource(
        self,
        connection_name: str,
        reference: ConversationReference,
        *,
        code_challenge: str | None = None,
        emulator_url: str | None = None,
        final_redirect: str | None = None,
    ) -> SignInResource:
        """All that a sign-in card for that conversation is made of."""
        query = self._sign_in(connection_name, reference, code_challenge, emulator_url, final_redirect)
        answer = await self._call("GET", "api/botsignin/GetSignInResource", query)
        return _resource({} if answer is None else _object(answer))

    def state(self, connection_name: str, reference: ConversationReference) -> str:
        """What ties a sign-in page to a conversation: base64 of JSON, with the channel as the service knows it."""
        conversation = reference.replace(channel_id=reference.channel, delivery_mode=None)
        named = {"connectionName": connection_name, "conversation": conversation.to_dict(), "msAppId": self._app_id}
        return base64.b64encode(dump(named)).decode()

    def _sign_in(
        self,
        connection_name: str,
        reference: ConversationReference,
        code_challenge: str | None,
        emulator_url: str | None,
        final_redirect: str | None,
    ) -> dict[str, str | None]:
        return {
            "state": self.state(connection_name, reference),
            "code_challenge": code_challenge,
            "emulatorUrl": emulator_url,
            "finalRedirect": final_redirect,
        }

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None],
        body: dict[str, Any] | None = None,
        missing: tuple[int, ...] = (),
    ) -> HttpAnswer | None:
        """The answer; None for a status that says there is nothing, or an empty body."""
        answer = await self._send(method, path, query, body, False)
        if answer.status == 401:
            # It did nothing, so once more does no harm; the token may have been revoked since it was got.
            answer = await self._send(method, path, query, body, True)
        if answer.status in missing or (200 <= answer.status < 300 and not answer.body):
            return None
        if 200 <= answer.status < 300:
            return answer
        raise _error(answer)

    async def _send(
        self, method: str, path: str, query: Mapping[str, str | None], body: dict[str, Any] | None, force_refresh: bool
    ) -> HttpAnswer:
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self._base_url}/{path}?{urlencode(given, quote_via=quote, safe='')}"
        headers = {"accept": "application/json", "authorization": f"Bearer {await self._agent_token(force_refresh)}"}
        if body is not None:
            headers["content-type"] = "application/json; charset=utf-8"
        try:
            return await self._http.request(
                method, url, headers=headers, content=dump(body) if body is not None else None
            )
        except NotSent as error:
            raise ChannelError(f"The user token service was not reached: {error}", decision="unsent") from error
        except NoAnswer as error:
            raise ChannelError(f"The user token service did not answer: {error}", decision="ambiguous") from error


def _user(
    user_id: str, connection_name: str | None, channel_id: str | None, **others: str | None
) -> dict[str, str | None]:
    channel = split_channel_id(channel_id)[0]
    return {"userId": user_id, "connectionName": connection_name, "channelId": channel, **others}


def _token(found: Any, connection_name: str) -> TokenResponse | None:
    token = found.get("token") if isinstance(found, dict) else None
    if not isinstance(token, str) or not token:
        return None
    expiration = found.get("expiration")
    return TokenResponse(connection_name, token, expiration if isinstance(expiration, str) else None)


def _resource(found: dict[str, Any]) -> SignInResource:
    try:
        return SignInResource.from_dict(found)
    except BadActivity as error:
        raise ChannelError("The user token service's sign-in resource is none", decision="rejected") from error


def _parsed(answer: HttpAnswer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def _object(answer: HttpAnswer) -> dict[str, Any]:
    parsed = _parsed(answer)
    return parsed if isinstance(parsed, dict) else {}


def _error(answer: HttpAnswer) -> ChannelError:
    inner = _object(answer).get("error")
    code = inner.get("code") if isinstance(inner, dict) else None
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else None
    decision: Decision = "rejected"
    if answer.status == 429:
        decision = "throttled"
    elif answer.status in (401, 403):
        decision = "misconfigured"
    elif answer.status == 408 or answer.status >= 500:
        decision = "ambiguous"
    return ChannelError(
        f"The user token service answered {answer.status}{f' ({code})' if code else ''}; "
        "check the OAuth connection in the Azure Bot's configuration",
        decision=decision,
        status=answer.status,
        code=code,
        request_id=answer.headers.get("x-ms-request-id"),
    )
