"""When a model is taken out and how it comes back (ROU-4). Pure: the time is an argument, in
seconds.

Closed: in use. Open: rests until `retry_at`. Half-open: the rest is over and one probe at a time
may try.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

RECENT_CALLS = 20
RECENT_MASK = (1 << RECENT_CALLS) - 1


class State(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When it opens, and for how long it rests; each failed probe doubles the rest up to the
    longest.
    """

    failures_to_open: int = 5
    rest_seconds: float = 5.0
    longest_rest_seconds: float = 60.0
    key_rest_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is remembered of a model's last calls."""

    failures_in_a_row: int = 0
    recent: int = 0
    """The last calls as bits, the newest lowest; 1 is a failure."""
    seen: int = 0
    opened_at: float | None = None
    retry_at: float = 0.0
    openings: int = 0
    probing: bool = False


def state(circuit: Circuit, now: float) -> State:
    if circuit.opened_at is None:
        return State.CLOSED
    if circuit.probing or now >= circuit.retry_at:
        return State.HALF_OPEN
    return State.OPEN


def admits(circuit: Circuit, now: float) -> bool:
    """Say whether a call may go out now; in half-open only when no probe is under way."""
    return circuit.opened_at is None or (not circuit.probing and now >= circuit.retry_at)


def begun(circuit: Circuit) -> tuple[Circuit, bool]:
    """A call goes out; says whether it is the probe, which is any call that is not made while
    closed.
    """
    if circuit.opened_at is None:
        return circuit, False
    return replace(circuit, probing=True), True


def answered(circuit: Circuit, *, probe: bool) -> Circuit:
    """The provider answered, be it with a refusal: it is alive.

    The probe's answer closes the circuit. An answer to a call from before the opening says nothing
    about now.
    """
    if probe:
        return Circuit()
    if circuit.opened_at is not None:
        return circuit
    return replace(
        circuit,
        failures_in_a_row=0,
        recent=(circuit.recent << 1) & RECENT_MASK,
        seen=min(circuit.seen + 1, RECENT_CALLS),
    )


def failed(
    circuit: Circuit,
    policy: CircuitPolicy,
    now: float,
    *,
    probe: bool,
    rest_seconds: float | None = None,
) -> Circuit:
    """A call failed. *rest_seconds* is the rest that the provider asked for; it opens the circuit
    at once.
    """
    if probe:
        return _opened(replace(circuit, probing=False), policy, now, rest_seconds)
    if circuit.opened_at is not None:
        # It went out before the opening: only what the provider asks for is news.
        return replace(circuit, retry_at=max(circuit.retry_at, now + (rest_seconds or 0.0)))
    counted = replace(
        circuit,
        failures_in_a_row=circuit.failures_in_a_row + 1,
        recent=((circuit.recent << 1) | 1) & RECENT_MASK,
        seen=min(circuit.seen + 1, RECENT_CALLS),
    )
    if rest_seconds is not None or _keeps_failing(counted, policy):
        return _opened(counted, policy, now, rest_seconds)
    return counted


def abandoned(circuit: Circuit, *, probe: bool) -> Circuit:
    """The call ended without telling anything about the provider; a probe leaves its place to
    another.
    """
    return replace(circuit, probing=False) if probe else circuit


def _keeps_failing(circuit: Circuit, policy: CircuitPolicy) -> bool:
    mostly = circuit.seen == RECENT_CALLS and 2 * circuit.recent.bit_count() >= RECENT_CALLS
    return circuit.failures_in_a_row >= policy.failures_to_open or mostly


def _opened(
    circuit: Circuit, policy: CircuitPolicy, now: float, asked_rest: float | None
) -> Circuit:
    """The provider knows best when it will be back; where it does not say, the rest doubles."""
    openings = circuit.openings + 1
    doubled = policy.rest_seconds * 2.0 ** min(openings - 1, 30)
    rest = min(doubled, policy.longest_rest_seconds) if asked_rest is None else asked_rest
    # A probe before its time must not shorten a rest that the provider had asked for.
    retry_at = max(now + rest, circuit.retry_at)
    return replace(circuit, opened_at=now, retry_at=retry_at, openings=openings)
