"""The forged tokens: each is refused under its own code, reaches no handler, and makes the agent call nobody."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent_core import Activity, TurnContext, TurnState
from agent_core.channel.clouds import CLOUDS
from agent_core.errors import NotAuthenticated
from tests.channel.token_issuers import (
    APP_ID,
    ATTACKER_KEY,
    BOT_KEY,
    ENTRA_KEY,
    OTHER_TENANT,
    PARENT,
    SERVICE_URLS,
    SHORT_KEY,
    STRANGER,
    TENANT,
    TENANT_KEY,
    WEBCHAT_KEY,
    Issuers,
    Setting,
    jwk,
    refusal,
    running_issuers,
    segment,
    signed,
)

Forge = Callable[[Setting], str | None]
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = BOT_KEY.public_key()
ENCODING, FORMAT = serialization.Encoding, serialization.PublicFormat


@dataclass(frozen=True)
class Forged:
    """One forgery: how the Authorization header is made, what the activity says, and what the answer has to be."""

    name: str
    code: str
    header: Forge
    status: int = 401
    activity: dict[str, Any] = field(default_factory=dict)


def alg(value: object) -> Forge:
    """A good token but for `alg`, with the signature that RS256 would have."""
    header = {"kid": "bot"} if value is None else {"kid": "bot", "alg": value}
    return lambda setting: signed(header, setting.bot_claims())


def hmac_with(secret: bytes) -> Forge:
    """Signed with HS256, the secret being what anybody can know of the key."""

    def forge(setting: Setting) -> str:
        text = f"{segment({'alg': 'HS256', 'kid': 'bot'})}.{segment(setting.bot_claims())}"
        algorithm = jwt.get_algorithm_by_name("HS256")
        return f"Bearer {text}.{segment(algorithm.sign(text.encode(), secret))}"

    return forge


def head(**more: object) -> Forge:
    """A good token but for more in its header."""
    return lambda setting: signed({"alg": "RS256", "kid": "bot", **more}, setting.bot_claims())


def key_of(key_id: object, key: Any = ATTACKER_KEY) -> Forge:
    return lambda setting: signed({"alg": "RS256", "kid": key_id}, setting.bot_claims(), key)


def claim(**changes: Any) -> Forge:
    """A token of the Bot Service with other claims; None takes one away."""
    return lambda setting: signed({"alg": "RS256", "kid": "bot"}, setting.bot_claims(**changes))


def entra(version: int = 1, key: Any = ENTRA_KEY, key_id: str = "entra", **changes: Any) -> Forge:
    """A token of Entra with other claims; None takes one away."""
    return lambda setting: signed({"alg": "RS256", "kid": key_id}, setting.entra_claims(version, **changes), key)


def changed(change: Callable[[str], str]) -> Forge:
    """A good header, changed as text."""
    return lambda setting: change(setting.bot_token())


def signature(change: Callable[[str], str]) -> Forge:
    def forge(setting: Setting) -> str:
        text, _, last = setting.bot_token().rpartition(".")
        return f"{text}.{change(last)}"

    return forge


def in_seconds(claim_name: str, seconds: int) -> Forge:
    return lambda setting: claim(**{claim_name: setting.seconds + seconds})(setting)


def claims_text(change: Callable[[str], str]) -> Forge:
    """The claims' JSON, changed as text and signed."""
    return lambda setting: signed({"alg": "RS256", "kid": "bot"}, change(json.dumps(setting.bot_claims())))


def header_text(text: str) -> Forge:
    return lambda setting: signed(text, setting.bot_claims())


def unsigned(value: str) -> Forge:
    return lambda setting: f"Bearer {segment({'alg': value, 'kid': 'bot'})}.{segment(setting.bot_claims())}."


def json_serialised(setting: Setting) -> str:
    first, second, third = setting.bot_token().removeprefix("Bearer ").split(".")
    return "Bearer " + json.dumps({"protected": first, "payload": second, "signature": third})


