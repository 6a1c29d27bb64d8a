"""How the command line reaches the services, and how it tells what they refuse."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.runtime.settings import on_this_machine

DEADLINE_SECONDS = 30.0
SERVICES = ("gateway", "entitlements", "usage", "router", "oplog")


class Unusable(Exception):
    """What the command line was given cannot be used; the message says what and what to do."""


@dataclass(frozen=True)
class Suite:
    """Where each service listens, and who calls."""

    addresses: dict[str, str]
    token: str
    # What the services' certificates are signed by, and the certificate shown to them.
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None

    @contextmanager
    def channel(self, service: str) -> Iterator[grpc.Channel]:
        """A channel to *service*: TLS, or plain text on this machine where no CA is named."""
        address = self.addresses.get(service)
        if not address:
            name = f"GATEHOUSE_{service.upper()}"
            raise Unusable(f"where is the {service} service? Set {name}, or start `gatehouse run`")
        if self._is_plain(address):
            opened = grpc.insecure_channel(address)
        else:
            opened = grpc.secure_channel(address, self._credentials())
        with opened:
            yield opened

    def aio_channel(self, address: str) -> grpc.aio.Channel:
        """A channel to any *address*, for commands that make calls side by side."""
        if self._is_plain(address):
            return grpc.aio.insecure_channel(address)
        return grpc.aio.secure_channel(address, self._credentials())

    def _is_plain(self, address: str) -> bool:
        return self.ca_file is None and on_this_machine(address)

    def _credentials(self) -> grpc.ChannelCredentials:
        files = (self.ca_file, self.key_file, self.certificate_file)
        try:
            contents = [Path(file).read_bytes() if file else None for file in files]
        except OSError as error:
            raise Unusable(f"{error.filename} cannot be read: {error.strerror}") from None
        return grpc.ssl_channel_credentials(*contents)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        if not self.token:
            raise Unusable("who are you? Set GATEHOUSE_TOKEN, or start `gatehouse run`")
        return [("authorization", f"Bearer {self.token}")]

    @property
    def call(self) -> dict[str, object]:
        """What every call carries: a deadline and the token."""
        return {"timeout": DEADLINE_SECONDS, "metadata": self.metadata}


def state_file() -> Path:
    """Where a running embedded suite says how to reach it: readable by its user alone."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "gatehouse" / "suite.json"


def find_suite(*, admin: bool = False) -> Suite:
    """The suite that the environment names, else the embedded one that runs.

    GATEHOUSE_GATEWAY, GATEHOUSE_ENTITLEMENTS, GATEHOUSE_USAGE, GATEHOUSE_OPLOG and
    GATEHOUSE_ROUTER are addresses, GATEHOUSE_TOKEN is a token. For services that speak TLS,
    GATEHOUSE_CA_FILE is their certificate authority, GATEHOUSE_CERTIFICATE_FILE and
    GATEHOUSE_KEY_FILE are what is shown to them. An *admin*'s command takes the embedded suite's
    admin token.
    """
    running = embedded()
    addresses = {
        name: os.environ.get(f"GATEHOUSE_{name.upper()}") or running.get(name, "")
        for name in SERVICES
    }
    token = os.environ.get("GATEHOUSE_TOKEN") or running.get(
        "admin_token" if admin else "token", ""
    )
    files = ("GATEHOUSE_CA_FILE", "GATEHOUSE_CERTIFICATE_FILE", "GATEHOUSE_KEY_FILE")
    return Suite(addresses, token, *(os.environ.get(file) or None for file in files))


def embedded() -> dict[str, str]:
    try:
        found = json.loads(state_file().read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Unusable(f"{state_file()} is not readable: {error}") from None
    return {str(name): str(value) for name, value in found.items()}


def now() -> datetime:
    """The time in UTC by the clock of the embedded suite that runs, which may have been set.

    By the machine's clock where the environment names another suite.
    """
    named = any(os.environ.get(f"GATEHOUSE_{name.upper()}") for name in SERVICES)
    ahead = 0.0 if named else float(embedded().get("seconds_ahead", 0.0))
    return datetime.now(UTC) + timedelta(seconds=ahead)


def refusal(error: grpc.RpcError) -> str:
    """What a service answered instead of a result, for a person at a terminal.

    The sentence written for users comes first, then what is wrong with which field, then the code
    and the reason for whoever looks it up.
    """
    status = rpc_status.from_call(error)
    if status is None and error.code() is grpc.StatusCode.UNAVAILABLE:
        return "nobody answers at the service's address: does it run? (UNAVAILABLE)"
    if status is None:
        return f"{error.details()} ({error.code().name})"
    sentence, reason, notes = status.message, "", []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        localized = error_details_pb2.LocalizedMessage()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(localized):
            sentence = localized.message
        elif detail.Unpack(bad):
            notes += [f"{each.field}: {each.description}" for each in bad.field_violations]
        elif detail.Unpack(retry):
            notes.append(f"try again in {retry.retry_delay.ToSeconds()} s")
    code = " ".join(part for part in (error.code().name, reason) if part)
    return "\n  ".join([f"{sentence} ({code})", *notes])


def fail(message: str) -> NoReturn:
    """End with 1 and *message* on standard error."""
    print(f"gatehouse: {message}", file=sys.stderr)
    raise SystemExit(1)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn what a service refuses, or what cannot be used, into one message and exit code 1."""
    try:
        yield
    except Unusable as error:
        fail(str(error))
    except grpc.RpcError as error:
        fail(refusal(error))
