"""What every speed is held against: a bare grpc.aio server that says back the bytes it is sent.

    python -m bench.echo unix:/path
    python -m bench.echo 127.0.0.1:50051 FOLDER     with TLS: tls.key, tls.crt, ca.crt of callers

prints one JSON line with its address and serves until SIGTERM. It has an event loop of uvloop's as
the services have, and nothing else of theirs: no interceptor, no token, no message to parse.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import grpc.aio
import uvloop

SERVICE, METHOD = "bench.Echo", "Say"
PATH = f"/{SERVICE}/{METHOD}"


async def say(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return request


def credentials(folder: Path) -> grpc.ServerCredentials:
    key, certificate, authority = (
        (folder / name).read_bytes() for name in ("tls.key", "tls.crt", "ca.crt")
    )
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


async def serve(listen: str, folder: str = "") -> None:
    server = grpc.aio.server()
    methods = {METHOD: grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    if folder:
        server.add_secure_port(listen, credentials(Path(folder)))
    else:
        server.add_insecure_port(listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    print(json.dumps({"listen": listen}), flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
