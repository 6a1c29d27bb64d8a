"""Seals: what the chain comes to, signed by a key that the database does not have (LOG-4).

A seal is a compact JSON Web Signature, so that any library can check one without us.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

ALGORITHM = "Ed25519"
TYPE = "gatehouse-seal"


@dataclass(frozen=True)
class Seal:
    """Where the chain ends, and after which link what is kept of it begins."""

    position: int
    hash: bytes
    dropped_position: int
    dropped_hash: bytes
    # When the last link was recorded.
    sealed_at: datetime


class Sealing:
    """Signs seals, and knows those that were signed."""

    def __init__(self, own: OKPKey | None, former: Sequence[OKPKey] = ()) -> None:
        """*former* keys check what was signed before *own* was there."""
        self._own = own
        self._known = KeySet([*((own,) if own else ()), *former])

    @property
    def signs(self) -> bool:
        return self._own is not None

    @property
    def checks(self) -> bool:
        return bool(self._known.keys)

    def write(self, seal: Seal) -> str:
        assert self._own is not None
        content = {
            "position": seal.position,
            "hash": seal.hash.hex(),
            "dropped_position": seal.dropped_position,
            "dropped_hash": seal.dropped_hash.hex(),
            "sealed_at": seal.sealed_at.isoformat(),
        }
        header = {"alg": ALGORITHM, "kid": self._own.kid, "typ": TYPE}
        return jws.serialize_compact(header, json.dumps(content), self._own, algorithms=[ALGORITHM])

    def read_if_signed(self, text: str) -> Seal | None:
        """What *text* seals, or None where it is no seal that a known key has signed."""
        try:
            found = jws.deserialize_compact(text, self._known, algorithms=[ALGORITHM])
            return seal_of(json.loads(found.payload)) if found.protected["typ"] == TYPE else None
        except (JoseError, ValueError, KeyError, TypeError):
            return None


def seal_of(content: Any) -> Seal:
    return Seal(
        position=int(content["position"]),
        hash=bytes.fromhex(content["hash"]),
        dropped_position=int(content["dropped_position"]),
        dropped_hash=bytes.fromhex(content["dropped_hash"]),
        sealed_at=datetime.fromisoformat(content["sealed_at"]),
    )


def read_key(file: Path) -> OKPKey:
    """The Ed25519 private key in *file*, PEM. Raises ValueError."""
    key = imported(file.read_bytes())
    if not key.is_private:
        raise ValueError("must be a private key")
    return key


def read_public_keys(file: Path) -> list[OKPKey]:
    """The Ed25519 public keys in *file*, PEM, one after another. Raises ValueError."""
    end = b"-----END PUBLIC KEY-----"
    texts = file.read_bytes().split(end)[:-1]
    if not texts:
        raise ValueError("must hold public keys, PEM")
    return [imported(text + end) for text in texts]


def imported(pem: bytes) -> OKPKey:
    try:
        key = OKPKey.import_key(pem.strip())
    except (JoseError, ValueError, TypeError) as error:
        raise ValueError("must be an Ed25519 key, PEM") from error
    if key.curve_name != "Ed25519":
        raise ValueError("must be an Ed25519 key, PEM")
    key.ensure_kid()
    return key


def read_sealing(key_file: Path | None, public_keys_file: Path | None) -> Sealing:
    """Raises ValueError."""
    former = read_public_keys(public_keys_file) if public_keys_file else []
    return Sealing(read_key(key_file) if key_file else None, former)
