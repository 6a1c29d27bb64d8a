"""Settings: every mistake at once, by name, and no value (ALL-5)."""

from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from pydantic import Field, SecretStr, model_validator

from services.runtime.settings import ServiceSettings, SettingsError, load, on_this_machine

NEEDED = {
    "GATEHOUSE_PLAY_JWT_ISSUER": "https://issuer.test",
    "GATEHOUSE_PLAY_JWT_AUDIENCE": "gatehouse",
    "GATEHOUSE_PLAY_JWKS": "keys.json",
    "GATEHOUSE_PLAY_DATABASE_URL": "postgresql://u:pa55word@db/play",
}


class Play(ServiceSettings):
    service: ClassVar[str] = "play"
    database_url: SecretStr
    log_target: str | None = None
    least: int = Field(default=1, ge=1)
    most: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError("least is more than most")
        return self


def mistakes_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Play, environ)
    return caught.value.mistakes


def test_what_is_needed_is_enough() -> None:
    """ALL-5: the rest has defaults, an empty variable is not set, other prefixes are others'."""
    made = load(Play, {**NEEDED, "GATEHOUSE_PLAY_MOST": "", "GATEHOUSE_PLAYER_X": "1", "PATH": "/"})
    assert (made.most, made.listen) == (8, "127.0.0.1:0")


def test_every_mistake_is_named_at_once_and_no_value_is_shown() -> None:
    """ALL-5: missing, misspelt, malformed, out of bounds, and those between settings."""
    mistakes = mistakes_of(
        {
            "GATEHOUSE_PLAY_JWKS": "http://s3cret.example.org/keys",
            "GATEHOUSE_PLAY_DATABASE_URL": "s3cret",
            "GATEHOUSE_PLAY_LISTN": "s3cret",
            "GATEHOUSE_PLAY_LISTEN": "0.0.0.0:8443",
            "GATEHOUSE_PLAY_KEEPALIVE_SECONDS": "s3cret",
            "GATEHOUSE_PLAY_LOG_LEVEL": "s3cret",
            "GATEHOUSE_PLAY_TLS_KEY_FILE": "/s3cret",
            "GATEHOUSE_PLAY_OTLP_ENDPOINT": "collector:4317",
            "GATEHOUSE_PLAY_LEAST": "9",
        }
    )
    told = "\n".join(mistakes)
    for name in (
        "JWT_ISSUER is not set",
        "JWT_AUDIENCE is not set",
        "JWKS: must be https",
        "LISTN is not a setting",
        "KEEPALIVE_SECONDS: ",
        "LOG_LEVEL: must be one of",
        "TLS_KEY_FILE: must be a file",
        "listen is not on this machine",
        "otlp_endpoint is not on this machine",
        "least is more than most",
    ):
        assert name in told
    assert all(each.startswith("GATEHOUSE_PLAY_") for each in mistakes)
    assert "s3cret" not in told


def test_settings_that_are_right_alone_and_wrong_together_are_all_named() -> None:
    """ALL-5: not only the first."""
    mistakes = mistakes_of(
        {
            **NEEDED,
            "GATEHOUSE_PLAY_LISTEN": "[::]:8443",
            "GATEHOUSE_PLAY_OTLP_ENDPOINT": "collector:4317",
            "GATEHOUSE_PLAY_LEAST": "9",
        }
    )
    assert len(mistakes) == 3


def test_a_check_between_settings_is_silent_where_one_is_wrong_itself() -> None:
    """ALL-5: a mistake is named once, by what it is."""
    (mistake,) = mistakes_of({**NEEDED, "GATEHOUSE_PLAY_LEAST": "0"})
    assert "LEAST" in mistake
    (mistake,) = mistakes_of({**NEEDED, "GATEHOUSE_PLAY_LISTEN": "everywhere"})
    assert mistake == "GATEHOUSE_PLAY_LISTEN: must be host:port or unix:/path"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("LISTEN", each)
            for each in (":1", "a", "a:", "a:b", "a:70000", "a:-1", "a:²", "unix:b")
        ],
        *[("KEEPALIVE_SECONDS", each) for each in ("0", "-1", "nan", "inf", "1e300")],
        *[("MAX_CONNECTION_AGE_SECONDS", each) for each in ("0", "inf", "3e6")],
        *[("GRACE_SECONDS", each) for each in ("-1", "nan")],
        *[("TRACE_SAMPLE_RATIO", each) for each in ("1.1", "-0.1")],
        *[("MAX_MESSAGE_BYTES", each) for each in ("0", "1.5", "1e12")],
        *[("OTLP_ENDPOINT", each) for each in ("collector", "http://collector", ":1")],
        ("JWKS", "http://issuer.test/keys"),
        ("PEER_CA_FILE", "/nowhere/ca.crt"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name: str, value: str) -> None:
    """ALL-5: what would break later, in gRPC's words, among it."""
    (mistake,) = mistakes_of({**NEEDED, f"GATEHOUSE_PLAY_{name}": value})
    assert mistake.startswith(f"GATEHOUSE_PLAY_{name}: ")


