"""Server-sent events come out the same however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.sse import MAX_EVENT_CHARACTERS, EventStream, EventTooLong


def events_of(*pieces: bytes) -> list[str]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)] + stream.end()


TEXTS = st.lists(st.text(alphabet="aé😀: \u00a0{}", min_size=1, max_size=8), max_size=6)


@given(TEXTS, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(1, 5), min_size=1))
def test_events_survive_any_cut_and_any_line_end(
    texts: list[str], end: str, steps: list[int]
) -> None:
    """ROU-5: split UTF-8, CRLF, LF or CR, cut anywhere."""
    wire = "".join(f": note{end}data: {text}{end}{end}" for text in texts).encode()
    pieces, place, turn = [], 0, 0
    while place < len(wire):
        step = steps[turn % len(steps)]
        pieces.append(wire[place : place + step])
        place, turn = place + step, turn + 1
    assert events_of(*pieces) == texts


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b": comment\n\n:\n\n", []),
        (b"data\n\n", [""]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: last without its empty line", ["last without its empty line"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"datum: a\n\n", []),
        (b"", []),
    ],
)
def test_an_event_stream_is_read_as_the_specification_says(
    wire: bytes, expected: list[str]
) -> None:
    """ROU-5."""
    assert events_of(wire) == expected


@pytest.mark.parametrize(
    "wire", [b"x" * (MAX_EVENT_CHARACTERS + 1), b"data: xxxxxxxxx\n" * 200_000]
)
def test_a_line_or_event_without_end_is_given_up(wire: bytes) -> None:
    """ROU-5: memory is bounded."""
    with pytest.raises(EventTooLong):
        events_of(wire)
