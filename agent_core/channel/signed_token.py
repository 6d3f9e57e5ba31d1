"""A signed token, read in one way only: whatever two readers could take for different things is refused.

Header and claims are read once, from the very characters that the signature covers, so what is checked is what is
used. Nothing in a token says how or with what it is verified: that is RS256, with a key that the caller looked up.
https://www.rfc-editor.org/rfc/rfc8725
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from agent_core.errors import NotAuthenticated

if TYPE_CHECKING:  # on first use: it takes 50 ms to import
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MAX_TOKEN = 16 * 1024
# The Functions host and the local one join two Authorization headers by a comma, which fits here no more than blanks.
_BEARER = re.compile(r"(?i:bearer) ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
# They point to a key, change what is signed, or have to be understood. The issuers here send none of them.
_REFUSED_HEADERS = frozenset({"b64", "crit", "enc", "jku", "jwk", "x5c", "x5u", "zip"})


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token whose signature is not verified yet."""

    key_id: str
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def of_header(cls, authorization: str | None) -> SignedToken:
        """The token of an Authorization header.

        Raises:
            NotAuthenticated: there is none, or it is no compact JWS that names RS256 and a key.
        """
        if not authorization:
            raise NotAuthenticated("A token is required: send Authorization: Bearer …", code="MissingToken")
        match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_TOKEN else None
        if match is None:
            raise NotAuthenticated("The Authorization header must be 'Bearer' and one token", code="MalformedToken")
        header = _json(match[1])
        if header.get("alg") != "RS256":
            raise NotAuthenticated("The token is not signed with RS256", code="WrongAlgorithm")
        if not _REFUSED_HEADERS.isdisjoint(header):
            raise NotAuthenticated("The token's header has what is not supported here", code="UnsupportedHeader")
        key_id = header.get("kid")
        if not isinstance(key_id, str):
            raise NotAuthenticated("The token names no signing key", code="UnknownKey")
        signed = f"{match[1]}.{match[2]}".encode()
        return cls(key_id, _json(match[2]), signed, _decoded(match[3]))

    def verify(self, key: RSAPublicKey) -> None:
        """Raises NotAuthenticated: this key did not sign it."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            key.verify(self.signature, self.signed, PKCS1v15(), SHA256())
        except InvalidSignature:
            raise NotAuthenticated("The token's signature is wrong", code="InvalidSignature") from None


def _decoded(segment: str) -> bytes:
    try:
        value = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise _malformed() from None
    # Else one token could be written in several ways: the last character has bits to spare.
    if urlsafe_b64encode(value).rstrip(b"=") != segment.encode():
        raise _malformed()
    return value


def _json(segment: str) -> Mapping[str, Any]:
    try:
        value = _DECODER.decode(_decoded(segment).decode())
    except (ValueError, RecursionError):
        raise _malformed() from None
    if not isinstance(value, dict):
        raise _malformed()
    return value


def _malformed() -> NotAuthenticated:
    return NotAuthenticated("The token is malformed", code="MalformedToken")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
