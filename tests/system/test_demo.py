"""The demo, as a newcomer runs it: its own checks hold every chapter against the rules."""

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
DEMO_SECONDS = 100


def ours(folder: Path) -> list[str]:
    """What still runs with *folder* as its temporary one."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder):
                left.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return left


@pytest.mark.parametrize("now", ["", "2026-11-30T21:55:00-03:00"], ids=["today", "a-monday"])
async def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path, now: str) -> None:
    """GAT-1, GAT-11, GAT-12, USE-5, LOG-5, ALL-6: read, refuse, mix, replay, confirm, analyse, fail
    over, run out, cool down, in three languages, and the log of it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo", *(["--now", now] if now else [])),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEMO_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode()
    assert process.returncode == 0, text
    for told in ("PLAN_FORBIDS", "RECORD_LOCKED", "CONSENT_MISSING", "QUOTA_EXHAUSTED"):
        assert told in text
    assert "COOL_DOWN" in text
    assert "Um registro foi incluído" in text
    assert "The story went as it should" in text
    assert ours(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
