"""The agent's credentials from its settings, under the Agents SDK's names, and a clear word about contradictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent_core.channel.clouds import Cloud
from agent_core.errors import SettingsError

if TYPE_CHECKING:  # loaded when a token is needed, so that a cold start is spared them
    from agent_core.channel.app_credentials import AppCredentials, Proof

_PREFIX = "CONNECTIONS__SERVICE_CONNECTION__SETTINGS__"
CLIENT_ID = f"{_PREFIX}CLIENTID"
TENANT_ID = f"{_PREFIX}TENANTID"
AUTHORITY = f"{_PREFIX}AUTHORITY"
AUTH_TYPE = f"{_PREFIX}AUTHTYPE"
CLIENT_SECRET = f"{_PREFIX}CLIENTSECRET"
CERT_PEM_FILE = f"{_PREFIX}CERTPEMFILE"
CERT_KEY_FILE = f"{_PREFIX}CERTKEYFILE"
CERT_PFX_FILE = f"{_PREFIX}CERTPFXFILE"
CERT_PASSWORD = f"{_PREFIX}CERTPASSWORD"
FEDERATED_CLIENT_ID = f"{_PREFIX}FEDERATEDCLIENTID"
FEDERATED_TOKEN_FILE = f"{_PREFIX}FEDERATEDTOKENFILE"
# Set by the platform where it gives pods an identity.
AZURE_FEDERATED_TOKEN_FILE = "AZURE_FEDERATED_TOKEN_FILE"

# Each kind of credentials, and the settings that are for it alone.
_KINDS = {
    "ClientSecret": (CLIENT_SECRET,),
    "Certificate": (CERT_PEM_FILE, CERT_KEY_FILE, CERT_PFX_FILE, CERT_PASSWORD),
    "FederatedCredentials": (FEDERATED_CLIENT_ID,),
    "WorkloadIdentity": (FEDERATED_TOKEN_FILE,),
    "UserManagedIdentity": (),
}
# What a legacy multi-tenant bot may write for its tenant.
_ANY_TENANT = ("common", "organizations")

Get = Callable[[str], str | None]


def app_credentials(get: Get, app_id: str, cloud: Cloud) -> AppCredentials:
    """The credentials that the settings describe. Nothing is read but the settings, and whether named files exist.

    Raises:
        SettingsError: with everything that is missing or contradicts itself.
    """
    from agent_core.channel.app_credentials import AppCredentials, ManagedIdentity

    kind = _kind(get)
    if kind == "UserManagedIdentity":
        return AppCredentials(app_id, ManagedIdentity())
    problems: list[str] = []
    proof = _proof(kind, get, cloud, problems)
    authority = _authority(get, cloud, kind, problems)
    if problems:
        raise SettingsError(" ".join(problems))
    return AppCredentials(app_id, proof, authority)


def _kind(get: Get) -> str:
    """The kind that is named, else the one whose settings are there, else a managed identity."""
    there = [kind for kind, names in _KINDS.items() if any(get(name) for name in names)]
    said = get(AUTH_TYPE)
    if said is None:
        if len(there) > 1:
            raise SettingsError(
                f"The settings are those of several kinds of credentials ({', '.join(there)}): "
                f"remove all but one's, or say which it is in {AUTH_TYPE}."
            )
        return there[0] if there else "UserManagedIdentity"
    named = next((kind for kind in _KINDS if kind.lower() == said.lower()), None)
    if named is None:
        raise SettingsError(f"The setting {AUTH_TYPE} is none of: {', '.join(_KINDS)}.")
    foreign = [name for kind, names in _KINDS.items() if kind != named for name in names if get(name)]
    if foreign:
        raise SettingsError(
            f"The setting {AUTH_TYPE} is {named}, which knows no {', '.join(foreign)}: remove one or the other."
        )
    return named


def _proof(kind: str, get: Get, cloud: Cloud, problems: list[str]) -> Proof:
    from agent_core.channel.app_credentials import Certificate, ClientSecret, FederatedIdentity, WorkloadIdentity

    if kind == "ClientSecret":
        return ClientSecret(_required(CLIENT_SECRET, get, problems))
    if kind == "FederatedCredentials":
        return FederatedIdentity(_required(FEDERATED_CLIENT_ID, get, problems), cloud.exchange_audience)
    if kind == "WorkloadIdentity":
        name = FEDERATED_TOKEN_FILE if get(FEDERATED_TOKEN_FILE) else AZURE_FEDERATED_TOKEN_FILE
        return WorkloadIdentity(_file(name, get, problems))
    if get(CERT_PFX_FILE) is None:
        return Certificate(_file(CERT_KEY_FILE, get, problems), _file(CERT_PEM_FILE, get, problems), get(CERT_PASSWORD))
    if get(CERT_PEM_FILE) or get(CERT_KEY_FILE):
        problems.append(f"Set {CERT_PFX_FILE}, or {CERT_PEM_FILE} and {CERT_KEY_FILE}, but not both.")
    return Certificate(_file(CERT_PFX_FILE, get, problems), None, get(CERT_PASSWORD))


def _authority(get: Get, cloud: Cloud, kind: str, problems: list[str]) -> str:
    """Where the token comes from: one tenant at the login host of the cloud, and at no other host."""
    tenant, authority = get(TENANT_ID), get(AUTHORITY)
    if authority is not None:
        parts = urlsplit(authority)
        named = parts.path.strip("/")
        if parts.scheme != "https" or parts.netloc != cloud.login_host or not named or "/" in named:
            problems.append(f"The setting {AUTHORITY} must be https://{cloud.login_host}/<tenant>, or be removed.")
        elif tenant is not None and tenant.lower() != named.lower():
            problems.append(f"The settings {AUTHORITY} and {TENANT_ID} name two tenants: remove one of them.")
        tenant = named
    if not tenant:
        problems.append(
            f"The setting {TENANT_ID} is missing: {kind} belongs to an app of one tenant. "
            f"(For a legacy multi-tenant bot it is {cloud.multi_tenant_login}.)"
        )
        return ""
    if tenant.lower() in _ANY_TENANT:
        tenant = cloud.multi_tenant_login
    if not all(character.isalnum() or character in ".-" for character in tenant):
        problems.append(f"The setting {TENANT_ID} must be the tenant's id or one of its domain names.")
    return f"https://{cloud.login_host}/{tenant}"


def _required(name: str, get: Get, problems: list[str]) -> str:
    value = get(name)
    if value is None:
        problems.append(f"The setting {name} is missing.")
    return value or ""


def _file(name: str, get: Get, problems: list[str]) -> Path:
    path = Path(_required(name, get, problems))
    if get(name) is not None and not path.is_file():
        problems.append(f"The setting {name} names no file that can be read.")
    return path