def nested_in_jwe(setting: Setting) -> str:
    inner = setting.bot_token().removeprefix("Bearer ")
    header = segment({"alg": "RSA-OAEP", "enc": "A256GCM", "cty": "JWT"})
    return ".".join((f"Bearer {header}", segment("key"), segment("iv"), segment(inner), segment("tag")))


def nested_jws(setting: Setting) -> str:
    inner = setting.bot_token().removeprefix("Bearer ")
    return signed({"alg": "RS256", "kid": "bot", "cty": "JWT"}, inner)


def signed_otherwise(algorithm: str, key: Any = BOT_KEY) -> Forge:
    return lambda setting: setting.jwt(setting.bot_claims(), key, algorithm)


def signed_with_pss(setting: Setting) -> str:
    text = f"{segment({'alg': 'RS256', 'kid': 'bot'})}.{segment(setting.bot_claims())}"
    return f"Bearer {text}.{segment(jwt.get_algorithm_by_name('PS256').sign(text.encode(), BOT_KEY))}"


def pointing(name: str) -> Forge:
    """A token of the attacker that says where its key is."""
    return lambda setting: signed(
        {"alg": "RS256", "kid": "mine", name: setting.server.url + "/attacker"}, setting.bot_claims(), ATTACKER_KEY
    )


