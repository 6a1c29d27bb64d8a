"""The image, built and run as a cluster runs it: no rights, nothing to write on, little room.

It needs an engine (docker or podman) that answers to `info` and has the base image; where there is
none, these tests are skipped. GATEHOUSE_TEST_IMAGE names an image that was built already.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc.aio
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from grpc_health.v1 import health_pb2_grpc

from services.embedded import grounded
from services.embedded_catalogue import catalogue_for
from services.embedded_services import SERVICES, Place, environment_of, is_serving, told
from tests.deploy.manifests import ROOT

ENGINES = ("docker", "podman")
BUILD_SECONDS, SERVING_SECONDS = 900.0, 60.0
USER = 10001
LIMITED = (
    *("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    # Those of the manifests; a service has some 30 threads.
    *("--memory", "256m", "--cpus", "1", "--pids-limit", "64", "--network", "none"),
)
pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@cache
def engine() -> str:
    """Whichever runs containers here. Skips where none does."""
    for name in ENGINES:
        if shutil.which(name) and ran(name, "info").returncode == 0:
            return name
    pytest.skip(f"no engine to run the image with: none of {' '.join(ENGINES)} answers to `info`")


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def image() -> str:
    if built := os.environ.get("GATEHOUSE_TEST_IMAGE"):
        engine()
        return built
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", dockerfile, re.MULTILINE)
    if ran(engine(), "image", "inspect", base).returncode:
        pytest.skip(f"{engine()} has no {base} to build on")
    name = "gatehouse:test"
    done = ran("make", "image", f"IMAGE={name}", f"BUILDERS={engine()}")
    assert done.returncode == 0, done.stderr[-2000:]
    return name


@dataclass(frozen=True)
class Container:
    """A service that runs from the image."""

    name: str
    listen: str

    def told(self, what: str) -> str:
        return ran(engine(), "inspect", "--format", what, self.name).stdout.strip()

    def within(self, *command: str) -> subprocess.CompletedProcess[str]:
        return ran(engine(), "exec", self.name, *command)

    def last_words(self) -> str:
        said = ran(engine(), "logs", "--tail", "5", self.name)
        return said.stdout + said.stderr


@pytest.fixture(scope="module")
async def containers(image: str) -> AsyncIterator[Mapping[str, Container]]:
    """Every service, over stores and sockets of this machine."""
    async with AsyncExitStack() as stack:
        place, _ = await grounded(stack, None, ())
        catalogue = catalogue_for({"MODEL_BASIC": "http://127.0.0.1:9/v1"}, place.folder, {})
        place = Place(**{**vars(place), "catalogue": catalogue})
        listens = told(place, place.address("gateway"))
        opened(place)
        started = {}
        for name, settings in listens.items():
            started[name] = run(image, name, settings, place)
            stack.callback(ran, engine(), "rm", "--force", started[name].name)
        yield started


def opened(place: Place) -> None:
    """What an unprivileged user, who is in no group of this machine, has to reach."""
    for folder in (place.folder, place.sockets):
        folder.chmod(0o777)
        for path in folder.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
    for socket in stores(place):
        socket.chmod(0o777)
        socket.parent.chmod(0o755)


def stores(place: Place) -> Iterator[Path]:
    (folder,) = re.findall("host=([^&]+)", place.postgres.url())
    yield Path(folder.replace("%2F", "/")) / ".s.PGSQL.5432"
    yield Path(place.valkey.url.removeprefix("unix://"))


def run(image: str, service: str, settings: Mapping[str, str], place: Place) -> Container:
    """Start it, with its settings and what they name mounted where it is."""
    name = f"gatehouse-test-{service}-{uuid.uuid4().hex[:8]}"
    folders = [place.folder, place.sockets, *(each.parent for each in stores(place))]
    mounts = [option for each in folders for option in ("--volume", f"{each}:{each}")]
    variables = environment_of(service, settings)
    given = [option for key in variables for option in ("--env", key)]
    done = ran(
        *(engine(), "run", "--detach", "--name", name, *LIMITED, *mounts, *given),
        *(image, "python", "-m", SERVICES[service].module),
        **variables,
    )
    assert done.returncode == 0, done.stderr
    return Container(name, settings.get("clients_listen", settings["listen"]))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_serves_from_the_image_without_any_right(
    containers: Mapping[str, Container], service: str
) -> None:
    """ALL-1: read-only, without capabilities, with limits of memory and processes."""
    container = containers[service]
    async with grpc.aio.insecure_channel(container.listen) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(SERVING_SECONDS):
                while not await is_serving(health):
                    assert container.told("{{.State.Running}}") == "true", container.last_words()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(container.last_words())
    limits = json.loads(container.told("{{json .HostConfig}}"))
    assert limits["ReadonlyRootfs"]
    assert limits["Memory"] == 256 * 2**20
    assert limits["PidsLimit"] == 64
    status = container.within("cat", "/proc/1/status").stdout
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        assert re.search(rf"^{kind}:\s+0+$", status, re.MULTILINE), status
    assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s+{USER}\s+{USER}$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_nothing_in_the_image_makes_or_fetches_programs(
    containers: Mapping[str, Container],
) -> None:
    found = containers["usage"].within(
        "python",
        "-c",
        "import importlib.util as u, shutil\n"
        "print([n for n in ('pip', 'setuptools', 'wheel', 'ensurepip') if u.find_spec(n)],"
        " [n for n in ('cc', 'gcc', 'g++', 'make', 'ld', 'cargo', 'go') if shutil.which(n)])",
    )
    assert found.stdout.strip() in ("[] []", "['ensurepip'] []"), found
    written = containers["usage"].within("python", "-c", "open('/opt/gatehouse/new', 'w')")
    assert "Read-only file system" in written.stderr


def test_the_image_carries_its_bill_of_materials(containers: Mapping[str, Container]) -> None:
    said = containers["usage"].within("cat", "/opt/gatehouse/sbom.cdx.json").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(said) is None
    installed = containers["usage"].within(
        "python",
        "-c",
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version"
        " for d in m.distributions()}))",
    )
    versions = json.loads(installed.stdout)
    bill = json.loads(said)
    told_of = [*bill["components"], bill["metadata"]["component"]]
    assert {each["name"]: each["version"] for each in told_of} == versions


@pytest.mark.parametrize("service", list(reversed(SERVICES)))
def test_a_service_stops_when_it_is_asked_to(
    containers: Mapping[str, Container], service: str
) -> None:
    """ALL-1: within the grace, with 0."""
    container = containers[service]
    ran(engine(), "stop", "--time", "30", container.name)
    assert container.told("{{.State.ExitCode}}") == "0", container.last_words()
