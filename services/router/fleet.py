"""The state of the providers on this replica: their circuits, and how busy each is (ROU-4).

All changes happen between two awaits of one event loop, so nothing here locks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from services.router.catalog import Model, Provider
from services.router.circuit import Circuit, CircuitPolicy, State
from services.router.nouns import Blame, Fault, Outcome

# With the address and the key, so that an entry that was corrected in the catalogue, and a key that
# was renewed, start afresh.
ProviderKey = tuple[str, str, str]
ModelKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Seat:
    """The right to make one call; given back once, by `answered`, `failed` or `abandoned`."""

    model: Model
    circuit: Circuit
    probe: bool


def _key(provider: Provider) -> ProviderKey:
    return provider.name, provider.base_url, provider.api_key


def _entry(model: Model) -> ModelKey:
    return (model.id, *model.route)


class Fleet:
    """Circuits and calls under way by provider; rests of models whose entries are wrong."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._circuits: defaultdict[ProviderKey, Circuit] = defaultdict(Circuit)
        self._wrong_until: dict[ModelKey, float] = {}
        self._calls: defaultdict[str, int] = defaultdict(int)

    def circuit(self, provider: Provider) -> Circuit:
        return self._circuits[_key(provider)]

    def state(self, model: Model, now: float) -> State:
        wrong = self._wrong_until.get(_entry(model), now) > now
        return State.OPEN if wrong else self.circuit(model.provider).state(now)

    def retry_at(self, model: Model) -> float:
        """When a model that is taken out is tried again."""
        wrong_until = self._wrong_until.get(_entry(model), 0.0)
        return max(wrong_until, self.circuit(model.provider).retry_at)

    def is_full(self, model: Model) -> bool:
        return self._calls[model.provider.name] >= model.provider.max_concurrent_calls

    def admits(self, model: Model, now: float) -> bool:
        return (
            self.circuit(model.provider).admits(now)
            and self._wrong_until.get(_entry(model), now) <= now
            and not self.is_full(model)
        )

    def longest_rested(self, models: Sequence[Model], now: float) -> Model | None:
        """Of models that are all out, the one to try before its time; none that is being probed,
        and none whose entry is wrong.
        """
        resting = [
            (circuit.opened_at, place)
            for place, model in enumerate(models)
            if (circuit := self.circuit(model.provider)).opened_at is not None
            and not circuit.probing
            and not self.is_full(model)
            and self._wrong_until.get(_entry(model), now) <= now
        ]
        return models[min(resting)[1]] if resting else None

    def take_seat(self, model: Model) -> Seat:
        circuit = self.circuit(model.provider)
        self._calls[model.provider.name] += 1
        return Seat(model, circuit, circuit.begun())

    def answered(self, seat: Seat, policy: CircuitPolicy, now: float, *, slow: bool) -> None:
        self._leave(seat)
        seat.circuit.answered(policy, now, probe=seat.probe, slow=slow, draw=self._draw())

    def abandoned(self, seat: Seat) -> None:
        self._leave(seat)
        seat.circuit.abandoned(probe=seat.probe)

    def failed(self, seat: Seat, fault: Fault, policy: CircuitPolicy, now: float) -> None:
        """Count *fault* against whom it speaks."""
        if fault.blame is Blame.NOBODY:
            self.abandoned(seat)
        elif fault.blame is Blame.MODEL:
            self.answered(seat, policy, now, slow=False)
        elif fault.blame is Blame.ENTRY:
            self._wrong_until[_entry(seat.model)] = now + policy.longest_rest_seconds
            self.answered(seat, policy, now, slow=False)
        else:
            rejected = fault.outcome is Outcome.KEY_REJECTED
            asked = policy.key_rest_seconds if rejected else fault.retry_after
            self._leave(seat)
            seat.circuit.failed(policy, now, probe=seat.probe, asked_rest=asked, draw=self._draw())

    def _leave(self, seat: Seat) -> None:
        self._calls[seat.model.provider.name] -= 1

    def forget_others(self, models: Iterable[Model]) -> None:
        """Drop what is known of what the catalogue no longer has."""
        models = list(models)
        providers = {_key(model.provider) for model in models}
        entries = {_entry(model) for model in models}
        for provider in self._circuits.keys() - providers:
            del self._circuits[provider]
        for entry in self._wrong_until.keys() - entries:
            del self._wrong_until[entry]
