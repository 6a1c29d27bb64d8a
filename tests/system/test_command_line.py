"""The command line as people use it: a suite that runs, and commands that find it."""

import asyncio
import json
import re
import shlex
import signal
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from joserfc.jwk import OKPKey
from typer.testing import CliRunner

from examples.clinic.cli import DEMO_CLINIC
from services.cli.main import app
from tests.command_line import GATEHOUSE, Running, running
from tests.conftest import ROOT
from tests.gateway_calls import eventually
from tests.wrong_domain import CountsNothing, serving_wrong

STOP_SECONDS = 20.0


async def are_gone(family: list[psutil.Process]) -> None:
    """Return once none of *family* runs any more."""

    async def gone() -> bool:
        return not any(
            each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family
        )

    await eventually(gone, STOP_SECONDS)


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("state")) as made:
        yield made


async def test_an_instruction_is_carried_out_and_told(suite: Running) -> None:
    """GAT-1: as a table for people, as JSON for programs."""
    code, out, _ = await suite.gatehouse("execute", "show the client Ana Souza")
    assert code == 0
    assert "SUCCEEDED" in out
    assert "Ana Souza" in out
    told = await suite.told("execute", "show the client Ana Souza", "--request-id", "cli-1")
    assert told["report"]["outcome"] == "OUTCOME_SUCCEEDED"
    again = await suite.told("execute", "show the client Ana Souza", "--request-id", "cli-1")
    assert again["replayed"]
    assert again["report"] == told["report"]


async def test_a_clinic_is_given_a_zone_and_keeps_it(suite: Running) -> None:
    """USE-4, ALL-6: by an administrator; a language tag is taken in any spelling."""
    clinic = str(uuid.uuid4())
    code, out, err = await suite.gatehouse(
        "assign", clinic, "basic", "--clinic", "--time-zone", "Asia/Tokyo"
    )
    assert (code, err) == (0, "")
    assert "its day begins at midnight in Asia/Tokyo" in out
    kept = await suite.told("assign", clinic, "premium", "--clinic")
    assert kept["clinic_plan"]["time_zone"] == "Asia/Tokyo"
    assert kept["revision"]["epoch"]
    told = await suite.told("execute", "mostre os clientes", "--locale", "pt_br")
    assert told["interpretation"]["locale"] == "pt-BR"


async def test_what_must_be_confirmed_says_how(suite: Running, tmp_path: Path) -> None:
    """GAT-5: with the very command that goes ahead."""
    file = tmp_path / "operations.json"
    names = [f"Command {number}" for number in range(6)]
    operations = [
        {"domain": "clients", "verb": "VERB_CREATE", "entity": "client", "fields": {"name": name}}
        for name in names
    ]
    file.write_text(json.dumps(operations))
    arguments = ("execute", "--operations", str(file), "--request-id", "cli-2")
    code, out, _ = await suite.gatehouse(*arguments)
    assert code == 0
    token = out.split("--confirm ")[1].split()[0]
    done = await suite.told(*arguments, "--confirm", token)
    assert len(done["report"]["successes"]) == 6


async def test_the_commands_of_the_handbook_answer_its_questions(suite: Running) -> None:
    """LOG-5: each as it stands there, with an id where it says ID."""
    found = await suite.told("execute", "show the client Ana Souza")
    (logged,) = (await suite.told("operations", "list", "--trace", found["trace_id"]))["operations"]
    ids = {"--user": logged["user_id"], "--trace": logged["trace_id"], "show": logged["id"]}
    handbook = (ROOT / "docs" / "operations.md").read_text()
    commands = re.findall(r"^\| [^|`]+ \| `gatehouse ([^`]+)` \|$", handbook, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command)
        words = [ids[words[at - 1]] if word == "ID" else word for at, word in enumerate(words)]
        code, out, err = await suite.gatehouse(*words)
        assert code == 0, (command, err)
        told = await suite.told(*words)
        if "ID" in command:
            assert logged["id"] in json.dumps(told), command
            assert out.strip(), command


