"""The wheel `gatehouse-client`, installed alone, against the suite."""

import asyncio
import importlib.metadata
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from scripts import client as wheel
from tests.conftest import ROOT
from tests.gateway_calls import Stage

NEEDED = ("grpcio", "grpcio-status", "googleapis-common-protos", "protobuf", "typing_extensions")


async def run(*command: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == code, (out + err).decode()
    return out.decode()


@pytest.fixture(scope="session")
async def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("client")
    await asyncio.to_thread(wheel.main, [str(folder / "dist")])
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    [built] = (folder / "dist").glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    await run(*pip, "install", "--quiet", "--no-index", "--no-deps", str(built))
    link_dependencies(folder / "venv")
    await run(*pip, "check")
    return python


def link_dependencies(environment: Path) -> None:
    """From this environment, which the lock file made: nothing is fetched."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = environment / "lib" / version / "site-packages"
    source = Path(sysconfig.get_path("purelib"))
    for name in NEEDED:
        for file in importlib.metadata.files(name) or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            if not (target / file).exists():
                (target / file).symlink_to(source / file)


SCRIPT = """
import asyncio, importlib.util, sys
from pathlib import Path

assert importlib.util.find_spec("services") is None
assert importlib.util.find_spec("gatehouse") is None
from gatehouse_client import AsyncClient, Client, Conflict, InvalidRequest, Unauthenticated
from gatehouse_client import domain, pb

address, token_file = sys.argv[1], Path(sys.argv[2])

def made(name):
    operation = pb.Operation(domain="clients", verb=domain.VERB_CREATE, entity="client")
    operation.fields.update({"name": name})
    return operation

def window():
    week = pb.Window(last_days=7)
    return pb.AnalyzeRequest(metrics=["no_show_rate"], window=week, plain_summary=True)

def refused(kind, call):
    try:
        call()
    except kind as refusal:
        return refusal
    raise AssertionError("not refused")

with Client(address, token_file, timeout=15) as client:
    answer = client.execute([made("Ana")], request_id="first")
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
    assert client.execute([made("Ana")], request_id="first").response.replayed
    reused = refused(Conflict, lambda: client.execute([made("Eva")], request_id="first"))
    assert reused.reason == "REQUEST_ID_REUSED", reused

    asked = client.execute([made(f"Bruno {n}") for n in range(6)])
    assert asked.confirmation and not asked.report
    done = client.confirm(asked)
    assert len(done.report.successes) == 6, done
    refused(ValueError, lambda: client.confirm(done))

    wrong = refused(InvalidRequest, lambda: client.analyze(pb.AnalyzeRequest()))
    assert {each.subject for each in wrong.violations} >= {"metrics", "window"}, wrong.violations
    unknown = refused(Unauthenticated, lambda: Client(address, "no token").usage())
    assert unknown.reason == "TOKEN_INVALID", unknown

    events = [event.WhichOneof("event") for event in client.stream_analyze(window())]
    assert events[-1] == "finished", events
    assert client.usage().usage.modify_count == 7
    pages = client.operations(pb.ListOperationsRequest(page_size=2))
    assert sum(1 for each in pages if each.domain == "clients") == 7
    assert client.cancel("first") == pb.CANCEL_OUTCOME_ALREADY_FINISHED

async def later():
    async with AsyncClient(address, token_file.read_text, timeout=15) as client:
        asked = await client.execute([made(f"Carla {n}") for n in range(6)])
        done = await client.confirm(asked)
        assert len(done.report.successes) == 6, done
        events = [each.WhichOneof("event") async for each in client.stream_analyze(window())]
        assert events[-1] == "finished", events
        listed = [each async for each in client.operations(pb.ListOperationsRequest(page_size=5))]
        assert sum(1 for each in listed if each.domain == "clients") == 13, len(listed)
        try:
            await client.execute("", request_id="second")
        except InvalidRequest as refusal:
            assert refusal.code.name == "INVALID_ARGUMENT"
        else:
            raise AssertionError("not refused")

asyncio.run(later())
print("done")
"""


async def test_the_wheel_alone_calls_everything(
    installed: Path, crew: Stage, tmp_path: Path
) -> None:
    """GAT-1: by threads and asyncio, with confirmation, replay, pages, streams and refusals."""
    user = await crew.user(await crew.plan(daily_modify_limit=50, daily_read_limit=50))
    token, script = tmp_path / "token", tmp_path / "script.py"
    token.write_text(user.token() + "\n")
    script.write_text(SCRIPT)
    address = crew.suite.addresses["gateway"]
    assert await run(str(installed), "-I", str(script), address, str(token)) == "done\n"


async def test_the_client_is_imported_beside_the_services(tmp_path: Path) -> None:
    """The stubs under both names are one contract, and no file is in both distributions."""
    code = (
        "import sys; from pathlib import Path; from scripts import client;"
        "tree = Path(sys.argv[1]) / 'tree'; client.lay_out(tree); sys.path.insert(0, str(tree));"
        "import gatehouse_client; from gatehouse.gateway.v1 import gateway_pb2 as theirs;"
        "sent = gatehouse_client.pb.CancelRequest(request_id='x').SerializeToString();"
        "assert theirs.CancelRequest.FromString(sent).request_id == 'x';"
        "assert 'gatehouse_client' in gatehouse_client.pb.__name__;"
        "assert 'gatehouse_client' not in theirs.__name__"
    )
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    await run(sys.executable, "-c", f"{path}; {code}", str(tmp_path))
