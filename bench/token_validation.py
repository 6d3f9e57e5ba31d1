"""What it costs to know who is calling, beside the signature alone and beside the official SDK.

`pip install microsoft-agents-hosting-core` to compare with it; it checks less: neither `serviceurl` nor endorsements.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from agent_core import Activity
from agent_core.channel.clouds import PUBLIC
from agent_core.channel.http_client import HttpClient
from agent_core.channel.token_validator import TokenValidator

ROUNDS = 40
TIMES = 200
MOST_BESIDE_VERIFICATION = 100.0
BARE = "cryptography, RS256 alone"
OURS = "agent_core"
APP_ID = "11111111-2222-3333-4444-555555555555"
SERVICE_URL = "https://smba.trafficmanager.net/emea/"
KEYS = "https://login.botframework.com/v1/.well-known/keys"

Way = Callable[[], Awaitable[object]]


def run() -> None:
    """Print the medians and what they are beside the signature; exit non-zero if ours is too much."""
    asyncio.run(_run())


async def _run() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = _token(key)
    http = HttpClient(allow_address=lambda host, address: True)  # the key server is on this machine
    with _key_server(key) as url:
        ways = {BARE: _bare(key, token), OURS: _agent_core(http, url, token)}
        ways |= _pyjwt(key, token) | _agents_sdk(url, token)
        for way in ways.values():
            await way()  # with the keys at hand: a warm token
    await http.close()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        # In turn, so that the machine's slow moments are everybody's.
        for name, found in times.items():
            found.append(await _microseconds(ways[name]))
    print(f"one warm token of the Bot Service, {len(token)} characters; µs, median of {ROUNDS}")
    for name, found in times.items():
        print(f"{name:44} {statistics.median(found):8.1f} {_beside(times, name):+8.1f} beside the signature")
    if OURS in times and _beside(times, OURS) > MOST_BESIDE_VERIFICATION:
        sys.exit(f"a warm token costs more than {MOST_BESIDE_VERIFICATION:g} µs beside its signature")


def _beside(times: dict[str, list[float]], name: str) -> float:
    """How much more it takes than the signature alone, each round by itself."""
    return statistics.median(one - bare for one, bare in zip(times[name], times[BARE], strict=True))


async def _microseconds(way: Way) -> float:
    start = time.perf_counter()
    for _ in range(TIMES):
        await way()
    return (time.perf_counter() - start) / TIMES * 1e6


def _bare(key: rsa.RSAPrivateKey, token: str) -> Way:
    signed, _, last = token.rpartition(".")
    public, message, signature = key.public_key(), signed.encode(), base64.urlsafe_b64decode(last + "==")

    async def way() -> object:
        public.verify(signature, message, PKCS1v15(), SHA256())
        return None

    return way


def _agent_core(http: HttpClient, url: str, token: str) -> Way:
    cloud = replace(PUBLIC, bot_service_metadata=url + "/openid")
    validator = TokenValidator(APP_ID, http, lambda: datetime.now(UTC), cloud=cloud)
    activity = Activity(type="message", channel_id="msteams", service_url=SERVICE_URL)
    return lambda: validator.validate(f"Bearer {token}", activity)


def _pyjwt(key: rsa.RSAPrivateKey, token: str) -> dict[str, Way]:
    jwt = importlib.import_module("jwt")
    public = key.public_key()

    async def way() -> object:
        return jwt.decode(
            token, public, algorithms=["RS256"], audience=APP_ID, issuer=PUBLIC.bot_service_issuer, leeway=300
        )

    return {"PyJWT, decode with the key at hand": way}


def _agents_sdk(url: str, token: str) -> dict[str, Way]:
    try:
        authorization = importlib.import_module("microsoft_agents.hosting.core.authorization")
        module = importlib.import_module("microsoft_agents.hosting.core.authorization.jwt.jwt_token_validator")
    except ImportError:
        print("microsoft-agents-hosting-core is not installed: compared with the signature and PyJWT only")
        return {}
    validator = module.JwtTokenValidator(authorization.AgentAuthConfiguration(client_id=APP_ID))
    # Its key client, asking here instead of at Microsoft's address.
    client = importlib.import_module("jwt").PyJWKClient(url + "/keys")
    module.JwtTokenValidator._jwk_client_manager._cache[KEYS] = module._JwkClientCacheEntry(client, threading.Lock())
    return {"microsoft-agents-hosting-core": lambda: validator.validate_token(token)}


def _token(key: rsa.RSAPrivateKey) -> str:
    now = int(time.time())
    header = {"alg": "RS256", "kid": "k1", "x5t": "k1", "typ": "JWT"}
    claims = {
        "serviceurl": SERVICE_URL,
        "nbf": now,
        "exp": now + 3600,
        "iss": PUBLIC.bot_service_issuer,
        "aud": APP_ID,
    }
    text = f"{_base64(json.dumps(header).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{text}.{_base64(key.sign(text.encode(), PKCS1v15(), SHA256()))}"


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@contextmanager
def _key_server(key: rsa.RSAPrivateKey) -> Iterator[str]:
    """The Bot Service's OpenID document and keys; a real set has about as many."""
    documents: dict[str, Any] = {}

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            body = json.dumps(documents[self.path]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    url = f"http://127.0.0.1:{server.server_port}"
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "use": "sig", "n": _base64(numbers.n.to_bytes(256)), "e": "AQAB", "endorsements": ["msteams"]}
    documents["/keys"] = {"keys": [{**jwk, "kid": f"k{number}"} for number in range(8)]}
    documents["/openid"] = {
        "issuer": PUBLIC.bot_service_issuer,
        "jwks_uri": url + "/keys",
        "id_token_signing_alg_values_supported": ["RS256"],
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