async def test_figures_usage_plans_and_operations_are_told(suite: Running) -> None:
    """GAT-8, USE-8, ENT-3, LOG-5: tables, and the same as JSON."""
    answers = await asyncio.gather(
        suite.gatehouse("analyze", "no_show_rate"),
        suite.gatehouse("usage"),
        suite.gatehouse("models"),
        suite.gatehouse("plans", "list"),
    )
    for (code, out, err), word in zip(
        answers, ("no_show_rate", "today", "models", "premium"), strict=True
    ):
        assert code == 0, err
        assert word in out
    figures, usage, plans, log = await asyncio.gather(
        suite.told("analyze", "no_show_rate", "overdue_ratio", "--days", "60"),
        suite.told("usage"),
        suite.told("plans", "list"),
        suite.told("operations", "list"),
    )
    assert [each["metric"] for each in figures["results"]] == ["no_show_rate", "overdue_ratio"]
    assert usage["usage"]["plan_name"] == "premium"
    assert {each["name"] for each in plans["plans"]} >= {"basic", "premium"}
    assert log["operations"][0]["trace_id"]


async def test_a_trace_is_drawn(suite: Running) -> None:
    """LOG-5: by its operation or itself, for people without colours in a pipe, and for programs."""
    words = "change the phone of the client Ana Souza to +55 27 999990000"
    told = await suite.told("execute", words)
    operation_id = told["report"]["successes"][0]["operation_id"]
    narrow = {"COLUMNS": "80"}
    for id_ in (operation_id, told["trace_id"]):
        code, out, err = await suite.gatehouse("operations", "show", id_, **narrow)
        assert code == 0, err
        assert "\x1b" not in out
        for word in ("intent: update", "update clients", "gateway", "━", "succeeded"):
            assert word in out
    shown = await suite.told("operations", "show", operation_id)
    assert shown["operation"]["trace_id"] == shown["trace_id"] == told["trace_id"]
    assert {span["name"] for span in shown["spans"]} == {"operation", "operation.intent"}
    code, _, err = await suite.gatehouse("operations", "show", "0" * 31 + "1")
    assert (code, "no span" in err) == (1, True)


async def test_operations_are_listed_by_what_is_asked(suite: Running) -> None:
    """LOG-5: more of them than a page holds, and by their time."""
    admin = await suite.told("operations", "list", "--action", "admin.*", "--limit", "501")
    assert {each["action"].partition(".")[0] for each in admin["operations"]} == {"admin"}
    code, out, err = await suite.gatehouse("operations", "list", "--limit", "1", "--since", "1h")
    assert (code, out.count("succeeded"), "there are older ones" in err) == (0, 1, True)
    none = await suite.told("operations", "list", "--until", "2020-01-01")
    assert "operations" not in none


async def test_the_tail_is_a_line_an_operation(suite: Running) -> None:
    """LOG-5: at once, also into a pipe."""
    tail = await asyncio.create_subprocess_exec(
        *(*GATEHOUSE, "operations", "tail", "--user", "92e31000-0000-4000-8000-000000000001"),
        env=suite.environment,
        stdout=PIPE,
    )
    assert tail.stdout is not None
    try:
        # It may take a moment until it follows; what comes then is seen.
        line = asyncio.ensure_future(tail.stdout.readline())
        while not line.done():
            await suite.told("execute", "show the client Ana Souza")
            await asyncio.wait([line], timeout=0.2)
        assert b"succeeded read clients" in await line
    finally:
        tail.send_signal(signal.SIGINT)
        await tail.wait()
    assert tail.returncode == 0


