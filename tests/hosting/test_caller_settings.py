"""Who may call, as the settings say it: every form that is understood, and a clear word about each that is not."""

import pytest

from agent_core.errors import SettingsError
from agent_core.hosting.settings import CLIENT_ID, TENANT_ID, Settings

ONE = "99999999-8888-7777-6666-555555555555"
TWO = "aaaaaaaa-8888-7777-6666-555555555555"


def test_nobody_may_call_unless_it_is_set() -> None:
    """P2.8."""
    assert Settings({}).callers == {}
    assert Settings({}).tenants == frozenset()


def test_callers_have_the_hosts_they_are_answered_at() -> None:
    """P2.8, P8.7."""
    text = f" {ONE.upper()} = Parent.contoso.com | agents.fabrikam.example ,{TWO}, *=contoso.com"
    assert Settings({"AGENT_CALLERS": text}).callers == {
        ONE: ("parent.contoso.com", "agents.fabrikam.example"),
        TWO: (),
        "*": ("contoso.com",),
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("parent", 1),
        (f"{ONE},", 2),
        (f"{ONE}=", 1),
        (f"{ONE}=https://contoso.com", 1),
        (f"{ONE}=contoso.com:8443", 1),
        (f"{ONE}=contoso.com/path", 1),
        (f"{ONE}=*.contoso.com", 1),
        (f"{ONE}=com", 1),
        (f"{ONE}=localhost", 1),
        (f"{ONE}=10.0.0.1", 1),
        (f"{ONE}=[::1]", 1),
        (f"{ONE}=contoso.com.", 1),
        (f"{ONE}=contoso.com|", 1),
        (f"{ONE}=a.contoso.com=b.contoso.com", 1),
        (f"{ONE}=contoso.com;{TWO}", 1),
        (f"{ONE},{TWO},{ONE}=contoso.com", 3),
        (f"{{{ONE}}}", 1),
    ],
)
def test_an_entry_that_names_no_caller_is_named(text: str, number: int) -> None:
    settings = Settings({CLIENT_ID: "app", TENANT_ID: ONE, "AGENT_CALLERS": text})
    with pytest.raises(SettingsError) as wrong:
        _ = settings.callers
    assert f"AGENT_CALLERS the entry {number} is wrong" in str(wrong.value)
    assert str(wrong.value) in settings.problems()


def test_tenants_are_the_agents_own_unless_it_is_set() -> None:
    """P2.7."""
    assert Settings({TENANT_ID: ONE.upper()}).tenants == {ONE}
    assert Settings({TENANT_ID: "contoso.onmicrosoft.com"}).tenants == frozenset()
    assert Settings({TENANT_ID: ONE, "AGENT_TENANTS": f"{TWO.upper()} , {ONE}"}).tenants == {ONE, TWO}
    assert Settings({TENANT_ID: ONE, "AGENT_TENANTS": "*"}).tenants == {"*"}


@pytest.mark.parametrize("entry", ["contoso.onmicrosoft.com", "common", "**", "", ONE[:-1]])
def test_an_entry_that_names_no_tenant_is_named(entry: str) -> None:
    settings = Settings({CLIENT_ID: "app", "AGENT_TENANTS": f"{ONE},{entry}"})
    with pytest.raises(SettingsError) as wrong:
        _ = settings.tenants
    assert "AGENT_TENANTS the entry 2 is wrong" in str(wrong.value)
    assert str(wrong.value) in settings.problems(), "though no agent may call yet"


def test_callers_without_a_tenant_are_a_problem() -> None:
    """The agent's tenant may be given by its name, which no token has."""
    named = {CLIENT_ID: "app", TENANT_ID: "contoso.onmicrosoft.com", "AGENT_CALLERS": ONE}
    assert any("AGENT_TENANTS" in problem for problem in Settings(named).problems())
    assert not any("AGENT_TENANTS" in problem for problem in Settings({**named, "AGENT_TENANTS": "*"}).problems())
