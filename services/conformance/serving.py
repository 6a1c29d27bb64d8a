"""How the domain serves: what Gatehouse's channels and Kubernetes rely on (ALL-1)."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.conformance.findings import Wrong, check, expect
from services.conformance.subject import Subject

SERVING = health_pb2.HealthCheckResponse.SERVING


@check("serve.health")
async def health(subject: Subject) -> None:
    """grpc.health.v1 says SERVING, to calls without a token: Gatehouse leaves one that does not."""
    stub = health_pb2_grpc.HealthStub(subject.channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        raise Wrong(f"grpc.health.v1 answers {error.code().name}") from None
    expect(answer.status == SERVING, "it is not SERVING")


@check("serve.unknown_method")
async def unknown_method(subject: Subject) -> None:
    """A method that it has not is UNIMPLEMENTED, so that newer callers know."""
    call = subject.channel.unary_unary("/gatehouse.domain.v1.DomainService/NoSuchMethod")
    try:
        await call(b"", **subject.call())
    except grpc.aio.AioRpcError as error:
        expect(error.code() is grpc.StatusCode.UNIMPLEMENTED, f"it is {error.code().name}")
    else:
        raise Wrong("it was answered")
