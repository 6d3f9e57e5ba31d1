"""One SQLite database that several processes share: WAL, one thread, one connection, short transactions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agent_core.errors import StoreUnavailable

T = TypeVar("T")


class SqliteFile:
    """A database file, opened on first use in a thread of its own.

    Survives the death of the process at any moment: a transaction is in the file as a whole or not at all. Several
    processes may use the file at once; a writer waits up to five seconds for another.
    """

    def __init__(self, path: Path, schema: str) -> None:
        """`schema` is a script of `CREATE … IF NOT EXISTS` statements, run when the file is opened."""
        self.path = path
        self._schema = schema
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        """Call `work(connection)` inside one transaction: committed if it returns, rolled back if it raises.

        One that only reads waits for no writer, and holds none up.

        Raises:
            StoreUnavailable: the file cannot be opened, is damaged, or was locked for longer than five seconds.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.path.stem)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work, writes)

    def _transaction(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result
        except sqlite3.Error as error:
            raise StoreUnavailable(f"The local database {self.path} could not be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
            try:
                _enter_wal(connection)
                # In WAL mode NORMAL loses nothing when a process dies, and spares a disk flush per transaction.
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(self._schema)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    async def close(self) -> None:
        """Close the connection and end the thread; the next `run` opens both again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _enter_wal(connection: sqlite3.Connection) -> None:
    # Of processes that switch a new file to WAL at once, SQLite refuses all but one without waiting, lest they wait for
    # each other; at the next try they wait for that one.
    for tries_left in reversed(range(10)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if not tries_left:
                raise
        else:
            return
