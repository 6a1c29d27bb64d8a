"""Any client that is made from the protos alone can call (README: from other languages)."""

import asyncio
import sys
import sysconfig
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2

from tests.conftest import ROOT
from tests.gateway_calls import Stage

CLIENT = """
import sys

sys.path[:0] = {paths!r}
import importlib.util

assert importlib.util.find_spec("services") is None, "the repository is on the path"
import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2, gateway_pb2_grpc

with grpc.insecure_channel({address!r}) as channel:
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    create = gateway_pb2.Operation(domain="clients", verb=domain_pb2.VERB_CREATE)
    create.fields.update({{"name": "Ana"}})
    request = gateway_pb2.ExecuteRequest(
        request_id="foreign", operations=gateway_pb2.OperationList(operations=[create])
    )
    answer = stub.Execute(
        request, timeout=10, metadata=[("authorization", "Bearer " + {token!r})]
    )
    print(gateway_pb2.Outcome.Name(answer.report.outcome))
"""


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_client_made_from_the_protos_alone_executes(crew: Stage, tmp_path: Path) -> None:
    """GAT-1: outside the repository's path, with nothing but grpc and protobuf."""
    user, made = await crew.user(), tmp_path / "made"
    made.mkdir()
    protos = ROOT / "protos"
    # google.rpc comes with googleapis, as it does for any client.
    googleapis = Path(status_pb2.__file__).parent.parent.parent
    await run(
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{googleapis}"),
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
        *(f"--python_out={made}", f"--grpc_python_out={made}"),
        *(str(each) for each in sorted((protos / "gatehouse").rglob("*.proto"))),
    )
    script = tmp_path / "client.py"
    paths = [str(made), sysconfig.get_path("purelib")]
    token, address = user.token(), crew.suite.addresses["gateway"]
    script.write_text(CLIENT.format(paths=paths, address=address, token=token))
    # -S: no .pth of this environment leads back to the repository.
    assert await run(sys.executable, "-I", "-S", str(script)) == "OUTCOME_SUCCEEDED\n"
    assert await user.clients() == ["Ana"]
