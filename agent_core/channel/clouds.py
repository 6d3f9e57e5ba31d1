"""The Microsoft clouds: who signs tokens in each, where the agent's own come from, and where they may go.

The clouds are apart: a token of one proves nothing in another.
https://learn.microsoft.com/azure/bot-service/how-to-deploy-gov-cloud-high
"""

from __future__ import annotations

from dataclasses import dataclass


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
    connector_hosts=("botframework.azure.cn",),
)
CLOUDS = {cloud.name: cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA)}
