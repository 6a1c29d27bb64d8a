"""Reads a YAML document field by field, remembering the line of each, so that a mistake can be
found.

Every mistake is collected and reading goes on with a placeholder: the author sees all of them at
once. Scalars stay text until a reader asks for a number, so that a price is the decimal that was
written.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import yaml

TRUE_WORDS = frozenset({"true", "True", "TRUE"})
FALSE_WORDS = frozenset({"false", "False", "FALSE"})


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, at which line (from 1) and in which field."""

    line: int
    field: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.text}"


class Section:
    """A mapping of the document, read one field at a time.

    A field that was never asked for is a mistake too: `unknown_fields` reports a misspelt one.
    """

    def __init__(
        self, path: str, node: yaml.Node | None, line: int, mistakes: list[Mistake]
    ) -> None:
        self.path = path
        self.line = line
        self._mistakes = mistakes
        self._fields: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        self._asked: set[str] = set()
        if isinstance(node, yaml.MappingNode):
            self._take_fields(node)
        elif node is not None and not _is_null(node):
            self.wrong("", "must be a mapping of fields")

    def _take_fields(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name in self._fields:
                self._mistakes.append(Mistake(_line(key), self._full(name), "is given twice"))
            self._fields[name] = value
            self._lines[name] = _line(key)

    def _full(self, name: str) -> str:
        return ".".join(part for part in (self.path, name) if part) or "the document"

    def wrong(self, name: str, text: str) -> None:
        """Note a mistake in the field *name* of this section; an empty name means the section."""
        line = self._lines.get(name, self.line)
        self._mistakes.append(Mistake(line, self._full(name), text))

    def has(self, name: str) -> bool:
        return name in self._fields and not _is_null(self._fields[name])

    def _scalar(self, name: str) -> str | None:
        self._asked.add(name)
        node = self._fields.get(name)
        if node is None or _is_null(node):
            return None
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(name, "must be a single value")
            return None
        return str(node.value)

    def text(self, name: str, default: str | None = None, pattern: str = r"\S.*") -> str:
        """The field's text; *default* None makes it required."""
        value = self._scalar(name)
        if value is None:
            if default is None and not self.has(name):
                self.wrong(name, "is missing")
            return default or ""
        if not re.fullmatch(pattern, value):
            self.wrong(name, f"must look like {pattern}" if pattern != r"\S.*" else "is empty")
        return value

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value and value not in choices:
            self.wrong(name, f"must be one of {', '.join(choices)}, not {value[:40]!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._scalar(name)
        if value is None or value in TRUE_WORDS:
            return default if value is None else True
        if value not in FALSE_WORDS:
            self.wrong(name, "must be true or false")
        return False

    def decimal(
        self,
        name: str,
        default: Decimal | None = None,
        *,
        least: Decimal = Decimal(0),
        most: Decimal = Decimal(10) ** 9,
        places: int = 9,
    ) -> Decimal:
        """The number exactly as written; with more than *places* decimals it is a mistake."""
        written = self._scalar(name)
        if written is None:
            if default is None and not self.has(name):
                self.wrong(name, "is missing")
            return least if default is None else default
        try:
            number = Decimal(written)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite():
            self.wrong(name, f"must be a number, not {written[:40]!r}")
            return least
        exponent = number.normalize().as_tuple().exponent
        if not least <= number <= most:
            self.wrong(name, f"must be from {least} to {most}")
            return least
        if isinstance(exponent, int) and -exponent > places:
            self.wrong(name, f"must have at most {places} decimals")
        return number

    def whole(self, name: str, default: int | None = None, *, least: int = 0, most: int) -> int:
        number = self.decimal(
            name,
            None if default is None else Decimal(default),
            least=Decimal(least),
            most=Decimal(most),
            places=0,
        )
        return int(number)

    def seconds(self, name: str, default: float, *, least: float = 0.001, most: float) -> float:
        bounds = Decimal(str(least)), Decimal(str(most))
        return float(self.decimal(name, Decimal(str(default)), least=bounds[0], most=bounds[1]))

    def choices(self, name: str, allowed: Collection[str]) -> tuple[str, ...]:
        """A list of distinct words out of *allowed*, at least one."""
        self._asked.add(name)
        node = self._fields.get(name)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.wrong(name, "must be a list with at least one entry")
            return ()
        words = [
            str(item.value) if isinstance(item, yaml.ScalarNode) else "?" for item in node.value
        ]
        for item, word in zip(node.value, words, strict=True):
            if word not in allowed:
                text = f"must be one of {', '.join(allowed)}, not {word[:40]!r}"
                self._mistakes.append(Mistake(_line(item), self._full(name), text))
        if len(set(words)) < len(words):
            self.wrong(name, "names an entry twice")
        return tuple(words)

    def section(self, name: str) -> "Section":
        self._asked.add(name)
        node = self._fields.get(name)
        line = self._lines.get(name, self.line)
        return Section(self._full(name), node, line, self._mistakes)

    def sections(self, name: str, pattern: str) -> Iterator[tuple[str, "Section"]]:
        """Each entry of the mapping *name* with its key; a key must match *pattern*."""
        entries = self.section(name)
        for key in entries._fields:
            if not re.fullmatch(pattern, key):
                entries.wrong(key, f"the name must look like {pattern}")
            yield key, entries.section(key)

    def unknown_fields(self) -> None:
        """Note every field that nobody asked for."""
        for name in self._fields.keys() - self._asked:
            known = ", ".join(sorted(self._asked))
            self.wrong(name, f"is not a field here; known are {known}")


def read_document(text: str, mistakes: list[Mistake]) -> Section:
    """The document's outermost mapping; a syntax error becomes a mistake with its line."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = 1 if mark is None else mark.line + 1
        mistakes.append(Mistake(line, "the document", f"is not YAML: {error.problem}"))
        node = None
    except yaml.YAMLError:
        mistakes.append(Mistake(1, "the document", "is not YAML"))
        node = None
    except RecursionError:
        mistakes.append(Mistake(1, "the document", "is nested too deeply"))
        node = None
    return Section("", node, 1, mistakes)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
