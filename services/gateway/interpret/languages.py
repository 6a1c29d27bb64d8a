"""The languages that the rules know."""

from services.gateway.interpret.english import ENGLISH
from services.gateway.interpret.lexicon import Lexicon
from services.gateway.interpret.portuguese import PORTUGUESE
from services.gateway.interpret.spanish import SPANISH

LEXICONS = {"en": ENGLISH, "pt": PORTUGUESE, "es": SPANISH}


def lexicon_of(locale: str) -> Lexicon:
    return LEXICONS.get(locale.split("-")[0], ENGLISH)
