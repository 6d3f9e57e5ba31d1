"""The Microsoft clouds: who signs tokens in each, where the agent's own come from, and where they may go.

The clouds are apart: a token of one proves nothing in another.
https://learn.microsoft.com/azure/bot-service/how-to-deploy-gov-cloud-high
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from agent_core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud. Hosts are names without a scheme; a name stands for itself and everything below it.

    Attributes:
        name: what the setting calls it.
        bot_service_issuer: `iss` of the Bot Service's tokens.
        bot_service_metadata: the OpenID document with the address of its keys.
        login_host: where Entra gives out tokens, and where its keys are.
        entra_metadata: the OpenID document with the address of Entra's keys, those of all tenants.
        entra_issuers: `iss` of Entra's tokens, versions 1 and 2, with `{tenant}` for the tenant's id.
        connector_scope: what the agent asks a token for, to call the Bot Connector.
        multi_tenant_login: the tenant a legacy multi-tenant bot gets its own token from.
        token_service: the base address of the user token service.
        caller_id: the `callerId` of an activity that the Bot Service sent; None where appendix V of the specification
            has no word for it.
        agentic_scope: what an agent with an identity of its own in the tenant asks a token for, to answer as itself.
        exchange_audience: what a managed identity's token is made for, to be exchanged for the app's.
        connector_hosts: the Bot Connector; these may receive the agent's token.
    """

    name: str
    bot_service_issuer: str
    bot_service_metadata: str
    login_host: str
    entra_metadata: str
    entra_issuers: tuple[str, ...]
    connector_scope: str
    multi_tenant_login: str
    token_service: str
    caller_id: str | None
    agentic_scope: str
    exchange_audience: str
    connector_hosts: tuple[str, ...]


PUBLIC = Cloud(
    name="public",
    bot_service_issuer="https://api.botframework.com",
    bot_service_metadata="https://login.botframework.com/v1/.well-known/openidconfiguration",
    login_host="login.microsoftonline.com",
    entra_metadata="https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
    entra_issuers=("https://sts.windows.net/{tenant}/", "https://login.microsoftonline.com/{tenant}/v2.0"),
    connector_scope="https://api.botframework.com/.default",
    multi_tenant_login="botframework.com",
    token_service="https://api.botframework.com",
    caller_id="urn:botframework:azure",
    agentic_scope="5a807f24-c9de-44ee-a3a7-329e88a00ffc/.default",
    exchange_audience="api://AzureADTokenExchange",
    # https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages
    connector_hosts=("botframework.com", "smba.trafficmanager.net", "smba.infra.gcc.teams.microsoft.com"),
)
US_GOVERNMENT = Cloud(
    name="usgov",
    bot_service_issuer="https://api.botframework.us",
    bot_service_metadata="https://login.botframework.azure.us/v1/.well-known/openidconfiguration",
    login_host="login.microsoftonline.us",
    entra_metadata="https://login.microsoftonline.us/common/v2.0/.well-known/openid-configuration",
    entra_issuers=("https://sts.windows.net/{tenant}/", "https://login.microsoftonline.us/{tenant}/v2.0"),
    connector_scope="https://api.botframework.us/.default",
    multi_tenant_login="MicrosoftServices.onmicrosoft.us",
    token_service="https://api.botframework.azure.us",
    caller_id="urn:botframework:azureusgov",
    agentic_scope="6f669b9e-7701-4e2b-b624-82c9207fde26/.default",
    exchange_audience="api://AzureADTokenExchangeUSGov",
    connector_hosts=(
        "botframework.us",
        "botframework.azure.us",
        "smba.infra.gov.teams.microsoft.us",
        "smba.infra.dod.teams.microsoft.us",
    ),
)
CHINA = Cloud(
    name="china",
    bot_service_issuer="https://api.botframework.azure.cn",
    bot_service_metadata="https://login.botframework.azure.cn/v1/.well-known/openidconfiguration",
    login_host="login.partner.microsoftonline.cn",
    entra_metadata="https://login.partner.microsoftonline.cn/common/v2.0/.well-known/openid-configuration",
    entra_issuers=("https://sts.chinacloudapi.cn/{tenant}/", "https://login.partner.microsoftonline.cn/{tenant}/v2.0"),
    connector_scope="https://api.botframework.azure.cn/.default",
    multi_tenant_login="microsoftservices.partner.onmschina.cn",
    token_service="https://token.botframework.azure.cn",
    caller_id=None,
    agentic_scope="bd004c8e-5acf-4c48-8570-4e7d46b2f63b/.default",
    exchange_audience="api://AzureADTokenExchangeChina",
    connector_hosts=("botframework.azure.cn",),
)
CLOUDS = {cloud.name: cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA)}


def token_service_url(url: str, cloud: Cloud) -> str:
    """The address without a slash at its end, if the agent's token may go there.

    Raises:
        SettingsError: it is no https URL of a Bot Service host of that cloud.
    """
    try:
        parts = urlsplit(url)
        host, plain = parts.hostname or "", parts.port in (None, 443) and "@" not in parts.netloc
    except ValueError:
        host, plain = "", False
    known = any(host == name or host.endswith("." + name) for name in cloud.connector_hosts)
    if not (plain and known and url.isascii() and parts.scheme == "https" and not parts.query and not parts.fragment):
        raise SettingsError(
            f"The user token service must be an https URL of the Bot Service ({', '.join(cloud.connector_hosts)}); "
            f"in the cloud {cloud.name!r} it is {cloud.token_service} unless you set another"
        )
    return url.rstrip("/")
