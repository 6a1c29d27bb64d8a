"""Who calls: verified by each service itself, from the token alone (ALL-3)."""

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError
from joserfc.jwk import JWKRegistry, KeySet

from services.runtime.failure import Denied, Unauthenticated, Unavailable
from services.runtime.settings import ServiceSettings, SettingsError, prefix_of
from services.runtime.validation import is_time_zone, is_uuid, leading_language_tag

ALGORITHMS = ["EdDSA", "Ed25519", "ES256", "RS256"]
ROLES = frozenset({"user", "admin", "service", "auditor"})
LONGEST_TOKEN = 16_384
# How often an unknown key id may make the keys be read again: a forger must not cause load.
REFRESH_SECONDS = 10.0
FETCH_SECONDS = 5.0
# How long a key may be trusted that the issuer has withdrawn.
FRESH_SECONDS = 300.0
MOST_KNOWN = 1000
# Those of ALGORITHMS. A secret among them would let whoever verifies also sign.
KEY_TYPES = ("OKP", "EC", "RSA")
SERVICE_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
# What hostile tokens and odd keys make joserfc and json raise.
MALFORMED = (JoseError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError)
UNREADABLE = (OSError, ValueError)
LOG = logging.getLogger("gatehouse.identity")


@dataclass(frozen=True)
class Caller:
    """Who a verified token names. `token` is passed on to domains, and never shown.

    `locale` is a language tag in any spelling and `time_zone` an IANA zone; each is empty where the
    token has none that can be used.
    """

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


