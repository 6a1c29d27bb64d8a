"""The table of measurements in docs/operations.md, and what Prometheus calls them."""

import re
from dataclasses import dataclass

from tests.conftest import ROOT

ROW = re.compile(
    r"^\| `(?P<name>[a-z_.]+)` \| (?P<kind>[a-z -]+) \| (?P<unit>[^|]*?) ?\| [^|]+ \| [^|]+ \|$",
    re.MULTILINE,
)
# What the collector's exporter makes of units; annotations in braces are left out.
UNITS = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True)
class Measurement:
    name: str
    kind: str
    unit: str

    @property
    def in_prometheus(self) -> set[str]:
        """The names of its series there."""
        name = self.name.replace(".", "_") + UNITS.get(self.unit, "")
        if self.kind == "histogram":
            return {f"{name}_{part}" for part in ("bucket", "count", "sum")}
        return {f"{name}_total"} if self.kind == "counter" else {name}


def documented() -> dict[str, Measurement]:
    text = (ROOT / "docs" / "operations.md").read_text()
    return {found["name"]: Measurement(**found.groupdict()) for found in ROW.finditer(text)}
