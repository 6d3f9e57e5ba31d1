"""Where the agent may send, and where its token may go: decided here, and nowhere by what a caller sends."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent_core.errors import NotAllowed

# The hosts of the Bot Connector, per cloud. A name matches itself and everything below it, on label boundaries.
# https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages
TOKEN_HOSTS = (
    "botframework.com",
    "botframework.us",
    "botframework.azure.us",
    "botframework.azure.cn",
    "smba.trafficmanager.net",
    "smba.infra.gcc.teams.microsoft.com",
    "smba.infra.gov.teams.microsoft.us",
    "smba.infra.dod.teams.microsoft.us",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UrlGuard:
    """Says whether a service URL may be called.

    Args:
        development: a development process without an app id; it has no token to lose and may call this machine only.
    """

    def __init__(self, *, development: bool) -> None:
        self._development = development

    def check_service_url(self, url: str | None) -> str:
        """The URL, ending in a slash, if the agent may send there; with its token, if it has one.

        Raises:
            NotAllowed: it is no https URL of a known connector host (nor, in development, of this machine).
        """
        host = _host(url)
        if url is not None and host is not None:
            scheme = urlsplit(url).scheme
            if self._development and scheme in ("http", "https") and host in LOOPBACK:
                return url.rstrip("/") + "/"
            if scheme == "https" and urlsplit(url).port in (None, 443) and _is_below(host, TOKEN_HOSTS):
                return url.rstrip("/") + "/"
        allowed = "an http URL of this machine" if self._development else "an https URL of the Bot Connector"
        raise NotAllowed(f"The serviceUrl {_shown(host)} is not {allowed}", code="ServiceUrlNotAllowed")


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    return _host(url) in LOOPBACK


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


def _host(url: str | None) -> str | None:
    """The host, None for what is no plain URL: user information, control characters and the like are refused."""
    if not url or not url.isascii() or any(character <= " " or character == "\\" for character in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if "@" in parts.netloc or "%" in parts.netloc or parts.query or parts.fragment:
        return None
    return parts.hostname


def _is_below(host: str, names: tuple[str, ...]) -> bool:
    return any(host == name or host.endswith("." + name) for name in names)


def _shown(host: str | None) -> str:
    return f"(host {host!r})" if host else "(no plain URL)"
