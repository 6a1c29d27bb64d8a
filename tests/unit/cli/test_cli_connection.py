"""How the command line reaches services."""

import grpc
import pytest

from services.cli import connection


@pytest.mark.parametrize("address", ["127.example.com:443", "localhost.example.com:443", "gateway"])
def test_the_command_line_speaks_plain_text_on_this_machine_alone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALL-3: a host whose name only begins like this machine's gets TLS, not a token in clear."""
    opened: list[str] = []
    monkeypatch.setattr(grpc, "insecure_channel", opened.append)
    with connection.Suite({"gateway": address}, "token").channel("gateway"):
        assert opened == []
