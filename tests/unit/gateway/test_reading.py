"""Which language and whose day a request has (ALL-6, USE-4).

The kind of fault: a language tag compared as the text that a caller spelt, and a zone taken from
whoever names one.
"""

import uuid
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.vocabulary import spoken
from services.gateway.notices import LOCALES
from services.gateway.reading import nearest_locale, reading_of
from services.runtime.identity import Caller
from services.runtime.validation import is_language_tag, is_time_zone, leading_language_tag

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LETTERS, ALPHANUMERIC = "abcnprst", "abrt05"


def subtag(alphabet: str, least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most)


# After the grammar of RFC 5646.
TAGS = st.tuples(
    st.sampled_from(["en", "pt", "es", "fr", "zh", "por", "spa", "mas", "qaa"])
    | subtag(LETTERS, 2, 3),
    st.just("") | st.sampled_from(["-Latn", "-hant"]),
    st.just("") | st.sampled_from(["-BR", "-419", "-gb"]),
    st.just("") | subtag(LETTERS, 5, 8).map("-{}".format),
    st.just("") | st.sampled_from(["-u-ca-buddhist", "-x-mine", "-t-en-us-x-1"]),
).map("".join)
SPELLINGS = st.sampled_from(
    [str.lower, str.upper, str.title, str.swapcase, lambda tag: tag.replace("-", "_")]
)


@pytest.mark.parametrize(
    ("tag", "locale"),
    [
        *[(tag, "pt-BR") for tag in ("pt-BR", "pt-br", "PT-BR", "pt_BR", "pt", "pt-PT", "por")],
        *[(tag, "es-ES") for tag in ("es-419", "ES", "es_mx", "spa", "es-ES-u-ca-buddhist")],
        *[(tag, "en-US") for tag in ("en-GB-oxendict", "en-GB-oed", "zh-Hant", "i-klingon", "")],
        *[(tag, "en-US") for tag in ("x-pt-br", "ptx", "art-lojban", "fil", "posix")],
    ],
)
def test_a_tag_leads_to_the_nearest_language(tag: str, locale: str) -> None:
    """ALL-6, GAT-11: in any spelling; English where no other language is near."""
    assert nearest_locale(tag) == locale
    assert not tag or is_language_tag(tag)


@given(TAGS, SPELLINGS)
def test_no_spelling_of_a_tag_changes_its_language(tag: str, spelt) -> None:  # type: ignore[no-untyped-def]
    """ALL-6: case and separators mean nothing, and the answer is always a language spoken here."""
    assert is_language_tag(tag)
    assert is_language_tag(spelt(tag))
    assert nearest_locale(spelt(tag)) == nearest_locale(tag)
    assert nearest_locale(tag) in LOCALES


@given(st.text(max_size=80))
def test_no_text_has_no_language(text: str) -> None:
    """ALL-6: whatever comes, the answer is in some language."""
    assert nearest_locale(text) in LOCALES
    leading = leading_language_tag(text)
    assert text.startswith(leading)
    assert not leading or is_language_tag(leading)


@pytest.mark.parametrize(
    "text",
    [
        "english please",
        "pt-",
        "-BR",
        "p",
        "pt--BR",
        "pt-BR\n",
        "pt_BR.UTF-8",
        "ｐｔ-BR",
        "pt-BR,en",
    ],
)
def test_a_text_that_is_no_tag_is_told_from_one(text: str) -> None:
    """ALL-6."""
    assert not is_language_tag(text)
    assert not is_language_tag("en-" + "-".join(["abcde"] * 12))


@pytest.mark.parametrize("tag", ["pt-BR", "pt-br", "pt", "pt_PT", "PT"])
def test_a_descriptors_words_are_of_a_language_however_its_tag_is_spelt(tag: str) -> None:
    """ALL-6, GAT-3: and not lost among those of all languages."""
    assert spoken({"en": ["client"], tag: ["paciente"]}, "pt-BR") == ["paciente"]
    both = {"en": ["client"], "pt-PT": ["utente"], tag: ["paciente"], "PT-BR": ["cliente"]}
    assert spoken(both, "pt-BR")[0] in ("cliente", "paciente")


@pytest.mark.parametrize(
    ("clinic", "token", "asked", "words", "day"),
    [
        ("", "", "", "UTC", "UTC"),
        ("", "Asia/Tokyo", "", "Asia/Tokyo", "Asia/Tokyo"),
        ("Europe/Lisbon", "Asia/Tokyo", "", "Europe/Lisbon", "Europe/Lisbon"),
        ("Europe/Lisbon", "Asia/Tokyo", "Asia/Seoul", "Asia/Seoul", "Europe/Lisbon"),
        ("", "Asia/Tokyo", "Asia/Seoul", "Asia/Seoul", "Asia/Tokyo"),
        ("Mars/Base", "Asia/Tokyo", "", "Asia/Tokyo", "Asia/Tokyo"),
        ("Mars/Base", "Mars/Base", "", "UTC", "UTC"),
        ("localtime", "Factory", "", "UTC", "UTC"),
    ],
)
def test_the_clinics_zone_counts_before_the_tokens(
    clinic: str, token: str, asked: str, words: str, day: str
) -> None:
    """USE-4: a request's zone is that of its words alone; one that is not known is as if unset."""
    caller = Caller(str(uuid.uuid4()), "", frozenset({"user"}), time_zone=token)
    reading = reading_of(caller, "", asked, NOW, clinic)
    assert (reading.time_zone, reading.day_zone) == (ZoneInfo(words), ZoneInfo(day))


@pytest.mark.parametrize(
    "name", ["localtime", "Factory", "posixrules", "posix/UTC", "right/UTC", "", "utc", "UTC\0"]
)
def test_a_name_of_the_machines_is_no_zone(name: str) -> None:
    """ALL-6: what `localtime` means depends on the machine."""
    assert not is_time_zone(name)
