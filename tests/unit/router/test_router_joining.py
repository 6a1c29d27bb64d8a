"""A broken answer and its continuation become one text."""

import json
from itertools import accumulate, cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from services.router.chat import AnswerReader
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


@pytest.mark.parametrize(
    ("said", "continuation", "whole"),
    [
        ("1, 1", ", 1", "1, 1, 1"),
        ("no, no", ", no", "no, no, no"),
        ("The clinic had the", " the", "The clinic had the the"),
        ("The clinic had ", "The clinic had twelve visits.", "The clinic had twelve visits."),
        ("The clinic had ", "The clinic hat", "The clinic had The clinic hat"),
        ("The clinic had ", "The cl", "The clinic had The cl"),
        ("Ha ", "Ha ha", "Ha Ha ha"),
    ],
)
def test_a_prefill_is_taken_at_its_word_unless_it_begins_anew(
    said: str, continuation: str, whole: str
) -> None:
    """ROU-5: what looks like a repetition may be the text."""
    for pieces in ((continuation,), tuple(continuation)):
        joiner = Joiner(said, exact=True)
        told = "".join(joiner.feed(piece) for piece in pieces) + joiner.end()
        assert said + told == whole


WORDS = st.lists(st.integers(0, 10**6), min_size=4, max_size=40, unique=True)


def wire_of(text: str, cuts: list[int], line_end: str, *, done: bool) -> bytes:
    """*text* as a provider streams it, in deltas that end at *cuts*."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    events = [
        json.dumps({"choices": [{"delta": {"content": text[start:end]}}]}, ensure_ascii=False)
        for start, end in pairwise(places)
    ]
    if done:
        events += ['{"choices": [{"delta": {}, "finish_reason": "stop"}]}', "[DONE]"]
    return "".join(f": ping{line_end}data: {e}{line_end}{line_end}" for e in events).encode()


class StreamMachine(RuleBasedStateMachine):
    """One answer over any number of providers, of which each breaks anywhere but the last.

    Each goes on from what was said in one of the ways in which models do; its bytes are cut
    anywhere. What the caller has must at every moment be the beginning of the answer, and at last
    all of it.
    """

    @initialize(numbers=WORDS)
    def begin(self, numbers: list[int]) -> None:
        # No word is another's, so nothing is said twice unless a model says it twice.
        self.answer = " ".join(f"é{number:07d}😀" for number in numbers) + "."
        self.said = ""
        self.over = False

    @precondition(lambda self: not self.over)
    @rule(
        way=st.sampled_from(["on", "prefill", "anew", "overlap", "anew after a line"]),
        share=st.floats(0, 1),
        cuts=st.lists(st.integers(0, 10**4), max_size=8),
        steps=st.lists(st.integers(1, 40), min_size=1, max_size=9),
        line_end=st.sampled_from(["\n", "\r\n", "\r"]),
        whole=st.booleans(),
    )
    def provide(
        self,
        way: str,
        share: float,
        cuts: list[int],
        steps: list[int],
        line_end: str,
        whole: bool,
    ) -> None:
        text = self.continuation(way)
        if not whole:
            text = text[: int(share * len(text))]
        wire = wire_of(text, cuts, line_end, done=whole)
        reader, joiner = AnswerReader(), Joiner(self.said, exact=way == "prefill")
        places = accumulate(cycle(steps))
        at = 0
        while at < len(wire):
            end = next(places)
            if piece := reader.feed(wire[at:end]):
                self.tell(joiner.feed(piece))
            at = end
        if whole and text:
            self.tell(reader.end() + joiner.end())
            assert self.said == self.answer
            self.over = True

    @precondition(lambda self: self.over)
    @rule()
    def ask_again(self) -> None:
        self.said, self.over = "", False

    def continuation(self, way: str) -> str:
        rest = self.answer[len(self.said) :]
        if way in ("on", "prefill") or not self.said:
            return rest
        if way == "overlap":
            return self.said[self.said.rfind(" ") + 1 :] + rest
        return ("\n\n" if way == "anew after a line" else "") + self.answer

    def tell(self, text: str) -> None:
        self.said += text
        assert self.answer.startswith(self.said)


TestStream = StreamMachine.TestCase
