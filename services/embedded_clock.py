"""The clock of the embedded suite, which can be set: what its services take for the time of day.

No service reads it from its settings, so a production service cannot be set by accident: the
embedded suite alone hands it over (`services/embedded_services.py`). It moves what users see, days,
quotas, figures and the times in reports and in the operation log. Time-outs, leases and the
validity of tokens and certificates stay with the machine's clock.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

# What the partitions of the operation log and the times of spans can hold.
FIRST, LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)


class Clock:
    """A clock that is *ahead* of the machine's, and goes on at its pace."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC) + self.ahead

    def set(self, moment: datetime) -> None:
        """Go on from *moment*, which has an offset. Raises ValueError outside of FIRST and LAST."""
        if not FIRST <= moment <= LAST:
            raise ValueError(f"the time must be between {FIRST:%Y-%m-%d} and {LAST:%Y-%m-%d}")
        self.ahead = moment - datetime.now(UTC)


def moment_of(text: str, time_zone: str) -> datetime:
    """The moment that an ISO 8601 date and time names; in *time_zone* unless it has an offset.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(time_zone))
