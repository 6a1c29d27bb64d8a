"""Keeps the catalogue that is in force in step with its file (ROU-1)."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from services.router.catalog import Catalogue, CatalogueWrong, key_in, read_catalogue
from services.router.yaml_reading import Mistake

MOST_BYTES = 4 << 20


class CatalogueFile:
    """The catalogue in force; a file that went wrong leaves the old one in force, and says so once.

    The file is compared by its content, not its time: mounted configuration is swapped by a link,
    and a clock's tick may hold two writes.
    """

    def __init__(self, path: Path, environ: Mapping[str, str], log: logging.Logger) -> None:
        """Reads the file. Raises CatalogueWrong with every mistake."""
        self._path = path
        self._environ = environ
        self._log = log
        self._complaint: list[Mistake] = []
        self._seen = _content(path)
        self.current: Catalogue = read_catalogue(_text(self._seen, path), environ, str(path))

    async def refresh(self) -> bool:
        """Look once; says whether another catalogue is in force now."""
        try:
            content = await asyncio.to_thread(_content, self._path)
            if content == self._seen and not await asyncio.to_thread(self._has_new_keys):
                return False
            self._seen = content
            self.current = read_catalogue(
                _text(content, self._path), self._environ, str(self._path)
            )
        except CatalogueWrong as error:
            if error.found != self._complaint:
                self._log.error("the catalogue stays as it was: %s", error)
            self._complaint = error.found
            return False
        self._complaint = []
        self._log.info("another catalogue is in force: %s", self.current.digest)
        return True

    def _has_new_keys(self) -> bool:
        """Whether a file has another key than the one in use; one that is gone changes nothing."""
        providers = {model.provider for model in self.current.models}
        files = [each for each in providers if each.api_key_file]
        return any(key_in(each.api_key_file) not in (None, "", each.api_key) for each in files)

    async def follow(self, seconds: float, changed: Callable[[Catalogue], None]) -> None:
        """Look every *seconds* until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            if await self.refresh():
                changed(self.current)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise _unreadable(path, f"is larger than {MOST_BYTES} bytes")
    return content


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _unreadable(path, "is not UTF-8 text") from None


def _unreadable(path: Path, text: str) -> CatalogueWrong:
    return CatalogueWrong(str(path), [Mistake(1, "the file", text)])
