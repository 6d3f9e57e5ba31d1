"""Every interleaving of two workers, three deliveries and the faults: what each protocol can come to, and no other."""

import pytest

from tests.faults.protocol_model import Faults, Protocol, outcomes

DONE, DOUBLE, SILENCE = (1, False), (2, False), (0, False)
REPORTED, DONE_AND_REPORTED = (0, True), (1, True)
KILL, LOST, OVERLAP, REFUSED = Faults(kills=1), Faults(lost=1), Faults(overlaps=1), Faults(refused=1)
TWO = [Faults(2), Faults(1, 1), Faults(1, 0, 1), Faults(1, 0, 0, 1), Faults(0, 1, 1), Faults(0, 0, 1, 1)]

WORST = Faults(kills=2, lost=1, overlaps=1)


@pytest.mark.parametrize(
    ("mode", "faults", "expected"),
    [
        ("send, then complete", KILL, {DONE, DOUBLE}),
        ("send, then complete", LOST, {DONE, DOUBLE}),
        ("send, then complete", OVERLAP, {DONE, DOUBLE}),
        ("claim, never resend", KILL, {DONE, SILENCE}),
        ("claim, never resend", OVERLAP, {DONE}),
        ("resend", KILL, {DONE, DOUBLE}),
        ("resend", LOST, {DONE, DOUBLE}),
        ("resend", OVERLAP, {DONE, DOUBLE}),
        ("resend", REFUSED, {DONE}),
        ("park", KILL, {DONE, REPORTED, DONE_AND_REPORTED}),
        ("park", LOST, {DONE, DONE_AND_REPORTED}),
        ("park", OVERLAP, {DONE, DONE_AND_REPORTED}),
        ("park", REFUSED, {DONE}),
        ("update", KILL, {DONE}),
        ("update", LOST, {DONE}),
        ("update", OVERLAP, {DONE}),
        ("update", REFUSED, {DONE}),
    ],
)
def test_with_one_fault_it_comes_to_this_and_to_nothing_else(
    mode: str, faults: Faults, expected: set[tuple[int, bool]]
) -> None:
    assert outcomes(Protocol(mode), Faults())[0] == {DONE}
    assert outcomes(Protocol(mode), faults)[0] == expected


@pytest.mark.parametrize("faults", TWO)
def test_with_two_faults_the_promise_of_each_mode_holds(faults: Faults) -> None:
    """`update`: one message. `park`: at most one, and none only with a report. `resend`: one at least."""
    assert outcomes(Protocol("update"), faults)[0] == {DONE}
    assert outcomes(Protocol("park"), faults)[0] <= {DONE, REPORTED, DONE_AND_REPORTED}
    assert all(visible >= 1 for visible, _ in outcomes(Protocol("resend"), faults)[0])


def test_whoever_says_parked_before_the_dead_letter_is_written_loses_it_silently() -> None:
    assert SILENCE in outcomes(Protocol("park", letter_first=False), Faults(2))[0]


def test_whoever_completes_before_the_copy_is_on_the_queue_loses_it_silently() -> None:
    assert SILENCE in outcomes(Protocol("resend", copy_first=False), Faults(kills=1, refused=1))[0]


@pytest.mark.parametrize("mode", ["park", "resend", "update"])
def test_with_two_kills_a_lost_answer_and_an_overlap_nothing_is_silently_lost(mode: str) -> None:
    ends, states = outcomes(Protocol(mode), WORST)
    assert SILENCE not in ends
    assert mode == "resend" or max(visible for visible, _ in ends) == 1
    assert states > 10_000
