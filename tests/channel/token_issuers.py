"""The Bot Service and Entra as far as tokens go: real keys, published by a real server, and tokens signed with them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent_core import Activity, AgentApplication, TurnContext, TurnState
from agent_core.channel.cloud_adapter import AgentIdentity, CloudAdapter, HttpRequest, HttpResponse
from agent_core.channel.clouds import PUBLIC, Cloud
from agent_core.channel.connector_client import ConnectorClient
from agent_core.channel.http_client import HttpClient
from agent_core.channel.token_validator import TokenValidator
from agent_core.channel.url_guard import UrlGuard
from agent_core.store.memory_store import MemoryStore
from agent_core.testing import ManualClock, MemoryQueue
from tests.serving import anywhere, serve

APP_ID = "1111abcd-2222-3333-4444-555555555555"
TENANT = "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb"
OTHER_TENANT = "cccccccc-0000-1111-2222-dddddddddddd"
PARENT = "99999999-8888-7777-6666-555555555555"
STRANGER = "77777777-8888-7777-6666-555555555555"
SERVICE_URLS = {
    "public": "https://smba.trafficmanager.net/emea/",
    "usgov": "https://smba.infra.gov.teams.microsoft.us/gcch/",
    "china": "https://webchat.botframework.azure.cn/",
}
PARENT_URL = "https://parent.contoso.com/api/skill/"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


BOT_KEY, WEBCHAT_KEY, ENTRA_KEY, TENANT_KEY, ATTACKER_KEY = (rsa_key() for _ in range(5))
SHORT_KEY = rsa_key(1024)  # what is refused


def jwk(key_id: str, key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    return {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig", **more}


def segment(value: object) -> str:
    """Base64url of JSON, or of text or bytes as they are."""
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    raw = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: object, claims: object, key: rsa.RSAPrivateKey = BOT_KEY) -> str:
    """A token of whatever header and claims, signed with RS256 all the same."""
    text = f"{segment(header)}.{segment(claims)}"
    return f"Bearer {text}.{segment(key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


class KeyServer:
    """Publishes both issuers' documents, and notes every request."""

    def __init__(self) -> None:
        self.url = ""
        self.reset(PUBLIC)

    def reset(self, cloud: Cloud) -> None:
        """Publish what that cloud does, and forget what was asked."""
        self.calls: list[str] = []
        self.status = 200
        self.held: asyncio.Event | None = None
        self.bot_keys = [
            jwk("bot", BOT_KEY, endorsements=["msteams", "directline"]),
            jwk("webchat", WEBCHAT_KEY, endorsements=["webchat"]),
            jwk("nowhere", WEBCHAT_KEY, endorsements=[]),
            jwk("short", SHORT_KEY, endorsements=["msteams"]),
        ]
        common = cloud.entra_issuers[1].replace("{tenant}", "{tenantid}")
        self.entra_keys = [
            jwk("entra", ENTRA_KEY, issuer=common),
            jwk("other tenant", TENANT_KEY, issuer=cloud.entra_issuers[1].replace("{tenant}", OTHER_TENANT)),
        ]
        algorithms = {"id_token_signing_alg_values_supported": ["RS256"]}
        self.bot_document: dict[str, Any] = {"issuer": cloud.bot_service_issuer, **algorithms}
        self.entra_document: dict[str, Any] = {"issuer": common, **algorithms}

    def app(self) -> Starlette:
        async def anything(request: Request) -> Response:
            self.calls.append(request.url.path)
            if self.held is not None:
                await self.held.wait()
            answers: dict[str, object] = {
                "/bot/openid": {"jwks_uri": f"{self.url}/bot/keys", **self.bot_document},
                "/bot/keys": {"keys": self.bot_keys},
                "/entra/openid": {"jwks_uri": f"{self.url}/entra/keys", **self.entra_document},
                "/entra/keys": {"keys": self.entra_keys},
            }
            return Response(json.dumps(answers.get(request.url.path)), self.status, media_type="application/json")

        return Starlette(routes=[Route("/{rest:path}", anything)])


