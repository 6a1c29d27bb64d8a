"""Runs one program and never lets it outlive the process that asked for it.

Started as `python -I -S embedded_guard.py [--user NAME] -- PROGRAM ARGUMENT…` with a pipe as
standard input. It prints the program's process id, forwards nothing, and waits: for the program to
end, or for the pipe to close, which the kernel does however the parent dies. Then it asks the
program to stop (SIGINT: Postgres' fast shutdown) and, after a grace, kills it. It has only the
standard library, since it starts once a server.
"""

import os
import select
import signal
import subprocess
import sys

GRACE_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    user, command = parse(arguments)
    program = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=user,
        group=group_of(user),
        extra_groups=None if user is None else [],
        start_new_session=True,
    )
    sys.stdout.write(f"{program.pid}\n")
    sys.stdout.flush()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wait_for_end(program)
    return program.wait()


def parse(arguments: list[str]) -> tuple[str | None, list[str]]:
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    return (options[1] if options[:1] == ["--user"] else None), command


def group_of(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd  # only where there are users to change to

    return pwd.getpwnam(user).pw_gid


def wait_for_end(program: "subprocess.Popen[bytes]") -> None:
    """Return once the program has ended, by itself or since the parent is gone."""
    ended_read, ended_write = os.pipe()
    os.set_blocking(ended_write, False)
    signal.set_wakeup_fd(ended_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while program.poll() is None:
        readable, _, _ = select.select([sys.stdin, ended_read], [], [])
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 1):
            stop(program)
        if ended_read in readable:
            os.read(ended_read, 64)


def stop(program: "subprocess.Popen[bytes]") -> None:
    program.send_signal(signal.SIGINT)
    try:
        program.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
