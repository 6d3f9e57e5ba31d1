"""`conversations import`: moves in what an Agents SDK stored, from its Cosmos DB container or from a file."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent_core.activity.json_text import JsonObject, parse_object
from agent_core.errors import BadActivity, NotAllowed, SettingsError, StoreUnavailable
from agent_core.hosting import clock
from agent_core.hosting.azure_services import AzureServices
from agent_core.hosting.settings import CLIENT_ID
from agent_core.proactive.conversation import Conversation
from agent_core.proactive.moving_in import Moved, MovingIn, Step
from agent_core.store.document_rules import MAX_LIMIT
from agent_core.store.document_store import CONVERSATIONS, DocumentStore, id_for

# How many documents are imported at once: enough to hide the round trips, few enough to be no burden to a live agent.
AT_ONCE = 10
# How long one can go on with an import that was interrupted, in seconds.
CHECKPOINT_TTL = 30 * 24 * 3600

STEPS: tuple[Step, ...] = ("conversations", "state")

# Gives the documents from a position on, and the position after them, None at the end. What is no document comes as
# what became of it.
Page = Callable[[str | None], Awaitable[tuple[Sequence[JsonObject | Moved], str | None]]]


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `conversations`."""
    parser = actions.add_parser(
        "import",
        help="move in the conversations and the state that another Agents SDK stored",
        description="Imports what the Agents SDKs for .NET, JavaScript and Python stored in Cosmos DB. What this agent "
        "knows better by now stays; importing again changes nothing, and the SDK's documents are only read.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from-container", metavar="NAME", help="the SDK's container, in this agent's account")
    source.add_argument("--from-file", metavar="PATH", type=Path, help="JSON lines, each one of the SDK's documents")
    parser.add_argument("--database", metavar="NAME", help="the container's database, if it is not the agent's own")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--page-size", type=_page_size, default=100, metavar="N", help="documents read at a time (100)")
    parser.add_argument("--resume", action="store_true", help="go on where an import from there was interrupted")
    parser.add_argument(
        "--trust-service-urls",
        action="store_true",
        help="count the stored service URLs as verified, where they are the Bot Connector's. Without it, nothing is "
        "sent to a conversation before its user has written again",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line: each document, then the summary")
    parser.set_defaults(run=run)


def _page_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"a page has 1 to {MAX_LIMIT} documents")
    return int(text)


async def run(options: argparse.Namespace, services: AzureServices) -> None:
    """Import, the conversations before their state, and print what became of each document."""
    app_id = services.settings.app_id
    if app_id is None:
        raise SettingsError(f"Set {CLIENT_ID}: only what was stored for that app is imported")

    def is_trusted(conversation: Conversation) -> bool:
        if not options.trust_service_urls:
            return False
        try:
            services.guard.check_service_url(conversation.reference.service_url, conversation.identity)
        except NotAllowed:
            return False
        return True

    moving_in = MovingIn(services.store, app_id=app_id, now=clock.now, is_trusted=is_trusted, dry_run=options.dry_run)
    checkpoint = _Checkpoint(services.store, _name_of_source(options))
    progress = await checkpoint.load() if options.resume else _Progress()
    try:
        async with _opened(options, services) as page:
            while progress.steps_left:
                items, after = await page(progress.after)
                for moved in await _take_all(moving_in, items, progress):
                    _print(moved, options.json)
                progress.go_on(after)
                if not options.dry_run:
                    await checkpoint.save(progress)
                print(f"{progress.read} documents read", file=sys.stderr)
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}. What is imported stays; go on with --resume") from error
    _summarise(progress, options)


@dataclass(slots=True)
class _Progress:
    """How far an import has come.

    Attributes:
        after: where the next page begins, None at the beginning of a step.
        read: documents seen in the first step; the second reads them again.
        states: how many of them are state, and so work for the second step.
        counts: how often there was each outcome; skipped ones by their reason.
        unverified: conversations imported to which nothing is sent yet.
    """

    steps_left: list[Step] = field(default_factory=lambda: list(STEPS))
    after: str | None = None
    read: int = 0
    states: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    unverified: int = 0

    @classmethod
    def from_dict(cls, kept: JsonObject) -> _Progress:
        """What `to_dict` gave."""
        return cls(**kept | {"counts": Counter(kept["counts"])})

    def to_dict(self) -> JsonObject:
        """As JSON."""
        return {
            "steps_left": self.steps_left,
            "after": self.after,
            "read": self.read,
            "states": self.states,
            "counts": dict(self.counts),
            "unverified": self.unverified,
        }

    def note(self, moved: Moved | None) -> None:
        """One document was taken in this step, or left to the next one."""
        first = len(self.steps_left) == len(STEPS)
        self.read += first
        self.states += first and moved is None
        if moved is not None:
            self.counts[moved.reason or moved.outcome] += 1
            self.unverified += moved.kind == "conversation" and moved.outcome == "imported" and not moved.verified

    def go_on(self, after: str | None) -> None:
        """A page is done."""
        self.after = after
        if after is None:
            # Where there is no state, there is nothing to read a second time for.
            self.steps_left = self.steps_left[1:] if self.states else []


