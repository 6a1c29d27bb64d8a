"""Who may read what, and which plan counts."""

import itertools

import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.entitlements.access import choose, etag_stands, require_reader_of_clinic
from services.runtime.failure import Denied
from services.runtime.identity import Caller


def caller(*roles: str, user_id: str = "ana", clinic_id: str = "north") -> Caller:
    return Caller(
        user_id=user_id,
        clinic_id=clinic_id,
        roles=frozenset(roles),
        locale="en-US",
        time_zone="UTC",
        token="",
    )


def test_the_assigned_plan_counts_before_the_clinic_s_and_that_before_basic() -> None:
    """ENT-2, over every combination of what there is."""
    for user, clinic, basic in itertools.product(("U", None), ("C", None), ("B", None)):
        chosen = choose(user, clinic, basic)
        if user:
            assert chosen == ("U", pb.SOURCE_USER)
        elif clinic:
            assert chosen == ("C", pb.SOURCE_CLINIC_DEFAULT)
        elif basic:
            assert chosen == ("B", pb.SOURCE_SYSTEM_DEFAULT)
        else:
            assert chosen is None


def test_a_user_may_ask_about_their_own_clinic() -> None:
    """ENT-3: or leave the clinic out."""
    require_reader_of_clinic(caller("user"), "north")
    require_reader_of_clinic(caller("user"), "")


@pytest.mark.parametrize("roles", [(), ("user",), ("auditor",), ("user", "auditor")])
def test_users_may_not_ask_about_another_clinic(roles: tuple[str, ...]) -> None:
    """ENT-3, ALL-3: a field of the request is no way to another clinic's default."""
    with pytest.raises(Denied):
        require_reader_of_clinic(caller(*roles), "south")


@pytest.mark.parametrize("role", ["service", "admin"])
def test_services_and_admins_may_ask_about_any_clinic(role: str) -> None:
    """ENT-3."""
    require_reader_of_clinic(caller(role), "south")


def test_a_caller_without_a_clinic_has_no_clinic_s_rights() -> None:
    """ALL-3."""
    with pytest.raises(Denied):
        require_reader_of_clinic(caller("user", clinic_id=""), "north")


@pytest.mark.parametrize(
    ("given", "current", "stands"),
    [
        ("", "r1", True),
        ("", None, True),
        ("r1", "r1", True),
        ("r1", "r2", False),
        ("r1", None, False),
    ],
)
def test_an_etag_holds_a_write_to_what_was_read(
    given: str, current: str | None, stands: bool
) -> None:
    """ENT-3: an etag for what is not there any more does not stand either."""
    assert etag_stands(given, current) is stands
