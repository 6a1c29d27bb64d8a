"""Words as values of fields."""

import re
from decimal import Decimal

CURRENCY = re.compile(r"(?:r\$|us\$|\$|€|euros?|dollars?|reais|eur|usd|brl)", re.IGNORECASE)
GROUPED = {
    # Thousands and decimals, as a language writes them.
    True: re.compile(r"(\d{1,3}(?:\.\d{3})+|\d+)(?:,(\d+))?"),
    False: re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?"),
}


def amount(text: str, *, comma_is_decimal: bool) -> float | None:
    """A number as a language writes it, or as the other way where only that can be meant.

    None for one that cannot be held with all of its digits: another number was not said.
    """
    for comma in (comma_is_decimal, not comma_is_decimal):
        found = GROUPED[comma].fullmatch(text)
        if found is not None:
            whole = re.sub(r"[.,]", "", found[1])
            written = f"{whole}.{found[2] or 0}"
            number = float(written)
            return number if Decimal(repr(number)) == Decimal(written) else None
    return None


def is_money(text: str) -> bool:
    """Whether it is written as sums are, and as numbers of records are not."""
    return re.fullmatch(r"\d[\d.,]*[.,]\d{2}", text) is not None
