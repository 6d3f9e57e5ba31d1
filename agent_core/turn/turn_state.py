"""What handlers remember: three scopes of a turn, and which of their keys it changed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_core.turn.turn_context import TurnContext


class StateScope(MutableMapping[str, Any]):
    """A dict of JSON values that knows what changed since it was loaded, changes inside of a value included."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})
        self._loaded = {key: _text(value) for key, value in self._values.items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """Raises TypeError for what JSON cannot hold, here where the mistake is and not when the turn is saved."""
        _text(value)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def changed(self) -> bool:
        """Whether there is anything to save."""
        return {key: _text(value) for key, value in self._values.items()} != self._loaded

    def forget_changes(self) -> None:
        """Make it again what was loaded."""
        self._values = {key: json.loads(text) for key, text in self._loaded.items()}

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """What changed, by key: `from` the value that was loaded, `to` the new one; absent where the key was or is."""
        keys = [key for key in {**self._loaded, **self._values} if self._loaded.get(key) != self._now(key)]
        return {
            key: {
                **({"from": json.loads(self._loaded[key])} if key in self._loaded else {}),
                **({"to": self._values[key]} if key in self._values else {}),
            }
            for key in keys
        }

    def _now(self, key: str) -> str | None:
        return _text(self._values[key]) if key in self._values else None

    def laid_over(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What to store: the keys this turn changed or deleted, over what is stored by now; its other keys stay."""
        merged = {key: value for key, value in stored.items() if key not in self._loaded or key in self._values}
        for key, value in self._values.items():
            text = _text(value)
            if text != self._loaded.get(key):
                merged[key] = json.loads(text)
        return merged


class TurnState:
    """The state a handler is given.

    Attributes:
        conversation: shared by everybody in the conversation; saved after the turn if it changed and did not fail.
        user: follows the user through all conversations on the channel; saved likewise.
        temp: for this turn only; holds anything.
    """

    def __init__(self, conversation: StateScope | None = None, user: StateScope | None = None) -> None:
        self.conversation = StateScope() if conversation is None else conversation
        self.user = StateScope() if user is None else user
        self.temp: dict[str, Any] = {}

    def forget_changes(self) -> None:
        """What the handler did to the state so far shall not be saved."""
        self.conversation.forget_changes()
        self.user.forget_changes()


# What answers a turn; what it returns is the answer to an invoke activity, and ignored for all others.
Handler = Callable[["TurnContext", TurnState], Awaitable[Any]]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)
