"""The state of the models on this replica: their circuits, and how busy each provider is (ROU-4).

All changes happen between two awaits of one event loop, so nothing here locks.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.router import circuit as circuits
from services.router.catalog import Model
from services.router.circuit import Circuit, CircuitPolicy, State
from services.router.nouns import Fault, Outcome

Key = tuple[str, str, str]

CLOSED = Circuit()


@dataclass(frozen=True, slots=True)
class Seat:
    """The right to make one call; given back once, by `answered`, `failed` or `abandoned`."""

    model: Model
    probe: bool


def _key(model: Model) -> Key:
    # With the route, so that an entry that was corrected in the catalogue starts afresh.
    return (model.id, *model.route)


class Fleet:
    """Circuits by model and calls under way by provider."""

    def __init__(self) -> None:
        self._circuits: dict[Key, Circuit] = {}
        self._calls: defaultdict[str, int] = defaultdict(int)

    def circuit(self, model: Model) -> Circuit:
        return self._circuits.get(_key(model), CLOSED)

    def state(self, model: Model, now: float) -> State:
        return circuits.state(self.circuit(model), now)

    def is_full(self, model: Model) -> bool:
        return self._calls[model.provider.name] >= model.provider.max_concurrent_calls

    def admits(self, model: Model, now: float) -> bool:
        return circuits.admits(self.circuit(model), now) and not self.is_full(model)

    def longest_rested(self, models: Sequence[Model]) -> Model | None:
        """Of models that are all out, the one to try before its time; none that is being probed."""
        resting = [
            (circuit.opened_at, place)
            for place, model in enumerate(models)
            if (circuit := self.circuit(model)).opened_at is not None
            and not circuit.probing
            and not self.is_full(model)
        ]
        return models[min(resting)[1]] if resting else None

    def take_seat(self, model: Model) -> Seat:
        begun, probe = circuits.begun(self.circuit(model))
        self._keep(model, begun)
        self._calls[model.provider.name] += 1
        return Seat(model, probe)

    def answered(self, seat: Seat) -> None:
        self._leave(seat, circuits.answered(self.circuit(seat.model), probe=seat.probe))

    def abandoned(self, seat: Seat) -> None:
        self._leave(seat, circuits.abandoned(self.circuit(seat.model), probe=seat.probe))

    def failed(
        self, seat: Seat, fault: Fault, policy: CircuitPolicy, now: float, models: Iterable[Model]
    ) -> None:
        """Count *fault*; a rejected key takes out every one of *models* behind that provider."""
        rest = fault.retry_after
        if fault.outcome is Outcome.KEY_REJECTED:
            rest = policy.key_rest_seconds
            for other in models:
                if other.provider.name == seat.model.provider.name and other is not seat.model:
                    self._fail(other, policy, now, rest, probe=False)
        self._calls[seat.model.provider.name] -= 1
        self._fail(seat.model, policy, now, rest, probe=seat.probe)

    def _fail(
        self, model: Model, policy: CircuitPolicy, now: float, rest: float | None, *, probe: bool
    ) -> None:
        failed = circuits.failed(self.circuit(model), policy, now, probe=probe, rest_seconds=rest)
        self._keep(model, failed)

    def _leave(self, seat: Seat, circuit: Circuit) -> None:
        self._calls[seat.model.provider.name] -= 1
        self._keep(seat.model, circuit)

    def _keep(self, model: Model, circuit: Circuit) -> None:
        self._circuits[_key(model)] = circuit

    def forget_others(self, models: Iterable[Model]) -> None:
        """Drop what is known of models that the catalogue no longer has."""
        known = {_key(model) for model in models}
        self._circuits = {key: kept for key, kept in self._circuits.items() if key in known}
