"""Which names in certificates may call what (ALL-3)."""

import pytest

from services.runtime.peers import Peers, names_in

USAGE = "gatehouse.usage.v1.UsageService"
PEERS = Peers(f"gateway spiffe://gatehouse/log={USAGE} audit={USAGE}/GetUsage audit=other.Service")


@pytest.mark.parametrize(
    ("names", "method", "allowed"),
    [
        (["gateway"], f"{USAGE}/Consume", True),
        (["localhost", "gateway"], f"{USAGE}/Consume", True),
        (["spiffe://gatehouse/log"], f"{USAGE}/Consume", True),
        (["spiffe://gatehouse/log"], "other.Service/Get", False),
        (["audit"], f"{USAGE}/GetUsage", True),
        (["audit"], "other.Service/Get", True),
        (["audit"], f"{USAGE}/GetUsageAndMore", False),
        (["audit"], f"{USAGE}/Consume", False),
        (["audit"], f"{USAGE}Two/GetUsage", False),
        (["Gateway"], f"{USAGE}/Consume", False),
        (["gateway.evil"], f"{USAGE}/Consume", False),
        (["evil.gateway"], f"{USAGE}/Consume", False),
        (["*"], f"{USAGE}/Consume", False),
        ([""], f"{USAGE}/Consume", False),
        ([], f"{USAGE}/Consume", False),
    ],
)
def test_a_name_is_compared_whole(names: list[str], method: str, allowed: bool) -> None:
    """ALL-3: no part of it, no other case, and a certificate without names is nobody's."""
    assert PEERS.admit(names, method) is allowed


def test_a_star_is_whoever_has_a_certificate() -> None:
    """ALL-3: also one without names; limits of the star hold."""
    assert Peers("*").admit([], f"{USAGE}/Consume")
    assert not Peers(f"*={USAGE}/GetUsage").admit(["gateway"], f"{USAGE}/Consume")
    assert not Peers("").admit(["gateway"], f"{USAGE}/Consume")


def test_only_names_that_authorities_check_count() -> None:
    """ALL-3: not the common name, nor an address of mail that says the same."""
    shown = {
        "peer_dns": [b"usage", b"usage.gatehouse"],
        "peer_uri": [b"spiffe://gatehouse/usage"],
        "peer_email": [b"gateway"],
        "x509_common_name": [b"gateway"],
    }
    assert names_in(shown) == ["usage", "usage.gatehouse", "spiffe://gatehouse/usage"]
