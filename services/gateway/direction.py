"""Whether a text says rightly which way a figure has gone (GAT-9). Decides, and waits for nothing.

Numbers that are all computed can still tell a falsehood: it rose from 20% to 18%. A model that is
wrong about that is not believed. It is better to do without a good sentence than to tell a bad one,
so what can be read both ways counts as wrong where one of them is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from services.gateway.grounding import SENTENCE, parsed, rounds_to, unaccented

RISING = (
    "rose risen rise rises rising increased increase increases increasing grew grown growing growth"
    " climbed climbing up higher upward"
    " subiu subiram subindo aumentou aumentaram aumento aumentando cresceu crescimento elevou"
    " superior acima"
    " subio subido sube aumentado aumentaron crecio crecido incremento incrementado"
)
FALLING = (
    "fell fallen fall falls falling decreased decrease decreases decreasing dropped drop drops"
    " dropping declined decline declines declining down lower downward reduced reduction"
    " caiu cairam caindo queda diminuiu diminuindo diminuicao reduziu reducao baixou recuou"
    " inferior abaixo"
    " cayo caido caida disminuyo disminuido disminucion redujo reducido reduccion descendio"
    " descendido descenso"
)
# Of all languages, without accents; none of them says the opposite in another.
RISES, FALLS = frozenset(RISING.split()), frozenset(FALLING.split())

SHARE = r"(\d[\d.,]*)\s?%"
FROM_TO = {
    "en": re.compile(rf"\bfrom {SHARE} to {SHARE}", re.IGNORECASE),
    "pt": re.compile(rf"\bde {SHARE} (?:para|a) {SHARE}", re.IGNORECASE),
    "es": re.compile(rf"\bdel? {SHARE} (?:al?|hasta el|hasta) {SHARE}", re.IGNORECASE),
}


@dataclass(frozen=True)
class Move:
    """A share before and now, as fractions of 1."""

    before: Decimal
    now: Decimal


def misdirected(text: str, moves: Mapping[str, Move | None], locale: str) -> list[str]:
    """What *text* says of a way that a figure has not gone, as it stands in it.

    *moves* has every figure that may be spoken of by its name, None where nothing is known of
    before. A sentence that names one is about it; where there is but one, every sentence is.
    """
    return [
        fault
        for sentence in SENTENCE.split(text)
        for move in [spoken_of(sentence, moves)]
        if move is not None
        for fault in (*wrong_words(sentence, move), *wrong_ends(sentence, move, locale))
    ]


def spoken_of(sentence: str, moves: Mapping[str, Move | None]) -> Move | None:
    named = [name for name in moves if name.lower() in sentence.lower()] or list(moves)
    return moves[named[0]] if len(named) == 1 else None


def wrong_words(sentence: str, move: Move) -> list[str]:
    """Words for the way that the figure has not gone; one that has not moved has gone neither."""
    wrong = (RISES if move.now <= move.before else frozenset()) | (
        FALLS if move.now >= move.before else frozenset()
    )
    return [word for word in re.findall(r"\w+", sentence) if unaccented(word.lower()) in wrong]


def wrong_ends(sentence: str, move: Move, locale: str) -> list[str]:
    """`from 18% to 20%` where it was the other way round."""
    language = locale.split("-")[0]
    pattern = FROM_TO.get(language, FROM_TO["en"])
    return [
        match.group()
        for match in pattern.finditer(sentence)
        for before, now in [[parsed(each.rstrip(".,"), language) for each in match.groups()]]
        if before is None
        or now is None
        or not (rounds_to(100 * move.before, before) and rounds_to(100 * move.now, now))
    ]
