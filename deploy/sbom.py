"""Prints the bill of materials of the image, out of the lock file: CycloneDX, as JSON.

    python sbom.py LOCK PYPROJECT

Every package that the services run with, by its version, the hashes of its files, and what asked
for it. What the base image holds besides is for a scanner of images to say. The same lock gives the
same bytes, where SOURCE_DATE_EPOCH is set.
"""

import os
import re
import sys
import time
import tomllib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

if __package__:
    from deploy.runtime_lock import Pinned, needed, read_lock, services_need
else:  # beside it, in the build of the image
    from runtime_lock import Pinned, needed, read_lock, services_need

HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
# Of what it is made does not hang on when: the number is that of the contents.
NUMBERS = uuid.uuid5(uuid.NAMESPACE_DNS, "gatehouse")


def requirement(pinned: Pinned) -> Requirement:
    return Requirement(pinned.text.splitlines()[0].rstrip("\\ "))


def applies(pinned: Pinned) -> bool:
    """Whether it is installed on a machine such as this one."""
    marker = requirement(pinned).marker
    return marker is None or marker.evaluate()


def component(pinned: Pinned) -> Component:
    (version,) = (each.version for each in requirement(pinned).specifier)
    purl = PackageURL("pypi", name=pinned.name, version=version)
    return Component(
        name=pinned.name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=h) for h in HASH.findall(pinned.text)],
    )


def bill(lock: str, pyproject: str) -> Bom:
    """The services as a whole, and all that they need."""
    packages = [each for each in needed(read_lock(lock), services_need(pyproject)) if applies(each)]
    project: dict[str, Any] = tomllib.loads(pyproject)["project"]
    whole = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        description=project["description"],
        licenses=[LicenseExpression(project["license"])],
        bom_ref=project["name"],
    )
    made = {each.name: component(each) for each in packages}
    found = Bom(components=made.values(), serial_number=uuid.uuid5(NUMBERS, lock + pyproject))
    found.metadata.component = whole
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    found.metadata.timestamp = datetime.fromtimestamp(seconds, UTC)
    # The lock names the project itself by the empty name.
    for name, asker in (("", whole), *made.items()):
        found.register_dependency(asker, [made[p.name] for p in packages if name in p.asked_for_by])
    return found


def main(arguments: list[str]) -> None:
    lock, pyproject = (Path(each).read_text(encoding="utf-8") for each in arguments)
    sys.stdout.write(JsonV1Dot6(bill(lock, pyproject)).output_as_string(indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
