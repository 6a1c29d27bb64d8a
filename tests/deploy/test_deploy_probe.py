"""The probe, against a service as it is deployed: TLS, with certificates at both ends (ALL-1)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local_secrets import Authority
from services.router.settings import Settings
from services.runtime.serving import serving
from services.runtime.telemetry import open_telemetry
from tests.conftest import Tokens
from tests.deploy.manifests import ROOT

SERVICE = "gatehouse.router.v1.RouterService"


@dataclass
class Store:
    """What the service depends on."""

    there: bool = True

    async def check(self) -> bool:
        return self.there


@dataclass(frozen=True)
class Deployed:
    """A service under the name `router`, and the folder with its certificates."""

    port: int
    identity: Path
    store: Store


def written(folder: Path, content: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
async def deployed(tokens: Tokens, tmp_path: Path) -> AsyncIterator[Deployed]:
    identity = written(tmp_path / "identity", Authority().issue("router"))
    settings = Settings(
        listen="[::]:0",
        catalogue_file=tmp_path / "catalogue.yaml",
        database_url="postgresql://",
        spool_directory=tmp_path / "spool",
        tls_certificate_file=identity / "tls.crt",
        tls_key_file=identity / "tls.key",
        tls_client_ca_file=identity / "ca.crt",
        peers="gateway",  # probes ask for health alone
        grace_seconds=0,
        **tokens.settings,
    )
    store = Store()
    with open_telemetry(settings) as telemetry:
        async with serving(
            settings,
            telemetry,
            lambda server: None,
            service_names=[SERVICE],
            health={"dependency.store": store.check},
        ) as address:
            yield Deployed(int(address.rpartition(":")[2]), identity, store)


async def probe(wanted: str, port: int, identity: Path, name: str = "router") -> tuple[int, str]:
    """The probe's exit code, and what it says."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "deploy" / "probe.py"), wanted, f"{name}:{port}"),
        *([SERVICE] if wanted == "serves" else []),
        *("--identity", str(identity)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await program.communicate()
    assert program.returncode is not None
    return program.returncode, said.decode().strip()


async def becomes(code: int, wanted: str, deployed: Deployed) -> None:
    """Wait until the probe ends with *code*: dependencies are asked after once a second."""
    async with asyncio.timeout(10):
        while (await probe(wanted, deployed.port, deployed.identity))[0] != code:
            pass


async def test_a_service_with_all_that_it_needs_serves(deployed: Deployed) -> None:
    await becomes(0, "serves", deployed)
    assert await probe("answers", deployed.port, deployed.identity) == (0, "")


async def test_a_service_without_its_store_answers_still(deployed: Deployed) -> None:
    """USE-7: it is neither taken out nor restarted, and tells its callers what is wrong."""
    deployed.store.there = False
    await becomes(1, "serves", deployed)
    code, said = await probe("serves", deployed.port, deployed.identity)
    assert (code, said) == (1, f"router:{deployed.port} {SERVICE}: NOT_SERVING")
    assert await probe("answers", deployed.port, deployed.identity) == (0, "")


async def test_a_certificate_for_another_name_is_no_answer(deployed: Deployed) -> None:
    """ALL-3: its peers would turn away as well."""
    code, said = await probe("answers", deployed.port, deployed.identity, name="usage")
    assert code == 1
    assert said.endswith("no answer")


async def test_a_stranger_gets_no_answer(deployed: Deployed, tmp_path: Path) -> None:
    """ALL-3: a certificate of another authority opens nothing."""
    stranger = written(tmp_path / "stranger", Authority().issue("router"))
    (stranger / "ca.crt").write_text((deployed.identity / "ca.crt").read_text())
    assert (await probe("answers", deployed.port, stranger))[0] == 1


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A port that is open, and behind which nobody answers."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "localhost")
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def test_an_open_port_is_no_answer(tmp_path: Path) -> None:
    """A process that hangs keeps its port open; the probe says so before Kubernetes gives up."""
    identity = written(tmp_path / "identity", Authority().issue("router"))
    async with silent() as port, asyncio.timeout(20):
        code, said = await probe("answers", port, identity)
    assert (code, said) == (1, f"router:{port} health: no answer")
