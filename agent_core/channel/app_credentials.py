"""As whom the agent speaks, and how it proves that it is who it says: values that show no secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A password of the app registration."""

    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of the app registration; it is sent along (x5c), so it may be trusted by subject name and issuer.

    Attributes:
        key_file: the private key in PEM, or a PFX with key and certificate.
        certificate_file: the certificate in PEM; None with a PFX.
        password: of the key or the PFX, where it has one.
    """

    key_file: Path
    certificate_file: Path | None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """A user-assigned managed identity whose client id is the agent's app id."""


@dataclass(frozen=True, slots=True)
class FederatedIdentity:
    """A user-assigned managed identity that the app registration trusts in place of a secret.

    Its token, made for `audience`, is exchanged for the app's.
    https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity
    """

    client_id: str
    audience: str


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """A token in a file that the platform, such as Kubernetes, writes anew before it expires."""

    token_file: Path


Proof = ClientSecret | Certificate | ManagedIdentity | FederatedIdentity | WorkloadIdentity


@dataclass(frozen=True, slots=True)
class AppCredentials:
    """The agent's app and its proof.

    Attributes:
        authority: `https://<login host>/<tenant>`; a managed identity needs none.
    """

    app_id: str
    proof: Proof
    authority: str | None = None
