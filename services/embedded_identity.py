"""An issuer of tokens for one machine, for the embedded suite, the demo and tests.

Nothing here belongs into production, where the tokens come from the clinic's identity provider.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OKPKey

ISSUER = "https://gatehouse.localhost"
AUDIENCE = "gatehouse"
ALGORITHM = "Ed25519"


@dataclass(frozen=True)
class Issuer:
    """Mints tokens that the services of this machine take."""

    key: OKPKey
    key_file: Path
    jwks_file: Path
    issuer: str = ISSUER
    audience: str = AUDIENCE

    def mint(
        self,
        *,
        user_id: str,
        clinic_id: str = "",
        roles: Iterable[str] = ("user",),
        locale: str = "en-US",
        time_zone: str = "UTC",
        lifetime: timedelta = timedelta(hours=12),
        **claims: object,
    ) -> str:
        """A token for *user_id*; *claims* override, so that a test can make a wrong one.

        It is valid by the machine's clock, whatever the suite's own says: a clock that is set
        neither renews a token nor ends one.
        """
        now = int(time.time())
        whole = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": user_id,
            "clinic_id": clinic_id,
            "roles": list(roles),
            "locale": locale,
            "zoneinfo": time_zone,
            "iat": now,
            "nbf": now,
            "exp": now + int(lifetime.total_seconds()),
        }
        header = {"alg": ALGORITHM, "kid": self.key.kid, "typ": "JWT"}
        return jwt.encode(header, {**whole, **claims}, self.key, algorithms=[ALGORITHM])


def open_issuer(folder: Path) -> Issuer:
    """The issuer whose key is in *folder*; made there, for its user alone, when there is none."""
    key_file, jwks_file = folder / "issuer-key.json", folder / "jwks.json"
    if key_file.exists():
        key = OKPKey.import_key(json.loads(key_file.read_text()))
    else:
        key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": ALGORITHM}, auto_kid=True)
        key_file.touch(mode=0o600)
        key_file.write_text(json.dumps(key.as_dict(private=True)))
    jwks_file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    return Issuer(key, key_file, jwks_file)
