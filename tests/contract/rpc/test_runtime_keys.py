"""The issuer's keys, from a file and from a URL, as they change (ALL-3)."""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from services.runtime.failure import Unauthenticated, Unavailable
from services.runtime.identity import REFRESH_SECONDS, Keys, TokenVerifier, open_verifier
from services.runtime.settings import SettingsError
from tests.contract.rpc.runtime_stand import Settings, failure_of, stand

ISSUER, AUDIENCE = "https://issuer.test", "gatehouse"
USER = str(uuid.uuid4())


def new_key() -> OKPKey:
    return OKPKey.generate_key("Ed25519", auto_kid=True)


def token_of(key: Key, algorithm: str = "Ed25519", **claims: object) -> str:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": USER, "exp": 4_000_000_000, **claims}
    header = {"alg": algorithm, "kid": key.kid}
    return jwt.encode(header, whole, key, algorithms=[algorithm])


def published(*keys: Any) -> str:
    return json.dumps({"keys": [each.as_dict(private=False) for each in keys]})


def published_in(file: Path, *keys: Any) -> str:
    file.write_text(published(*keys))
    return str(file)


def encoded(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def signed(header: Any, claims: Any, key: OKPKey) -> str:
    """A token with any header, that no library would make."""
    text = f"{encoded(header)}.{encoded(claims)}"
    signature = key.private_key.sign(text.encode())
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def verifier_of(keys: Keys) -> TokenVerifier:
    return TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, leeway_seconds=0)


class KeyServer:
    """Serves what the test says, and counts who asks."""

    def __init__(self) -> None:
        self.body, self.status, self.asked = "", 200, 0
        self.url = ""
        self.arrived, self.held = asyncio.Event(), asyncio.Event()
        self.held.set()

    async def get(self, _: web.Request) -> web.Response:
        self.asked += 1
        if not self.held.is_set():
            self.arrived.set()
        await self.held.wait()
        return web.Response(text=self.body, status=self.status, headers={"Location": "/elsewhere"})

    async def elsewhere(self, _: web.Request) -> web.Response:
        return web.Response(text=self.body)


@pytest.fixture
async def issuer() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    app = web.Application()
    app.router.add_get("/jwks.json", server.get)
    app.router.add_get("/elsewhere", server.elsewhere)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    yield server
    await runner.cleanup()


async def test_a_new_key_is_read_when_a_token_names_it(issuer: KeyServer) -> None:
    """ALL-3: at most every ten seconds, whoever sends tokens of unknown keys."""
    first, second, forger = new_key(), new_key(), new_key()
    issuer.body = published(first)
    clock = Clock()
    keys = Keys(issuer.url, clock)
    verifier = verifier_of(keys)
    assert (await verifier.verify(token_of(first))).user_id == USER
    assert issuer.asked == 1
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token_of(forger))
    assert issuer.asked == 1
    issuer.body = published(second)
    clock.now += REFRESH_SECONDS + 1
    assert (await verifier.verify(token_of(second))).user_id == USER
    assert issuer.asked == 2
    with pytest.raises(Unauthenticated):  # what is no longer published no longer counts
        await verifier.verify(token_of(first))


@pytest.mark.parametrize("named", ["the issuer's", "the forger's", "none"])
@pytest.mark.parametrize("field", ["jwk", "jku", "x5u", "x5c", "crit"])
async def test_a_token_says_nothing_about_where_its_key_is(
    tmp_path: Path, issuer: KeyServer, field: str, named: str
) -> None:
    """ALL-3: what its header points to is not fetched, and what it brings is not used."""
    key, forger = new_key(), new_key()
    verifier = verifier_of(Keys(published_in(tmp_path / "jwks.json", key)))
    issuer.body = published(forger)
    pointed = {
        "jwk": forger.as_dict(private=False),
        "jku": issuer.url,
        "x5u": issuer.url,
        "x5c": [base64.b64encode(b"a certificate").decode()],
        "crit": ["jku"],
    }
    header = {"alg": "Ed25519", field: pointed[field]}
    if named != "none":
        header["kid"] = key.kid if named == "the issuer's" else forger.kid
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": USER, "exp": 4_000_000_000}
    with pytest.raises(Unauthenticated):
        await verifier.verify(signed(header, claims, forger))
    assert issuer.asked == 0
    assert (await verifier.verify(token_of(key))).user_id == USER


async def test_an_algorithm_is_that_of_its_key(tmp_path: Path) -> None:
    """ALL-3: no other kind of key verifies, whatever the header claims."""
    keys = {
        "Ed25519": new_key(),
        "ES256": ECKey.generate_key("P-256", auto_kid=True),
        "RS256": RSAKey.generate_key(2048, auto_kid=True),
    }
    verifier = verifier_of(Keys(published_in(tmp_path / "jwks.json", *keys.values())))
    for algorithm, key in keys.items():
        head, claims, signature = token_of(key, algorithm).split(".")
        assert (await verifier.verify(f"{head}.{claims}.{signature}")).user_id == USER
        for other, another in keys.items():
            if other != algorithm:
                for header in ({"alg": other, "kid": key.kid}, {"alg": other, "kid": another.kid}):
                    with pytest.raises(Unauthenticated):
                        await verifier.verify(f"{encoded(header)}.{claims}.{signature}")
    # Of the right kind, and not among those that are taken.
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(keys["RS256"], "PS256"))