def same_bits(last: str) -> str:
    """Another way to write the same bytes: the last character of 256 has four bits that mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return last[:-1] + alphabet[alphabet.index(last[-1]) ^ 1]


ALGORITHMS = [
    *(Forged(f"alg {value}, unsigned", "WrongAlgorithm", unsigned(value)) for value in ("none", "None", "nOnE", "")),
    Forged("alg none with a signature", "WrongAlgorithm", alg("none")),
    Forged("alg missing", "WrongAlgorithm", alg(None)),
    Forged("alg in lower case", "WrongAlgorithm", alg("rs256")),
    Forged("alg a list", "WrongAlgorithm", alg(["RS256"])),
    Forged("alg null", "WrongAlgorithm", header_text('{"alg": null, "kid": "bot"}')),
    Forged(
        "HS256 with the key's PEM", "WrongAlgorithm", hmac_with(PUBLIC_KEY.public_bytes(ENCODING.PEM, FORMAT.PKCS1))
    ),
    Forged(
        "HS256 with the key's DER",
        "WrongAlgorithm",
        hmac_with(PUBLIC_KEY.public_bytes(ENCODING.DER, FORMAT.SubjectPublicKeyInfo)),
    ),
    Forged("HS256 with the key's JWK", "WrongAlgorithm", hmac_with(json.dumps(jwk("bot", BOT_KEY)).encode())),
    Forged(
        "HS256 with the key as SSH writes it",
        "WrongAlgorithm",
        hmac_with(PUBLIC_KEY.public_bytes(ENCODING.OpenSSH, FORMAT.OpenSSH)),
    ),
    *(Forged(each, "WrongAlgorithm", signed_otherwise(each)) for each in ("RS384", "RS512", "PS256")),
    Forged("ES256", "WrongAlgorithm", signed_otherwise("ES256", EC_KEY)),
    Forged("PS256 that calls itself RS256", "InvalidSignature", signed_with_pss),
]
HEADERS = [
    Forged("crit unknown", "UnsupportedHeader", head(crit=["exp"])),
    Forged("crit empty", "UnsupportedHeader", head(crit=[])),
    Forged("b64 false", "UnsupportedHeader", head(b64=False, crit=["b64"])),
    Forged("zip", "UnsupportedHeader", head(zip="DEF")),
    Forged("enc", "UnsupportedHeader", head(enc="A256GCM")),
    *(Forged(f"{name} to the attacker", "UnsupportedHeader", pointing(name)) for name in ("jku", "x5u")),
    Forged(
        "jwk of the attacker",
        "UnsupportedHeader",
        lambda setting: signed(
            {"alg": "RS256", "kid": "mine", "jwk": jwk("mine", ATTACKER_KEY)}, setting.bot_claims(), ATTACKER_KEY
        ),
    ),
    Forged("x5c of the attacker", "UnsupportedHeader", head(x5c=["MIIB"])),
    Forged("a name twice in the header", "MalformedToken", header_text('{"alg":"none","kid":"bot","alg":"RS256"}')),
    Forged("header no object", "MalformedToken", header_text('["RS256"]')),
    Forged("header no JSON", "MalformedToken", header_text("{'alg': 'RS256'}")),
    Forged("header no UTF-8", "MalformedToken", lambda setting: signed(b'{"alg":"\xff"}', setting.bot_claims())),
    Forged("header nested 6000 deep", "MalformedToken", header_text("[" * 6000)),
]
KEYS = [
    Forged("no kid", "UnknownKey", header_text('{"alg": "RS256"}')),
    Forged("kid a number", "UnknownKey", key_of(7)),
    Forged("kid a list", "UnknownKey", key_of(["bot"])),
    Forged("kid unknown", "UnknownKey", key_of("mine")),
    Forged("kid a path", "UnknownKey", key_of("../../../../dev/null")),
    Forged("kid SQL", "UnknownKey", key_of("x' UNION SELECT 'key")),
    Forged("kid of 10 KB", "UnknownKey", key_of("k" * 10_000)),
    Forged("kid a URL", "UnknownKey", lambda setting: key_of(setting.server.url + "/attacker")(setting)),
    Forged("kid empty", "UnknownKey", key_of("")),
    Forged("a key of 1024 bits", "UnknownKey", key_of("short", SHORT_KEY)),
    Forged("a key of Entra for the Bot Service", "UnknownKey", key_of("entra", ENTRA_KEY)),
    Forged("a key of the Bot Service for Entra", "UnknownKey", entra(key=BOT_KEY, key_id="bot")),
    Forged("another tenant's key", "WrongKey", entra(key=TENANT_KEY, key_id="other tenant")),
    Forged("another of the issuer's keys", "InvalidSignature", key_of("bot", WEBCHAT_KEY)),
    Forged("the attacker's key", "InvalidSignature", key_of("bot")),
    Forged("the attacker's key for Entra", "InvalidSignature", entra(key=ATTACKER_KEY)),
    Forged(
        "a key of another channel",
        "ChannelNotEndorsed",
        key_of("webchat", WEBCHAT_KEY),
        403,
    ),
    Forged(
        "a key for no channel", "ChannelNotEndorsed", lambda setting: setting.bot_token(WEBCHAT_KEY, "nowhere"), 403
    ),
]
FORMS = [
    Forged("no header", "MissingToken", lambda setting: None),
    Forged("an empty header", "MissingToken", lambda setting: ""),
    Forged("a scheme alone", "MalformedToken", lambda setting: "Bearer"),
    Forged("a scheme and a blank", "MalformedToken", lambda setting: "Bearer "),
    Forged("Basic", "MalformedToken", changed(lambda text: text.replace("Bearer", "Basic"))),
    Forged("no scheme", "MalformedToken", changed(lambda text: text.removeprefix("Bearer "))),
    Forged("three parts", "MalformedToken", changed(lambda text: text + " more")),
    Forged("two headers, joined", "MalformedToken", changed(lambda text: f"{text},{text}")),
    Forged("two headers, joined with a blank", "MalformedToken", changed(lambda text: f"{text}, {text}")),
    Forged("a blank before", "MalformedToken", changed(lambda text: " " + text)),
    Forged("a blank after", "MalformedToken", changed(lambda text: text + " ")),
    Forged("a line break after", "MalformedToken", changed(lambda text: text + "\n")),
    Forged("two blanks", "MalformedToken", changed(lambda text: text.replace(" ", "  "))),
    Forged("a tab", "MalformedToken", changed(lambda text: text.replace(" ", "\t"))),
    Forged("a blank inside", "MalformedToken", changed(lambda text: text.replace(".", " .", 1))),
    Forged("a line break inside", "MalformedToken", changed(lambda text: text.replace(".", ".\n", 1))),
    Forged("one segment", "MalformedToken", lambda setting: "Bearer x"),
    Forged("two segments", "MalformedToken", changed(lambda text: text.rpartition(".")[0])),
    Forged("four segments", "MalformedToken", changed(lambda text: text + ".AAAA")),
    Forged("JWS as JSON", "MalformedToken", json_serialised),
    Forged("nested in a JWE", "MalformedToken", nested_in_jwe),
    Forged("a JWS in a JWS", "MalformedToken", nested_jws),
    Forged("1 MB", "MalformedToken", claim(filler="x" * 1_000_000)),
    Forged("padding", "MalformedToken", changed(lambda text: text + "==")),
    Forged("the other base64", "MalformedToken", changed(lambda text: text.replace("-", "+").replace("_", "/") + "+")),
    Forged("signature written in another way", "MalformedToken", signature(same_bits)),
    Forged("signature of a length that base64 has not", "MalformedToken", signature(lambda text: text[:-1])),
    Forged("signature stripped", "InvalidSignature", signature(lambda text: "")),
    Forged("signature truncated", "InvalidSignature", signature(lambda text: text[:-3] + "A")),
    Forged("signature longer", "InvalidSignature", signature(lambda text: segment(b"\0") + "AA" + text)),
    Forged("signature of zeros", "InvalidSignature", signature(lambda text: segment(bytes(256)))),
    Forged(
        "signature with a bit flipped",
        "InvalidSignature",
        signature(lambda text: ("B" if text[0] == "A" else "A") + text[1:]),
    ),
    Forged(
        "claims changed after signing",
        "InvalidSignature",
        lambda setting: ".".join(
            (
                setting.bot_token().split(".")[0],
                segment(setting.bot_claims(extra=1)),
                setting.bot_token().split(".")[2],
            )
        ),
    ),
    Forged("a claim twice", "MalformedToken", claims_text(lambda text: text.replace("{", '{"aud": "x", ', 1))),
    Forged("claims no object", "MalformedToken", claims_text(lambda text: f"[{text}]")),
    Forged("claims no JSON", "MalformedToken", claims_text(lambda text: text[:-1])),
    Forged("claims with NaN", "MalformedToken", claims_text(lambda text: text[:-1] + ', "x": NaN}')),
    Forged("claims nested 6000 deep", "MalformedToken", claims_text(lambda text: '{"x": ' + "[" * 6000)),
    Forged("claims with 5000 digits", "MalformedToken", claims_text(lambda text: f'{{"x": {"9" * 5000}}}')),
]
ISSUERS = [
    Forged("iss missing", "UnknownIssuer", claim(iss=None)),
    Forged("iss a number", "UnknownIssuer", claim(iss=1)),
    Forged("iss a list", "UnknownIssuer", claim(iss=["https://api.botframework.com"])),
    Forged("iss with a slash", "UnknownIssuer", claim(iss="https://api.botframework.com/")),
    Forged("iss with a suffix", "UnknownIssuer", claim(iss="https://api.botframework.com.evil.example")),
    Forged("iss with a prefix", "UnknownIssuer", claim(iss="https://evil.example/https://api.botframework.com")),
    Forged("iss with a user", "UnknownIssuer", claim(iss="https://api.botframework.com@evil.example")),
    Forged("iss in upper case", "UnknownIssuer", claim(iss="https://API.botframework.com")),
    Forged("iss http", "UnknownIssuer", claim(iss="http://api.botframework.com")),
    Forged("iss a stranger", "UnknownIssuer", claim(iss="https://evil.example")),
    Forged("iss the key server", "UnknownIssuer", lambda setting: setting.bot_token(iss=setting.server.url)),
    *(
        Forged(f"iss of the Bot Service of {cloud.name}", "UnknownIssuer", claim(iss=cloud.bot_service_issuer))
        for cloud in CLOUDS.values()
        if cloud.name != "public"
    ),
    *(
        Forged(
            f"iss of Entra of {cloud.name}",
            "UnknownIssuer",
            entra(2, iss=cloud.entra_issuers[1].format(tenant=OTHER_TENANT)),
        )
        for cloud in CLOUDS.values()
        if cloud.name != "public"
    ),
    Forged("iss of Entra, common", "UnknownIssuer", entra(2, iss="https://login.microsoftonline.com/common/v2.0")),
    Forged(
        "iss of Entra, template", "UnknownIssuer", entra(2, iss="https://login.microsoftonline.com/{tenantid}/v2.0")
    ),
    Forged("iss of Entra, no slash", "UnknownIssuer", entra(iss="https://sts.windows.net/" + TENANT)),
    Forged(
        "iss of Entra, two tenants",
        "UnknownIssuer",
        entra(iss=f"https://sts.windows.net/{OTHER_TENANT}/{OTHER_TENANT}/"),
    ),
    Forged("iss of Entra, too short", "UnknownIssuer", entra(iss="https://sts.windows.net/")),
    Forged(
        "iss another tenant, version 1",
        "TenantNotAllowed",
        entra(iss=f"https://sts.windows.net/{OTHER_TENANT}/", tid=OTHER_TENANT),
    ),
    Forged(
        "iss another tenant, version 2",
        "TenantNotAllowed",
        entra(2, iss=f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0", tid=OTHER_TENANT),
    ),
    Forged(
        "iss Microsoft's own tenant",
        "TenantNotAllowed",
        entra(iss="https://sts.windows.net/d6d49420-f39b-4df7-a1dc-d59a935871db/"),
    ),
    Forged("tid of another tenant", "WrongTenant", entra(tid=OTHER_TENANT)),
    Forged("tid missing", "WrongTenant", entra(tid=None)),
    Forged("ver missing", "WrongVersion", entra(ver=None)),
    Forged("ver of the other version", "WrongVersion", entra(ver="2.0", azp=PARENT)),
    Forged("ver a number", "WrongVersion", entra(ver=1.0)),
]
AUDIENCES = [
    Forged("aud missing", "WrongAudience", claim(aud=None)),
    Forged("aud another agent", "WrongAudience", claim(aud=STRANGER)),
    Forged("aud the Bot Connector", "WrongAudience", entra(aud="https://api.botframework.com")),
    Forged("aud empty", "WrongAudience", claim(aud="")),
    Forged("aud a number", "WrongAudience", claim(aud=1)),
    Forged("aud an object", "WrongAudience", claim(aud={APP_ID: 1})),
    Forged("aud empty list", "WrongAudience", claim(aud=[])),
    Forged("aud the attacker first", "WrongAudience", claim(aud=["https://evil.example", APP_ID])),
    Forged("aud the attacker last", "WrongAudience", claim(aud=[APP_ID, "https://evil.example"])),
    Forged("aud a list in a list", "WrongAudience", claim(aud=[[APP_ID]])),
    Forged("aud with a suffix", "WrongAudience", claim(aud=APP_ID + "/")),
    Forged("aud another form", "WrongAudience", claim(aud="spn:" + APP_ID)),
]
TIMES = [
    Forged("exp past", "ExpiredToken", in_seconds("exp", -301)),
    Forged("exp 0", "ExpiredToken", claim(exp=0)),
    Forged("exp missing", "MalformedTime", claim(exp=None)),
    Forged("exp a float", "MalformedTime", claim(exp=4102444800.5)),
    Forged("exp a string", "MalformedTime", claim(exp="4102444800")),
    Forged("exp true", "MalformedTime", claim(exp=True)),
    Forged("exp 2^63", "MalformedTime", claim(exp=2**63)),
    Forged("exp negative", "MalformedTime", claim(exp=-1)),
    Forged("exp a list", "MalformedTime", claim(exp=[4102444800])),
    Forged("exp null", "MalformedTime", claims_text(lambda text: text.replace('"exp": ', '"exp": null, "old": '))),
    Forged("exp infinite", "MalformedTime", claims_text(lambda text: text.replace('"exp": ', '"exp": 1e999, "old": '))),
    Forged("nbf future", "ImmatureToken", in_seconds("nbf", 301)),
    Forged("nbf a string", "MalformedTime", claim(nbf="0")),
    Forged("nbf null", "MalformedTime", claims_text(lambda text: text.replace('"nbf": ', '"nbf": null, "old": '))),
    Forged("iat future", "ImmatureToken", in_seconds("iat", 301)),
]
SERVICES = [
    Forged("serviceurl missing", "ServiceUrlMismatch", claim(serviceurl=None), 403),
    Forged(
        "serviceurl in another spelling",
        "ServiceUrlMismatch",
        claim(serviceurl=None, serviceUrl=SERVICE_URLS["public"]),
        403,
    ),
    Forged("serviceurl empty", "ServiceUrlMismatch", claim(serviceurl=""), 403),
    Forged("serviceurl a list", "ServiceUrlMismatch", claim(serviceurl=[SERVICE_URLS["public"]]), 403),
    Forged("serviceurl no URL", "ServiceUrlMismatch", claim(serviceurl="https://[bad/"), 403),
    *(
        Forged(f"serviceUrl {name}", "ServiceUrlMismatch", claim(), 403, {"serviceUrl": url})
        for name, url in {
            "of another region": "https://smba.trafficmanager.net/amer/",
            "of the attacker": "https://evil.example/emea/",
            "with a suffix": "https://smba.trafficmanager.net.evil.example/emea/",
            "with the service as user": "https://smba.trafficmanager.net@evil.example/emea/",
            "with a user": "https://evil@smba.trafficmanager.net/emea/",
            "with another port": "https://smba.trafficmanager.net:8443/emea/",
            "with a port that is none": "https://smba.trafficmanager.net:x/emea/",
            "http": "http://smba.trafficmanager.net/emea/",
            "with a path in another case": "https://smba.trafficmanager.net/EMEA/",
            "with a query": "https://smba.trafficmanager.net/emea/?x",
            "missing": None,
        }.items()
    ),
    Forged("channel not endorsed", "ChannelNotEndorsed", claim(), 403, {"channelId": "slack"}),
    Forged("channel in another case", "ChannelNotEndorsed", claim(), 403, {"channelId": "MSTeams"}),
    Forged("channel endorsed as a part only", "ChannelNotEndorsed", claim(), 403, {"channelId": "agents:msteams"}),
]
CALLERS = [
    Forged("a stranger's agent", "CallerNotAllowed", entra(appid=STRANGER), 403),
    Forged("a stranger's agent, version 2", "CallerNotAllowed", entra(2, azp=STRANGER), 403),
    Forged("the parent's appid beside a stranger's azp", "CallerNotAllowed", entra(2, azp=STRANGER, appid=PARENT), 403),
    Forged("the parent's azp beside a stranger's appid", "CallerNotAllowed", entra(appid=STRANGER, azp=PARENT), 403),
    Forged("appid missing", "MissingCaller", entra(appid=None)),
    Forged("azp missing in version 2", "MissingCaller", entra(2, azp=None, appid=PARENT)),
    Forged("appid an asterisk", "MissingCaller", entra(appid="*")),
    Forged("appid a list", "MissingCaller", entra(appid=[PARENT])),
    Forged("the agent's own token", "OwnToken", entra(appid=APP_ID), 403),
    Forged("the agent's own token in capitals", "OwnToken", entra(2, azp=APP_ID.upper()), 403),
    Forged("a user's token", "UserToken", entra(scp="access_as_user"), 403),
    Forged("a user's token by its type", "UserToken", entra(idtyp="user"), 403),
]
FORGED = [*ALGORITHMS, *HEADERS, *KEYS, *FORMS, *ISSUERS, *AUDIENCES, *TIMES, *SERVICES, *CALLERS]
NAMES = [case.name for case in FORGED]
FIXED_ADDRESSES = {"/bot/openid", "/bot/keys", "/entra/openid", "/entra/keys"}


@pytest.fixture(scope="module")
async def issuers() -> AsyncIterator[Issuers]:
    async with running_issuers() as issuers:
        yield issuers


@pytest.fixture
def setting(issuers: Issuers) -> Setting:
    return issuers.setting()


def test_the_list_is_as_long_as_it_was_promised() -> None:
    """4.6: at least 60, each with a name of its own."""
    assert len(set(NAMES)) == len(FORGED) >= 60


@pytest.mark.parametrize("case", FORGED, ids=NAMES)
async def test_p2_12_a_forged_token_is_refused_by_its_code_and_calls_nobody(setting: Setting, case: Forged) -> None:
    """X1, P2.1 to P2.8, P2.12, 4.6: nothing is fetched, handled, stored or told."""
    await setting.warm_up()
    header = case.header(setting)
    answer = await setting.post(header, **{"id": "forged", "conversation": {"id": "forged"}, **case.activity})
    assert refusal(answer) == (case.status, case.code)
    assert answer.headers.get("www-authenticate") == ("Bearer" if case.status == 401 else None)
    assert len(setting.server.calls) == 4
    assert setting.handled == []
    assert await setting.agent.proactive.get_conversation("forged") is None
    for told in (TENANT, OTHER_TENANT, STRANGER, PARENT, APP_ID, "evil", "trafficmanager", setting.server.url):
        assert told.encode() not in answer.body


@pytest.mark.parametrize("case", FORGED, ids=NAMES)
async def test_p2_2_a_forged_token_at_a_cold_start_asks_at_fixed_addresses_only(setting: Setting, case: Forged) -> None:
    """P2.2: and what can be refused without a key asks nobody at all."""
    answer = await setting.post(case.header(setting), **case.activity)
    assert refusal(answer) == (case.status, case.code)
    assert set(setting.server.calls) <= FIXED_ADDRESSES
    assert len(setting.server.calls) <= 2
    keyless = {"UnknownIssuer", "TenantNotAllowed", "MissingToken", "MalformedToken", "WrongAlgorithm"}
    if case.code in keyless | {"UnsupportedHeader", "WrongAudience", "MalformedTime", "ExpiredToken", "ImmatureToken"}:
        assert setting.server.calls == []


@pytest.mark.parametrize("case", FORGED, ids=NAMES)
async def test_nothing_of_a_forged_token_is_logged(
    setting: Setting, case: Forged, caplog: pytest.LogCaptureFixture
) -> None:
    """P2.12: neither the token nor a claim, whatever control characters they have."""
    caplog.set_level("DEBUG", logger="agent_core")
    header = case.header(setting)
    await setting.post(header, **case.activity)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("agent_core"))
    assert "Refused an activity" in ours
    for part in (header or "").removeprefix("Bearer ").split("."):
        assert len(part) < 10 or part not in ours
    for told in (TENANT, OTHER_TENANT, STRANGER, PARENT, "evil", "smba"):
        assert told not in ours


async def test_a_token_that_was_let_in_may_come_again(setting: Setting) -> None:
    """4.6, replay: the same activity is de-duplicated by its id; the token stays good until it expires."""
    token = setting.bot_token()
    for name in ("one", "two"):
        assert (await setting.post(token, id=name)).status == 202
    assert [each.id for each in setting.handled] == ["one", "two"]


async def test_no_character_of_a_token_can_be_another(setting: Setting) -> None:
    """Whatever one character becomes, header, claims and signature included, the token is worth nothing."""
    await setting.warm_up()
    activity = Activity.from_dict(setting.activity())
    token = setting.bot_token()
    for place in range(len("Bearer "), len(token)):
        for other in "A9_.= ":
            if other != token[place]:
                with pytest.raises(NotAuthenticated):
                    await setting.validator.validate(token[:place] + other + token[place + 1 :], activity)
    assert (await setting.post(token)).status == 202
    assert len(setting.server.calls) == 4


async def test_p2_12_what_is_logged_of_an_activity_has_no_control_characters(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """P2.12: an id with line breaks forges no line of the log."""

    @setting.agent.message("fail")
    async def fail(context: TurnContext, state: TurnState) -> None:
        raise RuntimeError

    forged = "1\r\nINFO let in\x1b[2J\x7f\x85\u2028"
    assert (await setting.post(setting.bot_token(), text="fail", id=forged)).status == 202
    said = [record.getMessage() for record in caplog.records if record.name.startswith("agent_core")]
    assert any("INFO let in" in line for line in said)
    assert all(line.isprintable() for line in said)
