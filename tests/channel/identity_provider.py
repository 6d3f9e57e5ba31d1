"""Entra's token endpoint and a managed identity's, on real sockets: they note what they are asked and how many at once.

The certificates are real, made for the test; nothing checks less than it does in Azure but for who signed them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving import serve

Reply = Callable[[], Awaitable[Response]]


@dataclass
class SelfSigned:
    """A key and its certificate, in files."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    key_file: Path
    certificate_file: Path


def self_signed(folder: Path, name: str = "localhost", password: str | None = None) -> SelfSigned:
    """A new certificate, good for this machine's own address."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.pem"
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return SelfSigned(key, certificate, key_file, certificate_file)


@dataclass
class IdentityProvider:
    """Answers as it is told, else with a token that says which one it is.

    Attributes:
        asked: the form of each request for a token.
        discovered: the paths of all other requests.
        busiest: the most requests for a token under way at once.
        tokens: what was given out.
        expires_in: seconds, of each token given out.
    """

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    discovered: list[str] = field(default_factory=list)
    answers: list[Reply] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    busiest: int = 0
    expires_in: int = 3600
    prefix: str = "canary-token-"
    _active: int = 0

    def app(self) -> Starlette:
        async def metadata(request: Request) -> Response:
            self.discovered.append(request.url.path)
            tenant = request.path_params["tenant"]
            base = f"{self.url}/{tenant}"
            return JSONResponse(
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                }
            )

        async def token(request: Request) -> Response:
            form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            return await self._answer({**form, "tenant": request.path_params["tenant"]})

        async def managed_identity(request: Request) -> Response:
            return await self._answer({**request.query_params, "header": request.headers["x-identity-header"]})

        async def other(request: Request) -> Response:
            self.discovered.append(request.url.path)
            return Response("{}", 404)

        return Starlette(
            routes=[
                Route("/{tenant}/v2.0/.well-known/openid-configuration", metadata),
                Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
                Route("/msi/token", managed_identity),
                Route("/{rest:path}", other, methods=["GET", "POST"]),
            ]
        )

    async def _answer(self, asked: dict[str, str]) -> Response:
        self.asked.append(asked)
        self._active += 1
        self.busiest = max(self.busiest, self._active)
        try:
            if self.answers:
                return await self.answers.pop(0)()
            await asyncio.sleep(0.02)  # long enough for others to come meanwhile
            return self.grant()
        finally:
            self._active -= 1

    def grant(self) -> Response:
        """The answer with a new token."""
        token = f"{self.prefix}{len(self.tokens) + 1}"
        self.tokens.append(token)
        # A managed identity says when the token ends; MSAL goes by the machine's clock.
        expires_on = int(datetime.now(UTC).timestamp()) + self.expires_in
        body = {
            "token_type": "Bearer",
            "access_token": token,
            "expires_in": self.expires_in,
            "expires_on": str(expires_on),
            "resource": "r",
        }
        return JSONResponse(body)

    @asynccontextmanager
    async def serve(self, server: SelfSigned | None = None) -> AsyncIterator[str]:
        """Serve it; over TLS with that certificate, which MSAL insists on."""
        files = {"ssl_certfile": str(server.certificate_file), "ssl_keyfile": str(server.key_file)} if server else {}
        async with serve(self.app(), **files) as url:
            self.url = url
            yield url


def trusting(server: SelfSigned) -> ssl.SSLContext:
    """TLS that trusts this certificate alone."""
    return ssl.create_default_context(cafile=str(server.certificate_file))


def replies(status: int, body: object = None, text: str | None = None, **headers: str) -> Reply:
    async def reply() -> Response:
        content = json.dumps(body) if text is None else text
        return Response(content, status, {name.replace("_", "-"): value for name, value in headers.items()})

    return reply


def x5c_key(header_x5c: str) -> rsa.RSAPublicKey:
    """The key of a certificate in a token's header."""
    key = x509.load_der_x509_certificate(base64.b64decode(header_x5c)).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    return key
