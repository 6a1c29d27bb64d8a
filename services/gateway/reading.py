"""How the words of a request are read, and in which language it is answered."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from babel.core import get_global

from services.gateway.notices import LOCALES
from services.runtime.identity import Caller
from services.runtime.validation import is_time_zone

DEFAULT_LOCALE = "en-US"
UTC = ZoneInfo("UTC")
# Callers spell tags as they like, and nobody fills the memory with them.
MOST_TAGS = 256


@dataclass(frozen=True)
class Reading:
    """The language, the zone of dates and times, and the moment of a request."""

    locale: str
    time_zone: ZoneInfo
    now: datetime
    # Whose midnight begins the day that counts (USE-4). No request chooses it.
    day_zone: ZoneInfo = UTC


def reading_of(
    caller: Caller, locale: str, time_zone: str, now: datetime, clinic_zone: str = ""
) -> Reading:
    """How a request of *caller* is read that asks for *locale* and *time_zone*, or for neither.

    *clinic_zone* is the zone kept with the clinic. It counts before the token's.
    """
    day_zone = first_known(clinic_zone, caller.time_zone)
    zone = first_known(time_zone, day_zone.key)
    return Reading(nearest_locale(locale or caller.locale), zone, now, day_zone)


@lru_cache(MOST_TAGS)
def nearest_locale(tag: str) -> str:
    """The locale of LOCALES in the language of *tag*, in any spelling; en-US where none is."""
    language = language_of(tag)
    return next((each for each in LOCALES if language_of(each) == language), DEFAULT_LOCALE)


def language_of(tag: str) -> str:
    """The language of a tag, as two letters where it has such: `pt` of PT_br and of `por`."""
    language = tag.replace("_", "-").partition("-")[0].lower()
    canonical: str = get_global("language_aliases").get(language, language)
    return canonical.partition("_")[0]


def tags_in_language_of(locale: str, tags: Iterable[str]) -> list[str]:
    """Those of *tags* that are of the language of *locale*, in any spelling, its own first."""
    language = language_of(locale)
    return sorted(
        (tag for tag in tags if language_of(tag) == language),
        key=lambda tag: tag.replace("_", "-").lower() != locale.lower(),
    )


def first_known(*names: str) -> ZoneInfo:
    """The first of *names* that is a zone here; UTC where none is.

    A zone that another machine's newer database has may be unknown to this one's.
    """
    return next((ZoneInfo(name) for name in names if is_time_zone(name)), UTC)
