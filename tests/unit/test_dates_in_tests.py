"""No test counts on a date that is still to come today, and will have passed one day (ALL-6).

The kind: a day of the near future, written into a test as one that never comes.
"""

import re

from tests.conftest import ROOT

# As an ISO date, and in words with a year.
DATED = re.compile(r"\b(20\d\d)-\d\d-\d\d|\b(?:December|dezembro de|diciembre de) (20\d\d)\b")
# When these were written. What was the past then stays the past.
WRITTEN = 2026
# What a test means by a day that does not come. The suite's clock goes no further.
NEVER = 2099
# They set the clock by which they run, or give the time as an argument.
TIMED = {"moments.py", "zones.py", "test_embedded.py", "test_command_line.py", "test_usage_day.py"}


def test_a_day_that_never_comes_is_of_the_last_year_of_all() -> None:
    """ALL-6: unit tests are given the time; those on the machine's clock stay clear of it."""
    folders = [ROOT / "tests" / name for name in ("contract", "system", "deploy")]
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "bench").rglob("*.py")]
    files += [file for folder in folders for file in folder.rglob("*.py")]
    assert len(files) > 100
    near = [
        f"{file.relative_to(ROOT)}:{number}: {found.group()}"
        for file in files
        if file.name not in TIMED
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for found in DATED.finditer(line)
        if WRITTEN < int(found[1] or found[2]) < NEVER
    ]
    assert near == []
