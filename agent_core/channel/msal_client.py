"""MSAL, kept apart: it blocks, so it runs in a thread; it sends what it has to say through our own HTTP client.

So a request that hangs ends with its time, a redirect or a proxy gets nothing, and no other library logs what it sees.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from agent_core.channel.app_credentials import (
    AppCredentials,
    Certificate,
    ClientSecret,
    FederatedIdentity,
    ManagedIdentity,
    WorkloadIdentity,
)
from agent_core.channel.http_client import HttpAnswer, HttpClient
from agent_core.channel.retries import retry_after
from agent_core.channel.token_provider import AccessToken, AgenticIdentity, TokenKey
from agent_core.errors import ChannelError, NoAnswer, NotSent

# For all that one token takes: where the keys are, a managed identity's token, and the token itself.
TIMEOUT = timedelta(seconds=8)
# What the tokens are made for with which an app and its instance prove themselves.
_EXCHANGE = "api://AzureAdTokenExchange/.default"


class MsalClient:
    """Gets tokens of one app. It keeps none; at most one `acquire` at a time.

    Args:
        http: carries the requests. A managed identity's endpoint is on this machine or link-local, so no guard of
            what callers send may stand in its way.
    """

    def __init__(
        self,
        credentials: AppCredentials,
        http: HttpClient,
        now: Callable[[], datetime],
        *,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self._credentials = credentials
        self._http = http
        self._now = now
        self._timeout = timeout
        self._application: Any = None

    async def acquire(self, scope: TokenKey) -> AccessToken:
        """A new token for `<resource>/.default`, or for one of the agent's identities in a tenant.

        Raises:
            ChannelError: `throttled`, if the identity provider says so; `unsent`, if it is not reached or fails;
                `misconfigured`, if it refuses. It names neither a secret nor what the provider said of one.
        """
        loop = asyncio.get_running_loop()
        _exchange.set(_Exchange(self._http, loop, loop.time() + self._timeout.total_seconds()))
        failure: ChannelError
        try:
            return self._granted(await asyncio.to_thread(self._ask, scope))
        except ChannelError as error:
            failure = error
        except _Unavailable as error:
            failure = ChannelError(
                f"No token yet: the identity provider {error.what}",
                decision="throttled" if error.throttled else "unsent",
                retry_after=retry_after(error.headers, self._now()),
            )
        except Exception as error:
            failure = self._refused(type(error).__name__)
        # Outside of the handlers: what MSAL or the HTTP client raised may quote what was sent, and is not passed on.
        raise failure

    def _ask(self, scope: TokenKey) -> dict[str, Any]:
        if isinstance(scope, AgenticIdentity):
            return self._ask_as(scope)
        credentials = self._credentials
        if self._application is None:
            self._application = _application(credentials)
        if isinstance(credentials.proof, ManagedIdentity):
            return dict(self._application.acquire_token_for_client(resource=scope.removesuffix("/.default")))
        return dict(self._application.acquire_token_for_client(scopes=[scope]))

    def _ask_as(self, identity: AgenticIdentity) -> dict[str, Any]:
        """Three tokens, each proof for the next: the app's for its instance, the instance's, and its user's.

        https://learn.microsoft.com/entra/agent-id/agent-oauth-protocols
        """
        if isinstance(self._credentials.proof, ManagedIdentity):
            raise ChannelError(
                "A managed identity cannot answer as an agentic identity: let the app trust it (FederatedCredentials)",
                decision="misconfigured",
            )
        authority = f"{(self._credentials.authority or '').rpartition('/')[0]}/{quote(identity.tenant_id, safe='')}"
        app = _application(replace(self._credentials, authority=authority))
        proof = self._token(app.acquire_token_for_client(scopes=[_EXCHANGE], data={"fmi_path": identity.app_id}))
        instance = _confidential(identity.app_id, authority, {"client_assertion": lambda: proof})
        result = dict(instance.acquire_token_for_client(scopes=[_EXCHANGE]))
        if identity.user_id is None:
            return result
        user = {
            "grant_type": "user_fic",
            "user_id": identity.user_id,
            "user_federated_identity_credential": self._token(result),
        }
        return dict(instance.acquire_token_for_client(scopes=[identity.scope], data=user))

    def _granted(self, result: Mapping[str, Any]) -> AccessToken:
        token = self._token(result)
        now = self._now()
        expires_at = now + timedelta(seconds=int(result.get("expires_in", 3600)))
        return AccessToken(token, expires_at, now)

    def _token(self, result: Mapping[str, Any]) -> str:
        token = result.get("access_token")
        if token is None:
            # MSAL would give the same answer for a minute, without asking.
            self._application = None
            error = str(result.get("error"))
            if error in ("temporarily_unavailable", "server_error"):
                raise _Unavailable(f"says {error}")
            codes = result.get("error_codes")
            raise self._refused(error, [code for code in codes if isinstance(code, int)] if codes else [])
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise self._refused("a token that cannot be sent")
        return token

    def _refused(self, error: str, codes: list[int] | None = None) -> ChannelError:
        # The certificate or the secret in a file may have been renewed meanwhile.
        self._application = None
        error = error if re.fullmatch(r"[\w ]{1,60}", error) else "unknown error"
        numbers = "".join(f", AADSTS{code}" for code in codes or [])
        app_id, proof = self._credentials.app_id, type(self._credentials.proof).__name__
        return ChannelError(
            f"No token for app {app_id} by {proof}: {error}{numbers}. "
            "Check the app id, its tenant and its credentials.",
            decision="misconfigured",
            code=error,
        )


def _application(credentials: AppCredentials) -> Any:
    """MSAL's client: built in the thread, because it reads files and asks where the token endpoint is."""
    if isinstance(credentials.proof, ManagedIdentity):
        return _managed_identity(credentials.app_id)
    return _confidential(credentials.app_id, credentials.authority, _credential(credentials))


