"""Imports point down, and what is heavy or borrowed stays in its place."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "agent_core"

# From the bottom up; modules of one rank do not know each other.
RANKS = (
    ("errors",),
    ("activity", "store"),
    ("turn",),
    ("proactive", "channel"),
    ("routes",),
    ("agent_application",),
    ("hosting",),
    ("local", "cli", "testing"),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}

# What may be imported where, besides the standard library and this package.
ALLOWED = {
    "httpx": {"channel/http_client.py"},
    "httpcore": {"channel/checked_network.py", "channel/http_client.py"},
    "msal": {"channel/msal_client.py", "hosting/managed_identity.py"},
    "requests": {"hosting/managed_identity.py"},
    "cryptography": {"channel/signed_token.py", "channel/signing_keys.py"},
    "azure": {"hosting/*", "local/*"},
    "starlette": {"local/*"},
    "uvicorn": {"local/*"},
    "cronsim": {"local/*", "proactive/*"},
}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def _imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found.append((node.module or "", node.lineno))
    return found


def _layer(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    if str(path) == "__init__.py":
        return  # it only names what is public
    for name, line in _imports(path):
        if not name.startswith("agent_core"):
            continue
        imported = name.split(".")[1] if "." in name else "__init__"
        same_package = imported == _layer(path) and len(path.parts) > 1
        assert same_package or RANK[imported] < RANK[_layer(path)], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    for name, line in _imports(path):
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package == "agent_core":
            continue
        places = ALLOWED.get(package, set())
        assert str(path) in places or f"{path.parts[0]}/*" in places, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_the_hosts_ask_for_the_time_or_the_environment(path: Path) -> None:
    if path.parts[0] in ("hosting", "local", "cli"):
        return
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        asked = ast.unparse(node) if isinstance(node, (ast.Call, ast.Attribute)) else ""
        for forbidden in ("os.environ", "os.getenv", "datetime.now(", "datetime.utcnow(", "time.time("):
            assert not asked.startswith(forbidden), f"{path}:{node.lineno} asks {forbidden}"  # type: ignore[attr-defined]  # calls and attributes have lines


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_begins_with_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse((ROOT / path).read_text()))
