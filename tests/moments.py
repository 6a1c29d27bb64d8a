"""Moments at which what depends on the day has gone wrong somewhere, and the zones of them."""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

SAO_PAULO, NEW_YORK, MADRID = "America/Sao_Paulo", "America/New_York", "Europe/Madrid"
# Where clocks are put forward at midnight, so that a day begins at 01:00.
SANTIAGO, CAIRO, BEIRUT = "America/Santiago", "Africa/Cairo", "Asia/Beirut"


@dataclass(frozen=True)
class Moment:
    """A time of a zone's clock."""

    local: str
    zone: str

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.local).replace(tzinfo=ZoneInfo(self.zone))

    def __str__(self) -> str:
        return f"{self.at:%a}-{self.local}-{self.zone.rpartition('/')[2]}"


# In the order of time, so that a suite's clock only goes forward.
MOMENTS = (
    Moment("2027-03-13T23:55", NEW_YORK),  # a day of 23 hours comes
    Moment("2027-03-27T23:55", MADRID),
    Moment("2027-03-28T00:05", MADRID),
    Moment("2027-04-29T23:55", CAIRO),  # midnight is skipped
    Moment("2027-04-30T01:05", CAIRO),  # the first minutes of that day, and the month's last
    Moment("2027-06-07T10:00", SAO_PAULO),  # a Monday; with the others every day of the week
    Moment("2027-06-08T10:00", SAO_PAULO),
    Moment("2027-06-09T10:00", SAO_PAULO),
    Moment("2027-09-04T23:55", SANTIAGO),
    Moment("2027-09-05T01:05", SANTIAGO),
    Moment("2027-10-31T00:05", MADRID),  # a day of 25 hours
    Moment("2027-11-06T23:55", NEW_YORK),
    Moment("2027-12-31T23:55", SAO_PAULO),
    Moment("2028-01-01T00:05", SAO_PAULO),
    Moment("2028-02-29T00:05", NEW_YORK),
    Moment("2028-02-29T23:55", NEW_YORK),
    Moment("2028-04-01T23:55", SANTIAGO),  # the second time: 23:00 to 24:00 are there twice
)
