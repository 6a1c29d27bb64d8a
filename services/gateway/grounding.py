"""Whether a text states only numbers that were computed (GAT-9). Decides, and waits for nothing.

A model may word figures, not make them. Every number in its text, in digits or in words, has to be
one of the figures at the precision that the text gives it, and with a percent sign exactly where
the figure is a share.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, InvalidOperation

NUMBER = re.compile(r"(?<![\w])[-−+]?\d[\d.,\u00a0\u202f']*(?:\s?%|\s?‰)?|\d[\d.,]*", re.UNICODE)
ISO_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
DECIMAL_COMMA = ("pt", "es")

WORDS = {
    "en": "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty "
    "fifty sixty seventy eighty ninety hundred thousand million half third quarter fifth tenth "
    "dozen twice double doubled triple tripled percent",
    "pt": "dois duas três quatro cinco seis sete oito nove dez onze doze quinze vinte trinta "
    "quarenta cinquenta sessenta setenta oitenta noventa cem cento mil milhão metade terço quarto "
    "quinto décimo dúzia dobro dobrou triplo triplicou",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce quince veinte treinta "
    "cuarenta cincuenta sesenta setenta ochenta noventa cien ciento mil millón mitad tercio cuarto "
    "quinto décimo docena doble duplicó triple triplicó",
}
"""Numbers written out. Nothing checks their value, so a text that has one is not used."""


@dataclass(frozen=True)
class Grounds:
    """What a text may state: counts as they are, shares as fractions of 1, and days."""

    counts: frozenset[Decimal]
    shares: frozenset[Decimal]
    days: frozenset[str] = frozenset()


def grounds(counts: Iterable[float], shares: Iterable[float], days: Iterable[str] = ()) -> Grounds:
    return Grounds(
        frozenset(Decimal(repr(count)) for count in counts),
        frozenset(Decimal(repr(share)) for share in shares),
        frozenset(days),
    )


def ungrounded(text: str, known: Grounds, locale: str) -> list[str]:
    """The numbers in *text* that were not computed, as they stand in it.

    A number without a percent sign must be a count, one with a percent sign a share. Days are
    allowed in ISO 8601 only.
    """
    language = locale.split("-")[0]
    faults = [found for found in ISO_DAY.findall(text) if found not in known.days]
    rest = ISO_DAY.sub(" ", plain_digits(text))
    for match in NUMBER.finditer(rest):
        token = match.group().rstrip(".,'\u00a0\u202f ")
        if not is_known(token, known, language):
            faults.append(token)
    return faults + number_words(rest, language)


def plain_digits(text: str) -> str:
    """Write digits of any script, and superscripts, as 0 to 9."""
    return "".join(
        str(unicodedata.digit(sign)) if unicodedata.digit(sign, None) is not None else sign
        for sign in text
    )


def is_known(token: str, known: Grounds, language: str) -> bool:
    if token.endswith("‰"):
        return False
    share = token.endswith("%")
    number = parsed(token.rstrip("% \u00a0\u202f"), language)
    if number is None:
        return False
    if share:
        return any(rounds_to(100 * value, number) for value in known.shares)
    return any(rounds_to(value, number) for value in known.counts)


def parsed(token: str, language: str) -> Decimal | None:
    """Read a number as *language* writes it. None for one that it would not write so."""
    point, group = (",", ".") if language in DECIMAL_COMMA else (".", ",")
    sign = "-" if token[0] in "-−" else ""
    digits = token.lstrip("-−+")
    whole, mark, fraction = digits.partition(point)
    parts = re.split(rf"[{re.escape(group)}\u00a0\u202f']", whole)
    grouped = len(parts) > 1
    if grouped and (not 1 <= len(parts[0]) <= 3 or any(len(part) != 3 for part in parts[1:])):
        return None
    if mark and not fraction.isdigit():
        return None
    try:
        return Decimal(f"{sign}{''.join(parts)}{'.' + fraction if mark else ''}")
    except InvalidOperation:
        return None


def rounds_to(value: Decimal, stated: Decimal) -> bool:
    """Whether *stated* is *value* at the precision of *stated*, however halves are rounded."""
    step = Decimal(1).scaleb(int(stated.as_tuple().exponent))
    return stated in (value.quantize(step, ROUND_HALF_UP), value.quantize(step, ROUND_HALF_EVEN))


def number_words(text: str, language: str) -> list[str]:
    words = set(WORDS.get(language, WORDS["en"]).split())
    return [word for word in re.findall(r"\w+", text.lower()) if word in words]
