"""Joins an answer that broke off with its continuation by another model, without a seam (ROU-5).
Pure.

A model that is asked to continue often says the last words again, or begins anew. The repeated
part is dropped. One that goes on by itself from an unfinished message (a prefill) is taken at its
word, unless it begins anew.
"""

CERTAIN_CHARACTERS = 12
"""So long a coincidence between the end of one text and the start of another is no coincidence."""


class Joiner:
    """Feeds on the continuation and gives what the caller has not yet seen.

    Text is held back only as long as it may still be a repetition of what was said. *exact* says
    that the model goes on from the very next character: "1, 1" may be followed by ", 1".
    """

    def __init__(self, said: str, *, exact: bool = False) -> None:
        self._said = said
        self._exact = exact
        self._held = ""
        self._joined = not said

    def feed(self, text: str) -> str:
        if self._joined:
            return text
        self._held += text
        if self._may_repeat():
            return ""
        return self.end()

    def end(self) -> str:
        """What is held back, when no more comes."""
        if self._joined:
            return ""
        self._joined = True
        held, self._held = self._held, ""
        return new_part(self._said, held, exact=self._exact)

    def _may_repeat(self) -> bool:
        bare = self._held.lstrip()
        if self._exact:
            return begins_anew(self._said, bare) is None
        return not bare or self._held in self._said or bare in self._said


def begins_anew(said: str, bare: str) -> bool | None:
    """Say whether a continuation that goes on exactly says the whole of *said* again instead; None
    while that is open.
    """
    again = said.lstrip()
    if len(again) < CERTAIN_CHARACTERS or not again.startswith(bare[: len(again)]):
        return False
    return True if len(bare) >= len(again) else None


def new_part(said: str, continuation: str, *, exact: bool = False) -> str:
    """What of *continuation* goes behind *said*."""
    bare = continuation.lstrip()
    if exact and not begins_anew(said, bare):
        return continuation
    if bare.startswith(said.lstrip()):
        return bare[len(said.lstrip()) :]
    overlap = overlap_length(said, continuation)
    if overlap:
        return continuation[overlap:]
    bare_overlap = overlap_length(said, bare)
    if bare_overlap >= CERTAIN_CHARACTERS:
        return bare[bare_overlap:]
    return continuation


def overlap_length(said: str, continuation: str) -> int:
    """How many characters at the start of *continuation* repeat the end of *said*.

    A short overlap counts only from the start of a word on: "book" and "keeper" share a letter by
    chance, "of the" and "the clinic" share a word.
    """
    for length in range(min(len(said), len(continuation)), 0, -1):
        if not said.endswith(continuation[:length]):
            continue
        if length >= CERTAIN_CHARACTERS or _starts_word(said, len(said) - length):
            return length
    return 0


def _starts_word(text: str, place: int) -> bool:
    return place == 0 or not text[place - 1].isalnum() or not text[place].isalnum()
