"""The hash chain over the links (LOG-4). Decides, and waits for nothing."""

import hashlib
import json
from dataclasses import fields
from datetime import UTC, datetime

from services.oplog.projection import OperationSpan

NAMES = tuple(field.name for field in fields(OperationSpan))


def link_hash(previous: bytes, position: int, recorded_at: datetime, span: OperationSpan) -> bytes:
    """SHA-256 over the previous hash and everything that the link holds.

    The content is JSON with sorted keys: one way of writing it, readable by whoever checks it.
    """
    content = {name: plain(getattr(span, name)) for name in NAMES}
    content |= {"position": position, "recorded_at": plain(recorded_at)}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(previous + text.encode()).digest()


def plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value if isinstance(value, str | int | bool) or value is None else str(value)
