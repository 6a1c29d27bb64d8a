"""Which tokens are taken, and what is said of those that are not (ALL-3)."""

import base64
import hashlib
import hmac
import json
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import RSAKey

from services.runtime.failure import Denied, Unauthenticated
from services.runtime.identity import Caller, Keys, TokenVerifier, caller_in

# What hypothesis writes with: its whole alphabet takes a second to load.
TEXT = st.text("aZ09-_./+ \0é\u2028\ud800", max_size=40)
USER = str(uuid.uuid4())
CLINIC = str(uuid.uuid4())
LEEWAY = 30


def verifier_of(source: Path, tokens: Any) -> TokenVerifier:
    return TokenVerifier(
        Keys(str(source)), issuer=tokens.issuer, audience=tokens.audience, leeway_seconds=LEEWAY
    )


@pytest.fixture(scope="module")
def verifier(tokens: Any) -> TokenVerifier:
    return verifier_of(tokens.jwks_file, tokens)


async def refusal_of(verifier: TokenVerifier, token: str) -> Unauthenticated:
    """Why *token* is refused, having seen that it is shown nowhere."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    told = "".join(traceback.format_exception(caught.value))
    assert len(token) < 40 or token not in told + repr(caught.value)
    return caught.value


async def test_a_token_names_its_caller(verifier: TokenVerifier, tokens: Any) -> None:
    """ALL-3: user, clinic, known roles, locale and zone."""
    token = tokens.user(user_id=USER, clinic_id=CLINIC, roles=["user", "admin", "emperor"])
    for _ in range(2):  # what is known of a token says the same
        assert await verifier.verify(token) == Caller(
            user_id=USER,
            clinic_id=CLINIC,
            roles=frozenset({"user", "admin"}),
            locale="en-US",
            time_zone="America/Sao_Paulo",
            token=token,
        )


async def test_a_token_is_in_no_text_of_its_caller(verifier: TokenVerifier, tokens: Any) -> None:
    """ALL-3: neither repr nor str, so no log."""
    token = tokens.user()
    caller = await verifier.verify(token)
    assert token not in f"{caller} {caller!r}"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://elsewhere.test"}, "TOKEN_INVALID"),
        ({"iss": None}, "TOKEN_INVALID"),
        ({"aud": "another"}, "TOKEN_INVALID"),
        ({"aud": ["another", "third"]}, "TOKEN_INVALID"),
        ({"aud": []}, "TOKEN_INVALID"),
        ({"exp": int(time.time()) - LEEWAY - 10}, "TOKEN_EXPIRED"),
        ({"exp": None}, "TOKEN_INVALID"),
        ({"exp": "tomorrow"}, "TOKEN_INVALID"),
        ({"exp": 1e400}, "TOKEN_EXPIRED"),
        ({"nbf": int(time.time()) + LEEWAY + 3600}, "TOKEN_EXPIRED"),
        ({"iat": int(time.time()) + LEEWAY + 3600}, "TOKEN_EXPIRED"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"sub": 7}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
    ],
)
async def test_a_token_of_another_place_or_time_is_refused(
    verifier: TokenVerifier, tokens: Any, claims: dict[str, Any], reason: str
) -> None:
    """ALL-3: with the reason that tells whether a new one would help."""
    if claims.get("exp") == 1e400:
        claims = {"nbf": 1e400}
    for _ in range(2):
        refused = await refusal_of(verifier, tokens.user(**{"user_id": USER, **claims}))
        assert refused.reason == reason


@pytest.mark.parametrize("claims", [{"exp": -LEEWAY + 10}, {"nbf": LEEWAY - 10}])
async def test_clocks_may_differ_by_the_leeway(
    verifier: TokenVerifier, tokens: Any, claims: dict[str, int]
) -> None:
    """ALL-3."""
    shifted = {name: int(time.time()) + seconds for name, seconds in claims.items()}
    assert (await verifier.verify(tokens.user(user_id=USER, **shifted))).user_id == USER


async def test_one_of_several_audiences_is_enough(verifier: TokenVerifier, tokens: Any) -> None:
    """ALL-3."""
    token = tokens.user(user_id=USER, aud=["another", tokens.audience])
    assert (await verifier.verify(token)).user_id == USER


def token_with(tokens: Any, claims: dict[str, Any]) -> str:
    """A genuine token but for *claims*, which may be of any type."""
    genuine = json.loads(base64.urlsafe_b64decode(tokens.user().split(".")[1] + "=="))
    key = tokens.issued_by.key
    header = {"alg": "Ed25519", "kid": key.kid}
    return jwt.encode(header, {**genuine, **claims}, key, algorithms=["Ed25519"])


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"roles": "admin"}, "roles"),
        ({"roles": {"admin": True}}, "roles"),
        ({"roles": [1]}, "roles"),
        ({"sub": "admin"}, "sub"),
        ({"sub": USER.upper()}, "sub"),
        ({"sub": f"{USER}\0"}, "sub"),
        ({"clinic_id": "north"}, "clinic_id"),
        ({"clinic_id": 7}, "clinic_id"),
    ],
)
async def test_an_odd_claim_is_named_and_not_shown(
    verifier: TokenVerifier, tokens: Any, claims: dict[str, Any], said: str
) -> None:
    """ALL-3, ALL-2: whoever wrote the token can mend it, and nothing of it leaks."""
    refused = await refusal_of(verifier, token_with(tokens, claims))
    assert refused.reason == "TOKEN_INVALID"
    assert f"claim {said} is not" in refused.message
    assert str(next(iter(claims.values()))) not in refused.message


@pytest.mark.parametrize(
    ("claims", "locale", "time_zone"),
    [
        ({"zoneinfo": "Mars/Olympus"}, "en-US", ""),
        ({"zoneinfo": "../../etc/passwd"}, "en-US", ""),
        ({"zoneinfo": ["UTC"]}, "en-US", ""),
        ({"zoneinfo": "localtime"}, "en-US", ""),
        ({"zoneinfo": "Factory"}, "en-US", ""),
        ({"locale": "../en"}, "", "America/Sao_Paulo"),
        ({"locale": 1}, "", "America/Sao_Paulo"),
        ({"locale": "pt_BR.UTF-8"}, "pt_BR", "America/Sao_Paulo"),
        ({"locale": "pt-BR,en;q=0.8"}, "pt-BR", "America/Sao_Paulo"),
    ],
)
async def test_an_odd_preference_turns_nobody_away(
    tokens: Any,
    caplog: pytest.LogCaptureFixture,
    claims: dict[str, Any],
    locale: str,
    time_zone: str,
) -> None:
    """ALL-6, USE-4: what of it can be used is; it is logged once, without what the token says.

    The kind of fault: what only tells how somebody likes to be served decides whether they are.
    """
    verifier = verifier_of(tokens.jwks_file, tokens)
    for serial in range(3):
        caller = await verifier.verify(token_with(tokens, {**claims, "jti": str(serial)}))
        assert (caller.locale, caller.time_zone) == (locale, time_zone)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (0 if locale and time_zone else 1)
    assert all(str(value) not in line for value in claims.values() for line in lines)


def test_a_service_is_no_user_and_has_a_name() -> None:
    """ALL-3: other callers are users, whose ids are UUIDs."""
    named = caller_in({"sub": "gatehouse-gateway", "roles": ["service"]}, "")
    assert (named.user_id, named.clinic_id) == ("gatehouse-gateway", "")
    for roles in ([], ["user"], ["admin"], ["auditor"], ["Service"]):
        with pytest.raises(Unauthenticated):
            caller_in({"sub": "gatehouse-gateway", "roles": roles}, "")
    with pytest.raises(Unauthenticated):
        caller_in({"sub": "a b", "roles": ["service"]}, "")


@given(
    st.dictionaries(
        st.sampled_from(["sub", "roles", "clinic_id", "locale", "zoneinfo"]),
        st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT),
    )
)
def test_whatever_claims_say_they_name_a_caller_or_nobody(claims: dict[str, Any]) -> None:
    """ALL-3: and a caller that they name has an id, known roles, a zone that is one."""
    try:
        caller = caller_in(claims, "")
    except Unauthenticated:
        return
    assert caller.user_id
    assert caller.roles <= {"user", "admin", "service", "auditor"}
    assert "\0" not in caller.user_id + caller.clinic_id + caller.locale + caller.time_zone


def encoded(part: Any) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def test_a_token_without_a_signature_is_refused(verifier: TokenVerifier, tokens: Any) -> None:
    """ALL-3: alg none, in every spelling."""
    _, claims, signature = tokens.user(user_id=USER).split(".")
    for algorithm in ("none", "None", "NONE", "", None, ["Ed25519"], 1):
        header = encoded({"alg": algorithm, "kid": tokens.issued_by.key.kid})
        for tail in ("", signature):
            await refusal_of(verifier, f"{header}.{claims}.{tail}")


async def test_a_public_key_is_no_shared_secret(tokens: Any, tmp_path: Path) -> None:
    """ALL-3: HS256 by what everyone may read."""
    key = RSAKey.generate_key(2048, auto_kid=True)
    jwks = {"keys": [key.as_dict(private=False)]}
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    verifier = verifier_of(tmp_path / "jwks.json", tokens)
    claims = {
        "iss": tokens.issuer,
        "aud": tokens.audience,
        "sub": USER,
        "exp": int(time.time()) + 60,
    }
    genuine = jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key, algorithms=["RS256"])
    assert (await verifier.verify(genuine)).user_id == USER
    for algorithm in ("HS256", "RS256"):
        signed = f"{encoded({'alg': algorithm, 'kid': key.kid})}.{encoded(claims)}"
        for secret in (
            key.as_pem(private=False),
            key.as_der(private=False),
            json.dumps(jwks["keys"][0]).encode(),
        ):
            forged = hmac.digest(secret, signed.encode(), hashlib.sha256)
            await refusal_of(verifier, f"{signed}.{encoded(forged)}")


async def test_a_token_cannot_bring_its_own_key(verifier: TokenVerifier, tokens: Any) -> None:
    """ALL-3: jwk and jku in the header mean nothing."""
    key = RSAKey.generate_key(2048)
    claims = {"iss": tokens.issuer, "aud": tokens.audience, "sub": USER, "exp": 4_000_000_000}
    for kid in (tokens.issued_by.key.kid, "mine"):
        header = {"alg": "RS256", "kid": kid, "jwk": key.as_dict(private=False)}
        await refusal_of(verifier, jwt.encode(header, claims, key, algorithms=["RS256"]))


async def test_a_token_with_a_changed_letter_is_refused(
    verifier: TokenVerifier, tokens: Any
) -> None:
    """ALL-3: also after the genuine one was taken."""
    token = tokens.user(user_id=USER)
    await verifier.verify(token)
    header, claims, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed["roles"] = ["admin"]
    await refusal_of(verifier, f"{header}.{encoded(changed)}.{signature}")
    await refusal_of(verifier, f"{header}.{claims}.{signature[::-1]}")


@given(TEXT | st.binary().map(lambda raw: f"{encoded(raw)}.{encoded(raw)}.{encoded(raw)}"))
async def test_whatever_is_sent_is_refused_and_breaks_nothing(
    verifier: TokenVerifier, text: str
) -> None:
    """ALL-3, ALL-2: hostile bytes are no reason to break."""
    await refusal_of(verifier, text)


@pytest.mark.parametrize("header", [b"[" * 9000, b'{"alg":' * 1200, b'{"kid":1e999}', b"[]", b"1"])
async def test_a_header_made_to_break_the_reader_is_refused(
    verifier: TokenVerifier, header: bytes
) -> None:
    """ALL-3: anyone can send one."""
    await refusal_of(verifier, f"{encoded(header)}.e30.e30")


async def test_a_token_past_all_measure_is_refused_unread(verifier: TokenVerifier) -> None:
    """ALL-3."""
    assert "too long" in (await refusal_of(verifier, "a" * 20_000)).message


def test_roles_decide_for_whom_a_caller_acts() -> None:
    """ALL-3: for oneself; for others as a service or an admin."""
    user = Caller(USER, CLINIC, frozenset({"user"}))
    user.require_acting_for(USER)
    for roles in ({"user"}, {"auditor"}, set[str]()):
        with pytest.raises(Denied):
            Caller(USER, CLINIC, frozenset(roles)).require_acting_for(CLINIC)
    for role in ("admin", "service"):
        Caller(USER, CLINIC, frozenset({role})).require_acting_for(CLINIC)
    with pytest.raises(Denied) as caught:
        user.require("admin", "auditor")
    assert caught.value.reason == "ROLE_REQUIRED"
