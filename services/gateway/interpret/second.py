"""The second reader: a small learned one, which knows what is asked for and nothing of what.

It has two halves, whose weights are added. One sees an instruction without its nouns: what the
descriptors name, days, numbers, quotations and words that are not of many trades are only places to
it, and beside them stand the signs of what the rules have found. So it is learned from requests to
some domains (`bench/interpret_train.py`) and reads those to others. The other sees the letters, a
few at a time, and so the forms and mistakes that no list of words has. The weights are a table of
words, runs of words, signs and letters, each with what it says for and against every operation,
that anyone can look up.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from services.gateway.interpret.dates import found_in
from services.gateway.interpret.scene import Scene
from services.gateway.interpret.text import Word
from services.gateway.interpret.vocabulary import Vocabulary

ASKED = ("read", "create", "update", "delete", "none")
"""What a request may ask for, in the order of the weights. None is no request at all."""
WEIGHTS = "second_reader.tsv"
# A weight of this much is one.
SCALE = 64
# What stands for words that are only places.
KIND, KINDS, FIELD, VALUE, WHEN, NUMBER, TEXT, OTHER = (
    *("<kind>", "<kinds>", "<field>", "<value>"),
    *("<when>", "<number>", "<text>", "<other>"),
)
# Several of these in a row say no more than one.
SAID_ONCE = (OTHER, "<filler>")
LONGEST = 60
# The lengths of the parts of words, and the shortest word that has parts.
PIECES = (4, 5)
SHORTEST_CUT = 4
# How many letters are seen at a time, across the spaces between words.
LETTERS = (3, 4, 5)
MOST_LETTERS = 600
DIGITS = str.maketrans("123456789", "0" * 9)


@dataclass(frozen=True)
class Seen:
    """A place: its word or what stands for it, and what the languages call it."""

    word: str
    sign: str
    # Where it stands in the instruction.
    start: int = 0
    end: int = 0


NOTHING = Seen(OTHER, OTHER)
# Of the words that weighed, so many are told, each of which changed the odds by a fifth.
MOST_WEIGHED = 3
WEIGHTY = 0.2
LEAST = 1e-9


@dataclass(frozen=True)
class Opinion:
    """How likely a request asks for each operation; the shares add up to one."""

    shares: Mapping[str, float]

    def of(self, *asked: str) -> float:
        return sum(self.shares[each] for each in asked)

    @property
    def best(self) -> str:
        return max(self.shares, key=lambda each: self.shares[each])

    @property
    def changes(self) -> float:
        return self.of("create", "update", "delete")


@dataclass(frozen=True)
class Weights:
    """What has been learned: the weights of each feature, as they are in the table."""

    bias: tuple[int, ...]
    table: Mapping[str, tuple[int, ...]]

    def knows(self, word: str, group: str) -> bool:
        return f"{group} {word}" in self.table

    def opinion(self, found: set[str]) -> Opinion:
        sums = list(self.bias)
        for each in found:
            row = self.table.get(each)
            if row is not None:
                for place, weight in enumerate(row):
                    sums[place] += weight
        most = max(sums)
        grown = [math.exp((each - most) / SCALE) for each in sums]
        total = sum(grown)
        return Opinion({name: each / total for name, each in zip(ASKED, grown, strict=True)})


def second_opinion(
    words: Sequence[Word], scene: Scene, weights: Weights, signs: Collection[str]
) -> Opinion:
    """What some words ask for, of which the rules have found *signs*."""
    group = group_of(scene.reading.locale)
    seen = known_only(places(words, scene), group, weights)
    return weights.opinion({*features(seen, group), *letters(words, group), *signs})


def weighed(
    words: Sequence[Word], scene: Scene, weights: Weights, asked: str
) -> list[tuple[int, int]]:
    """Where the words stand that weighed most for *asked*, at most MOST_WEIGHED, in their order.

    A word weighs what the odds of *asked* lose when only its place is left of it.
    """
    group = group_of(scene.reading.locale)
    seen = known_only(places(words, scene), group, weights)

    def odds(places: Sequence[Seen], words: Sequence[Word]) -> float:
        found = {*features(places, group), *letters(words, group)}
        share = weights.opinion(found).of(asked)
        return math.log(max(share, LEAST) / max(1 - share, LEAST))

    whole = odds(seen, words)
    lost = {
        (each.start, each.end): whole
        - odds(
            [*seen[:at], NOTHING, *seen[at + 1 :]],
            [word for word in words if not each.start <= word.start < each.end],
        )
        for at, each in enumerate(seen)
        if each.word[0] != "<"  # what stands for a day or a kind has evidence of its own
    }
    most = sorted(lost, key=lambda span: -lost[span])[:MOST_WEIGHED]
    return sorted(span for span in most if lost[span] > WEIGHTY)


@cache
def learned() -> Weights:
    text = (resources.files("services.gateway.interpret") / WEIGHTS).read_text(encoding="utf-8")
    return weights_in(text)


def weights_in(text: str) -> Weights:
    """The table as it is written: a feature a line, a tab, and its weights."""
    rows: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            feature, _, numbers = line.partition("\t")
            rows[feature] = tuple(map(int, numbers.split()))
    return Weights(rows.pop("bias"), rows)


# what is seen


def places(words: Sequence[Word], scene: Scene) -> list[Seen]:
    """*words*, without what the descriptors name, days, numbers and quotations."""
    found = {each.first: each.end for each in found_in(words, scene.lexicon, scene.today)}
    seen: list[Seen] = []
    place = 0
    while place < len(words) and len(seen) < LONGEST:
        if place in found:
            seen.append(Seen(WHEN, WHEN, *span_of(words[place : found[place]])))
            place = found[place]
            continue
        end, sign = sign_of(words, place, scene)
        if sign in (KIND, KINDS, FIELD, VALUE, TEXT, NUMBER):
            seen.append(Seen(sign, sign, *span_of(words[place:end])))
        else:
            # A phrase has its sign once, and its words each.
            written = words[place:end]
            seen += [
                Seen(each.folded, "" if at else sign, each.start, each.end)
                for at, each in enumerate(written)
            ]
        place = end
    return seen


def span_of(words: Sequence[Word]) -> tuple[int, int]:
    return words[0].start, words[-1].end


def sign_of(words: Sequence[Word], place: int, scene: Scene) -> tuple[int, str]:
    """What a word or phrase is, and one past it. A verb goes before a noun of the same word."""
    word, lexicon = words[place], scene.lexicon
    if word.quoted:
        return place + 1, TEXT
    verb, acts = lexicon.licences.at(words, place)
    named, kinds = scene.vocabulary.entities.at(words, place)
    if kinds and (named > verb or verb == place):
        return named, KINDS if words[named - 1].folded.endswith("s") else KIND
    lead, leads = lexicon.front.at(words, place)
    if lead > max(verb, place):
        return lead, f"<{leads[0].value}>"
    end, sign = described(words, place, scene.vocabulary)
    if sign == VALUE and end >= verb > place and acts[0] is None:
        return end, VALUE  # cancelled, as something is
    if verb > place:
        act = acts[0].value if acts[0] is not None else "change"
        return verb, f"<{act} kind>" if kinds else f"<{act}>"
    marker, parts = lexicon.markers.at(words, place)
    if end > max(marker, place):
        return end, sign
    if marker > place:
        return marker, f"<{parts[0].value}>"
    if any(each.isdecimal() for each in word.folded):
        return place + 1, NUMBER
    return place + 1, word.folded if word.is_mark else OTHER


def described(words: Sequence[Word], place: int, vocabulary: Vocabulary) -> tuple[int, str]:
    """A field's or value's name, whatever kind has it."""
    fields, values = vocabulary.fields.at(words, place)[0], vocabulary.values.at(words, place)[0]
    return (fields, FIELD) if fields >= values else (values, VALUE)


def known_only(seen: Sequence[Seen], group: str, weights: Weights) -> list[Seen]:
    """Without the words that were not learned."""
    return [
        each if each.sign != OTHER or weights.knows(each.word, group) else replace(each, word=OTHER)
        for each in seen
    ]


# what is weighed


def features(seen: Sequence[Seen], group: str) -> Iterator[str]:
    """Runs of words, runs of signs, which all languages share, and parts of words."""
    yield from runs(once([each.word for each in seen]), group)
    yield from runs(once([each.sign for each in seen if each.sign]), "any")
    for each in seen:
        if each.word[0] != "<" and len(each.word) >= SHORTEST_CUT:
            yield from pieces(each.word, group)


def pieces(word: str, group: str) -> Iterator[str]:
    """Parts of a word, so that its forms are alike: cancelar, cancela."""
    edged = f"^{word}$"
    for length in PIECES:
        for place in range(len(edged) - length + 1):
            yield f"{group}~{edged[place : place + length]}"


def letters(words: Sequence[Word], group: str) -> Iterator[str]:
    """Letters that stand beside each other; a quotation is only a place, as is every digit."""
    said = ['"' if each.quoted else each.folded for each in words if each.folded != "\n"]
    text = f" {' '.join(said)} "[:MOST_LETTERS].translate(DIGITS)
    for length in LETTERS:
        for place in range(len(text) - length + 1):
            yield f"{group}={text[place : place + length]}"


def once(signs: Sequence[str]) -> list[str]:
    return [
        each
        for place, each in enumerate(signs)
        if each not in SAID_ONCE or place == 0 or signs[place - 1] != each
    ]


def runs(signs: Sequence[str], group: str) -> Iterator[str]:
    """Runs of up to three, with the edges, and those of three without their middle."""
    padded = ("^", *signs, "$", "", "")
    for one, two, three in zip(padded, padded[1:], padded[2:], strict=False):
        yield f"{group} {one}"
        if two:
            yield f"{group} {one} {two}"
        if three:
            yield f"{group} {one} {two} {three}"
            yield f"{group} {one} * {three}"


def group_of(locale: str) -> str:
    """Portuguese and Spanish share most of their words."""
    return "en" if locale.startswith("en") else "es"
