"""Which peers may call which methods, by the names in their certificates (ALL-3)."""

from collections.abc import Collection, Iterable, Mapping

ANYONE = "*"
# Where gRPC tells what a verified certificate says of its holder.
NAMES = ("peer_dns", "peer_uri")


class Peers:
    """What the setting `peers` allows.

    Names with spaces between them: dNSNames or URIs of certificates, compared as they are. A name
    alone may call everything; `name=service` or `name=service/method` only that. `*` is whoever has
    a certificate at all.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is none of these."""
        self._allowed: dict[str, set[str]] = {}
        for each in text.split():
            name, with_limit, what = each.partition("=")
            if not name or (with_limit and not what) or what.startswith("/"):
                raise ValueError("must be names, or name=service or name=service/method")
            self._allowed.setdefault(name, set()).add(what)

    @property
    def names(self) -> Collection[str]:
        return self._allowed.keys()

    def admit(self, names: Iterable[str], method: str) -> bool:
        """Whether one of *names* may call *method*, `service/method`."""
        wanted = {"", method, method.partition("/")[0]}
        known = (self._allowed.get(name) for name in (*names, ANYONE))
        return any(allowed & wanted for allowed in known if allowed)


def names_in(identity: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in a caller's certificate, out of gRPC's auth_context."""
    found = (name for kind in NAMES for name in identity.get(kind, ()))
    return [name.decode(errors="replace") for name in found]