def _confidential(app_id: str, authority: str | None, credential: Any) -> Any:
    import msal  # on first use: 70 ms that a cold start need not pay

    return msal.ConfidentialClientApplication(
        app_id,
        authority=authority,
        client_credential=credential,
        # The hosts are those of our own table: nobody else is asked whether they are Microsoft's.
        validate_authority=False,
        instance_discovery=False,
        http_client=_Http(),
        token_cache=_no_cache(),
    )


def _managed_identity(client_id: str) -> Any:
    import msal

    identity = msal.UserAssignedManagedIdentity(client_id=client_id)
    return msal.ManagedIdentityClient(identity, http_client=_Http(), token_cache=_no_cache())


def _credential(credentials: AppCredentials) -> Any:
    proof = credentials.proof
    if isinstance(proof, ClientSecret):
        return proof.secret
    if isinstance(proof, Certificate):
        if proof.certificate_file is None:
            return {
                "private_key_pfx_path": str(proof.key_file),
                "passphrase": proof.password,
                "public_certificate": True,
            }
        return {
            "private_key": proof.key_file.read_text(),
            "passphrase": proof.password,
            "public_certificate": proof.certificate_file.read_text(),
        }
    if isinstance(proof, WorkloadIdentity):
        return {"client_assertion": lambda: proof.token_file.read_text().strip()}
    if isinstance(proof, FederatedIdentity):
        identity = _managed_identity(proof.client_id)

        def assertion() -> str:
            result = identity.acquire_token_for_client(resource=proof.audience)
            if "access_token" not in result:
                raise ChannelError(
                    f"The managed identity {proof.client_id} gave no token for {proof.audience}, so none for app "
                    f"{credentials.app_id}. Check that it is assigned to this app.",
                    decision="misconfigured",
                    code="invalid_client",
                )
            return str(result["access_token"])

        return {"client_assertion": assertion}
    raise TypeError(f"A managed identity needs no {type(proof).__name__}")


def _no_cache() -> Any:
    """A token cache that keeps nothing, and so logs nothing: ours decides when there is to be a new token."""
    import msal

    class NoCache(msal.TokenCache):  # type: ignore[misc]  # msal has no types
        def add(self, event: Mapping[str, Any], now: object = None) -> None:
            """Forget it."""

    return NoCache()


class _Unavailable(Exception):
    """The identity provider did not answer, or asks us to come back later."""

    def __init__(self, what: str, *, throttled: bool = False, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.throttled = throttled
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What carries the requests of one `acquire`, and until when, by the loop's own clock."""

    http: HttpClient
    loop: asyncio.AbstractEventLoop
    ends: float

    async def send(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> HttpAnswer:
        left = self.ends - self.loop.time()
        try:
            async with asyncio.timeout(left):
                return await self.http.request(method, url, headers=headers, content=content)
        except (NotSent, NoAnswer, TimeoutError):
            pass
        raise _Unavailable("was not reached, or did not answer in time")


# The thread sees the context of the task that started it.
_exchange: ContextVar[_Exchange] = ContextVar("exchange")


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as MSAL wants it."""

    status_code: int
    text: str
    headers: Mapping[str, str]

    def raise_for_status(self) -> None:
        """MSAL asks this of a 5xx, which never gets here."""


class _Http:
    """What MSAL knows of `requests.Session`, over our client."""

    def get(self, url: str, **options: Any) -> _Answer:
        return self._send("GET", url, **options)

    def post(self, url: str, **options: Any) -> _Answer:
        return self._send("POST", url, **options)

    def close(self) -> None:
        """Its owner closes the client."""

    def _send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str | None] | None = None,
        **options: Any,
    ) -> _Answer:
        exchange = _exchange.get()
        sent = {name: value for name, value in (headers or {}).items() if value is not None}
        content = None
        if data:
            content = urlencode(data).encode()
            sent["content-type"] = "application/x-www-form-urlencoded"
        if params:
            url += ("&" if "?" in url else "?") + urlencode(params)
        answer = asyncio.run_coroutine_threadsafe(exchange.send(method, url, sent, content), exchange.loop).result()
        if answer.status == 429 or answer.status >= 500:
            raise _Unavailable(f"answered {answer.status}", throttled=answer.status == 429, headers=answer.headers)
        text = answer.body.decode(errors="replace")
        try:
            understood = isinstance(json.loads(text), dict)
        except ValueError:
            understood = False
        if not understood:
            # MSAL would log it, whatever it is.
            raise _Unavailable(f"answered {answer.status} with something that is no JSON")
        return _Answer(answer.status, text, answer.headers)
