"""Everything about one instruction that its reading stands on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from services.gateway.interpret.checking import Descriptors
from services.gateway.interpret.clauses import Clause, Cutter
from services.gateway.interpret.kinds import coordinated
from services.gateway.interpret.languages import lexicon_of
from services.gateway.interpret.lexicon import Lexicon
from services.gateway.interpret.text import Word, words_of
from services.gateway.interpret.texts import with_texts
from services.gateway.interpret.vocabulary import Vocabulary, vocabulary_of
from services.gateway.reading import Reading


@dataclass(frozen=True)
class Scene:
    """An instruction, and the words and the calendar to read it by."""

    instruction: str
    descriptors: Descriptors
    vocabulary: Vocabulary
    lexicon: Lexicon
    reading: Reading
    today: date

    @cached_property
    def words(self) -> list[Word]:
        """All words, each text that a field is given made one. Raises InvalidInput."""
        words = words_of(self.instruction)
        return with_texts(self.instruction, words, self.lexicon, self.vocabulary)

    @cached_property
    def clauses(self) -> list[Clause]:
        """What is asked for, one by one. Raises InvalidInput for what is no text."""
        cutter = Cutter(self.lexicon, self.vocabulary, self.today)
        return [
            part
            for clause in cutter.clauses_of(self.words)
            for part in coordinated(clause, self.vocabulary, self.lexicon)
        ]


def scene_of(instruction: str, descriptors: Descriptors, reading: Reading) -> Scene:
    return Scene(
        instruction,
        descriptors,
        vocabulary_of(descriptors, reading.locale),
        lexicon_of(reading.locale),
        reading,
        reading.now.astimezone(reading.time_zone).date(),
    )


def is_known(scene: Scene, words: Sequence[Word], place: int) -> bool:
    """Whether the descriptors have a meaning for a word: cancelled, agenda, issue date."""
    if scene.vocabulary.entities.at(words, place)[1]:
        return True
    return any(
        kind.values.at(words, place)[1] or kind.fields.at(words, place)[1]
        for kind in scene.vocabulary.kinds
    )
