"""A broken answer and its continuation become one text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.joining import Joiner


def joined(said: str, *pieces: str) -> str:
    joiner = Joiner(said)
    return said + "".join(joiner.feed(piece) for piece in pieces) + joiner.end()


@pytest.mark.parametrize(
    ("said", "continuation", "whole"),
    [
        ("The clinic had ", "twelve visits.", "The clinic had twelve visits."),
        ("The clinic had", " twelve visits.", "The clinic had twelve visits."),
        ("The clinic had ", "The clinic had twelve visits.", "The clinic had twelve visits."),
        ("The clinic had ", "\n\nThe clinic had twelve.", "The clinic had twelve."),
        ("The clinic had twelve", "had twelve visits.", "The clinic had twelve visits."),
        ("of the", "the clinic", "of the clinic"),
        ("The cli", "clinic had", "The clinic had"),
        ("book", "keeper", "bookkeeper"),
        ("A line. ", " Another.", "A line. Another."),
        ("Ação concluída com", " concluída com êxito", "Ação concluída com êxito"),
        ("All was said.", "All was said.", "All was said."),
        ("", "From the start.", "From the start."),
    ],
)
def test_no_seam_and_no_repetition(said: str, continuation: str, whole: str) -> None:
    """ROU-5."""
    assert joined(said, continuation) == whole
    assert joined(said, *continuation) == whole


def test_text_is_held_back_only_while_it_may_be_a_repetition() -> None:
    """ROU-5: the caller does not wait for a model that goes straight on."""
    assert Joiner("The clinic had ").feed("twelve") == "twelve"
    joiner = Joiner("The clinic had ")
    assert joiner.feed("The clin") == ""
    assert joiner.feed("ic had twelve") == "twelve"
    assert joiner.feed(" visits") == " visits"


@given(st.text(min_size=1, max_size=40), st.text(max_size=40), st.integers(0, 40))
def test_a_continuation_that_begins_anew_is_told_once(said: str, rest: str, cut: int) -> None:
    """ROU-5: however its text is cut into pieces."""
    again = said.lstrip() + rest
    assert joined(said, again[:cut], again[cut:]).startswith(said)
    assert joined(said, again[:cut], again[cut:]) == joined(said, *again)


@given(st.text(max_size=40))
def test_a_whole_answer_passes_as_it_is(text: str) -> None:
    """ROU-5."""
    assert joined("", *text) == text
