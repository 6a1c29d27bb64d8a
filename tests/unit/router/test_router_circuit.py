"""A model that keeps failing is taken out and comes back by itself."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.circuit import (
    Circuit,
    CircuitPolicy,
    State,
    abandoned,
    admits,
    answered,
    begun,
    failed,
    state,
)

POLICY = CircuitPolicy(failures_to_open=3, rest_seconds=10, longest_rest_seconds=35)


def after_failures(count: int, now: float = 0.0) -> Circuit:
    circuit = Circuit()
    for _ in range(count):
        circuit = failed(circuit, POLICY, now, probe=False)
    return circuit


def test_it_opens_at_the_failure_that_is_one_too_many() -> None:
    """ROU-4."""
    assert state(after_failures(2), 0) is State.CLOSED
    assert state(after_failures(3), 0) is State.OPEN
    assert not admits(after_failures(3), 9.99)


def test_an_answer_in_between_starts_the_count_anew() -> None:
    """ROU-4."""
    circuit = answered(after_failures(2), probe=False)
    assert state(failed(circuit, POLICY, 0, probe=False), 0) is State.CLOSED


def test_it_opens_when_half_of_the_last_calls_failed_though_never_in_a_row() -> None:
    """ROU-4."""
    circuit = Circuit()
    for _ in range(9):
        circuit = answered(failed(circuit, POLICY, 0, probe=False), probe=False)
    circuit = answered(circuit, probe=False)
    assert state(circuit, 0) is State.CLOSED
    assert state(failed(circuit, POLICY, 0, probe=False), 0) is State.OPEN


def test_after_the_rest_one_probe_at_a_time_may_try() -> None:
    """ROU-4."""
    circuit = after_failures(3)
    assert state(circuit, 10) is State.HALF_OPEN
    assert admits(circuit, 10)
    circuit, probe = begun(circuit)
    assert probe
    assert not admits(circuit, 10)
    assert not admits(circuit, 1000)


def test_a_good_probe_closes_it_and_clears_its_past() -> None:
    """ROU-4."""
    circuit, probe = begun(after_failures(3))
    assert answered(circuit, probe=probe) == Circuit()


def test_each_bad_probe_doubles_the_rest_up_to_the_longest() -> None:
    """ROU-4."""
    circuit, now, rests = after_failures(3), 0.0, []
    for _ in range(3):
        rests.append(circuit.retry_at - now)
        now = circuit.retry_at
        circuit, probe = begun(circuit)
        circuit = failed(circuit, POLICY, now, probe=probe)
    assert [*rests, circuit.retry_at - now] == [10, 20, 35, 35]


def test_a_probe_whose_caller_went_away_leaves_its_place() -> None:
    """ROU-4, ROU-8."""
    circuit, probe = begun(after_failures(3))
    assert admits(abandoned(circuit, probe=probe), 10)


def test_retry_after_opens_at_once_and_is_kept_to() -> None:
    """ROU-4."""
    circuit = failed(Circuit(), POLICY, 0, probe=False, rest_seconds=100)
    assert not admits(circuit, 99.9)
    assert admits(circuit, 100)
    circuit, probe = begun(circuit)
    early_failure = failed(circuit, POLICY, 50, probe=probe)
    assert not admits(early_failure, 99.9)


def test_what_went_out_before_the_opening_changes_nothing_after_it() -> None:
    """ROU-4: neither a late answer nor a late failure speaks of now."""
    circuit, _ = begun(after_failures(3))
    assert answered(circuit, probe=False) == circuit
    assert failed(circuit, POLICY, 5, probe=False) == circuit
    assert abandoned(circuit, probe=False) == circuit


STEPS = st.lists(st.tuples(st.sampled_from("ofca"), st.floats(0, 30)), max_size=60)


@given(STEPS)
def test_it_always_comes_back_and_never_admits_two_probes(steps: list[tuple[str, float]]) -> None:
    """ROU-4: whatever happens, waiting long enough admits a call again, and only one."""
    circuit, now = Circuit(), 0.0
    for what, pause in steps:
        now += pause
        if not admits(circuit, now):
            continue
        circuit, probe = begun(circuit)
        assert not (probe and admits(circuit, now))
        if what == "o":
            circuit = answered(circuit, probe=probe)
        elif what == "c":
            circuit = abandoned(circuit, probe=probe)
        else:
            circuit = failed(circuit, POLICY, now, probe=probe)
    assert admits(circuit, now + POLICY.longest_rest_seconds)
