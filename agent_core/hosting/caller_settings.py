"""Who may call the agent, as two settings say it."""

from __future__ import annotations

import re

from agent_core.errors import SettingsError

TENANTS = "AGENT_TENANTS"
CALLERS = "AGENT_CALLERS"
ANY = "*"
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Two labels at least, and the last one no number: not all of `.com`, no wildcard, no address.
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])", re.ASCII)


def parse_tenants(text: str | None, own: str | None) -> frozenset[str]:
    """The tenants whose agents may call: those that the setting names, else the agent's own if it is given by its id.

    Raises:
        SettingsError: an entry is neither a tenant's id nor `*`.
    """
    if text is None:
        return frozenset({own.lower()} if own and _GUID.fullmatch(own.lower()) else ())
    entries = [each.strip().lower() for each in text.split(",")]
    for number, entry in enumerate(entries, 1):
        if entry != ANY and not _GUID.fullmatch(entry):
            raise SettingsError(
                f"In the setting {TENANTS} the entry {number} is wrong: "
                "give the ids of tenants with commas between them, or *"
            )
    return frozenset(entries)


def parse_callers(text: str | None) -> dict[str, tuple[str, ...]]:
    """The agents that may call, by app id or `*`, and the hosts where each may be answered.

    `appid=host|host, appid2, *=host`: a host is a name and stands for all below it; an agent without one can call
    with the delivery mode `expectReplies` only.

    Raises:
        SettingsError: an entry is not of that form, or names an agent again.
    """
    callers: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(text.split(",") if text else [], 1):
        caller, equals, names = (part.strip() for part in entry.strip().lower().partition("="))
        hosts = tuple(name.strip() for name in names.split("|")) if equals else ()
        if caller != ANY and not _GUID.fullmatch(caller):
            wrong = "an entry begins with the app id of an agent, or *"
        elif not all(_HOST.fullmatch(host) for host in hosts):
            wrong = "hosts are names such as agent.contoso.com with | between them, without scheme, port or wildcard"
        elif caller in callers:
            wrong = "each agent has one entry"
        else:
            callers[caller] = hosts
            continue
        raise SettingsError(f"In the setting {CALLERS} the entry {number} is wrong: {wrong}")
    return callers
