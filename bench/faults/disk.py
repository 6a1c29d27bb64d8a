"""A disk that fills up: a small file system where that may be mounted, else a limit on files."""

import errno
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil

SIZE = 256 * 1024


class Disk(Protocol):
    """Has a place for what is written into its folder, or has none."""

    def fill(self, pid: int) -> None:
        """From now on process *pid* finds no place in it."""

    def free(self, pid: int) -> None:
        """From now on it does again."""


class SmallFileSystem:
    """Full is full: ENOSPC, in the middle of a file, for whoever writes."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self, pid: int) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self, pid: int) -> None:
        self._ballast.unlink()


class SmallFiles:
    """Without the right to mount: EFBIG for all that the one process writes, while it is there."""

    def fill(self, pid: int) -> None:
        self._limit(pid, 0)

    def free(self, pid: int) -> None:
        self._limit(pid, resource.RLIM_INFINITY)

    def _limit(self, pid: int, size: int) -> None:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A disk at *folder*, which is made."""
    folder.mkdir(parents=True)
    options = f"size={SIZE},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield SmallFiles()
        return
    try:
        yield SmallFileSystem(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
