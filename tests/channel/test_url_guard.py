"""Where the agent's words and its token may go, and what may be fetched."""

from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest

from agent_core.channel.clouds import CHINA, CLOUDS, PUBLIC, US_GOVERNMENT, Cloud
from agent_core.channel.http_client import origin_of
from agent_core.channel.url_guard import FETCH_HOSTS, UrlGuard, is_loopback, same_origin, same_service
from agent_core.errors import NotAllowed
from agent_core.turn.claims_identity import ClaimsIdentity
from tests.hostile_urls import HOSTILE

GOOD = [
    "https://smba.trafficmanager.net/emea/",
    "https://SMBA.trafficmanager.net:443/teams",
    "https://smba.trafficmanager.net",
    "https://webchat.botframework.com/",
    "https://smba.infra.gcc.teams.microsoft.com/teams",
    "https://smba.trafficmanager.net/amer/0f0f0f0f-1111-2222-3333-444444444444/",
]
FETCHED = [
    *GOOD,
    "https://contoso-my.sharepoint.com/personal/a_b/_layouts/15/download.aspx?UniqueId=1&tempauth=v1.eyJ~_-%2F",
    "https://webchat.botframework.com/attachments/1/0/photo.png?t=abc=",
    "https://bot-framework.azureedge.botframework.com/x",
    "https://eu.svc.ms/x",
    "https://account.blob.core.windows.net/c/b?sv=2024&sig=a%2Bb%3D",
    "https://graph.microsoft.com/v1.0/me/photo/$value",
]
# As a `contentUrl` it is decoded, which sends nothing.
DATA = "data:text/html,hello"
GUARD = UrlGuard(development=False)


def agent(app_id: str) -> ClaimsIdentity:
    return ClaimsIdentity({"aud": "app", "ver": "1.0", "appid": app_id}, service_url_verified=True)


@pytest.mark.parametrize("url", GOOD)
def test_p4_6_the_connectors_hosts_may_have_the_token(url: str) -> None:
    assert GUARD.check_service_url(url) == url.rstrip("/") + "/"
    assert GUARD.may_receive_token(url)


@pytest.mark.parametrize("url", [None, *HOSTILE.values(), "https://smba.trafficmanager.net/?to=evil", DATA])
def test_p9_4_nothing_else_may(url: str | None) -> None:
    with pytest.raises(NotAllowed):
        GUARD.check_service_url(url)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_p4_6_a_clouds_token_stays_in_its_cloud(cloud: Cloud) -> None:
    guard = UrlGuard(development=False, cloud=cloud)
    for other in (PUBLIC, US_GOVERNMENT, CHINA):
        for host in other.connector_hosts:
            assert guard.may_receive_token(f"https://{host}/x") == (other is cloud)


@pytest.mark.parametrize("url", FETCHED)
def test_p9_1_where_channels_keep_things_may_be_fetched_from(url: str) -> None:
    assert GUARD.check_fetch_url(url) == url


@pytest.mark.parametrize("url", [None, *HOSTILE.values(), DATA])
def test_p9_1_nothing_else_may_be_fetched(url: str | None) -> None:
    with pytest.raises(NotAllowed):
        GUARD.check_fetch_url(url)


@pytest.mark.parametrize("host", FETCH_HOSTS)
def test_p9_1_what_may_be_fetched_is_not_what_may_receive_the_token(host: str) -> None:
    assert GUARD.check_fetch_url(f"https://a.{host}/")
    assert GUARD.may_receive_token(f"https://a.{host}/") == (host in PUBLIC.connector_hosts)


def test_p9_1_more_hosts_to_fetch_from_can_be_set_and_receive_nothing() -> None:
    guard = UrlGuard(development=False, fetch_hosts=("files.contoso.com",))
    assert guard.check_fetch_url("https://eu.files.contoso.com/a")
    assert not guard.may_receive_token("https://files.contoso.com/a")
    for host in ("contoso.com", "xfiles.contoso.com", "files.contoso.com.evil.example"):
        with pytest.raises(NotAllowed, match="AGENT_FETCH_HOSTS"):
            guard.check_fetch_url(f"https://{host}/a")


