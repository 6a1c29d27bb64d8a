"""Server-sent events out of bytes that arrive in any pieces. Pure.

After https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation:
lines end with LF, CRLF or CR, `data` lines of one event are joined by LF, lines that begin with a
colon are comments, one space after the colon is dropped, a byte order mark at the start is skipped.
"""

import codecs

MAX_EVENT_CHARACTERS = 1 << 20


class EventTooLong(Exception):
    """A line or an event that does not end: not an event stream that anyone could mean."""


class EventStream:
    """Feeds on bytes and gives the data of each whole event."""

    def __init__(self) -> None:
        # A character split over two reads waits in the decoder; what is no UTF-8 becomes U+FFFD,
        # not an error.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._data: list[str] = []
        self._size = 0
        self._at_start = True
        self._skip_line_feed = False

    def feed(self, received: bytes) -> list[str]:
        """The data of the events that *received* completes, in order."""
        return self._take(self._decoder.decode(received))

    def end(self) -> list[str]:
        """The last event, when the stream ended without the empty line that should follow it.

        The specification drops it; a provider that forgets the line still gave a good answer
        (ROU-5).
        """
        events = self._take(self._decoder.decode(b"", final=True))
        self._line(self._rest)
        self._rest = ""
        return events + self._dispatch()

    def _take(self, text: str) -> list[str]:
        if not text:
            return []
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._skip_line_feed:
            self._skip_line_feed = False
            text = text.removeprefix("\n")
        lines = self._whole_lines(text)
        events: list[str] = []
        for line in lines:
            if line:
                self._line(line)
            else:
                events += self._dispatch()
        return events

    def _whole_lines(self, text: str) -> list[str]:
        joined = self._rest + text
        if "\r" in joined:
            # A CR ends its line at once; the LF that may follow in the next read belongs to it.
            self._skip_line_feed = joined.endswith("\r")
            joined = joined.replace("\r\n", "\n").replace("\r", "\n")
        *lines, self._rest = joined.split("\n")
        if len(self._rest) > MAX_EVENT_CHARACTERS:
            raise EventTooLong
        return lines

    def _line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name != "data":
            return
        value = value.removeprefix(" ")
        self._size += len(value)
        if self._size > MAX_EVENT_CHARACTERS:
            raise EventTooLong
        self._data.append(value)

    def _dispatch(self) -> list[str]:
        if not self._data:
            return []
        event = "\n".join(self._data)
        self._data, self._size = [], 0
        return [event]
