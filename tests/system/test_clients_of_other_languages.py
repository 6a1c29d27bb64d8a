"""The examples in Go and TypeScript: generated, built and run against the suite."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

from tests.conftest import ROOT
from tests.gateway_calls import Stage

EXAMPLES = ROOT / "examples" / "clients"
SAID = ["OUTCOME_SUCCEEDED", "TOKEN_INVALID"]


async def run(*command: str, cwd: Path, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


def needed(*programs: str) -> None:
    """Skip where one of *programs* is not on the path: these toolchains are not of the lock."""
    missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        pytest.skip(f"not on the path: {', '.join(missing)}")


async def generated(language: str, folder: Path, packages: Path | None = None) -> Path:
    """A copy of the example where the repository would be, with its stubs."""
    project = folder / "examples" / "clients" / language
    leave = shutil.ignore_patterns("gen", "dist", "node_modules")
    shutil.copytree(EXAMPLES / language, project, ignore=leave)
    if packages is not None:
        (project / "node_modules").symlink_to(packages)
    shutil.copy(EXAMPLES / "service-config.json", project.parent)
    (folder / "protos").symlink_to(ROOT / "protos")
    googleapis = Path(status_pb2.__file__).parents[2]
    protoc = f"{sys.executable} -m grpc_tools.protoc"
    await run("./generate.sh", cwd=project, PROTOC=protoc, GOOGLEAPIS=str(googleapis))
    return project


async def called(crew: Stage, project: Path, *program: str) -> None:
    user = await crew.user()
    options = (crew.suite.addresses["gateway"], user.token(), "../service-config.json", "Ana")
    said = await run(*program, *options, cwd=project)
    assert said.split() == SAID
    assert await user.clients() == ["Ana"]


async def test_a_go_client_calls(crew: Stage, tmp_path: Path) -> None:
    """GAT-1: with the stubs that its own tools make, by the service config of the documents."""
    needed("go", "protoc-gen-go", "protoc-gen-go-grpc")
    project = await generated("go", tmp_path)
    await run("go", "build", "-o", "client", ".", cwd=project)
    await called(crew, project, str(project / "client"))


async def test_a_typescript_client_calls(crew: Stage, tmp_path: Path) -> None:
    """GAT-1: with the stubs that its own tools make, by the service config of the documents."""
    needed("node")
    packages = EXAMPLES / "typescript" / "node_modules"
    if not packages.is_dir():
        pytest.skip("the packages are not installed: npm ci in examples/clients/typescript")
    project = await generated("typescript", tmp_path, packages)
    await run(str(packages / ".bin" / "tsc"), cwd=project)
    await called(crew, project, "node", "dist/main.js")


def test_the_service_config_is_the_packages_own() -> None:
    """ALL-1: what the documents tell other languages is what the Python client uses."""
    sys.path.insert(0, str(ROOT / "clients" / "python"))
    try:
        from gatehouse_client.channel import SERVICE_CONFIG
    finally:
        sys.path.pop(0)
    assert json.loads((EXAMPLES / "service-config.json").read_text()) == SERVICE_CONFIG
