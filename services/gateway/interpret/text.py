"""An instruction as the rules read it: folded words that know where they stand in the original."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Generic, TypeVar

from services.runtime.failure import InvalidInput

LONGEST = 4000
WORD = re.compile(
    r"""
      "[^"\n]*" | “[^”\n]*” | «[^»\n]*» | (?<!\w)'[^'\n]*'(?!\w)   # quoted: what others wrote
    | ["“«] [^\n]*                                                 # quoted, and never closed
    | [^\s@,;:"'()]+ @ [^\s@,;:"'()]* \w                           # an address
    | \d{4}-\d{2}-\d{2} (?: T\d{2}:\d{2} )?
    | [ap]\.\s?m\b\.?
    | (?: R|US )?\$ | €
    | \w (?: \w | ['’/-](?=\w) | (?<=\d)[.,:](?=\d) )*
    | [,;.?!¿¡:+()\n]
    """,
    re.VERBOSE | re.IGNORECASE,
)
QUOTES = "\"“”«»'"
POSSESSIVE = re.compile(r"['’]s$", re.IGNORECASE)
Meaning = TypeVar("Meaning")


@dataclass(frozen=True)
class Word:
    """One word or mark: as it is compared, as it was written, and where.

    A quotation, or text after a colon, is one word that is never compared: it is somebody's data,
    whatever it says.
    """

    folded: str
    written: str
    start: int
    end: int
    quoted: bool = False
    possessive: bool = False

    @cached_property
    def is_mark(self) -> bool:
        return not self.quoted and not self.folded[0].isalnum()

    @cached_property
    def is_name(self) -> bool:
        """Written as names are: with a capital."""
        return not self.quoted and self.written[0].isupper()


@lru_cache(maxsize=8192)
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
    if any(is_control(sign) for sign in instruction):
        raise InvalidInput([("instruction", "must be text, without control characters")])
    return words_within(instruction)


def words_within(text: str) -> list[Word]:
    return [word_of(found) for found in WORD.finditer(text)]


def is_control(sign: str) -> bool:
    """Whether *sign* is not of a text; the replacement character stands for bytes that were not."""
    if sign in "\n\r\t":
        return False
    return sign == "\ufffd" or unicodedata.category(sign) in ("Cc", "Cs")


def word_of(found: re.Match[str]) -> Word:
    text, start, end = found.group(), found.start(), found.end()
    if text[0] in QUOTES:
        return quotation(text.strip(QUOTES), start, end)
    owner = POSSESSIVE.search(text)
    if owner:
        text = text[: owner.start()]
    folded = fold(text)
    if re.fullmatch(r"[ap]\.\s?m\.?", folded):
        folded = f"{folded[0]}m"
    # A letter such as a lone combining mark may fold to nothing.
    return Word(folded or "?", text, start, start + len(text), possessive=owner is not None)


def quotation(text: str, start: int, end: int) -> Word:
    return Word("", text, start, end, quoted=True)


class Phrases(Generic[Meaning]):
    """Phrases and what they mean, to be recognised at a place among words."""

    def __init__(self, pairs: Iterable[tuple[str, Meaning]]) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], Meaning]]] = {}
        for phrase, meaning in pairs:
            # By the tokeniser itself, so that a phrase is cut as an instruction is.
            parts = tuple(each.folded for each in words_within(phrase))
            if parts:
                self._by_first.setdefault(parts[0], []).append((parts, meaning))
        for known in self._by_first.values():
            known.sort(key=lambda each: -len(each[0]))

    def at(self, words: Sequence[Word], place: int) -> tuple[int, list[Meaning]]:
        """One past the longest phrase that begins at *place*, and its meanings; none: *place*."""
        found: list[Meaning] = []
        end = place
        for parts, meaning in self._by_first.get(words[place].folded, ()):
            if place + len(parts) < end:
                break
            if all(
                place + offset < len(words) and words[place + offset].folded == part
                for offset, part in enumerate(parts)
            ):
                end = place + len(parts)
                found.append(meaning)
        return end, found

    def meant(self, words: Sequence[Word], place: int) -> tuple[int, Meaning] | None:
        """As `at`, for phrases that mean one thing each."""
        end, found = self.at(words, place)
        return (end, found[0]) if found else None
