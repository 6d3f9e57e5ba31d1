"""Who is calling, as far as a verified token says, and what of that may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What a stored conversation may know of the caller; the same seven that the Agents SDKs keep. Not kept: `exp`, `nbf`,
# `serviceurl`, signatures: a stored identity says where to send and as whom, it proves nothing.
PERSISTED_CLAIMS = ("aud", "azp", "appid", "idtyp", "ver", "iss", "tid")


@dataclass(frozen=True, slots=True)
class ClaimsIdentity:
    """The caller of a turn.

    Attributes:
        claims: of the validated token; empty for a local development channel.
        service_url_verified: the activity's serviceUrl was the one in the validated token.
    """

    claims: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_url_verified: bool = False

    @property
    def caller_app_id(self) -> str | None:
        """The app that asked for the token: `azp` in version 2 of Entra's tokens, `appid` in version 1."""
        return self.claims.get("azp" if self.claims.get("ver") == "2.0" else "appid")

    @property
    def calling_agent(self) -> str | None:
        """The app id of the agent that is calling; None where it is a channel, or the agent itself.

        The rule of the Agents SDKs: Entra's tokens have a `ver`, the Bot Service's have none.
        """
        if "ver" not in self.claims:
            return None
        caller = self.caller_app_id
        audience = self.claims.get("aud")
        return caller if caller and audience and caller.lower() != audience.lower() else None

    @property
    def is_own(self) -> bool:
        """Whether the token was one of Entra's for the agent itself: only the Emulator calls with that."""
        caller = self.caller_app_id if "ver" in self.claims else None
        return caller is not None and caller.lower() == self.claims.get("aud", "").lower()

    def persisted(self) -> dict[str, str]:
        """The claims that may be stored."""
        return {name: self.claims[name] for name in PERSISTED_CLAIMS if name in self.claims}
