"""Keys that seal the chain, and what is sealed by them."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jws
from joserfc.jwk import OKPKey

from services.oplog.seals import Seal, Sealing, read_key, read_public_keys, read_sealing
from services.oplog.settings import Settings
from services.runtime.settings import SettingsError, load

SEAL = Seal(7, b"\x07" * 32, 3, b"\x03" * 32, datetime(2026, 11, 25, 12, 0, 0, 1, tzinfo=UTC))
REQUIRED = {
    "GATEHOUSE_OPLOG_DATABASE_URL": "postgresql://nowhere",
    "GATEHOUSE_OPLOG_JWT_ISSUER": "https://issuer",
    "GATEHOUSE_OPLOG_JWT_AUDIENCE": "gatehouse",
    "GATEHOUSE_OPLOG_JWKS": "/jwks.json",
}


def key_in(file: Path) -> OKPKey:
    key = OKPKey.generate_key("Ed25519")
    file.write_bytes(key.as_pem(private=True))
    return key


def test_a_seal_says_what_was_sealed_to_whoever_has_the_public_key(tmp_path: Path) -> None:
    """LOG-4: also to another library, since it is a JSON Web Signature."""
    key = key_in(tmp_path / "key.pem")
    (tmp_path / "public.pem").write_bytes(key.as_pem(private=False))
    text = read_sealing(tmp_path / "key.pem", None).write(SEAL)
    public = read_sealing(None, tmp_path / "public.pem")
    assert (public.signs, public.checks) == (False, True)
    assert public.read_if_signed(text) == SEAL
    header = jws.deserialize_compact(text, key, algorithms=["Ed25519"]).headers()
    assert header["kid"] == key.thumbprint()


def test_what_is_signed_otherwise_is_no_seal() -> None:
    """LOG-4: by another key, for another purpose, without a signature, or changed since."""
    key = OKPKey.generate_key("Ed25519", auto_kid=True)
    sealing = Sealing(key)
    text = sealing.write(SEAL)
    header, payload, signature = text.split(".")
    other = Sealing(OKPKey.generate_key("Ed25519", auto_kid=True)).write(SEAL)
    content = json.dumps({"position": 7, "hash": "07"})
    token = jws.serialize_compact(
        {"alg": "Ed25519", "kid": key.kid, "typ": "JWT"}, content, key, algorithms=["Ed25519"]
    )
    changed = sealing.write(replace(SEAL, position=8)).split(".")[1]
    for wrong in (
        other,
        token,
        f"{header}.{changed}.{signature}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        "..",
        "é.é.é",
        "",
        text * 2,
    ):
        assert sealing.read_if_signed(wrong) is None, wrong


def test_every_former_key_is_read(tmp_path: Path) -> None:
    """LOG-4: one after another in a file, as `cat` puts them."""
    keys = [OKPKey.generate_key("Ed25519", auto_kid=True) for _ in range(3)]
    file = tmp_path / "former.pem"
    file.write_bytes(b"\n".join(each.as_pem(private=False) for each in keys))
    former = Sealing(None, read_public_keys(file))
    assert [former.read_if_signed(Sealing(each).write(SEAL)) for each in keys] == [SEAL] * 3


def test_a_key_of_another_kind_stops_the_start(tmp_path: Path) -> None:
    """ALL-5: a public key does not sign, an elliptic curve of another kind is none of ours."""
    key = key_in(tmp_path / "key.pem")
    (tmp_path / "public.pem").write_bytes(key.as_pem(private=False))
    (tmp_path / "ec.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    (tmp_path / "ec-public.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "empty").touch()
    assert read_key(tmp_path / "key.pem").is_private
    given = {
        "GATEHOUSE_OPLOG_SEALING_KEY_FILE": ("public.pem", "ec.pem", "empty", "missing"),
        "GATEHOUSE_OPLOG_SEALING_PUBLIC_KEYS_FILE": ("ec-public.pem", "empty", "missing"),
    }
    for name, files in given.items():
        for file in files:
            with pytest.raises(SettingsError) as caught:
                load(Settings, {**REQUIRED, name: str(tmp_path / file)})
            assert [each.partition(":")[0] for each in caught.value.mistakes] == [name]
            assert "must" in caught.value.mistakes[0]
