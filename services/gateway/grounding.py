"""Whether a text states only numbers that were computed (GAT-9). Decides, and waits for nothing.

A model may word figures, not make them. Every number in its text, in digits or in words, has to be
one of the figures at the precision that the text gives it, with a percent sign exactly where the
figure is a share, and said of the thing whose figure it is, where the text names one.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, InvalidOperation

NUMBER = re.compile(
    r"(?<!\w)[-−+]?\d[\d.,\u00a0\u202f']*(?:\s?[%‰]|[^\W\d_]+)?|\d[\d.,]*(?:[^\W\d_]+)?"
)
# The digits of the greatest double, and those behind its point.
WIDE = Context(prec=700)
ISO_DAY = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
# What makes another number, or another unit, of the digits before it.
OTHER_UNIT = re.compile(
    r"\d[\d.,]*\s*[%‰]?\s*(?:percentage points?|pontos? percentua(?:l|is)|puntos? porcentual(?:es)?"
    r"|p\.?\s?p\b|basis points?|points?|pontos?|puntos?|times|vezes|veces|fold|[x×]\b)"
)
PERCENT = re.compile(r"(?<=\d)\s*(?:per\s?cent|por cento|por ciento)\b", re.IGNORECASE)
PERCENT_SIGNS = str.maketrans(dict.fromkeys("％﹪٪", "%"))
SENTENCE = re.compile(r"(?<=[.!?;])\s+")
DECIMAL_COMMA = ("pt", "es")

WORDS = {
    "en": "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred hundreds thousand thousands million millions billion billions dozen dozens couple "
    "half halves halved third thirds fourth quarter quarters fifth fifths sixth seventh eighth "
    "ninth tenth tenths twentieth hundredth twice thrice double doubled doubles doubling triple "
    "tripled triples twofold threefold tenfold percent zero twenties thirties",
    "pt": "dois duas tres quatro cinco seis sete oito nove dez onze doze treze catorze quatorze "
    "quinze dezesseis dezasseis dezessete dezassete dezoito dezenove dezanove vinte trinta "
    "quarenta cinquenta sessenta setenta oitenta noventa cem cento centena centenas duzentos "
    "duzentas trezentos trezentas quatrocentos quatrocentas quinhentos quinhentas seiscentos "
    "seiscentas setecentos setecentas oitocentos oitocentas novecentos novecentas mil milhar "
    "milhares milhao milhoes bilhao bilhoes metade metades meia terco tercos quarto quartos "
    "quinto quintos sexto setimo oitavo nono decimo decimos duzia duzias dezena dezenas dobro "
    "dobrou dobrar dobraram triplo triplicou triplicaram zero",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciseis diecisiete dieciocho diecinueve veinte veintiuno veintiuna veintiun veintidos "
    "veintitres veinticuatro veinticinco veintiseis veintisiete veintiocho veintinueve treinta "
    "cuarenta cincuenta sesenta setenta ochenta noventa cien ciento cientos centenar centenares "
    "doscientos doscientas trescientos trescientas cuatrocientos cuatrocientas quinientos "
    "quinientas seiscientos seiscientas setecientos setecientas ochocientos ochocientas "
    "novecientos novecientas mil miles millar millares millon millones mitad mitades tercio "
    "tercios tercera cuarto cuartos cuarta quinto quintos quinta sexto septimo octavo noveno "
    "decimo decimos decena decenas docena docenas doble dobles duplico duplicaron duplicado "
    "triple triplico triplicaron cero",
}
"""Numbers written out, without accents. Nothing checks their value, so a text with one is not used.