async def test_tampering_ends_the_verification_with_an_error(
    suite: Running, tmp_path: Path
) -> None:
    """LOG-4: told from an answer that could not be had; digests kept elsewhere are compared."""
    file, key_file = tmp_path / "kept.digests", tmp_path / "public.pem"
    await suite.gatehouse("operations", "digests", "--to", str(file))
    code, out, _ = await suite.gatehouse("operations", "digests")
    assert (code, out.split()[-1]) == (0, file.read_text().split()[-1])
    again = file.read_text()
    await suite.gatehouse("operations", "digests", "--to", str(file))
    assert file.read_text() == again

    arguments = ("operations", "verify", "--digests", str(file))
    told = await suite.told(*arguments)
    assert told["intact"]
    assert told["digests"]["DIGEST_MATCH_HELD"] == len(again.split())
    code, out, _ = await suite.gatehouse(*arguments)
    assert (code, out.startswith("intact: ")) == (0, True)

    key_file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=False))
    code, _, err = await suite.gatehouse(*arguments, "--public-key", str(key_file))
    assert (code, "not signed" in err) == (3, True)
    header, payload, signature = again.split()[-1].split(".")
    file.write_text(f"{header}.{payload}.{signature[::-1]}\n")
    code, out, _ = await suite.gatehouse(*arguments)
    assert (code, "not signed by the log" in out) == (3, True)
    code, _, err = await suite.gatehouse("operations", "digests", "--to", str(file))
    assert (code, "not signed by the log" in err) == (3, True)

    away = {"GATEHOUSE_OPLOG": "127.0.0.1:1"}
    code, _, err = await suite.gatehouse("operations", "verify", **away)
    assert (code, "UNAVAILABLE" in err) == (1, True)


async def test_domains_are_applied_from_a_file(suite: Running) -> None:
    """ENT-3, DOM-1: applied again they are unchanged."""
    descriptors = ROOT / "examples" / "clinic" / "descriptors.yaml"
    known = suite.known
    endpoints = [
        f"--endpoint={name}={known[name]}" for name in ("clients", "finance", "appointments")
    ]
    code, out, err = await suite.gatehouse("domains", "apply", "-f", str(descriptors), *endpoints)
    assert code == 0, err
    assert out.count("unchanged") == 3


async def test_a_domain_is_checked(suite: Running, tmp_path: Path) -> None:
    """DOM-1: by the running suite's own key; with a token alone, some of it is not tried."""
    known = suite.known
    check = ("domains", "check", "clients", "--only", "identity", "--only", "dry")
    code, out, err = await suite.gatehouse(*check)
    assert (code, err) == (0, "")
    assert "✓ identity.token_expired " in out
    assert re.search(r"16 of \d+ checks: 16 kept, 0 broken, 0 not tried", out)
    code, out, _ = await suite.gatehouse(*check, "--json", GATEHOUSE_TOKEN=known["token"])
    told = {each["check"]: each for each in map(json.loads, out.splitlines())}
    assert code == 0
    assert told["dry.counts"]["verdict"] == "kept"
    assert told["identity.token_expired"]["told"] == "needs the issuer's key: --signing-key"


async def test_a_domain_that_breaks_a_promise_is_told_and_ends_with_1(
    suite: Running, tmp_path: Path
) -> None:
    """DOM-1: as a build would see it; the sample's days are days in YAML."""
    known = suite.known
    sample = tmp_path / "sample.yaml"
    sample.write_text(
        "invoice:\n"
        "  create: {number: 'CHK-{n}', client_name: Ana Souza, amount: 10, due_date: 2099-01-01}\n"
    )
    clinic = ("--clinic", DEMO_CLINIC, "--sample", str(sample))
    check = ("domains", "check", known["finance"], *clinic)
    code, out, err = await suite.gatehouse(*check, "--only", "dry")
    assert code == 0, out + err
    async with serving_wrong(CountsNothing, known["finance"], "", tmp_path) as address:
        check = ("domains", "check", address, *clinic, "--only", "dry")
        code, out, err = await suite.gatehouse(*check)
    assert (code, err) == (1, "")
    assert "✗ dry.counts" in out
    assert "of 1, 3 and 3 records it counted [0, 0, 0]" in out


