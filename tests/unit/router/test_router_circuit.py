"""A provider that keeps failing is taken out and comes back by itself."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from services.router.circuit import Circuit, CircuitPolicy, State

POLICY = CircuitPolicy()


def fail(circuit: Circuit, now: float = 0.0, count: int = 1) -> Circuit:
    for _ in range(count):
        circuit.failed(POLICY, now, probe=False)
    return circuit


def answer(circuit: Circuit, now: float = 0.0, *, slow: bool = False) -> Circuit:
    circuit.answered(POLICY, now, probe=False, slow=slow)
    return circuit


def opened() -> Circuit:
    return fail(Circuit(), count=3)


def probed(circuit: Circuit, now: float, *, good: bool) -> None:
    assert circuit.admits(now)
    assert circuit.begun()
    if good:
        circuit.answered(POLICY, now, probe=True)
    else:
        circuit.failed(POLICY, now, probe=True)


def test_the_usual_policy_is_the_one_that_is_promised() -> None:
    """ROU-4: three in a row; half of five within 10 s; 5 s doubling to 25 s."""
    assert CircuitPolicy() == CircuitPolicy(3, 5, 10.0, 5.0, 25.0)


def test_it_opens_at_the_third_failure_in_a_row() -> None:
    """ROU-4: so an outage costs three calls."""
    assert fail(Circuit(), count=2).state(0) is State.CLOSED
    assert opened().state(0) is State.OPEN
    assert not opened().admits(4.99)


def test_an_answer_in_between_starts_the_row_anew() -> None:
    """ROU-4."""
    circuit = answer(fail(Circuit(), count=2), slow=True)
    assert answer(fail(circuit, count=1)).state(0) is State.OPEN  # three of five, all the same
    calm = fail(answer(answer(answer(answer(fail(Circuit(), count=2))))), count=2)
    assert calm.state(0) is State.OPEN  # four of eight
    calmer = fail(answer(answer(answer(answer(answer(fail(Circuit(), count=2)))))), count=2)
    assert calmer.state(0) is State.CLOSED  # four of nine


@pytest.mark.parametrize(
    ("weights", "state"),
    [
        ("fgfg", State.CLOSED),  # half, of only four
        ("fgfgg", State.CLOSED),  # two of five
        ("fgfgf", State.OPEN),  # three of five
        ("gggfgffgf", State.CLOSED),  # four of nine
        ("ggfgffgf", State.OPEN),  # four of eight
        ("ssss", State.CLOSED),
        ("sssss", State.OPEN),  # five halves of five
        ("ssssg", State.CLOSED),  # two of five
        ("sfsgs", State.OPEN),  # two and a half of five
    ],
)
def test_it_opens_when_half_of_five_or_more_failed(weights: str, state: State) -> None:
    """ROU-4: a slow first token counts half."""
    circuit = Circuit()
    for weight in weights:
        if weight == "f":
            fail(circuit)
        else:
            answer(circuit, slow=weight == "s")
    assert circuit.state(0) is state


def test_only_the_last_ten_seconds_count() -> None:
    """ROU-4."""
    circuit = Circuit()
    for _ in range(2):
        answer(fail(circuit, 0.0), 0.0)
    assert fail(circuit, 9.99).state(9.99) is State.OPEN
    circuit = Circuit()
    for _ in range(2):
        answer(fail(circuit, 0.0), 0.0)
    assert fail(circuit, 10.0).state(10.0) is State.CLOSED


def test_one_probe_at_a_time_and_two_good_ones_close_it() -> None:
    """ROU-4."""
    circuit = opened()
    assert circuit.state(5) is State.HALF_OPEN
    assert circuit.begun()
    assert not circuit.admits(5)
    assert not circuit.admits(1000)
    circuit.answered(POLICY, 5, probe=True, slow=True)
    assert circuit.state(5) is State.HALF_OPEN
    probed(circuit, 5, good=True)
    assert circuit.state(5) is State.CLOSED
    assert fail(circuit, 5, count=2).state(5) is State.CLOSED  # its past is forgotten


def test_each_bad_probe_doubles_the_rest_up_to_the_longest() -> None:
    """ROU-4."""
    circuit, now, rests = opened(), 0.0, []
    for _ in range(6):
        rests.append(circuit.retry_at - now)
        now = circuit.retry_at
        probed(circuit, now, good=False)
    assert rests == [5, 10, 20, 25, 25, 25]


def test_a_good_probe_before_a_bad_one_does_not_count_later() -> None:
    """ROU-4: two successes, not two in all."""
    circuit = opened()
    probed(circuit, 5, good=True)
    probed(circuit, 5, good=False)
    probed(circuit, 15, good=True)
    assert circuit.state(15) is State.HALF_OPEN


def test_chance_shortens_a_rest_that_nobody_asked_for() -> None:
    """ROU-4: so that replicas do not probe all at once; never by more than a quarter."""
    circuit = fail(Circuit(), count=2)
    circuit.failed(POLICY, 0, probe=False, draw=0.999)
    assert 3.75 <= circuit.retry_at < 3.76
    asked = Circuit()
    asked.failed(POLICY, 0, probe=False, asked_rest=100, draw=0.999)
    assert asked.retry_at == 100


def test_a_probe_that_told_nothing_leaves_its_place() -> None:
    """ROU-4, ROU-8: its caller went away, or had made a mistake."""
    circuit = opened()
    circuit.abandoned(probe=circuit.begun())
    assert circuit.state(5) is State.HALF_OPEN
    assert circuit.admits(5)


def test_retry_after_opens_at_once_and_is_kept_to() -> None:
    """ROU-4."""
    circuit = Circuit()
    circuit.failed(POLICY, 0, probe=False, asked_rest=100)
    assert not circuit.admits(99.9)
    assert circuit.admits(100)
    circuit.failed(POLICY, 50, probe=circuit.begun())
    assert not circuit.admits(99.9)


def test_what_went_out_before_the_opening_changes_nothing_after_it() -> None:
    """ROU-4: neither a late answer nor a late failure speaks of now."""
    circuit = opened()
    answer(circuit, 1)
    fail(circuit, 2, count=9)
    circuit.abandoned(probe=False)
    assert (circuit.state(4.9), circuit.retry_at) == (State.OPEN, 5)


@settings(deadline=None)
@given(
    outage=st.floats(0, 300),
    pauses=st.lists(st.floats(0.1, 1.0), min_size=1, max_size=50),
    draws=st.lists(st.floats(0, 0.999), min_size=1, max_size=20),
    takes=st.floats(0, 1.8),
)
def test_it_is_back_within_thirty_seconds_of_recovering(
    outage: float, pauses: list[float], draws: list[float], takes: float
) -> None:
    """ROU-4: however long the outage was, where requests come each second at least."""
    circuit, now = Circuit(), 0.0
    pause, draw = itertools.cycle(pauses), itertools.cycle(draws)
    while now < outage + 30:
        now += next(pause)
        if not circuit.admits(now):
            continue
        probe, fails = circuit.begun(), now < outage
        now += takes if fails else 0.0
        if fails:
            circuit.failed(POLICY, now, probe=probe, draw=next(draw))
        else:
            circuit.answered(POLICY, now, probe=probe)
    assert circuit.state(now) is State.CLOSED


@dataclass
class Call:
    probe: bool
    begun_closed: bool


class CircuitMachine(RuleBasedStateMachine):
    """Calls begin, overlap and end in any order, time passes; held against what was promised."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = 0.0
        self.probes = 0
        self.since_closed: list[tuple[float, float]] = []
        self.row = 0
        self.asked_until = 0.0

    @rule(seconds=st.floats(0, 70))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls)
    @precondition(lambda self: self.circuit.admits(self.now))
    def begin(self) -> Call:
        closed = self.circuit.opened_at is None
        probe = self.circuit.begun()
        assert probe is not closed
        self.probes += probe
        return Call(probe, closed)

    @rule(call=consumes(calls), slow=st.booleans(), draw=st.floats(0, 0.99))
    def answer(self, call: Call, slow: bool, draw: float) -> None:
        was_open = self.circuit.opened_at is not None
        self.circuit.answered(POLICY, self.now, probe=call.probe, slow=slow, draw=draw)
        self.ended(call, was_open, 0.5 if slow else 0.0)

    @rule(
        call=consumes(calls),
        asked=st.none() | st.floats(0, 100),
        draw=st.floats(0, 0.99),
    )
    def fail(self, call: Call, asked: float | None, draw: float) -> None:
        was_open = self.circuit.opened_at is not None
        self.circuit.failed(POLICY, self.now, probe=call.probe, asked_rest=asked, draw=draw)
        self.asked_until = max(self.asked_until, self.now + (asked or 0.0))
        assert asked is None or self.circuit.opened_at is not None
        self.ended(call, was_open, 1.0, opens=asked is not None)
        if call.probe:
            assert self.circuit.opened_at == self.now

    @rule(call=consumes(calls))
    def abandon(self, call: Call) -> None:
        before = self.circuit.state(self.now), self.circuit.retry_at
        self.circuit.abandoned(probe=call.probe)
        self.probes -= call.probe
        assert (self.circuit.state(self.now), self.circuit.retry_at) == before

    def ended(self, call: Call, was_open: bool, weight: float, *, opens: bool = False) -> None:
        """What was promised, worked out from the whole history instead of a window."""
        self.probes -= call.probe
        if call.probe or was_open:
            if self.circuit.opened_at is None:
                self.since_closed, self.row = [], 0
            return
        self.since_closed.append((self.now, weight))
        self.row = self.row + 1 if weight == 1.0 else 0
        recent = [w for at, w in self.since_closed if at > self.now - POLICY.window_seconds]
        mostly = len(recent) >= 5 and 2 * sum(recent) >= len(recent)
        assert (self.circuit.opened_at is not None) is (opens or self.row >= 3 or mostly)
        if self.circuit.opened_at is not None:
            self.since_closed, self.row = [], 0

    @invariant()
    def at_most_one_probe(self) -> None:
        assert self.probes in (0, 1)
        assert not (self.probes and self.circuit.admits(self.now))

    @invariant()
    def what_was_asked_for_is_kept_and_nothing_rests_longer(self) -> None:
        if self.circuit.opened_at is None:
            return
        longest = max(self.circuit.opened_at + POLICY.longest_rest_seconds, self.asked_until)
        assert self.circuit.retry_at <= longest
        assert self.probes or self.circuit.admits(longest)


TestCircuit = CircuitMachine.TestCase
