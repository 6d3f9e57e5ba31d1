"""Who is calling: every check of the token that comes with an activity, from the Bot Service or from another agent.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication
https://learn.microsoft.com/entra/identity-platform/access-tokens#validate-tokens
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.channel.clouds import PUBLIC, Cloud
from agent_core.channel.http_client import HttpClient
from agent_core.channel.signed_token import SignedToken
from agent_core.channel.signing_keys import SigningKey, SigningKeys
from agent_core.channel.url_guard import is_loopback, same_service
from agent_core.errors import NotAllowed, NotAuthenticated
from agent_core.turn.claims_identity import ClaimsIdentity

LEEWAY = 300
ANY = "*"
AGENT_CALLER = "urn:botframework:aadappid:"
# The last second that a date can name: 9999-12-31.
_LAST_SECOND = 253402300799
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CALLER_URL = re.compile(r"https://([A-Za-z0-9.-]+)(?::443)?(?:/.*)?", re.ASCII)


class TokenValidator:
    """Validates the Authorization header of an incoming activity.

    What needs no key is checked first, so that no token causes a request that could not be a good one; requests go to
    the two addresses of the cloud and nowhere else, whatever a token says.

    Of Entra's tokens only those of `tenants` count. That leaves out Microsoft's own tenants, which the SDKs let in
    always: where an agent that is still registered for many tenants is to call, whose tokens come from the tenant of
    botframework.com, that tenant's id (d6d49420-f39b-4df7-a1dc-d59a935871db) has to be among them.

    Args:
        cloud: whose Bot Service and whose Entra sign the tokens; those of the other clouds prove nothing here.
        tenants: ids, in lower case, of the tenants whose agents may call; `"*"` for all.
        callers: for each agent that may call, by its app id in lower case, the hosts it may be answered at, each with
            everything below it; `"*"` is for those that have no entry of their own. Nobody else's agent gets in.
        development: on a developer's machine, where a token of the agent itself is let in, as the Emulator sends it.
    """

    def __init__(
        self,
        app_id: str,
        http: HttpClient,
        now: Callable[[], datetime],
        *,
        cloud: Cloud = PUBLIC,
        tenants: Collection[str] = (),
        callers: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        development: bool = False,
    ) -> None:
        self._app_id = app_id
        app = app_id.lower()
        self._audiences = frozenset({app, f"api://{app}", f"api://botid-{app}"})
        self._now = now
        self._cloud = cloud
        self._tenants = tenants
        self._callers = callers
        self._development = development
        self._bot_service_keys = SigningKeys(http, now, cloud.bot_service_metadata, cloud.bot_service_issuer)
        common_issuer = cloud.entra_issuers[-1].replace("{tenant}", "{tenantid}")
        self._entra_keys = SigningKeys(http, now, cloud.entra_metadata, common_issuer)

    async def validate(self, authorization: str | None, activity: Activity) -> ClaimsIdentity:
        """The caller. Of an audience in one of its longer forms, `aud` is the app id alone.

        The serviceUrl of a calling agent, whose token says nothing of it, counts as verified at the hosts that
        `callers` gives that agent.

        Raises:
            NotAuthenticated: no token, or one that is malformed, expired, not signed by an issuer of this cloud or not
                for this agent; the error names the check.
            NotAllowed: a good token that does not cover this activity's service or channel, or of an agent that may
                not call.
            KeysUnavailable: the issuer's keys cannot be fetched, so nothing can be said.
        """
        token = SignedToken.of_header(authorization)
        claims = token.claims
        tenant = self._tenant(claims.get("iss"))
        self._check_audience(claims)
        self._check_time(claims)
        key = await (self._bot_service_keys if tenant is None else self._entra_keys).get(token.key_id)
        if key is None:
            raise NotAuthenticated("The token's signing key is unknown", code="UnknownKey")
        token.verify(key.key)
        if tenant is None:
            _check_channel(claims, key, activity)
            verified = True
        else:
            self._check_tenant(claims, key, tenant)
            verified = self._check_caller(claims, activity)
        kept = {name: value for name, value in claims.items() if isinstance(value, str)}
        return ClaimsIdentity({**kept, "aud": self._app_id}, service_url_verified=verified)

    def caller_id(self, identity: ClaimsIdentity) -> str | None:
        """The `callerId` of an activity with that token; None for a Bot Service that the specification has no word for.

        https://github.com/microsoft/Agents/blob/main/specs/activity/protocol-activity.md#appendix-v---caller-id-values
        """
        if identity.claims.get("iss") == self._cloud.bot_service_issuer:
            return self._cloud.caller_id
        return f"{AGENT_CALLER}{identity.caller_app_id}"

    def _tenant(self, issuer: Any) -> str | None:
        """The tenant whose Entra issued the token; None for the Bot Service."""
        if issuer == self._cloud.bot_service_issuer:
            return None
        for form in self._cloud.entra_issuers:
            before, _, after = form.partition("{tenant}")
            if isinstance(issuer, str) and issuer.startswith(before) and issuer.endswith(after):
                tenant = issuer[len(before) : len(issuer) - len(after)]
                if _GUID.fullmatch(tenant):
                    if tenant not in self._tenants and ANY not in self._tenants:
                        raise NotAuthenticated(
                            "The token is from a tenant that AGENT_TENANTS does not name", code="TenantNotAllowed"
                        )
                    return tenant
        raise NotAuthenticated("The token is not from an issuer of this agent's cloud", code="UnknownIssuer")

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        audience = claims.get("aud")
        # Of several audiences each could show the token to the others: all of them have to be this agent.
        audiences = audience if isinstance(audience, list) and audience else [audience]
        if not all(isinstance(each, str) and each.lower() in self._audiences for each in audiences):
            raise NotAuthenticated("The token is not for this agent", code="WrongAudience")

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        now = self._now().timestamp()
        if _seconds(claims, "exp") + LEEWAY <= now:
            raise NotAuthenticated("The token has expired", code="ExpiredToken")
        for name in ("nbf", "iat"):
            if name in claims and _seconds(claims, name) - LEEWAY > now:
                raise NotAuthenticated("The token is not valid yet", code="ImmatureToken")

    def _check_tenant(self, claims: Mapping[str, Any], key: SigningKey, tenant: str) -> None:
        issuers = [form.replace("{tenant}", tenant) for form in self._cloud.entra_issuers]
        # "Keys … have an issuer property": one of them may be for the tokens of one tenant only.
        # https://learn.microsoft.com/entra/identity-platform/access-tokens#validate-the-signing-key-issuer
        if key.issuer is not None and key.issuer.replace("{tenantid}", tenant) not in issuers:
            raise NotAuthenticated("The token's signing key is another issuer's", code="WrongKey")
        if claims.get("tid") != tenant:
            raise NotAuthenticated("The token's tenant is not its issuer's", code="WrongTenant")
        # Version 1 and version 2 name the caller in different claims, so which one it is must be beyond doubt.
        if claims.get("ver") != f"{issuers.index(claims['iss']) + 1}.0":
            raise NotAuthenticated("The token's version is not its issuer's", code="WrongVersion")

    def _check_caller(self, claims: Mapping[str, Any], activity: Activity) -> bool:
        """Whether the serviceUrl is the calling agent's own, if it may call at all."""
        caller = claims.get("azp" if claims["ver"] == "2.0" else "appid")
        if not isinstance(caller, str) or not _GUID.fullmatch(caller := caller.lower()):
            raise NotAuthenticated("The token does not say which app it was given to", code="MissingCaller")
        if "scp" in claims or claims.get("idtyp", "app") != "app":
            raise NotAllowed("The token is a user's: agents call with a token of their own", code="UserToken")
        service_url = activity.service_url or ""
        if caller == self._app_id.lower():
            if not self._development:
                raise NotAllowed("The agent's own token lets nobody in, but in development", code="OwnToken")
            return is_loopback(service_url)
        hosts = self._callers.get(caller, self._callers.get(ANY))
        if hosts is None:
            raise NotAllowed("AGENT_CALLERS does not name the calling agent", code="CallerNotAllowed")
        match = _CALLER_URL.fullmatch(service_url)
        return match is not None and any(f".{match[1].lower()}".endswith(f".{host}") for host in hosts)


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= _LAST_SECOND:
        raise NotAuthenticated(f"The token's {name!r} must be a number of seconds", code="MalformedTime")
    return value


def _check_channel(claims: Mapping[str, Any], key: SigningKey, activity: Activity) -> None:
    service_url = claims.get("serviceurl")
    if not isinstance(service_url, str) or not same_service(service_url, activity.service_url or ""):
        raise NotAllowed("The token is for another service than the activity's serviceUrl", code="ServiceUrlMismatch")
    # "the JWK … endorsements … must contain the channelId": a key of one channel must not speak for another.
    channel = (activity.channel_id or "").partition(":")[0]
    if key.endorsements is not None and channel not in key.endorsements:
        raise NotAllowed("The token's key is not endorsed for the activity's channel", code="ChannelNotEndorsed")