@pytest.mark.parametrize("claim", ["iss", "aud"])
async def test_issuer_and_audience_are_compared_whole(tmp_path: Path, claim: str) -> None:
    """ALL-3: no part, no other case, no list of issuers."""
    key = new_key()
    verifier = verifier_of(Keys(published_in(tmp_path / "jwks.json", key)))
    right = {"iss": ISSUER, "aud": AUDIENCE}[claim]
    wrong = [f"{right}/", f" {right}", right.upper(), right[:-1], f"{right}.evil", "", None, {}]
    for value in wrong + ([[right]] if claim == "iss" else [[f"{right}/"]]):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token_of(key, **{claim: value}))


async def test_a_flood_of_unknown_keys_asks_the_issuer_once(issuer: KeyServer) -> None:
    """ALL-3: at once or one after another, and those whose key is known do not wait for it."""
    key = new_key()
    issuer.body = published(key)
    clock = Clock()
    verifier = verifier_of(Keys(issuer.url, clock))
    await verifier.verify(token_of(key))
    clock.now += REFRESH_SECONDS + 1
    issuer.held.clear()
    forged = [token_of(new_key()) for _ in range(100)]
    flood = [asyncio.create_task(verifier.verify(each)) for each in forged]
    await issuer.arrived.wait()
    assert (await verifier.verify(token_of(key, sub=str(uuid.uuid4())))).user_id
    assert not any(each.done() for each in flood)
    issuer.held.set()
    found = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(each, Unauthenticated) for each in found)
    assert issuer.asked == 2


async def test_keys_outlast_an_issuer_that_is_away(issuer: KeyServer) -> None:
    """ALL-3: what is known holds; without any, it is no fault of the token."""
    key, stranger = new_key(), new_key()
    clock = Clock()
    keys = Keys(issuer.url, clock)
    verifier = verifier_of(keys)
    for status, body in (
        (500, published(key)),
        (302, published(key)),
        (200, "<html>"),
        (200, "{}"),
    ):
        issuer.status, issuer.body = status, body
        clock.now += REFRESH_SECONDS + 1
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await verifier.verify(token_of(key))
            assert "127.0.0.1" not in caught.value.message
    issuer.status, issuer.body = 200, published(key)
    clock.now += REFRESH_SECONDS + 1
    assert (await verifier.verify(token_of(key))).user_id == USER
    issuer.status = 500
    clock.now += REFRESH_SECONDS + 1
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(stranger))
    assert (await verifier.verify(token_of(key))).user_id == USER


async def test_a_key_in_a_file_changes_with_it(tmp_path: Path) -> None:
    """ALL-3: and a token that was taken before is not taken for ever."""
    first, second = new_key(), new_key()
    file = tmp_path / "jwks.json"
    file.write_text(published(first))
    keys = Keys(str(file), Clock())
    verifier = verifier_of(keys)
    assert (await verifier.verify(token_of(first))).user_id == USER
    file.write_text(published(second))
    await keys.read()  # as it is done now and then
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(first))
    assert (await verifier.verify(token_of(second))).user_id == USER


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # and in use
async def test_keys_of_other_kinds_do_not_spoil_the_set(tmp_path: Path) -> None:
    """ALL-3: an issuer may publish what we do not know, and a secret among it signs nothing."""
    secret = OctKey.generate_key(256, auto_kid=True)
    usable = {
        "Ed25519": new_key(),
        "EdDSA": new_key(),
        "ES256": ECKey.generate_key("P-256", auto_kid=True),
        "RS256": RSAKey.generate_key(2048, auto_kid=True),
    }
    found = json.loads(published(*usable.values()))
    strange: list[Any] = [
        {"kty": "AKP", "kid": "post-quantum", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": "OKP", "kid": "cut", "crv": "Ed25519"},
        {"kid": "of no type"},
        "no key",
        secret.as_dict(private=True),
    ]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [*strange, *found["keys"]]}))
    verifier = verifier_of(Keys(str(file), Clock()))
    for algorithm, key in usable.items():
        assert (await verifier.verify(token_of(key, algorithm))).user_id == USER
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(secret, "HS256"))


@pytest.mark.parametrize("content", [None, "", "nonsense", "[]", '{"keys": [{"kty": "oct"}]}'])
async def test_a_file_without_keys_stops_the_start(
    tokens: Any, tmp_path: Path, content: Any
) -> None:
    """ALL-5: with the name of the setting."""
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_text(content)
    settings = Settings(**{**tokens.settings, "jwks": str(file)})
    with pytest.raises(SettingsError, match="GATEHOUSE_STAND_JWKS"):
        async with open_verifier(settings):
            raise AssertionError


async def test_a_service_starts_before_its_issuer(tokens: Any, issuer: KeyServer) -> None:
    """ALL-3: callers are told to come back until it is there."""
    async with stand(tokens, jwks="http://127.0.0.1:1/jwks.json") as service:
        failure = await failure_of(service.get())
    assert failure.reason == "PEER_UNAVAILABLE"
    issuer.body = tokens.jwks_file.read_text()
    async with stand(tokens, jwks=issuer.url) as service:
        await service.get()
