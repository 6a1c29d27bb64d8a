"""Who calls: verified by each service itself, from the token alone (ALL-3)."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError
from joserfc.jwk import KeySet

from services.runtime.failure import Denied, Unauthenticated, Unavailable
from services.runtime.settings import ServiceSettings

ALGORITHMS = ["EdDSA", "Ed25519", "ES256", "RS256"]
ROLES = frozenset({"user", "admin", "service", "auditor"})
LONGEST_TOKEN = 16_384
# How often an unknown key id may make the keys be read again: a forger must not cause load.
REFRESH_SECONDS = 10.0
FETCH_SECONDS = 5.0


@dataclass(frozen=True)
class Caller:
    """Who a verified token names. `token` is passed on to domains, and never shown."""

    user_id: str
    clinic_id: str
    roles: frozenset[str]
    locale: str = ""
    time_zone: str = ""
    token: str = field(default="", repr=False)

    def require(self, *roles: str) -> None:
        """Raises Denied (ROLE_REQUIRED) unless the caller has one of *roles*."""
        if not self.roles.intersection(roles):
            needed = " or ".join(roles)
            raise Denied(f"this needs the role {needed}", reason="ROLE_REQUIRED")

    def may_act_for(self, user_id: str) -> bool:
        return user_id == self.user_id or bool(self.roles & {"admin", "service"})

    def require_acting_for(self, user_id: str) -> None:
        """Raises Denied unless the caller is *user_id*, a service or an admin."""
        if not self.may_act_for(user_id):
            raise Denied("this is about another user")


_caller: ContextVar[Caller | None] = ContextVar("gatehouse_caller", default=None)


def current_caller() -> Caller:
    """The caller of the running call. Raises Unauthenticated outside of one."""
    caller = _caller.get()
    if caller is None:
        raise Unauthenticated("no token came with the call", reason="TOKEN_MISSING")
    return caller


def set_caller(caller: Caller) -> None:
    """For the server's interceptor: the context that it sets lives as long as the call."""
    _caller.set(caller)


class TokenVerifier:
    """Verifies tokens by the keys of one issuer, for one audience."""

    def __init__(self, keys: "Keys", *, issuer: str, audience: str, leeway_seconds: float) -> None:
        self._keys = keys
        self._leeway = int(leeway_seconds)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=self._leeway,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    async def verify(self, token: str) -> Caller:
        """Return whom *token* names. Raises Unauthenticated; never shows the token."""
        if len(token) > LONGEST_TOKEN:
            raise Unauthenticated("the token is too long")
        try:
            decoded = jwt.decode(token, await self._keys.for_token(token), algorithms=ALGORITHMS)
            self._claims.validate(decoded.claims)
        except ExpiredTokenError:
            raise Unauthenticated("the token's time is over", reason="TOKEN_EXPIRED") from None
        except InvalidClaimError as error:
            early = getattr(error, "claim", "") in ("nbf", "iat")
            raise Unauthenticated(
                "the token's time has not come" if early else "the token is not for this service",
                reason="TOKEN_EXPIRED" if early else "TOKEN_INVALID",
            ) from None
        except (JoseError, ValueError, TypeError, KeyError):
            raise Unauthenticated("the token is not valid") from None
        return caller_in(decoded.claims, token)


def caller_in(claims: Mapping[str, Any], token: str) -> Caller:
    """The caller that verified *claims* name. Raises Unauthenticated for odd claims."""
    roles = claims.get("roles", [])
    texts = {
        name: claims.get(claim) or ""
        for name, claim in (
            ("user_id", "sub"),
            ("clinic_id", "clinic_id"),
            ("locale", "locale"),
            ("time_zone", "zoneinfo"),
        )
    }
    well_formed = isinstance(roles, list) and all(isinstance(each, str) for each in roles)
    if not well_formed or not all(isinstance(each, str) for each in texts.values()):
        raise Unauthenticated("the token's claims are not of the right kind")
    return Caller(**texts, roles=frozenset(roles) & ROLES, token=token)


class Keys:
    """The issuer's public keys, from a file or a URL, read again when a new key id appears."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._set = KeySet([])
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Raises ValueError or OSError for a source that cannot be read."""
        if self._source.startswith(("http://", "https://")):
            timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._source) as response,
            ):
                response.raise_for_status()
                found = json.loads(await response.text())
        else:
            found = json.loads(await asyncio.to_thread(Path(self._source).read_text))
        self._set = KeySet.import_key_set(found)
        self._read_at = time.monotonic()

    async def for_token(self, token: str) -> KeySet:
        """The keys, fresh where *token* names one that they lack."""
        if key_id_of(token) not in {key.kid for key in self._set.keys}:
            async with self._reading:
                if time.monotonic() - self._read_at > REFRESH_SECONDS:
                    self._read_at = time.monotonic()
                    try:
                        await self.read()
                    except (OSError, ValueError, aiohttp.ClientError):
                        if not self._set.keys:
                            raise Unavailable(
                                "the keys of the tokens' issuer cannot be read",
                                reason="PEER_UNAVAILABLE",
                            ) from None
        return self._set


def key_id_of(token: str) -> str | None:
    try:
        header = jwt_header(token)
    except (ValueError, TypeError):
        return None
    key_id = header.get("kid") if isinstance(header, dict) else None
    return key_id if isinstance(key_id, str) else None


def jwt_header(token: str) -> Any:
    part = token.split(".", 1)[0]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@asynccontextmanager
async def open_verifier(settings: ServiceSettings) -> AsyncIterator[TokenVerifier]:
    """A verifier with its keys read. A source that cannot be read at start is read at first use."""
    keys = Keys(settings.jwks)
    try:
        await keys.read()
    except (OSError, ValueError, aiohttp.ClientError):
        if not settings.jwks.startswith(("http://", "https://")):
            raise
    yield TokenVerifier(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway_seconds=settings.clock_leeway_seconds,
    )
