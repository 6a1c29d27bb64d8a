"""The README's stories, each as it stands there, against services in processes of their own."""

import asyncio
import json
import os
import re
import shlex
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import yaml
from gatehouse.domain.v1 import domain_pb2_grpc
from google.protobuf import json_format

from tests.command_line import Running, running
from tests.conftest import ROOT
from tests.lab_domain import Lab, descriptor_of

README = (ROOT / "README.md").read_text()
# What each of the README's commands is there to show, in the order in which they stand.
SHOWN = {
    'execute "show the appointments': ("SUCCEEDED", "starts_at"),
    'execute "mark invoice 1007': ("PARTIAL", "RECORD_LOCKED", "✓ appointments"),
    "execute --locale pt-BR": ("SUCCEEDED", "✓ appointments"),
    "analyze no_show_rate": ("no_show_rate", "overdue_ratio", "before"),
    "usage": ("premium", "changes"),
    "operations list": ("read appointments", "create appointments", "update finance"),
}


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """As `gatehouse run --processes` starts it, sample records and all."""
    async with running(tmp_path_factory.mktemp("state"), "--processes") as made:
        yield made


def commands() -> list[str]:
    found = re.findall(r"^\.venv/bin/gatehouse (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
    return [each for each in found if not each.startswith("run")]


async def test_the_commands_to_try_do_what_they_are_there_for(suite: Running) -> None:
    """GAT-1, GAT-6, GAT-8, USE-8, LOG-5: a partial outcome among them, since 1007 is locked."""
    given = commands()
    assert len(given) == len(SHOWN)
    for command, (beginning, words) in zip(given, SHOWN.items(), strict=True):
        assert command.startswith(beginning)
        code, out, err = await suite.gatehouse(*shlex.split(command))
        assert code == 0, (command, err)
        missing = [word for word in words if word not in " ".join(out.split())]
        assert not missing, (command, out)


async def test_the_client_in_ten_lines_prints_a_report(suite: Running, tmp_path: Path) -> None:
    """GAT-1: the block of code as it is, with the address of this suite in it."""
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert code.count('"127.0.0.1:7400"') == 1
    script = tmp_path / "ten_lines.py"
    script.write_text(code.replace("127.0.0.1:7400", suite.known["gateway"]))
    paths = [str(ROOT / "clients" / "python"), str(ROOT), str(ROOT / "gen")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), suite.known["token"]),
        env=suite.environment | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert "successes {" in out.decode()
    assert "OUTCOME_SUCCEEDED" in out.decode()


async def test_a_request_sent_again_is_the_same_report(suite: Running) -> None:
    """GAT-2: whatever was changed is changed once."""
    words = ("execute", "add a client called Nina Prado", "--request-id", str(uuid.uuid4()))
    first, again = [await suite.told(*words) for _ in range(2)]
    assert again["replayed"]
    assert again["report"] == first["report"]
    (read,) = (await suite.told("execute", "show the client Nina Prado"))["report"]["successes"]
    assert read["affected"] == 1


async def test_a_domain_of_ones_own_is_applied_and_spoken_of(
    suite: Running, tmp_path: Path
) -> None:
    """DOM-1, GAT-3: no code of Gatehouse changes; within a second its words are known."""
    lab = Lab()
    server = grpc.aio.server()
    domain_pb2_grpc.add_DomainServiceServicer_to_server(lab, server)
    lab.address = f"unix:{tmp_path / 'lab.sock'}"
    server.add_insecure_port(lab.address)
    await server.start()
    try:
        described = json_format.MessageToDict(descriptor_of(lab), preserving_proto_field_name=True)
        described["entities"][0]["name"] = "gadget"
        described["entities"][0]["json_schema"]["properties"]["name"]["x-label"] = True
        file = tmp_path / "descriptors.yaml"
        file.write_text(yaml.safe_dump({"domains": [described]}))
        code, out, err = await suite.gatehouse("domains", "apply", "-f", str(file))
        assert (code, err) == (0, ""), out
        assert f"{lab.name}: created" in out
        for _ in range(10):  # each takes as long as this machine takes to start a command
            told = await suite.told("execute", 'add a gadget called "Lamp"')
            if lab.done:
                break
            assert "clarification" in told
        assert told["report"]["outcome"] == "OUTCOME_SUCCEEDED"
        (listed,) = (await suite.told("operations", "list", "--domain", lab.name))["operations"]
        assert listed["id"] == lab.done[0]
        assert json.dumps(listed).count("Lamp") == 0
    finally:
        await server.stop(None)