@pytest.mark.parametrize(
    ("arguments", "environment", "word"),
    [
        (("analyze", "shoe_size"), {}, "UNKNOWN_METRIC"),
        (("analyze", "no_show_rate", "--days", "3000"), {}, "WINDOW_NOT_ALLOWED"),
        (("execute",), {}, "input"),
        (("execute", "x", "--confirm", "nonsense"), {}, "CONFIRMATION_INVALID"),
        (("usage",), {"GATEHOUSE_TOKEN": "nonsense"}, "TOKEN_INVALID"),
        (("usage",), {"GATEHOUSE_GATEWAY": "127.0.0.1:1"}, "UNAVAILABLE"),
        (("domains", "apply", "-f", "/nonexistent.yaml"), {}, "nonexistent"),
        (("domains", "check", "127.0.0.1:1"), {}, "UNAVAILABLE"),
        (("domains", "check", "127.0.0.1:1", "--only", "shoes"), {}, "no check shoes"),
        (("domains", "check", "127.0.0.1:1"), {"GATEHOUSE_TOKEN": "nonsense"}, "who calls?"),
        (("domains", "check", "127.0.0.1:1", "--sample", "/nonexistent"), {}, "nonexistent"),
        (("plans", "create", "x", "--tier", "MODEL_NONE"), {}, "MODEL_NONE"),
        (("assign", DEMO_CLINIC, "basic", "--time-zone", "Asia/Tokyo"), {}, "--clinic"),
        (("assign", DEMO_CLINIC, "basic", "--clinic", "--time-zone", "localtime"), {}, "time_zone"),
        (("execute", "show the clients", "--locale", "english please"), {}, "locale"),
        (("operations", "list", "--since", "yesterday"), {}, "yesterday"),
        (("operations", "list", "--outcome", "good"), {}, "succeeded"),
        (("operations", "verify", "--digests", "/nonexistent"), {}, "nonexistent"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_refusal_is_one_clear_message(
    suite: Running, arguments: tuple[str, ...], environment: dict[str, str], word: str
) -> None:
    """ALL-2: on standard error, with exit code 1, and no traceback."""
    code, out, err = await suite.gatehouse(*arguments, **environment)
    assert code == 1
    assert err.startswith("gatehouse: ")
    assert word in err
    assert "Traceback" not in err + out


async def test_a_clock_that_is_set_is_the_suites_and_the_command_lines(tmp_path: Path) -> None:
    """ALL-6, LOG-5: "tomorrow" is the day after the 29 February that was given, and "an hour ago"
    is before midnight of it."""
    async with running(tmp_path, "--now", "2028-02-29T23:50") as made:
        told = await made.told("execute", "show the appointments of tomorrow")
        (success,) = told["report"]["successes"]
        assert {each["starts_at"][:10] for each in success["records"]} == {"2028-03-01"}
        assert told["usage"]["resets_at"] == "2028-03-01T03:00:00Z"
        (logged,) = (await made.told("operations", "list", "--action", "read", "--since", "1h"))[
            "operations"
        ]
        assert logged["created_at"].startswith("2028-03-01T02:5")  # in UTC
        code, out, _ = await made.gatehouse("operations", "list", "--action", "read")
        assert code == 0
        assert re.match(r"02:5\d:\d\d ", out)


@pytest.mark.parametrize("now", ["tomorrow", "2027-02-29", "2028-02-29T24:61"])
def test_a_clock_that_cannot_be_set_is_told(now: str) -> None:
    """ALL-5: before anything is started."""
    done = CliRunner().invoke(app, ["run", "--now", now])
    said = f"gatehouse: --now: {now} is no date and time such as 2028-02-29T23:55\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", said)


async def test_it_stops_when_it_is_told_to_and_leaves_nothing(tmp_path: Path) -> None:
    """ALL-1: SIGINT ends it in good order: no process, no state file."""
    async with running(tmp_path) as made:
        family = made.family()
        assert len(family) >= 2
        made.process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(made.process.communicate(), STOP_SECONDS)
        assert made.process.returncode == 0, out.decode()
        assert b"Traceback" not in out
        assert not made.state_file.exists()
        await are_gone(family)


async def test_killed_it_leaves_no_orphans(tmp_path: Path) -> None:
    """ALL-1: whatever ends it, its stores and services end with it."""
    async with running(tmp_path, "--processes") as made:
        family = made.family()
        assert len(family) >= 10
        made.process.kill()
        await made.process.wait()
        await are_gone(family)