class Setting:
    """An agent behind a CloudAdapter, the issuers of one cloud, and a clock."""

    def __init__(
        self,
        server: KeyServer,
        http: HttpClient,
        cloud: Cloud = PUBLIC,
        tenants: frozenset[str] = frozenset({TENANT}),
        callers: Mapping[str, tuple[str, ...]] = MappingProxyType({PARENT: ("contoso.com",)}),
        development: bool = False,
    ) -> None:
        server.reset(cloud)
        self.clock = ManualClock()
        self.server = server
        self.cloud = cloud
        published = replace(
            cloud, bot_service_metadata=f"{server.url}/bot/openid", entra_metadata=f"{server.url}/entra/openid"
        )
        self.validator = TokenValidator(
            APP_ID,
            http,
            self.clock.now,
            cloud=published,
            tenants=tenants,
            callers=callers,
            development=development,
        )
        self.adapter = CloudAdapter(
            identity=lambda: AgentIdentity(APP_ID, self.validator),
            connector=lambda: ConnectorClient(http, None, self.clock.now),
            guard=lambda: UrlGuard(development=False, cloud=cloud, callers=callers),
            now=self.clock.now,
        )
        self.agent = AgentApplication(self.adapter, MemoryStore(self.clock.now), MemoryQueue(self.clock))
        self.handled: list[Activity] = []

        @self.agent.message("hello")
        async def hello(context: TurnContext, state: TurnState) -> None:
            self.handled.append(context.activity)

    @property
    def seconds(self) -> int:
        return int(self.clock.now().timestamp())

    def _times(self) -> dict[str, Any]:
        return {"exp": self.seconds + 3600, "nbf": self.seconds, "iat": self.seconds}

    def bot_claims(self, **changes: Any) -> dict[str, Any]:
        """As the Bot Service writes them; None takes a claim away."""
        good = {
            "iss": self.cloud.bot_service_issuer,
            "aud": APP_ID,
            "serviceurl": SERVICE_URLS[self.cloud.name],
            **self._times(),
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def entra_claims(self, version: int = 1, **changes: Any) -> dict[str, Any]:
        """As Entra writes them for an agent that calls; None takes a claim away."""
        good = {
            "iss": self.cloud.entra_issuers[version - 1].replace("{tenant}", TENANT),
            "aud": APP_ID,
            "tid": TENANT,
            "ver": f"{version}.0",
            "azp" if version == 2 else "appid": PARENT,
            "idtyp": "app",
            **self._times(),
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def bot_token(self, key: rsa.RSAPrivateKey = BOT_KEY, key_id: str = "bot", **changes: Any) -> str:
        return self.jwt(self.bot_claims(**changes), key, kid=key_id)

    def entra_token(
        self, key: rsa.RSAPrivateKey = ENTRA_KEY, key_id: str = "entra", version: int = 1, **changes: Any
    ) -> str:
        return self.jwt(self.entra_claims(version, **changes), key, kid=key_id)

    def jwt(self, claims: dict[str, Any], key: Any, algorithm: str = "RS256", **header: Any) -> str:
        """Signed by another implementation than the one that reads it."""
        return "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "bot", **header})

    def activity(self, **changes: Any) -> dict[str, Any]:
        good = {
            "type": "message",
            "id": "in1",
            "channelId": "msteams",
            "serviceUrl": SERVICE_URLS[self.cloud.name],
            "conversation": {"id": "c1"},
            "from": {"id": "user"},
            "recipient": {"id": "agent"},
            "text": "hello",
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    async def post(self, authorization: str | None, **changes: Any) -> HttpResponse:
        """Send an activity; `changes` are the activity's."""
        headers = {"content-type": "application/json"}
        if authorization is not None:
            headers["authorization"] = authorization
        request = HttpRequest(
            "POST", "https://agent.example/api/messages", headers, json.dumps(self.activity(**changes)).encode()
        )
        return await self.adapter.process_activity(request, self.agent)

    async def post_as_agent(self, authorization: str, **changes: Any) -> HttpResponse:
        """Send an activity as the parent agent would."""
        return await self.post(authorization, **{"channelId": "agents", "serviceUrl": PARENT_URL, **changes})

    def activity_of_agent(self, **changes: Any) -> Activity:
        """What `post_as_agent` sends."""
        return Activity.from_dict(self.activity(**{"channelId": "agents", "serviceUrl": PARENT_URL, **changes}))

    async def warm_up(self) -> None:
        """Let both key sets be fetched."""
        assert (await self.post(self.bot_token())).status == 202
        assert (await self.post_as_agent(self.entra_token())).status == 202
        assert len(self.server.calls) == 4
        self.handled.clear()


def refusal(answer: HttpResponse) -> tuple[int, str]:
    """Status and code."""
    error = json.loads(answer.body)["error"]
    assert set(error) == {"code", "message"}
    return answer.status, error["code"]


class Issuers:
    """A running key server, and a client that asks it."""

    def __init__(self, server: KeyServer, http: HttpClient) -> None:
        self.server = server
        self.http = http

    def setting(self, **options: Any) -> Setting:
        """A new agent, that knows no key yet; the server begins anew."""
        return Setting(self.server, self.http, **options)


@asynccontextmanager
async def running_issuers() -> AsyncIterator[Issuers]:
    """Serve the keys."""
    server = KeyServer()
    http = HttpClient(allow_address=anywhere)
    async with serve(server.app()) as server.url:
        try:
            yield Issuers(server, http)
        finally:
            await http.close()