def test_p8_7_each_calling_agent_has_hosts_of_its_own() -> None:
    guard = UrlGuard(development=False, callers={"one": ("one.example",), "*": ("shared.example",)})
    assert guard.check_service_url("https://api.one.example/skill", agent("One")) == "https://api.one.example/skill/"
    assert guard.check_service_url("https://shared.example/", agent("two"))
    assert guard.may_receive_token("https://shared.example/", agent("two"))
    for url, identity in [
        ("https://shared.example/", agent("one")),
        ("https://one.example/", agent("two")),
        ("https://one.example/", None),
        ("https://one.example/", ClaimsIdentity({"aud": "app"}, service_url_verified=True)),
        ("https://smba.trafficmanager.net/", agent("one")),
        ("https://smba.trafficmanager.net/", agent("two")),
    ]:
        assert not guard.may_receive_token(url, identity)
        with pytest.raises(NotAllowed) as refusal:
            guard.check_service_url(url, identity)
        assert refusal.value.code == "ServiceUrlNotAllowed"


def test_p8_7_without_hosts_set_for_it_no_agent_is_answered() -> None:
    with pytest.raises(NotAllowed, match="configured for the calling agent"):
        GUARD.check_service_url("https://smba.trafficmanager.net/", agent("one"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:3978/", "http://localhost:56150/_connector", "http://[::1]:1/x/"])
def test_development_may_call_its_own_machine(url: str) -> None:
    guard = UrlGuard(development=True)
    assert guard.check_service_url(url) == url.rstrip("/") + "/"
    assert guard.check_fetch_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://127.0.0.1.evil.example/", "http://evil.example/", "http://0x7f.1/", "http://0/"],
)
def test_development_may_not_call_its_neighbours(url: str) -> None:
    guard = UrlGuard(development=True)
    for check in (guard.check_service_url, guard.check_fetch_url):
        with pytest.raises(NotAllowed):
            check(url)


@pytest.mark.parametrize("url", [*GOOD, *FETCHED, "http://[::1]:1/x/", "http://localhost:56150/_connector"])
def test_p9_2_what_the_guard_reads_is_what_another_parser_reads_too(url: str) -> None:
    """It reads with the parser that sends; of what it lets pass there is one reading."""
    other = urlsplit(url)
    assert origin_of(url) == (other.scheme, other.hostname, other.port or {"https": 443, "http": 80}[other.scheme])


def test_this_machine_is_known_by_its_usual_names_only() -> None:
    assert is_loopback("http://localhost:7071/api/messages")
    assert is_loopback("http://127.0.0.1/")
    assert not is_loopback("http://rebound.evil.example:7071/api/messages")
    assert not is_loopback("http://evil.example@localhost/")
    assert not is_loopback("http://[127.0.0.1")


def test_one_server_is_known_by_its_spellings() -> None:
    assert same_origin("https://a.example/x", "https://A.example:443/y?z")
    for other in ("http://a.example/", "https://a.example:444/", "https://b.example/", "https://a.example./", None):
        assert not same_origin("https://a.example/", other)
    assert not same_origin(None, None)


def test_services_are_the_same_but_for_spelling() -> None:
    assert same_service("HTTPS://Smba.trafficmanager.net:443/a/", "https://smba.trafficmanager.net/a")
    assert not same_service("https://smba.trafficmanager.net/a", "https://smba.trafficmanager.net/A")
    assert not same_service("https://smba.trafficmanager.net/a", "http://smba.trafficmanager.net/a")
    assert not same_service("https://x:bad/", "https://x/")


def test_p9_1_the_emulator_is_answered_where_the_agents_own_token_was_shown_in_development() -> None:
    """With an app id the Bot Framework Emulator shows a token of the agent, from http://localhost; nobody else may."""
    guard = UrlGuard(development=False, emulator=True)
    url, own = "http://localhost:51234/", agent("App")
    assert guard.check_service_url(url, own) == url
    assert guard.allows_address("localhost", ip_address("127.0.0.1"))
    assert not guard.allows_address("localhost", ip_address("10.0.0.1"))
    assert not guard.allows_address("evil.example", ip_address("127.0.0.1"))
    for identity in (None, ClaimsIdentity(), ClaimsIdentity({"aud": "app"}, True), agent("another")):
        with pytest.raises(NotAllowed):
            guard.check_service_url(url, identity)
    with pytest.raises(NotAllowed):
        GUARD.check_service_url(url, own)
    # What a sender chose is fetched from this machine in no case: an app id may mean that a tunnel leads here.
    with pytest.raises(NotAllowed):
        guard.check_fetch_url(url)
