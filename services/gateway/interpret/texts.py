"""Texts within an instruction: what a field is given to hold, whatever it says (GAT-4)."""

from collections.abc import Sequence

from services.gateway.interpret.lexicon import ENDS, Lexicon, Part
from services.gateway.interpret.text import Word, quotation
from services.gateway.interpret.vocabulary import Vocabulary


def with_texts(
    instruction: str, words: Sequence[Word], lexicon: Lexicon, vocabulary: Vocabulary
) -> list[Word]:
    """*words* with each text that a field is given made one word, as if it were quoted.

    It begins at a colon after a field's name or an unknown word, or where sentences are announced,
    and goes on to the end of the line: it may say anything, and asks for nothing.
    """
    finder = Finder(words, lexicon, vocabulary)
    made: list[Word] = []
    place = 0
    while place < len(words):
        begins = finder.begins(place)
        if begins is None or begins >= len(words) or words[begins].quoted:
            made.append(words[place])
            place += 1
            continue
        made += words[place:begins]
        end = finder.ends(begins)
        start, stop = words[begins].start, words[end - 1].end
        made.append(quotation(instruction[start:stop], start, stop))
        place = end
    return made


class Finder:
    """Finds where texts begin and end among words."""

    def __init__(self, words: Sequence[Word], lexicon: Lexicon, vocabulary: Vocabulary) -> None:
        self._words = words
        self._lexicon = lexicon
        self._vocabulary = vocabulary
        self._asked = asked_before(words, lexicon)

    def begins(self, place: int) -> int | None:
        """Where a text begins that is announced at *place*, or None."""
        word = self._words[place]
        if word.quoted or word.is_mark:
            return None
        saying, meant = self._lexicon.markers.at(self._words, place)
        if Part.SAYING in meant and self._asked[place]:
            return saying if saying < len(self._words) else None
        end, prose = self._vocabulary.texts.at(self._words, place)
        named, kinds = self._vocabulary.entities.at(self._words, place)
        if kinds and named >= end:
            return None  # a new client: its name …
        end = end if prose else place + 1
        if self._is_colon(end):
            return end + 1 if prose or self._is_unknown(place) else None
        announced = any(prose) and place > 0 and self._is_with(place - 1)
        return end if announced and self._asked[place] else None

    def ends(self, begins: int) -> int:
        """One past the text: the end of the line, or before the next field with its colon."""
        for place in range(begins, len(self._words)):
            folded = self._words[place].folded
            if place > begins and (
                folded == "\n" or (folded in ",;" and folded and self._is_headed(place + 1))
            ):
                return place
        return len(self._words)

    def _is_colon(self, place: int) -> bool:
        return place < len(self._words) and self._words[place].folded == ":"

    def _is_headed(self, place: int) -> bool:
        """Whether a field and a colon stand there."""
        if place >= len(self._words):
            return False
        found = (kind.fields.at(self._words, place) for kind in self._vocabulary.kinds)
        return any(names and self._is_colon(end) for end, names in found)

    def _is_unknown(self, place: int) -> bool:
        """A word that nothing knows, in a sentence that has asked for something."""
        if not self._asked[place] or self._marks(place, Part.FILLER):
            return False
        if self._vocabulary.entities.at(self._words, place)[1]:
            return False
        return not any(kind.fields.at(self._words, place)[1] for kind in self._vocabulary.kinds)

    def _is_with(self, place: int) -> bool:
        return not self._words[place].quoted and self._marks(place, Part.WITH)

    def _marks(self, place: int, part: Part) -> bool:
        return part in self._lexicon.markers.at([self._words[place]], 0)[1]


def asked_before(words: Sequence[Word], lexicon: Lexicon) -> list[bool]:
    """For each word, whether its sentence has had a verb before it."""
    made: list[bool] = []
    asked = False
    for place, word in enumerate(words):
        made.append(asked)
        if word.folded in ENDS and not word.quoted:
            asked = False
        elif not word.quoted and lexicon.acts.at(words, place)[1]:
            asked = True
    return made
