"""The public face is a list, and the list is right."""

import agent_core


def test_the_public_names_are_sorted_and_all_exist() -> None:
    assert agent_core.__all__ == sorted(agent_core.__all__)
    for name in agent_core.__all__:
        assert getattr(agent_core, name).__doc__, name
