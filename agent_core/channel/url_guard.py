"""Where the agent may send, what it may fetch, and where its token may go: decided here, and nowhere by a sender."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent_core.channel.clouds import PUBLIC, Cloud
from agent_core.errors import NotAllowed
from agent_core.turn.claims_identity import ClaimsIdentity

if TYPE_CHECKING:  # loaded with the first URL, so that a cold start is spared it
    from agent_core.channel.addresses import IPAddress
    from agent_core.channel.http_client import Origin

# What may be fetched without a token, besides the cloud's connector: where channels keep what users send. Anybody can
# own a name below some of these, so what comes from them is a stranger's, and nothing that is secret goes there.
FETCH_HOSTS = (
    "botframework.com",
    "smba.trafficmanager.net",
    "teams.microsoft.com",
    "teams.microsoft.us",
    "graph.microsoft.com",
    "sharepoint.com",
    "svc.ms",
    "blob.core.windows.net",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# URLs that no two parsers can read differently: a lower-case scheme, a host of plain labels that does not end in a
# dot, maybe a port, and a path without spaces, controls, backslashes or anything beyond ASCII.
_AUTHORITY = r"https?://(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[::1\])(?::\d{1,5})?"
_SERVICE_URL = re.compile(_AUTHORITY + r"(?:/[!$->@-\[\]-~]*)?", re.ASCII)  # and without a query
_FETCH_URL = re.compile(_AUTHORITY + r"(?:/[!$-\[\]-~]*)?", re.ASCII)
_LOOPBACK_URL = re.compile(r"https?://(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?(?:[/?].*)?", re.IGNORECASE)
_LONGEST = 8192


class UrlGuard:
    """Says which URLs may be called, fetched and trusted with the agent's token, and which addresses connected to.

    Hosts are names; each stands for itself and everything below it, on label boundaries.

    Args:
        development: a development process without an app id: it has no token to lose, and may call this machine, over
            http too.
        emulator: a development process with an app id: where the agent's own token was validated, which is what the
            Bot Framework Emulator shows, it is answered on this machine, over http too and with the token.
        cloud: its connector's hosts may receive the token.
        callers: for each calling agent, by its app id in lower case, the hosts it may name to be answered at; `"*"`
            is for those that have no entry of their own.
        fetch_hosts: more hosts to fetch from, without a token.
        private_hosts: hosts whose names may resolve to addresses of a private network.
    """

    def __init__(
        self,
        *,
        development: bool,
        emulator: bool = False,
        cloud: Cloud = PUBLIC,
        callers: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        fetch_hosts: tuple[str, ...] = (),
        private_hosts: tuple[str, ...] = (),
    ) -> None:
        self._development = development
        self._emulator = emulator
        self._cloud = cloud
        self._callers = callers
        self._fetch_hosts = (*FETCH_HOSTS, *cloud.connector_hosts, *fetch_hosts)
        self._private_hosts = private_hosts

    def check_service_url(self, url: str | None, identity: ClaimsIdentity | None = None) -> str:
        """The URL, ending in a slash, if the agent may send there; with its token, if it has one.

        A calling agent (`identity.calling_agent`) chooses its own service URL: it is answered at the hosts configured
        for it, and the connector's are no such thing by themselves.

        Raises:
            NotAllowed: it is no https URL of such a host (nor, in development, one of this machine).
        """
        origin = _origin(url, _SERVICE_URL)
        if url is not None and origin is not None and self._is_service(origin, identity):
            return url.rstrip("/") + "/"
        raise NotAllowed(
            f"The serviceUrl {_shown(origin)} is not {self._wanted(identity)}", code="ServiceUrlNotAllowed"
        )

    def check_fetch_url(self, url: str | None) -> str:
        """The URL, if content may be fetched from there: without a token.

        Raises:
            NotAllowed: it is no https URL of a host to fetch from (nor, in development, one of this machine).
        """
        origin = _origin(url, _FETCH_URL)
        if url is not None and origin is not None and self._may_be_fetched(origin):
            return url
        raise NotAllowed(
            f"The address {_shown(origin)} is not an https URL of a host to fetch from; "
            "if you trust the host, add it to AGENT_FETCH_HOSTS",
            code="FetchNotAllowed",
        )

    def may_receive_token(self, url: str | None, identity: ClaimsIdentity | None = None) -> bool:
        """Whether the agent's token for that caller's service may go to this URL."""
        origin = _origin(url, _FETCH_URL)
        return origin is not None and self._is_service(origin, identity)

    def allows_address(self, host: str, address: IPAddress) -> bool:
        """Whether to connect to an address that this host resolved to."""
        from agent_core.channel.addresses import is_private, is_public

        if is_public(address):
            return True
        if (self._development or self._emulator) and host in LOOPBACK:
            return address.is_loopback
        return is_private(address) and _is_below(host, self._private_hosts)

    def _is_service(self, origin: Origin, identity: ClaimsIdentity | None) -> bool:
        if self._emulator and identity is not None and identity.is_own and origin.host in LOOPBACK:
            return True
        return self._is_own_machine(origin) or _is_at(origin, self._service_hosts(identity))

    def _may_be_fetched(self, origin: Origin) -> bool:
        return self._is_own_machine(origin) or _is_at(origin, self._fetch_hosts)

    def _service_hosts(self, identity: ClaimsIdentity | None) -> tuple[str, ...]:
        caller = identity.calling_agent if identity is not None else None
        if caller is None:
            return self._cloud.connector_hosts
        return self._callers.get(caller.lower(), self._callers.get("*", ()))

    def _is_own_machine(self, origin: Origin) -> bool:
        return self._development and origin.host in LOOPBACK

    def _wanted(self, identity: ClaimsIdentity | None) -> str:
        if self._development:
            return "a URL of this machine"
        if identity is not None and identity.calling_agent is not None:
            return "an https URL of a host that is configured for the calling agent"
        return "an https URL of the Bot Connector"


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    return _LOOPBACK_URL.fullmatch(url) is not None


def same_origin(one: str | None, other: str | None) -> bool:
    """Whether two plain URLs lead to the same server."""
    first, second = _origin(one, _FETCH_URL), _origin(other, _FETCH_URL)
    return first is not None and first == second


def same_service(one: str, other: str) -> bool:
    """Whether two service URLs are the same, but for case of scheme and host, default port and trailing slash."""
    try:
        return _normal(one) == _normal(other)
    except ValueError:  # no URL at all, such as https://[
        return False


def _normal(url: str) -> tuple[object, ...]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    default = {"https": 443, "http": 80}.get(parts.scheme.lower())
    user = parts.netloc.rpartition("@")[0]
    return parts.scheme.lower(), user, parts.hostname, port or default, parts.path.rstrip("/"), parts.query


def _origin(url: str | None, plain: re.Pattern[str]) -> Origin | None:
    """Where a request for the URL would go, None for what is no plain URL.

    Read by the client that sends: what is checked is what is connected to.
    """
    if url is None or len(url) > _LONGEST or not plain.fullmatch(url):
        return None
    from agent_core.channel.http_client import origin_of

    try:
        return origin_of(url)
    except ValueError:
        return None


def _is_at(origin: Origin, hosts: tuple[str, ...]) -> bool:
    return origin.scheme == "https" and origin.port == 443 and _is_below(origin.host, hosts)


def _is_below(host: str, names: tuple[str, ...]) -> bool:
    return any(host == name or host.endswith("." + name) for name in names)


def _shown(origin: Origin | None) -> str:
    return f"(host {origin.host!r})" if origin else "(no plain URL)"