UNKNOWN: tuple[float, Caller | None] = (0.0, None)
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
        self._claims = jwt.JWTClaimsRegistry(
            leeway=int(leeway_seconds),
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        # Whom tokens name that were verified by the keys beside them, and until when: verifying
        # one costs more than many a call that comes with it.
        self._known: dict[str, tuple[float, Caller]] = {}
        self._known_by: KeySet | None = None
        # The claims of which it was logged that they cannot be used: once each.
        self._logged: set[str] = set()

    async def verify(self, token: str) -> Caller:
        """Return whom *token* names. Raises Unauthenticated; never shows the token."""
        if self._known_by is self._keys.current:
            until, caller = self._known.get(token, UNKNOWN)
            if caller is not None and time.time() < until:
                return caller
        if len(token) > LONGEST_TOKEN:
            raise Unauthenticated("the token is too long")
        keys = await self._keys.for_token(token)
        claims = self._claims_in(token, keys)
        caller = caller_in(claims, token)
        self._log_unusable(claims)
        self._remember(token, keys, claims["exp"], caller)
        return caller

    def _log_unusable(self, claims: Mapping[str, Any]) -> None:
        for claim in PREFERENCES.keys() - self._logged:
            if claims.get(claim) and not preference_in(claims, claim):
                self._logged.add(claim)
                LOG.warning("a token's claim %s cannot be used, and is ignored", claim)

    def _claims_in(self, token: str, keys: KeySet) -> dict[str, Any]:
        """The claims of *token*. Raises Unauthenticated unless they are signed, due and for us."""
        try:
            claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise Unauthenticated("the token's time is over", reason="TOKEN_EXPIRED") from None
        except InvalidClaimError as error:
            early = getattr(error, "claim", "") in ("nbf", "iat")
            raise Unauthenticated(
                "the token's time has not come" if early else "the token is not for this service",
                reason="TOKEN_EXPIRED" if early else "TOKEN_INVALID",
            ) from None
        except MALFORMED:
            raise Unauthenticated("the token is not valid") from None
        return claims

    def _remember(self, token: str, keys: KeySet, until: float, caller: Caller) -> None:
        """Take *token* as it is until its time is over by our clock, or the keys are others."""
        if keys is not self._known_by:
            self._known_by, self._known = keys, {}
        while len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[token] = (until, caller)


def caller_in(claims: Mapping[str, Any], token: str) -> Caller:
    """The caller that verified *claims* name.

    Raises Unauthenticated for odd claims of identity; an odd preference is ignored.
    """
    roles = claims.get("roles", [])
    if not isinstance(roles, list) or not all(isinstance(each, str) for each in roles):
        raise odd_claim("roles", "a list of names")
    known = frozenset(roles) & ROLES
    user_id = text_in(claims, "sub")
    # A service is no user, and has a name of its own.
    if "service" not in known and not is_uuid(user_id):
        raise odd_claim("sub", "a UUID in lower case with hyphens")
    if "service" in known and not SERVICE_NAME.fullmatch(user_id):
        raise odd_claim("sub", "a UUID or the name of a service")
    return Caller(
        user_id=user_id,
        clinic_id=text_in(claims, "clinic_id", is_uuid, "a UUID in lower case with hyphens"),
        roles=known,
        locale=preference_in(claims, "locale"),
        time_zone=preference_in(claims, "zoneinfo"),
        token=token,
    )


def text_in(
    claims: Mapping[str, Any],
    claim: str,
    holds: Callable[[str], bool] = lambda _: True,
    kind: str = "a text",
) -> str:
    """The text of *claim*, empty where there is none. Raises Unauthenticated."""
    value = claims.get(claim)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not holds(value):
        raise odd_claim(claim, kind)
    return value


def usable_zone(text: str) -> str:
    return text if is_time_zone(text) else ""


# Preferences of a caller, each with what of it can be used. One that cannot be is as if it was not
# there: it names nobody, so nobody is turned away for it.
PREFERENCES: Mapping[str, Callable[[str], str]] = {
    "locale": leading_language_tag,
    "zoneinfo": usable_zone,
}


def preference_in(claims: Mapping[str, Any], claim: str) -> str:
    """What can be used of *claim*, empty where nothing can."""
    value = claims.get(claim)
    return PREFERENCES[claim](value) if isinstance(value, str) else ""


def odd_claim(claim: str, kind: str) -> Unauthenticated:
    return Unauthenticated(f"the token's claim {claim} is not {kind}")


class Keys:
    """The issuer's public keys, from a file or a URL.

    They are read again when a key id appears that is not among them, at most every REFRESH_SECONDS,
    and by `keep_fresh`, so that a key that the issuer has withdrawn is not trusted for ever.
    """

    def __init__(self, source: str, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self.current = KeySet([])
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Raises one of UNREADABLE, for a source that cannot be read or has no usable key."""
        if self._source.startswith(("http://", "https://")):
            found = json.loads(await self._fetched())
        else:
            found = json.loads(await asyncio.to_thread(Path(self._source).read_bytes))
        keys = KeySet(usable_keys(found))
        if keys.as_dict() != self.current.as_dict():
            self.current = keys

    async def _fetched(self) -> str:
        import aiohttp  # a fifth of a service's start, for those alone whose keys have a URL

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(FETCH_SECONDS)) as session,
                # Another place is not the one that the settings trust.
                session.get(self._source, allow_redirects=False) as response,
            ):
                if response.status != HTTPStatus.OK:
                    raise ValueError("the issuer does not give its keys")
                return await response.text()
        except aiohttp.ClientError as error:
            raise OSError("the issuer cannot be reached") from error

    async def keep_fresh(self) -> None:
        """Read the keys again now and then, for ever; run as a task. Old ones outlast failures."""
        while True:
            await asyncio.sleep(FRESH_SECONDS)
            async with self._reading:
                with suppress(*UNREADABLE):
                    await self.read()

    async def for_token(self, token: str) -> KeySet:
        """The keys, fresh where *token* names one that they lack. Raises Unavailable with none."""
        if key_id_of(token) not in {key.kid for key in self.current.keys}:
            async with self._reading:
                if self._now() - self._tried_at > REFRESH_SECONDS:
                    self._tried_at = self._now()
                    with suppress(*UNREADABLE):
                        await self.read()
        if not self.current.keys:
            raise Unavailable(
                "the keys of the tokens' issuer cannot be read", reason="PEER_UNAVAILABLE"
            )
        return self.current


def usable_keys(found: Any) -> list[Any]:
    """The keys of a JWK set that can verify a token here; what else it has is not for us.

    Raises ValueError when there is none.
    """
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("this is not a JWK set")
    usable = []
    for each in found["keys"]:
        if isinstance(each, dict) and each.get("kty") in KEY_TYPES:
            with suppress(*MALFORMED):
                usable.append(JWKRegistry.import_key(each))
    if not usable:
        raise ValueError("the JWK set has no key that can verify a token")
    return usable


def key_id_of(token: str) -> str | None:
    try:
        header = jwt_header(token)
    except (ValueError, TypeError, RecursionError):
        return None
    key_id = header.get("kid") if isinstance(header, dict) else None
    return key_id if isinstance(key_id, str) else None


def jwt_header(token: str) -> Any:
    part = token.split(".", 1)[0]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@asynccontextmanager
async def open_verifier(settings: ServiceSettings) -> AsyncIterator[TokenVerifier]:
    """A verifier with its keys read. A URL that cannot be read at start is read at first use.

    Raises SettingsError for a file that cannot.
    """
    keys = Keys(settings.jwks)
    try:
        await keys.read()
    except UNREADABLE:
        if not settings.jwks.startswith(("http://", "https://")):
            name = f"{prefix_of(type(settings))}JWKS"
            raise SettingsError([f"{name}: must be a file with a JWK set"]) from None
    refresh = asyncio.create_task(keys.keep_fresh())
    try:
        yield TokenVerifier(
            keys,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway_seconds=settings.clock_leeway_seconds,
        )
    finally:
        refresh.cancel()
        await asyncio.gather(refresh, return_exceptions=True)
