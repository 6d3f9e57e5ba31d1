"""State knows what a turn changed, and lays only that over what others wrote."""

import pytest

from agent_core.turn.turn_state import StateScope


def test_nothing_is_changed_by_reading_or_by_writing_the_same() -> None:
    scope = StateScope({"a": {"b": [1]}})
    scope["a"] = {"b": [1]}
    assert scope["a"]["b"] == [1]
    assert not scope.changed


def test_a_change_inside_of_a_value_counts() -> None:
    scope = StateScope({"a": {"b": [1]}})
    scope["a"]["b"].append(2)
    assert scope.changed
    assert scope.laid_over({"a": {"b": [1]}, "other": 1}) == {"a": {"b": [1, 2]}, "other": 1}


def test_only_the_keys_of_this_turn_are_laid_over() -> None:
    scope = StateScope({"mine": 1, "theirs": 1, "gone": 1, "both": 1})
    scope["mine"] = 2
    del scope["gone"]
    scope["both"] = "mine"
    stored = {"mine": 1, "theirs": 2, "gone": 5, "new": 3, "both": "theirs"}
    assert scope.laid_over(stored) == {"mine": 2, "theirs": 2, "new": 3, "both": "mine"}


def test_a_key_that_another_turn_deleted_does_not_come_back() -> None:
    scope = StateScope({"kept": 1, "deleted elsewhere": 1})
    scope["kept"] = 2
    assert scope.laid_over({"kept": 1}) == {"kept": 2}


def test_what_json_cannot_hold_is_refused_where_it_is_set() -> None:
    with pytest.raises(TypeError):
        StateScope()["when"] = object()


def test_what_is_stored_is_no_longer_the_handlers_object() -> None:
    scope = StateScope()
    scope["list"] = [1]
    stored = scope.laid_over({})
    scope["list"].append(2)
    assert stored == {"list": [1]}
