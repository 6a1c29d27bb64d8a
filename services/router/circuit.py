"""When a provider is taken out and how it comes back (ROU-4). Pure: the time is an argument, in
seconds, and so is chance.

Closed: in use. Open: rests until `retry_at`. Half-open: the rest is over and one probe at a time
may try.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

MOST_REMEMBERED = 1000
"""Of more attempts in a window the last thousand judge alone: memory stays flat."""
LEAST_SHARE_OF_REST = 0.75
"""Rests are shortened by chance, so that the replicas' probes do not come all at once."""


class State(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When it opens, and for how long it rests; each failed probe doubles the rest up to the
    longest.

    It opens on *failures_in_a_row*, or when of *least_attempts* or more within *window_seconds* at
    least half failed.
    """

    failures_in_a_row: int = 3
    least_attempts: int = 5
    window_seconds: float = 10.0
    rest_seconds: float = 5.0
    longest_rest_seconds: float = 25.0
    key_rest_seconds: float = 300.0


# An attempt as it weighs: a slow first token counts half a failure.
GOOD, SLOW, FAILED = 0.0, 0.5, 1.0
PROBES_TO_CLOSE = 2


class Circuit:
    """What is remembered of a provider's last attempts."""

    __slots__ = (
        "_failed",
        "_good_probes",
        "_in_a_row",
        "_openings",
        "_probing",
        "_recent",
        "opened_at",
        "retry_at",
    )

    def __init__(self) -> None:
        self.opened_at: float | None = None
        self.retry_at = 0.0
        self._recent: deque[tuple[float, float]] = deque()
        self._failed = 0.0
        self._in_a_row = 0
        self._openings = 0
        self._probing = False
        self._good_probes = 0

    def state(self, now: float) -> State:
        if self.opened_at is None:
            return State.CLOSED
        if self._probing or now >= self.retry_at:
            return State.HALF_OPEN
        return State.OPEN

    @property
    def probing(self) -> bool:
        return self._probing

    def admits(self, now: float) -> bool:
        """Say whether a call may go out now; in half-open only when no probe is under way."""
        return self.opened_at is None or (not self._probing and now >= self.retry_at)

    def begun(self) -> bool:
        """A call goes out; says whether it is a probe: any call is that is not made while
        closed.
        """
        self._probing = self.opened_at is not None
        return self._probing

    def answered(
        self,
        policy: CircuitPolicy,
        now: float,
        *,
        probe: bool,
        slow: bool = False,
        draw: float = 0.0,
    ) -> None:
        """The provider answered; *slow* when the first token took its time.

        An answer to a call from before the opening says nothing about now.
        """
        if probe:
            self._probe_succeeded()
        elif self.opened_at is None:
            self._in_a_row = 0
            self._remember(policy, now, SLOW if slow else GOOD)
            if self._mostly_fails(policy):
                self._open(policy, now, None, draw)

    def failed(
        self,
        policy: CircuitPolicy,
        now: float,
        *,
        probe: bool,
        asked_rest: float | None = None,
        draw: float = 0.0,
    ) -> None:
        """A call failed. *asked_rest* are the seconds that the provider asked for: they open the
        circuit at once. *draw* in [0, 1) shortens a rest that nobody asked for.
        """
        if probe:
            self._probing = False
            self._open(policy, now, asked_rest, draw)
        elif self.opened_at is not None:
            # It went out before the opening: only what the provider asks for is news.
            self.retry_at = max(self.retry_at, now + (asked_rest or 0.0))
        else:
            self._in_a_row += 1
            self._remember(policy, now, FAILED)
            often = self._in_a_row >= policy.failures_in_a_row
            if asked_rest is not None or often or self._mostly_fails(policy):
                self._open(policy, now, asked_rest, draw)

    def abandoned(self, *, probe: bool) -> None:
        """The call ended without telling anything about the provider: a caller's mistake, or one
        who went away. A probe leaves its place to another.
        """
        if probe:
            self._probing = False

    def _remember(self, policy: CircuitPolicy, now: float, weight: float) -> None:
        self._recent.append((now, weight))
        self._failed += weight
        while self._recent[0][0] <= now - policy.window_seconds or (
            len(self._recent) > MOST_REMEMBERED
        ):
            self._failed -= self._recent.popleft()[1]

    def _mostly_fails(self, policy: CircuitPolicy) -> bool:
        attempts = len(self._recent)
        return attempts >= policy.least_attempts and 2 * self._failed >= attempts

    def _probe_succeeded(self) -> None:
        self._probing = False
        self._good_probes += 1
        if self._good_probes >= PROBES_TO_CLOSE:
            self.opened_at, self.retry_at = None, 0.0
            self._openings = self._good_probes = 0

    def _open(
        self, policy: CircuitPolicy, now: float, asked_rest: float | None, draw: float
    ) -> None:
        """The provider knows best when it will be back; where it does not say, the rest doubles."""
        self._openings += 1
        self._good_probes = 0
        self._recent.clear()
        self._failed, self._in_a_row = 0.0, 0
        doubled = policy.rest_seconds * 2.0 ** min(self._openings - 1, 30)
        own_rest = min(doubled, policy.longest_rest_seconds) * (
            1.0 - (1.0 - LEAST_SHARE_OF_REST) * draw
        )
        rest = own_rest if asked_rest is None else asked_rest
        # A probe before its time must not shorten a rest that the provider had asked for.
        self.opened_at, self.retry_at = now, max(now + rest, self.retry_at)
