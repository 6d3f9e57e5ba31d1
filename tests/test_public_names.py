"""The public face is a list, and the list is right."""

import ast
from pathlib import Path

import agent_core


def test_the_public_names_are_sorted_and_all_exist() -> None:
    assert agent_core.__all__ == sorted(agent_core.__all__)
    for name in agent_core.__all__:
        assert getattr(agent_core, name).__doc__, name


def test_what_is_loaded_on_first_use_is_what_type_checkers_read() -> None:
    """A name that only one of the two lists had would exist for the type checker alone, or for Python alone."""
    module = ast.parse(Path(agent_core.__file__).read_text())
    (declared,) = [node for node in module.body if isinstance(node, ast.If)]
    imports = [node for node in declared.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == agent_core._ON_FIRST_USE


def test_a_name_that_does_not_exist_is_no_attribute() -> None:
    assert not hasattr(agent_core, "Citations")
