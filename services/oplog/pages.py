"""Page tokens: where a listing goes on. Signed, so that any other string is refused."""

import base64
import binascii
import hashlib
import hmac

from services.runtime.failure import InvalidInput

SIGNATURE_BYTES = 16


class PageTokens:
    """Makes and reads tokens; every replica has the same *key*."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, listing: str, last: str) -> str:
        """The token of the page of *listing* (the list and its filter) after *last*."""
        signed = self._signature(listing, last.encode()) + last.encode()
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def read(self, listing: str, token: str) -> str:
        """What *token* goes on after; empty for none. Raises InvalidInput for a foreign one."""
        if not token:
            return ""
        try:
            padded = token + "=" * (-len(token) % 4)
            signed = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            signed = b""
        signature, last = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(listing, last)):
            raise InvalidInput(
                [("page_token", "is not the next_page_token of a page of this listing")]
            )
        return last.decode()

    def _signature(self, listing: str, last: bytes) -> bytes:
        message = listing.encode() + b"\0" + last
        return hmac.digest(self._key, message, hashlib.sha256)[:SIGNATURE_BYTES]
