"""What is in the image, and how it is built."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from deploy.runtime_lock import canonical, needed, read_lock, services_need
from tests.deploy.manifests import ROOT, rendered

LOCK = (ROOT / "requirements.lock").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def closure(requirements: list[str]) -> set[str]:
    """All that *requirements* need, by what the installed packages say of themselves."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        each = waiting.pop()
        key = (canonical(each.name), frozenset(each.extras))
        if key in found:
            continue
        found.add(key)
        declared = map(Requirement, importlib.metadata.requires(each.name) or [])
        waiting += [more for more in declared if applies(more, key[1])]
    return {name for name, _ in found}


def in_image() -> dict[str, Requirement]:
    """What of the lock file goes into the image on a machine such as this one."""
    lines = [
        each.text.splitlines()[0] for each in needed(read_lock(LOCK), services_need(PYPROJECT))
    ]
    pinned = [Requirement(line.rstrip("\\ ")) for line in lines]
    return {canonical(each.name): each for each in pinned if applies(each, frozenset())}


def test_the_image_has_what_the_services_need_and_nothing_else() -> None:
    """Neither the embedded stores and model nor what development needs."""
    declared = [
        each for each in importlib.metadata.requires("gatehouse") or [] if "extra" not in each
    ]
    assert set(in_image()) == closure(declared)


def test_every_package_in_the_image_is_pinned_and_hashed() -> None:
    for each in needed(read_lock(LOCK), services_need(PYPROJECT)):
        assert "--hash=sha256:" in each.text
        assert not each.text.rstrip().endswith("\\")


def test_a_package_that_the_lock_lacks_stops_the_build() -> None:
    with pytest.raises(SystemExit, match="the lock file has no nothing-like-it"):
        needed(read_lock(LOCK), ["Nothing_like.it"])


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    for workload in rendered("production").ours:
        context = workload.pod["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_base_is_for_the_builder_to_pin() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON_IMAGE}"}
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)
    assert ":" in default
    assert not default.endswith(":latest")


def test_nothing_gets_into_the_build_by_itself() -> None:
    """No secret, no history: whatever is not named is left out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources == named - {"deploy"}


def test_the_version_is_the_same_everywhere() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)
    for overlay in ("local", "production"):
        for workload in rendered(overlay).ours:
            assert workload.container["image"].endswith(f"gatehouse:{version}")


def make_image(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """`make image` on a machine that has these builders, each a shell script."""
    for name in ("docker", "podman", "buildah"):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{programs.get(name, 'exit 127')}\n")
        program.chmod(0o755)
    return subprocess.run(
        ["make", "image"],
        cwd=ROOT,
        env={"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_builder_without_an_engine_is_passed_over(tmp_path: Path) -> None:
    done = make_image(
        tmp_path, docker='[ "$1" != info ] || exit 1; echo docker', podman='echo podman "$@"'
    )
    assert done.returncode == 0
    assert re.match(r"podman build --file deploy/Dockerfile --tag gatehouse:\d", done.stdout)


def test_a_machine_that_cannot_build_says_so(tmp_path: Path) -> None:
    done = make_image(tmp_path, docker="exit 1")
    assert done.returncode != 0
    assert "no engine to build with: none of docker podman buildah" in done.stderr


def bill_of_materials() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.sbom", "requirements.lock", "pyproject.toml"],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(done.stdout) is None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_bill_of_materials_is_sound_and_names_what_is_in_the_image() -> None:
    """Every package, by the version and the hashes of the lock; and nothing else."""
    bill = bill_of_materials()
    components = {each["name"]: each for each in bill["components"]}
    assert set(components) == set(in_image())
    locked = {each.name: each.text for each in read_lock(LOCK)}
    for name, each in components.items():
        assert f"=={each['version']}" in locked[name]
        assert each["purl"] == f"pkg:pypi/{name}@{each['version']}"
        hashes = {one["content"] for one in each["hashes"] if one["alg"] == "SHA-256"}
        assert hashes == set(re.findall("--hash=sha256:([0-9a-f]+)", locked[name]))
    assert bill["metadata"]["component"]["name"] == "gatehouse"


def test_the_bill_of_materials_says_what_asked_for_what() -> None:
    bill = bill_of_materials()
    asked = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    declared = {canonical(name) for name in services_need(PYPROJECT)}
    direct = {ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in asked["gatehouse"]}
    assert direct == declared
    reached, waiting = set[str](), ["gatehouse"]
    while waiting:
        if (ref := waiting.pop()) not in reached:
            reached.add(ref)
            waiting += asked[ref]
    assert reached == {"gatehouse", *(each["bom-ref"] for each in bill["components"])}


def test_the_same_lock_gives_the_same_bill_of_materials() -> None:
    assert bill_of_materials() == bill_of_materials()
