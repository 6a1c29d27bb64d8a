"""A notice offers a plan that would help, and never the one that the user has (GAT-11, GAT-14).

The kind: a sentence about plans that does not look at the plans.
"""

import uuid

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2

from services.gateway.notices import LOCALES
from services.runtime.failure import PeerFailure
from tests.gateway_calls import Stage, User, client, detail_of, operation, refused


def sentence(failure: PeerFailure) -> str:
    return str(detail_of(failure, error_details_pb2.LocalizedMessage).message)


async def window(user: User, days: int) -> str:
    """What a user is told whose plan does not look back *days*."""
    request = pb.AnalyzeRequest(
        request_id=str(uuid.uuid4()), metrics=["no_show_rate"], window=pb.Window(last_days=days)
    )
    failure = await refused(user.stage.gateways[0].Analyze(request, **user.call))
    assert failure.reason == "WINDOW_NOT_ALLOWED"
    return sentence(failure)


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_window_beyond_the_plan_names_the_plans_limit(stage: Stage, locale: str) -> None:
    """GAT-14: and offers a plan only where that one looks back far enough."""
    basic = await stage.user("basic", locale=locale)
    premium = await stage.user("premium", locale=locale)
    for user, days, limit, offered in (
        (basic, 31, 30, True),
        (basic, 365, 30, True),
        (basic, 366, 30, False),
        (premium, 366, 365, False),
        (premium, 3000, 365, False),
    ):
        said = await window(user, days)
        assert f" {limit} " in said
        assert ("Premium" in said) == offered, (days, said)


async def test_a_plan_without_changes_is_offered_one_with_them(stage: Stage) -> None:
    """GAT-14: alone and beside other operations, and only by a plan that is another one."""
    short = await stage.plan(allows_crud=False, analytics_window_days=9)
    for plan in ("basic", short):
        user = await stage.user(plan)
        assert "Premium" in sentence(await refused(user.execute([client("Ana")])))
        mixed = await user.execute([operation("finance", 2), client("Ana")])
        assert [each.kind for each in mixed.notices] == [pb.NOTICE_KIND_UPGRADE]


async def test_users_of_the_best_plan_are_offered_nothing(stage: Stage) -> None:
    """GAT-14: whatever is refused, by the quota or by the window."""
    user = await stage.user("premium")
    assert "Premium" not in await window(user, 366)
    limited = await stage.user(await stage.plan(daily_modify_limit=0))
    failure = await refused(limited.execute([client("Ana")]))
    assert failure.reason == "QUOTA_EXHAUSTED"
    assert "Premium" not in sentence(failure)
