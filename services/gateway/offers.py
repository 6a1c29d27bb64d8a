"""What another plan would allow that the user's own does not: told only where it is so (GAT-14)."""

import asyncio
from collections.abc import Callable, Mapping

from gatehouse.entitlements.v1.entitlements_pb2 import Plan
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.entitlements import Entitlements
from services.gateway.notices import Notices
from services.runtime.failure import Failure

# Plans seldom change, and an offer that is so much out of date promises nothing by itself.
KEPT_SECONDS = 5.0
NEVER = float("-inf")

Allows = Callable[[Plan], bool]


def allows_changes(plan: Plan) -> bool:
    return plan.allows_crud


def looks_back(days: int) -> Allows:
    """Whether a plan's analyses may look back *days*."""
    return lambda plan: plan.analytics_window_days >= days


class Offers:
    """Offers the first plan of the copy file that exists, is not the user's, and allows it."""

    def __init__(self, entitlements: Entitlements, notices: Notices) -> None:
        self._entitlements = entitlements
        self._notices = notices
        self._plans: Mapping[str, Plan] = {}
        self._read_at = NEVER

    async def upgrade(self, plan_name: str, locale: str, allows: Allows) -> pb.Notice | None:
        """The notice that offers a plan to a user of *plan_name*, or None where none would help.

        Nothing is offered while the plans cannot be read.
        """
        try:
            plans = await self._known()
        except Failure:
            return None
        for name in self._notices.offered_plans:
            plan = plans.get(name)
            if plan is not None and name != plan_name and allows(plan):
                return self._notices.upgrade(locale, plan_name=plan_name, offered=name)
        return None

    async def _known(self) -> Mapping[str, Plan]:
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= KEPT_SECONDS:
            self._plans = await self._entitlements.plans()
            self._read_at = now
        return self._plans
