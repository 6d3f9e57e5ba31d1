"""The protocol of a delivery, small enough that every interleaving of its workers and faults can be gone through.

Two workers, one piece of work, and messages that are each delivered three times at most before the queue puts them
aside. What the ledger, the queue and the channel do is one step each; between any two steps anything may happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_DELIVERIES = 3
NOBODY, DEAD = -1, -2


class Faults(NamedTuple):
    """How many of each may still happen.

    `lost`: the channel takes it, and the answer does not come. `refused`: it surely does not take it now (429).
    `overlaps`: a living worker stands still until its lease and the lock on its message are over.
    """

    kills: int = 0
    lost: int = 0
    overlaps: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Protocol:
    """Who is to be examined.

    Attributes:
        mode: `park`, `resend` or `update`; or a simpler one that needs no ledger: `send, then complete`, and
            `claim, never resend`.
        letter_first: whether the dead letter is written before the ledger says `parked`.
        copy_first: whether the copy is put on the queue before the message is completed.
    """

    mode: str
    letter_first: bool = True
    copy_first: bool = True


class Worker(NamedTuple):
    """What it does next, and how often the message was delivered that it has the lock of, if it has one."""

    next: str = "receive"
    message: int = NOBODY


class State(NamedTuple):
    """All there is.

    `free` are the messages on the queue, as how often each was delivered; `visible` what the user sees; `reported`
    whether somebody is told of it.
    """

    faults: Faults
    status: str = "none"
    owner: int = NOBODY
    leased: bool = False
    free: tuple[int, ...] = (0,)
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    visible: int = 0
    reported: bool = False

    def working(self, number: int, worker: Worker) -> State:
        """With this worker changed."""
        return self._replace(workers=(worker, self.workers[1]) if number == 0 else (self.workers[0], worker))

    def going(self, number: int, step: str) -> State:
        """With that as this worker's next step."""
        return self.working(number, self.workers[number]._replace(next=step))

    def unlocked(self, number: int) -> State:
        """Without this worker's lock on its message, which others get then."""
        message = self.workers[number].message
        free = self.free if message == NOBODY else tuple(sorted((*self.free, message)))
        return self._replace(free=free).working(number, self.workers[number]._replace(message=NOBODY))

    @property
    def is_over(self) -> bool:
        """Whether nobody has anything more to do."""
        return not self.free and all(worker.next == "receive" for worker in self.workers)

    @property
    def normal(self) -> State:
        """The same, whichever of the workers is called the first."""
        if self.workers[0] <= self.workers[1]:
            return self
        owner = 1 - self.owner if self.owner in (0, 1) else self.owner
        return self._replace(workers=(self.workers[1], self.workers[0]), owner=owner)


def outcomes(protocol: Protocol, faults: Faults) -> tuple[set[tuple[int, bool]], int]:
    """How it can end, as (visible, reported), over all interleavings; and how many states there are.

    Raises AssertionError where it comes to a stop before its end.
    """
    first = State(faults)
    seen, waiting, ends = {first}, [first], set()
    while waiting:
        state = waiting.pop()
        following = {each.normal for each in _steps(state, protocol)}
        assert following or state.is_over, state
        if state.is_over:
            ends.add((state.visible, state.reported))
        waiting += following - seen
        seen |= following
    return ends, len(seen)


def _steps(state: State, protocol: Protocol) -> Iterator[State]:
    for number, worker in enumerate(state.workers):
        if worker.next == "receive":
            yield from _receive(state, number)
            continue
        yield from _work(state, number, protocol)
        faults, owns = state.faults, state.owner == number
        if faults.kills:
            dead = state._replace(faults=faults._replace(kills=faults.kills - 1), owner=DEAD if owns else state.owner)
            yield dead.unlocked(number).going(number, "receive")
        if faults.overlaps:
            still = state._replace(faults=faults._replace(overlaps=faults.overlaps - 1))
            yield still._replace(leased=still.leased and not owns).unlocked(number)
    if state.leased and state.owner == DEAD:
        yield state._replace(leased=False)


def _receive(state: State, number: int) -> Iterator[State]:
    for deliveries in set(state.free):
        rest = list(state.free)
        rest.remove(deliveries)
        taken = state._replace(free=tuple(rest))
        if deliveries == MAX_DELIVERIES:
            # The queue puts it aside, where it is found.
            yield taken._replace(reported=True)
        else:
            yield taken.working(number, Worker("claim", deliveries + 1))


def _work(state: State, number: int, protocol: Protocol) -> Iterator[State]:
    owns = state.owner == number
    over = state._replace(leased=False) if owns else state
    parking = ("letter", "mark") if protocol.letter_first else ("mark", "letter")
    again = "copy" if protocol.copy_first else "complete, then copy"
    match state.workers[number].next:
        case "claim":
            yield _claim(state, number, protocol.mode, parking[0], again)
        case "step":
            yield state._replace(status="sending").going(number, "post") if owns else state.going(number, "complete")
        case "post":
            yield from _post(state, number, protocol.mode, parking[0])
        case "final":
            yield (over._replace(status="sent") if owns else state).going(number, "complete")
        case "letter":
            yield state._replace(reported=True).going(number, "mark" if protocol.letter_first else "complete")
        case "mark":
            marked = over._replace(status="parked") if owns else state
            yield marked.going(number, "complete" if protocol.letter_first else "letter")
        case "release":
            yield (
                over._replace(status="claimed", owner=NOBODY).going(number, again)
                if owns
                else state.going(number, "complete")
            )
        case "copy":
            # The queue drops a copy of a copy: its id is made from the work's.
            copied = state if 0 in state.free else state._replace(free=(0, *state.free))
            yield copied.going(number, "complete" if protocol.copy_first else "receive")
        case "complete":
            yield state.working(number, Worker())
        case "complete, then copy":
            yield state.working(number, Worker("copy"))


def _claim(state: State, number: int, mode: str, parking: str, again: str) -> State:
    if mode == "send, then complete":
        return state.going(number, "post")
    if state.status in ("sent", "parked") or (mode == "claim, never resend" and state.status != "none"):
        return state.going(number, "complete")
    if state.leased:
        return state.going(number, again)  # another worker has it
    claimed = state._replace(owner=number, leased=True)
    if mode == "park" and state.status == "sending":
        return claimed.going(number, parking)
    # An edit can be repeated, and needs no word in the ledger before it.
    return claimed._replace(status="claimed").going(number, "step" if mode in ("park", "resend") else "post")


def _post(state: State, number: int, mode: str, parking: str) -> Iterator[State]:
    faults, forgets = state.faults, mode == "send, then complete"
    # However often the placeholder is edited, there is one message.
    shown = state._replace(visible=1 if mode == "update" else state.visible + 1)
    yield shown.going(number, "complete" if forgets else "final")
    if faults.lost:
        lost = shown._replace(faults=faults._replace(lost=faults.lost - 1))
        following = {"park": parking, "claim, never resend": "final"}.get(mode, "release")
        yield lost.unlocked(number).going(number, "receive") if forgets else lost.going(number, following)
    if faults.refused and mode in ("park", "resend", "update"):
        yield state._replace(faults=faults._replace(refused=faults.refused - 1)).going(number, "release")
