"""An instruction as the rules read it: folded words that know where they stand in the original."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.failure import InvalidInput

WORD = re.compile(r"\d{4}-\d{2}-\d{2}|[\w][\w'’./:-]*[\w]|\w|[,;.?!¿¡:\"“”«»]", re.UNICODE)
LONGEST = 4000


@dataclass(frozen=True)
class Word:
    """One word or mark: as it is compared, as it was written, and where."""

    folded: str
    written: str
    start: int
    end: int

    @property
    def is_mark(self) -> bool:
        return not self.folded[0].isalnum()

    @property
    def is_name(self) -> bool:
        """Written as names are: with a capital."""
        return self.written[0].isupper() and not self.written[0].isdigit()


def fold(text: str) -> str:
    """Without regard to case and accents."""
    decomposed = unicodedata.normalize("NFD", text.casefold())
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))


def words_of(instruction: str) -> list[Word]:
    """The words of *instruction*. Raises InvalidInput for what is no text."""
    if not instruction.strip():
        raise InvalidInput([("instruction", "must not be empty")])
    if len(instruction) > LONGEST:
        raise InvalidInput([("instruction", f"must have at most {LONGEST} characters")])
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\r\t" for sign in instruction):
        raise InvalidInput([("instruction", "must be text, without control characters")])
    return [
        Word(fold(found.group()), found.group(), found.start(), found.end())
        for found in WORD.finditer(instruction)
    ]


def find(words: Sequence[Word], phrase: str, start: int = 0) -> tuple[int, int] | None:
    """Where the words of *phrase* stand in *words*, from *start* on: first and one past last."""
    parts = fold(phrase).split()
    for place in range(start, len(words) - len(parts) + 1):
        if all(words[place + offset].folded == part for offset, part in enumerate(parts)):
            return place, place + len(parts)
    return None


def find_any(words: Sequence[Word], phrases: Sequence[str]) -> tuple[int, int] | None:
    """Where the first of *phrases* stands; of those at one place, the longest."""
    found = [place for phrase in phrases if (place := find(words, phrase))]
    return min(found, key=lambda place: (place[0], -place[1])) if found else None
