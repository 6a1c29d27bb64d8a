"""What the service refuses to start with (ALL-5)."""

import pytest

from services.entitlements.settings import Settings
from services.runtime.settings import SettingsError, load

SOUND = {
    "DATABASE_URL": "postgresql://gatehouse_entitlements:secret@db/gatehouse",
    "JWT_ISSUER": "https://id.example.org",
    "JWT_AUDIENCE": "gatehouse",
    "JWKS": "/etc/jwks.json",
    "OPLOG_TARGET": "127.0.0.1:4317",
    "SPOOL_DIRECTORY": "/var/lib/gatehouse",
}


def loaded(**changes: str) -> Settings:
    values = {**SOUND, **changes}
    return load(
        Settings, {f"GATEHOUSE_ENTITLEMENTS_{name}": value for name, value in values.items()}
    )


def test_sound_settings_load() -> None:
    """ALL-5."""
    assert loaded().oplog_target == "127.0.0.1:4317"


def test_writes_go_unrecorded_only_when_that_is_said() -> None:
    """LOG-3: a forgotten setting does not switch the log off."""
    with pytest.raises(SettingsError, match="no oplog_target is set"):
        loaded(OPLOG_TARGET="")
    with pytest.raises(SettingsError, match="no oplog_target is set"):
        loaded(OPLOG_TARGET="", UNRECORDED_WRITES="false")
    assert loaded(OPLOG_TARGET="", UNRECORDED_WRITES="true").oplog_target is None


def test_a_log_without_a_spool_is_refused() -> None:
    """LOG-2: outcomes that cannot be sent have to wait somewhere."""
    with pytest.raises(SettingsError, match="SPOOL_DIRECTORY: must be set"):
        loaded(SPOOL_DIRECTORY="")


@pytest.mark.parametrize("value", ["0.5", "0", "soon"])
def test_heartbeats_keep_the_promise_of_the_protos(value: str) -> None:
    """ENT-4: at least every 500 ms, the way to the follower included."""
    with pytest.raises(SettingsError, match="HEARTBEAT_SECONDS"):
        loaded(HEARTBEAT_SECONDS=value)


def test_every_mistake_is_named_and_no_secret_shown() -> None:
    """ALL-5."""
    with pytest.raises(SettingsError) as caught:
        loaded(JWKS="", REPLAY_LIMIT="many", POOL_SIZE="3", OPLOG_TARGET="")
    told = str(caught.value)
    for name in ("JWKS", "REPLAY_LIMIT", "POOL_SIZE", "UNRECORDED_WRITES"):
        assert f"GATEHOUSE_ENTITLEMENTS_{name}" in told
    assert "secret" not in told
