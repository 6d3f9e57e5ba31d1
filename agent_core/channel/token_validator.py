"""Who is calling: every check of the token that the Bot Service sends with an activity.

https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-authentication
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from agent_core.activity.activity import Activity
from agent_core.channel.signing_keys import SigningKeys
from agent_core.channel.url_guard import same_service
from agent_core.errors import NotAllowed, NotAuthenticated
from agent_core.turn.claims_identity import ClaimsIdentity

ISSUER = "https://api.botframework.com"
LEEWAY = 300
MAX_TOKEN = 16 * 1024


class TokenValidator:
    """Validates the Authorization header of an incoming activity."""

    def __init__(self, app_id: str, keys: SigningKeys, now: Callable[[], datetime]) -> None:
        self._app_id = app_id
        self._keys = keys
        self._now = now

    async def validate(self, authorization: str | None, activity: Activity) -> ClaimsIdentity:
        """The caller.

        Raises:
            NotAuthenticated: no token, or one that is malformed, expired, not signed by the Bot Service or not for
                this agent; the error names the check.
            NotAllowed: a good token that does not cover this activity's service or channel.
        """
        import jwt  # on first use: it brings cryptography, 50 ms

        token = _bearer(authorization)
        try:
            header: Mapping[str, Any] = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise NotAuthenticated("The token is malformed", code="MalformedToken") from error
        # The key is looked up in the one place we know, never where the token points.
        if header.get("alg") != "RS256":
            raise NotAuthenticated("The token is not signed with RS256", code="WrongAlgorithm")
        try:
            unverified = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise NotAuthenticated("The token is malformed", code="MalformedToken") from error
        if unverified.get("iss") != ISSUER:
            # Before any key is fetched: a token of a stranger must not make us call anybody.
            raise NotAuthenticated("The token is not from the Bot Service", code="UnknownIssuer")
        key_id = header.get("kid")
        if not isinstance(key_id, str):
            raise NotAuthenticated("The token names no signing key", code="UnknownKey")
        key = await self._keys.get(key_id)
        if key is None:
            raise NotAuthenticated("The token's signing key is unknown", code="UnknownKey")
        try:
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=["RS256"],
                audience=self._app_id,
                issuer=ISSUER,
                leeway=LEEWAY,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise NotAuthenticated(
                f"The token is invalid ({type(error).__name__})", code=type(error).__name__
            ) from error
        self._check_time(claims)
        _check_covers(claims, key.endorsements, activity)
        return ClaimsIdentity(
            {name: str(value) for name, value in claims.items() if isinstance(value, str)}, service_url_verified=True
        )

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        # By the clock we are given, where PyJWT would ask the machine's.
        now = self._now().timestamp()
        expires, begins = claims["exp"], claims.get("nbf", 0)
        if isinstance(expires, bool) or not isinstance(expires, (int, float)) or expires + LEEWAY <= now:
            raise NotAuthenticated("The token has expired", code="ExpiredToken")
        if isinstance(begins, bool) or not isinstance(begins, (int, float)) or begins - LEEWAY > now:
            raise NotAuthenticated("The token is not valid yet", code="ImmatureToken")


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if not authorization:
        raise NotAuthenticated("A token is required: send Authorization: Bearer …", code="MissingToken")
    if scheme.lower() != "bearer" or not token or " " in token or "," in token or len(token) > MAX_TOKEN:
        raise NotAuthenticated("The Authorization header must be 'Bearer' and one token", code="MalformedToken")
    return token


def _check_covers(claims: Mapping[str, Any], endorsements: tuple[str, ...], activity: Activity) -> None:
    service_url = claims.get("serviceurl")
    if not isinstance(service_url, str) or not same_service(service_url, activity.service_url or ""):
        raise NotAllowed("The token is for another service than the activity's serviceUrl", code="ServiceUrlMismatch")
    # "the JWK … endorsements … must contain the channelId": a key of one channel must not speak for another.
    channel = (activity.channel_id or "").partition(":")[0]
    if endorsements and channel not in endorsements:
        raise NotAllowed("The token's key is not endorsed for the activity's channel", code="ChannelNotEndorsed")
