"""How the words of a request are read, and in which language it is answered."""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale, UnknownLocaleError, negotiate_locale

from services.gateway.notices import LOCALES
from services.runtime.failure import InvalidInput
from services.runtime.identity import Caller

DEFAULT_LOCALE = "en-US"


@dataclass(frozen=True)
class Reading:
    """The language, the zone of dates and times, and the moment of a request."""

    locale: str
    time_zone: ZoneInfo
    now: datetime


def reading_of(caller: Caller, locale: str, time_zone: str, now: datetime) -> Reading:
    """What the request asks for, else the token. Raises InvalidInput for an unknown zone."""
    return Reading(supported(locale or caller.locale), zone_of(time_zone or caller.time_zone), now)


def supported(tag: str) -> str:
    """The language that is spoken here and comes nearest to *tag*; en-US where none does."""
    if not tag:
        return DEFAULT_LOCALE
    exact = negotiate_locale([tag], LOCALES, sep="-")
    if exact:
        return str(exact)
    try:
        language = Locale.parse(tag, sep="-").language
    except (ValueError, UnknownLocaleError):
        return DEFAULT_LOCALE
    return next((each for each in LOCALES if each.startswith(f"{language}-")), DEFAULT_LOCALE)


def zone_of(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidInput(
            [("time_zone", "must be an IANA time zone such as America/Sao_Paulo")]
        ) from None
