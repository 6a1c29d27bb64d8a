"""Generates the code from protos/, and checks both.

`python -m scripts.protos generate` writes gen/. `check` fails when gen/ is not what protos/ gives,
or when buf finds a fault: lint (STANDARD, COMMENTS), format, or a change that breaks the callers of
the last release. Nothing is fetched: what the protos import comes with installed packages.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "gen"
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
PROGRAMS = Path(sys.executable).parent
IMPORTED = ("google/rpc", "google/type", "google/api")


def main(arguments: list[str]) -> int:
    if arguments == ["generate"]:
        generate(GENERATED)
        return 0
    if arguments == ["check"]:
        return max(check_drift(), check_with_buf())
    print("usage: python -m scripts.protos generate|check", file=sys.stderr)
    return 2


def generate(target: Path) -> None:
    """Write the messages, the stubs and their types into *target*."""
    for stale in (target / "gatehouse").rglob("*_pb2*"):
        stale.unlink()
    sources = sorted(str(path) for path in PROTOS.glob("gatehouse/*/v1/*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"-I{PROTOS}", f"-I{SITE_PACKAGES}", f"-I{well_known}"),
        *(f"--python_out={target}", f"--mypy_out=quiet:{target}"),
        *(f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"),
        *sources,
    ]
    path = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def check_drift() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        made = {path.relative_to(fresh) for path in fresh.rglob("*_pb2*") if path.is_file()}
        kept = {
            path.relative_to(GENERATED)
            for path in GENERATED.rglob("*_pb2*")
            if path.is_file() and path.suffix != ".pyc"
        }
        changed = {
            name
            for name in made & kept
            if not filecmp.cmp(fresh / name, GENERATED / name, shallow=False)
        }
    for name in sorted(changed | (made ^ kept)):
        print(f"gen/{name} is not what protos/ gives: run make gen", file=sys.stderr)
    return 1 if changed or made != kept else 0


def check_with_buf() -> int:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copytree(PROTOS, workspace, dirs_exist_ok=True)
        for package in IMPORTED:
            if (SITE_PACKAGES / package).is_dir():
                shutil.copytree(
                    SITE_PACKAGES / package,
                    workspace / package,
                    ignore=shutil.ignore_patterns("*.py", "*.pyi", "__pycache__"),
                )
        results = [
            buf(workspace, "lint"),
            buf(workspace, "format", "--diff", "--exit-code", "--path", "gatehouse"),
        ]
    return max(results)


def buf(workspace: Path, *arguments: str) -> int:
    command = [str(PROGRAMS / "buf"), *arguments]
    return subprocess.run(command, cwd=workspace, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
