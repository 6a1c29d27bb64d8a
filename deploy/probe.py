"""Asks the service in this container for its health, as its peers reach it: TLS, both certificates.

    probe.py answers NAME:PORT           0 when the service answers at all, whatever it says
    probe.py serves NAME:PORT SERVICE    0 when it says that the gRPC service SERVICE is SERVING

NAME is what peers call the service, and has to be in its certificate. Kubernetes' own gRPC probe
shows no client certificate, so the services would turn it away.
"""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 2.5
IDENTITY = Path("/etc/gatehouse/identity")
# What gRPC itself says where nobody answered, or not in time.
SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def status_of(address: str, service: str, identity: Path) -> str:
    """What the service at *address* says of *service*; empty where it says nothing in time."""
    name, _, port = address.rpartition(":")
    credentials = grpc.ssl_channel_credentials(
        (identity / "ca.crt").read_bytes(),
        (identity / "tls.key").read_bytes(),
        (identity / "tls.crt").read_bytes(),
    )
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return "" if error.code() in SILENCE else str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> int:
    parser = argparse.ArgumentParser(prog="probe.py")
    parser.add_argument("wanted", choices=("answers", "serves"))
    parser.add_argument("address", metavar="NAME:PORT")
    parser.add_argument("service", nargs="?", default="")
    parser.add_argument(
        "--identity", type=Path, default=IDENTITY, help="where the certificates are"
    )
    given = parser.parse_args()
    said = status_of(given.address, given.service, given.identity)
    well = said == "SERVING" if given.wanted == "serves" else said != ""
    if not well:
        sys.stderr.write(f"{given.address} {given.service or 'health'}: {said or 'no answer'}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