"One" and "first" are not among them: they mostly say something else.
"""

ELSEWHERE_WORDS = frozenset({"dos", "once", "ten", "mil"})
"""Number words of one language that are everyday words of another: they count in their own only."""


@dataclass(frozen=True)
class Grounds:
    """What a text may state: counts as they are, shares as fractions of 1, and days."""

    counts: frozenset[Decimal]
    shares: frozenset[Decimal]
    days: frozenset[str] = frozenset()
    # What may be said of which thing, by its name: the figures of one are none of another's.
    by_name: Mapping[str, "Grounds"] = field(default_factory=dict)


def grounds(counts: Iterable[float], shares: Iterable[float], days: Iterable[str] = ()) -> Grounds:
    return Grounds(
        frozenset(Decimal(repr(count)) for count in counts),
        frozenset(Decimal(repr(share)) for share in shares),
        frozenset(days),
    )


def together(by_name: Mapping[str, Grounds]) -> Grounds:
    """What a text about several things may state, each number of the thing that it is said of."""
    every = by_name.values()
    return Grounds(
        frozenset().union(*(each.counts for each in every)),
        frozenset().union(*(each.shares for each in every)),
        frozenset().union(*(each.days for each in every)),
        by_name,
    )


def ungrounded(text: str, known: Grounds, locale: str) -> list[str]:
    """The numbers in *text* that were not computed, as they stand in it, or not of what it says.

    A number without a percent sign must be a count, one with a percent sign a share. Days are
    allowed in ISO 8601 only.
    """
    return [*invented(text, known, locale), *misplaced(text, known, locale)]


def invented(text: str, known: Grounds, locale: str) -> list[str]:
    language = locale.split("-")[0]
    faults = [found for found in ISO_DAY.findall(text) if found not in known.days]
    faults += [sign for sign in text if is_other_numeral(sign)]
    rest = ISO_DAY.sub(" ", PERCENT.sub("%", plain_digits(text).translate(PERCENT_SIGNS)))
    faults += [match.group() for match in OTHER_UNIT.finditer(rest.lower())]
    for match in NUMBER.finditer(rest):
        token = match.group().rstrip(".,'\u00a0\u202f ")
        if not is_known(token, known, language):
            faults.append(token)
    return faults + number_words(rest, language)


def misplaced(text: str, known: Grounds, locale: str) -> list[str]:
    """Numbers that are computed, but of another thing than the one they are said of.

    A sentence that names one thing is about it alone. In one that names several, each number is of
    the last named before it, or throughout of the next named after it. One that names none is not
    judged.
    """
    faults: list[str] = []
    for sentence in SENTENCE.split(text):
        places = named(sentence, known.by_name)
        if len(places) == 1:
            faults += invented(sentence, known.by_name[places[0][2]], locale)
        elif places:
            read = (parts(sentence, places, after=False), parts(sentence, places, after=True))
            wrong: list[list[str]] = [
                [one for name, part in each for one in invented(part, about(known, name), locale)]
                for each in read
            ]
            faults += sorted(wrong, key=len)[0]
    return faults


def named(sentence: str, by_name: Mapping[str, Grounds]) -> list[tuple[int, int, str]]:
    """Where things are named: start, end and name, in the order of the sentence."""
    found = [
        (match.start(), match.end(), name)
        for name in by_name
        for match in re.finditer(rf"\b{re.escape(name)}\b", sentence, re.IGNORECASE)
    ]
    return sorted(found)


def parts(
    sentence: str, places: Sequence[tuple[int, int, str]], *, after: bool
) -> list[tuple[str | None, str]]:
    """The stretches between names, each with the name that it belongs to, if it has one."""
    edges = [0, *(at for start, end, _ in places for at in (start, end)), len(sentence)]
    between = [sentence[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2)]
    names = [name for _, _, name in places]
    whose = [*names, None] if after else [None, *names]
    return list(zip(whose, between, strict=True))


def about(known: Grounds, name: str | None) -> Grounds:
    return known.by_name[name] if name else Grounds(frozenset(), frozenset(), known.days)


def is_other_numeral(sign: str) -> bool:
    """A fraction, a Roman or any other numeral in one sign: ½, Ⅻ, 五."""
    return unicodedata.numeric(sign, None) is not None and unicodedata.digit(sign, None) is None


def plain_digits(text: str) -> str:
    """Write digits of any script, and superscripts, as 0 to 9."""
    return "".join(
        str(unicodedata.digit(sign)) if unicodedata.digit(sign, None) is not None else sign
        for sign in text
    )


def is_known(token: str, known: Grounds, language: str) -> bool:
    if token.endswith("‰") or token.startswith("+") or token[-1].isalpha():
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
    ways = (ROUND_HALF_UP, ROUND_HALF_EVEN)
    try:
        return any(stated == value.quantize(step, way, context=WIDE) for way in ways)
    except InvalidOperation:  # more digits than any figure has
        return False


def number_words(text: str, language: str) -> list[str]:
    """Numbers written out in *text*, in its own language or in one that it slipped into."""
    own = set(WORDS.get(language, WORDS["en"]).split())
    foreign = set(" ".join(WORDS.values()).split()) - ELSEWHERE_WORDS
    return [word for word in re.findall(r"\w+", text.lower()) if unaccented(word) in own | foreign]


def unaccented(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))