def test_callers_from_elsewhere_must_show_certificates(tmp_path: Path) -> None:
    """ALL-3: a certificate of the server alone is not enough, and plain text never."""
    files = {}
    for name in ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"):
        (tmp_path / name).touch()
        files[f"GATEHOUSE_PLAY_{name}"] = str(tmp_path / name)
    outside = {
        **NEEDED,
        "GATEHOUSE_PLAY_LISTEN": "0.0.0.0:8443",
        "GATEHOUSE_PLAY_PEERS": "gateway",
    }
    assert load(Play, {**outside, **files}).listen == "0.0.0.0:8443"
    for name in files:
        less = {each: value for each, value in files.items() if each != name}
        assert any("listen is not on" in each for each in mistakes_of({**outside, **less}))


def test_whose_certificates_are_taken_says_also_of_which_names(tmp_path: Path) -> None:
    """ALL-3: names without certificates would be no names, and certificates alone let all in."""
    files = {}
    for name in ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"):
        (tmp_path / name).touch()
        files[f"GATEHOUSE_PLAY_{name}"] = str(tmp_path / name)
    (mistake,) = mistakes_of({**NEEDED, **files})
    assert "needs peers" in mistake
    (mistake,) = mistakes_of({**NEEDED, "GATEHOUSE_PLAY_PEERS": "gateway"})
    assert "needs tls_client_ca_file" in mistake
    for wrong in ("=service", "name=", "name=/method"):
        (mistake,) = mistakes_of({**NEEDED, **files, "GATEHOUSE_PLAY_PEERS": wrong})
        assert mistake.startswith("GATEHOUSE_PLAY_PEERS: ")


def test_a_peer_elsewhere_is_called_by_tls() -> None:
    """ALL-3: the setting is named that says where it is."""
    (mistake,) = mistakes_of({**NEEDED, "GATEHOUSE_PLAY_LOG_TARGET": "dns:///log:8443"})
    assert "log_target is not on this machine: set peer_ca_file" in mistake
    assert load(Play, {**NEEDED, "GATEHOUSE_PLAY_LOG_TARGET": "unix:/run/log"}).log_target


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """ALL-3, ALL-5: not both, and what is wrong about the file is told without what is in it."""
    file, empty = tmp_path / "url", tmp_path / "empty"
    file.write_text("postgresql://u:s3cret@db/play\n")
    empty.touch()
    url, rest = "GATEHOUSE_PLAY_DATABASE_URL", dict(NEEDED)
    inline = rest.pop(url)
    made = load(Play, {**rest, f"{url}_FILE": str(file)})
    assert made.database_url.get_secret_value() == "postgresql://u:s3cret@db/play"
    assert "s3cret" not in repr(made)
    for wrong in (empty, tmp_path / "none", tmp_path):
        (mistake,) = mistakes_of({**rest, f"{url}_FILE": str(wrong)})
        assert mistake == f"{url}_FILE: must be a file with the secret that can be read"
    (mistake,) = mistakes_of({**rest, url: inline, f"{url}_FILE": str(file)})
    assert mistake == f"{url}, {url}_FILE: only one of them may be set"
    (_, mistake) = mistakes_of({**rest, f"{url}_FILE": str(empty), "GATEHOUSE_PLAY_LEAST": "9"})
    assert "least is more than most" in mistake


def test_secrets_are_in_no_text_of_the_settings() -> None:
    """ALL-5: whoever logs them."""
    made = load(Play, NEEDED)
    assert "pa55word" not in f"{made} {made!r} {made.model_dump()}"


def test_settings_do_not_change() -> None:
    """ALL-5: they are read once."""
    made: Any = load(Play, NEEDED)
    with pytest.raises(ValueError, match="frozen"):
        made.most = 9


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/a", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv4:10.0.0.1:1", False),
        ("dns:///localhost:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("", False),
    ],
)
def test_this_machine_is_told_from_others(target: str, here: bool) -> None:
    """ALL-3: what is not known to be here is elsewhere."""
    assert on_this_machine(target) == here
