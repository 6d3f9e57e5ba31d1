"""What was said in each local chat, kept in one file, with a number on every change so that a page can catch up."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from agent_core.errors import AgentError
from agent_core.store.sqlite_file import SqliteFile

T = TypeVar("T")
JsonObject = dict[str, Any]
Author = Literal["user", "agent"]
# The user's activities are pending, delivered or failed; the agent's are sent, streaming or interrupted; both can
# be deleted.
Status = Literal["pending", "delivered", "failed", "sent", "streaming", "interrupted", "deleted"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, created TEXT NOT NULL, title TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS activities (
    conversation TEXT NOT NULL, id TEXT NOT NULL, position INTEGER NOT NULL, sequence INTEGER NOT NULL UNIQUE,
    author TEXT NOT NULL, status TEXT NOT NULL, edited INTEGER NOT NULL, notice TEXT, activity TEXT NOT NULL,
    PRIMARY KEY (conversation, id));
CREATE INDEX IF NOT EXISTS activities_by_change ON activities (conversation, sequence);
"""
_COLUMNS = "conversation, id, position, sequence, author, status, edited, notice, activity"
_TITLE_LENGTH = 80
_LISTED = 200
_PAGE = 200


class Refusal(AgentError):
    """A request that the channel answers with an error: its HTTP status, and the error's code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Entry:
    """One activity of a conversation in its latest version.

    Attributes:
        position: where it stands in the transcript: the sequence number of its first version.
        sequence: the number of its latest change; numbers only grow, over all conversations of the file.
        notice: why it was not delivered, for the reader.
    """

    conversation: str
    id: str
    position: int
    sequence: int
    author: Author
    status: Status
    edited: bool
    notice: str | None
    activity: JsonObject

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Entry:
        conversation, entry_id, position, sequence, author, status, edited, notice, activity = row
        return cls(
            conversation, entry_id, position, sequence, author, status, bool(edited), notice, json.loads(activity)
        )

    def as_json(self) -> JsonObject:
        """What the page gets."""
        return {
            "id": self.id,
            "position": self.position,
            "sequence": self.sequence,
            "author": self.author,
            "status": self.status,
            "edited": self.edited,
            "notice": self.notice,
            "activity": self.activity,
        }


class Transcript:
    """The conversations of a local channel. One process at a time may use a file.

    A deleted activity leaves an empty entry behind, so that whoever reads the changes learns of it and numbers never
    come back. What an earlier process left half done, a delivery or a stream, is marked so before anything else is
    read.

    Args:
        on_change: called with the conversation's id after every stored change.
    """

    def __init__(self, database: Path, *, now: Callable[[], datetime], on_change: Callable[[str], None]) -> None:
        self._file = SqliteFile(database, _SCHEMA)
        self._now = now
        self._on_change = on_change
        self._recovered = False
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await self._file.close()

    async def create_conversation(self, conversation: str) -> None:
        created = self._now().isoformat()
        await self._run(
            lambda connection: connection.execute(
                "INSERT INTO conversations (id, created) VALUES (?, ?)", (conversation, created)
            )
        )
        self._on_change(conversation)

    async def conversations(self) -> list[JsonObject]:
        """The last 200 conversations as `{id, created, title, latest}`, the one with the latest change first.

        `latest` is the number of that change, 0 while there is none; `title` is the user's first text.
        """

        def work(connection: sqlite3.Connection) -> list[JsonObject]:
            rows = connection.execute(
                "SELECT id, created, title, coalesce((SELECT max(sequence) FROM activities "
                "WHERE conversation = conversations.id), 0) AS latest "
                "FROM conversations ORDER BY latest DESC, created DESC LIMIT ?",
                (_LISTED,),
            )
            return [{"id": row[0], "created": row[1], "title": row[2], "latest": row[3]} for row in rows]

        return await self._run(work)

    async def require(self, conversation: str) -> None:
        """Raises:
        Refusal: there is no such conversation (404).
        """
        await self._run(lambda connection: _conversation_must_exist(connection, conversation))

    async def add(
        self, conversation: str, activity: JsonObject, *, author: Author, status: Status, activity_id: str | None = None
    ) -> Entry:
        """Append an activity, under a new id unless one is given; the stored one carries it and the conversation's.

        Raises:
            Refusal: there is no such conversation (404).
        """

        def work(connection: sqlite3.Connection) -> Entry:
            _conversation_must_exist(connection, conversation)
            return _insert(connection, conversation, activity_id, activity, author, status)

        return await self._write(conversation, work)

    async def entry(self, conversation: str, activity_id: str) -> Entry:
        """Raises:
        Refusal: no such conversation, or no such activity in it (404).
        """
        return await self._run(lambda connection: _find(connection, conversation, activity_id))

    async def edit(
        self,
        conversation: str,
        activity_id: str,
        change: Callable[[JsonObject], JsonObject | None],
        *,
        edited: bool = True,
    ) -> Entry:
        """Replace one of the agent's activities by `change(its latest version)`; None leaves it as it is.

        `edited` says whether the reader is told that the agent changed its words.

        Raises:
            Refusal: it is not there (404), or the user's own (403).
        """

        def work(connection: sqlite3.Connection) -> Entry:
            entry = _find_of_agent(connection, conversation, activity_id)
            changed = change(entry.activity)
            if changed is None:
                return entry
            return _replace(connection, entry, activity=changed, status="sent", edited=edited)

        return await self._write(conversation, work)

    async def delete(self, conversation: str, activity_id: str) -> None:
        """Take one of the agent's activities away.

        Raises:
            Refusal: it is not there (404), or the user's own (403).
        """

        def work(connection: sqlite3.Connection) -> Entry:
            entry = _find_of_agent(connection, conversation, activity_id)
            return _replace(connection, entry, activity={"type": entry.activity.get("type")}, status="deleted")

        await self._write(conversation, work)

    async def stream(self, conversation: str, activity: JsonObject, stream_id: str | None, number: int | None) -> Entry:
        """Store a chunk of a streamed message (`number` says which) or its final message (None).

        Without an id, or with one never seen, a stream begins; every later chunk replaces the one before.

        Raises:
            Refusal: the stream is over (403), a chunk is older than what is stored (202, as Teams answers), or the
                conversation does not exist (404).
        """
        status: Status = "sent" if number is None else "streaming"

        def work(connection: sqlite3.Connection) -> Entry:
            _conversation_must_exist(connection, conversation)
            begun = _select(connection, conversation, stream_id) if stream_id is not None else None
            if begun is None:
                return _insert(connection, conversation, stream_id, activity, "agent", status)
            if begun.status not in ("streaming", "interrupted"):
                raise Refusal(403, "ContentStreamNotAllowed", "The content stream is already completed.")
            if number is not None and number <= stream_number(begun.activity):
                raise Refusal(
                    202, "ContentStreamSequenceOrderPreConditionFailed", "A later part of the stream came before."
                )
            return _replace(connection, begun, activity=activity, status=status)

        return await self._write(conversation, work)

    async def mark(
        self, conversation: str, activity_id: str, status: Status, notice: str | None = None, *, was: Status
    ) -> Entry:
        """Note how the delivery of one of the user's activities stands.

        Raises:
            Refusal: it is not there (404), or its status is not `was` (409).
        """

        def work(connection: sqlite3.Connection) -> Entry:
            entry = _find(connection, conversation, activity_id)
            if entry.status != was:
                raise Refusal(409, "Conflict", f"The activity is {entry.status}, not {was}.")
            return _replace(connection, entry, status=status, notice=notice)

        return await self._write(conversation, work)

    async def changes(self, conversation: str, after: int) -> list[Entry]:
        """The entries changed after that sequence number, at most 200, oldest change first; empty if there are none.

        Raises:
            Refusal: there is no such conversation (404).
        """

        def work(connection: sqlite3.Connection) -> list[Entry]:
            _conversation_must_exist(connection, conversation)
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM activities WHERE conversation = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (conversation, after, _PAGE),
            )
            return [Entry.from_row(row) for row in rows]

        return await self._run(work)

    async def _write(self, conversation: str, work: Callable[[sqlite3.Connection], Entry]) -> Entry:
        entry = await self._run(work)
        self._on_change(conversation)
        return entry

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise Refusal(503, "ServiceError", "The local channel is closed.")
        if not self._recovered:
            # Set before the first await: the file works its jobs off in order, so this one comes before all others.
            self._recovered = True
            try:
                await self._file.run(_recover)
            except BaseException:
                self._recovered = False
                raise
        return await self._file.run(work)


def stream_number(activity: JsonObject) -> int:
    """The `streamSequence` of a stored chunk; 0 if it has none."""
    for entity in activity.get("entities") or ():
        if isinstance(entity, dict) and isinstance(entity.get("streamSequence"), int):
            return int(entity["streamSequence"])
    return 0


def _recover(connection: sqlite3.Connection) -> None:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM activities WHERE status IN ('pending', 'streaming') ORDER BY position"
    )
    for entry in [Entry.from_row(row) for row in rows]:
        if entry.status == "pending":
            _replace(connection, entry, status="failed", notice="The channel stopped before the agent had answered.")
        else:
            _replace(connection, entry, status="interrupted")


def _conversation_must_exist(connection: sqlite3.Connection, conversation: str) -> None:
    if connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone() is None:
        raise Refusal(404, "ConversationNotFound", "There is no such conversation in this local channel.")


def _select(connection: sqlite3.Connection, conversation: str, activity_id: str) -> Entry | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM activities WHERE conversation = ? AND id = ?", (conversation, activity_id)
    ).fetchone()
    return None if row is None else Entry.from_row(row)


def _find(connection: sqlite3.Connection, conversation: str, activity_id: str) -> Entry:
    _conversation_must_exist(connection, conversation)
    entry = _select(connection, conversation, activity_id)
    if entry is None or entry.status == "deleted":
        raise Refusal(404, "ActivityNotFoundInConversation", "There is no such activity in this conversation.")
    return entry


def _find_of_agent(connection: sqlite3.Connection, conversation: str, activity_id: str) -> Entry:
    entry = _find(connection, conversation, activity_id)
    if entry.author != "agent":
        raise Refusal(403, "NotEnoughPermissions", "An agent can only change its own activities.")
    return entry


def _next_sequence(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(sequence), 0) + 1 FROM activities").fetchone()[0])


def _insert(
    connection: sqlite3.Connection,
    conversation: str,
    activity_id: str | None,
    activity: JsonObject,
    author: Author,
    status: Status,
) -> Entry:
    sequence = _next_sequence(connection)
    activity_id = activity_id or f"{conversation}|{sequence:07d}"
    stored = {**activity, "id": activity_id, "conversation": {"id": conversation}}
    entry = Entry(conversation, activity_id, sequence, sequence, author, status, False, None, stored)
    connection.execute(
        f"INSERT INTO activities ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (conversation, activity_id, sequence, sequence, author, status, False, None, json.dumps(stored)),
    )
    text = activity.get("text")
    if author == "user" and isinstance(text, str) and text.strip():
        # Escaped and back, because a lone surrogate is JSON but nothing SQLite can hold.
        title = " ".join(text.split())[:_TITLE_LENGTH].encode("utf-8", "replace").decode("utf-8")
        connection.execute("UPDATE conversations SET title = ? WHERE id = ? AND title = ''", (title, conversation))
    return entry


def _replace(
    connection: sqlite3.Connection,
    entry: Entry,
    *,
    status: Status,
    activity: JsonObject | None = None,
    edited: bool = False,
    notice: str | None = None,
) -> Entry:
    stored = {**(activity or entry.activity), "id": entry.id, "conversation": {"id": entry.conversation}}
    sequence = _next_sequence(connection)
    edited = entry.edited or edited
    connection.execute(
        "UPDATE activities SET sequence = ?, status = ?, edited = ?, notice = ?, activity = ? "
        "WHERE conversation = ? AND id = ?",
        (sequence, status, edited, notice, json.dumps(stored), entry.conversation, entry.id),
    )
    return Entry(entry.conversation, entry.id, entry.position, sequence, entry.author, status, edited, notice, stored)
