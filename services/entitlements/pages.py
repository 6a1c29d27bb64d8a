"""Page tokens: where a listing goes on. Signed, so that any other string is refused."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from services.runtime.failure import InvalidInput

DEFAULT_PAGE_SIZE = 50
SIGNATURE_BYTES = 16
# Well under the message size limit of 4 MiB, which a page of large descriptors would otherwise
# pass.
PAGE_BYTES = 1 << 20

M = TypeVar("M", bound=Message)


class PageTokens:
    """Makes and reads the tokens of all listings; every replica has the same *key*."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def after(self, listing: str, last: str) -> str:
        """The token of the page after the item whose key is *last*."""
        content = last.encode()
        token = self._signature(listing, content) + content
        return base64.urlsafe_b64encode(token).decode().rstrip("=")

    def read(self, listing: str, token: str) -> str:
        """The key to go on after, empty for the first page.

        *listing* names the list and its filter: a token of one does not pass in another. Raises
        InvalidInput.
        """
        if not token:
            return ""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _refused() from None
        signature, content = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not content or not hmac.compare_digest(signature, self._signature(listing, content)):
            raise _refused()
        return content.decode()

    def _signature(self, listing: str, content: bytes) -> bytes:
        text = listing.encode() + b"\0" + content
        return hmac.digest(self._key, text, hashlib.sha256)[:SIGNATURE_BYTES]


def _refused() -> InvalidInput:
    return InvalidInput([("page_token", "not the next_page_token of a page of this listing")])


def fitting(items: Sequence[M], page_size: int, max_bytes: int = PAGE_BYTES) -> list[M]:
    """The items that make a page: at most *page_size* and *max_bytes*, but one at least."""
    page: list[M] = []
    size = 0
    for item in items[:page_size]:
        size += item.ByteSize()
        if page and size > max_bytes:
            break
        page.append(item)
    return page


def page_of(
    items: Sequence[M], page_size: int, token_after: Callable[[M], str]
) -> tuple[list[M], str]:
    """A page and the token of the next, out of one more item than *page_size* if there is one."""
    page = fitting(items, page_size)
    return page, token_after(page[-1]) if len(page) < len(items) else ""
