"""In whose name the domain is called: tokens that are good, of others, and worthless."""

import base64
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, import_key

from services.conformance.findings import NotTried

LIFETIME_SECONDS = 3600
RSA_BITS = 2048
# Where the key does not say what it is for (`alg`).
ALGORITHMS = {"OKP": "Ed25519", "EC": "ES256", "RSA": "RS256"}


class UnusableKey(Exception):
    """The signing key cannot be used; the message says why."""


@dataclass(frozen=True)
class Signer:
    """Mints tokens as the issuer of the domain would."""

    key: Key
    issuer: str
    audience: str

    def mint(
        self, clinic_id: str, roles: Sequence[str] = ("user",), key: Key | None = None, **more: Any
    ) -> str:
        """A token of a new user of *clinic_id*; *more* overrides claims, to make it a wrong one."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": str(uuid.uuid4()),
            "clinic_id": clinic_id,
            "roles": list(roles),
            "locale": "en-US",
            "zoneinfo": "UTC",
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
        }
        algorithm = self.key.alg or ALGORITHMS[self.key.key_type]
        header = {"alg": algorithm, "typ": "JWT"}
        if self.key.kid:
            header["kid"] = self.key.kid
        return jwt.encode(header, {**claims, **more}, key or self.key, algorithms=[algorithm])

    def another_key(self) -> Key:
        """A key of the same kind that nobody knows."""
        curve = self.key.as_dict(private=False).get("crv", RSA_BITS)
        return JWKRegistry.generate_key(self.key.key_type, curve)  # type: ignore[arg-type]


def signer_from(file: Path, issuer: str, audience: str) -> Signer:
    """The signer whose private key, a JWK, is in *file*. Raises UnusableKey."""
    try:
        key = import_key(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UnusableKey(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, JoseError):
        raise UnusableKey(f"{file} is not a key in JSON (JWK)") from None
    if key.key_type not in ALGORITHMS or not key.is_private:
        raise UnusableKey(f"{file} is not the private half of an OKP, EC or RSA key")
    return Signer(key, issuer, audience)


@dataclass(frozen=True)
class Callers:
    """The tokens that there are. What was not given, the *signer* makes, where there is one."""

    user: str
    stranger: str = ""
    service: str = ""
    signer: Signer | None = field(default=None, repr=False)

    @classmethod
    def signed_by(cls, signer: Signer, clinic_id: str = "") -> "Callers":
        """Users of *clinic_id*, a new one where none is named, of another, and a service."""
        return cls(
            user=signer.mint(clinic_id or str(uuid.uuid4())),
            stranger=signer.mint(str(uuid.uuid4())),
            service=signer.mint("", ("service",), sub="conformance"),
            signer=signer,
        )

    def of_another_clinic(self) -> str:
        """Raises NotTried without such a token."""
        if not self.stranger:
            raise NotTried("needs a token of another clinic: --other-token or --signing-key")
        return self.stranger

    def of_a_service(self) -> str:
        """Raises NotTried without such a token."""
        if not self.service:
            raise NotTried("needs a token of a service: --service-token or --signing-key")
        return self.service

    def by_signer(self) -> Signer:
        """Raises NotTried without a key."""
        if self.signer is None:
            raise NotTried("needs the issuer's key: --signing-key")
        return self.signer

    def forged(self) -> str:
        """The user's token with another clinic in it, under the old signature."""
        header, claims, signature = self._parts()
        claims["clinic_id"] = str(uuid.uuid4())
        return ".".join((header, encoded(claims), signature))

    def unsigned(self) -> str:
        """The user's claims under the algorithm `none`."""
        _, claims, _ = self._parts()
        return ".".join((encoded({"alg": "none", "typ": "JWT"}), encoded(claims), ""))

    def _parts(self) -> tuple[str, dict[str, Any], str]:
        header, claims, signature = self.user.split(".")
        return header, json.loads(base64.urlsafe_b64decode(claims + "==")), signature


def encoded(part: dict[str, Any]) -> str:
    text = json.dumps(part, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def is_token(text: str) -> bool:
    """Whether *text* has the form of a JWT, so that worthless ones can be made of it."""
    try:
        Callers(text).unsigned()
    except ValueError:
        return False
    return True
