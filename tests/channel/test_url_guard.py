"""Where the agent's words and its token may go."""

import pytest

from agent_core.channel.url_guard import UrlGuard, is_loopback, same_service
from agent_core.errors import NotAllowed

GOOD = [
    "https://smba.trafficmanager.net/emea/",
    "https://SMBA.trafficmanager.net:443/teams",
    "https://webchat.botframework.com/",
    "https://smba.infra.gcc.teams.microsoft.com/teams",
]
BAD = [
    None,
    "",
    "smba.trafficmanager.net",
    "http://smba.trafficmanager.net/",
    "https://smba.trafficmanager.net:8443/",
    "https://smba.trafficmanager.net.evil.example/",
    "https://evilsmba.trafficmanager.net/",
    "https://evil.example/smba.trafficmanager.net/",
    "https://smba.trafficmanager.net@evil.example/",
    "https://evil.example#@smba.trafficmanager.net/",
    "https://evil.example\\.botframework.com/",
    "https://evil.example%2f.botframework.com/",
    "https://notbotframework.com/",
    "https://botframework.com.evil.example/",
    "https://smba.trafficmanager.net/?to=evil",
    "https://smba.trafficmanager.net./",
    "https://smba.trafficmanager.net\n.evil.example/",
    "https://ѕmba.trafficmanager.net/",
    "file:///etc/passwd",
    "ftp://webchat.botframework.com/",
    "https://169.254.169.254/",
    "https://10.0.0.1/",
    "https://[::1]/",
    "https://localhost/",
    "http://127.0.0.1:3978/",
    "https://smba.trafficmanager.net:99999/",
    "https://[smba.trafficmanager.net/",
]


@pytest.mark.parametrize("url", GOOD)
def test_the_connectors_hosts_may_have_the_token(url: str) -> None:
    assert UrlGuard(development=False).check_service_url(url) == url.rstrip("/") + "/"


@pytest.mark.parametrize("url", BAD)
def test_nothing_else_may(url: str | None) -> None:
    with pytest.raises(NotAllowed):
        UrlGuard(development=False).check_service_url(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:3978/", "http://localhost:56150/_connector", "http://[::1]:1/x/"])
def test_development_may_call_its_own_machine(url: str) -> None:
    assert UrlGuard(development=True).check_service_url(url) == url.rstrip("/") + "/"


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "http://127.0.0.1.evil.example/", "http://evil.example/", "http://0x7f.1/", "http://0/"]
)
def test_development_may_not_call_its_neighbours(url: str) -> None:
    with pytest.raises(NotAllowed):
        UrlGuard(development=True).check_service_url(url)


def test_this_machine_is_known_by_its_usual_names_only() -> None:
    assert is_loopback("http://localhost:7071/api/messages")
    assert is_loopback("http://127.0.0.1/")
    assert not is_loopback("http://rebound.evil.example:7071/api/messages")


def test_services_are_the_same_but_for_spelling() -> None:
    assert same_service("HTTPS://Smba.trafficmanager.net:443/a/", "https://smba.trafficmanager.net/a")
    assert not same_service("https://smba.trafficmanager.net/a", "https://smba.trafficmanager.net/A")
    assert not same_service("https://smba.trafficmanager.net/a", "http://smba.trafficmanager.net/a")
    assert not same_service("https://x:bad/", "https://x/")