class _Checkpoint:
    """Where an import stands, kept in the agent's own store so that any machine can go on with it.

    It is for speed alone: what was imported is recognised when it is met again. Of two imports of one source at once
    the later page stays.
    """

    def __init__(self, store: DocumentStore, source: str) -> None:
        self._store = store
        self._id = id_for("import", source)

    async def load(self) -> _Progress:
        document = await self._store.read(CONVERSATIONS, "import", self._id)
        return _Progress.from_dict(document.body["progress"]) if document is not None else _Progress()

    async def save(self, progress: _Progress) -> None:
        if not progress.steps_left:
            await self._store.delete(CONVERSATIONS, "import", self._id)
            return
        await self._store.upsert(
            CONVERSATIONS,
            {
                "id": self._id,
                CONVERSATIONS.partition_key: "import",
                "kind": "import",
                "progress": progress.to_dict(),
                "ttl": CHECKPOINT_TTL,
            },
        )


async def _take_all(moving_in: MovingIn, items: Sequence[JsonObject | Moved], progress: _Progress) -> list[Moved]:
    """Import a page. If one document fails, the others are still done; all of them can be taken again."""
    step = progress.steps_left[0]
    results: list[Moved | BaseException | None] = []
    for first in range(0, len(items), AT_ONCE):
        results += await asyncio.gather(
            *(_take(moving_in, item, step) for item in items[first : first + AT_ONCE]), return_exceptions=True
        )
    done = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        progress.note(result)
        if result is not None:
            done.append(result)
    return done


async def _take(moving_in: MovingIn, item: JsonObject | Moved, step: Step) -> Moved | None:
    if isinstance(item, Moved):
        return item if step == "conversations" else None
    return await moving_in.take(item, step)


def _name_of_source(options: argparse.Namespace) -> str:
    if options.from_file is not None:
        return f"file {options.from_file.resolve()}"
    return f"container {options.database or ''}/{options.from_container}"


@asynccontextmanager
async def _opened(options: argparse.Namespace, services: AzureServices) -> AsyncIterator[Page]:
    size: int = options.page_size
    if options.from_file is not None:
        yield _pages_of_file(options.from_file, size)
        return
    store = services.open_foreign_cosmos(options.database)
    try:
        yield lambda after: store.feed(options.from_container, size, after)
    finally:
        await store.close()


def _pages_of_file(path: Path, size: int) -> Page:
    """Pages of JSON lines; a position is that of a byte."""

    def read(after: str | None) -> tuple[list[JsonObject | Moved], str | None]:
        items: list[JsonObject | Moved] = []
        with path.open("rb") as file:
            file.seek(int(after or 0))
            for _ in range(size):
                where = file.tell()
                line = file.readline()
                if not line:
                    return items, None
                if not line.strip():
                    continue
                try:
                    items.append(parse_object(line.strip()))
                except BadActivity as error:
                    items.append(Moved(f"{path.name}, byte {where}", "document", "skipped", "no-json", str(error)))
            return items, str(file.tell())

    async def page(after: str | None) -> tuple[Sequence[JsonObject | Moved], str | None]:
        try:
            return await asyncio.to_thread(read, after)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error

    return page


def _print(moved: Moved, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value for name, value in asdict(moved).items() if value != ""}, ensure_ascii=False))
        return
    said = f"  {moved.reason}: {moved.explanation}" if moved.reason else ""
    print(f"{_SAID[moved.outcome]:<13} {moved.kind:<18} {moved.key!r}{said}")


_SAID = {"imported": "imported", "there": "there already", "skipped": "skipped"}


def _summarise(progress: _Progress, options: argparse.Namespace) -> None:
    counts = progress.counts
    skipped = {reason: number for reason, number in sorted(counts.items()) if reason not in ("imported", "there")}
    if options.json:
        summary = {
            "dryRun": options.dry_run,
            "read": progress.read,
            "imported": counts["imported"],
            "there": counts["there"],
            "skipped": skipped,
            "unverified": progress.unverified,
        }
        print(json.dumps({"summary": summary}))
        return
    reasons = f" ({', '.join(f'{reason} {number}' for reason, number in skipped.items())})" if skipped else ""
    print(
        f"{progress.read} documents: {counts['imported']} {'would be ' * options.dry_run}imported, "
        f"{counts['there']} there already, {sum(skipped.values())} skipped{reasons}."
    )
    if progress.unverified:
        print(
            f"Of the conversations imported, {progress.unverified} are unverified: nothing is sent there before the "
            "user writes again. If you vouch for what the SDK stored, import with --trust-service-urls."
        )
