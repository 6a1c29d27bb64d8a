"""Asks the router for what a model is to write."""

from gatehouse.router.v1 import router_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub

from services.gateway.entitlements import Entitlements
from services.gateway.peers import Complete, answered
from services.runtime.calling import TokenSource, as_service, deadline_left
from services.runtime.identity import current_caller

COMPLETE_SECONDS = 15.0
# Of the time that is left, what a model may take: without it the plain template still answers.
COMPLETE_SHARE = 0.8


def completing(
    stub: RouterServiceStub, tokens: TokenSource, entitlements: Entitlements
) -> Complete:
    """Asks the router in the name of the caller, to whom the answer is charged (ROU-6)."""

    async def complete(request: router_pb2.CompleteRequest) -> router_pb2.CompleteResponse:
        caller = current_caller()
        plan = (await entitlements.of(caller)).plan
        request.user_id, request.clinic_id = caller.user_id, caller.clinic_id
        if plan.HasField("daily_model_budget_micros"):
            request.daily_budget_micros = plan.daily_model_budget_micros
        answer: router_pb2.CompleteResponse = await answered(
            stub.Complete(
                request,
                timeout=COMPLETE_SHARE * deadline_left(COMPLETE_SECONDS / COMPLETE_SHARE),
                metadata=as_service(tokens),
            )
        )
        return answer

    return complete
