"""A store that fails when told to, around a real one: before the write, or after it with the answer lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from agent_core.errors import StoreUnavailable
from agent_core.store.document_store import DocumentStore

Fault = Literal["refused", "lost", "once more"]


class FaultyStore:
    """Passes every call on, notes its name, and fails the calls that `faults` names by their number, from 1.

    `refused`: nothing was done. `lost`: it was done, and the answer did not come. `once more`: a client below did it,
    lost the answer and sent it again, so that a create meets its own document.
    """

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self.calls: list[str] = []
        self.faults: dict[int, Fault] = {}
        self.down = False

    def as_store(self) -> DocumentStore:
        return cast(DocumentStore, self)

    def forget(self) -> None:
        """Count anew."""
        self.calls.clear()
        self.faults.clear()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == "close":
                return await method(*args, **kwargs)
            self.calls.append(name)
            fault = self.faults.get(len(self.calls))
            if self.down or fault == "refused":
                raise StoreUnavailable("told to")
            answer = await method(*args, **kwargs)
            if fault == "lost":
                raise StoreUnavailable("told to")
            return await method(*args, **kwargs) if fault == "once more" else answer

        return call
