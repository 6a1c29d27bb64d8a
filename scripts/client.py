"""Builds the wheel gatehouse-client: `python -m scripts.client dist`.

It is `clients/python` with the stubs of gen/ put beneath `gatehouse_client`, so that no file of
the wheel is also one of the services' distribution. Both may be imported in one process as long as
they are of one release: protobuf refuses two different contracts of one name.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "clients" / "python"
STUBS = ROOT / "gen" / "gatehouse"
IMPORT = re.compile(r"^(from|import) gatehouse\.", re.MULTILINE)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m scripts.client FOLDER", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "client"
        lay_out(tree)
        build(tree, Path(arguments[0]))
    return 0


def lay_out(tree: Path) -> None:
    """The package as it is built: its own modules, the stubs, and imports that find them."""
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(SOURCE, tree, ignore=leave)
    shutil.copy(ROOT / "LICENSE", tree)
    package = tree / "gatehouse_client"
    shutil.copytree(STUBS, package / "gatehouse", ignore=leave)
    for path in [*package.rglob("*.py"), *package.rglob("*.pyi")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(IMPORT.sub(r"\1 gatehouse_client.gatehouse.", text), encoding="utf-8")


def build(tree: Path, target: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target))
    subprocess.run([*pip, *options, str(tree)], check=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
