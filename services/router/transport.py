"""HTTP to the providers. Says what happened on the wire; what it means is decided elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
from aiohttp.http import HttpProcessingError

from services.router.catalog import Provider

KEEP_IDLE_CONNECTION_SECONDS = 30.0
"""Longer than some servers keep one: what they closed is seen, or else met by a request that then
goes out again. Shorter than what middle boxes forget without a word (a minute and more).
"""
WARM_SECONDS = 5.0
MOST_WARM_BYTES = 1 << 20


# The last is for what the library's parser finds within a body.
BROKEN = (aiohttp.ClientError, OSError, ValueError, HttpProcessingError)


class Broken(Exception):
    """No connection, or it broke."""


class Reply:
    """A response whose head has come and whose body is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The next piece of the body; empty when it is over. Raises Broken.

        A connection that closed behind a body that could not be understood is a RuntimeError.
        """
        try:
            return await self._response.content.readany()
        except (*BROKEN, RuntimeError) as error:
            raise Broken from error

    def leave(self) -> None:
        """The connection is used again when the body was read to its end, else it is closed."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Transport:
    """Sends requests over one pool of connections."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(
        self, provider: Provider, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        """Send, and wait for the head of the answer. Raises Broken.

        A connection that the provider had closed while it was idle says nothing about the provider:
        the request, which nobody has read, goes out once more on a new one.
        """
        all_headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            **headers,
            **key_of(provider),
        }
        url = provider.base_url + path
        for _ in range(2):
            used = SimpleNamespace(idle_connection=False)
            try:
                return Reply(await self._send(url, body, all_headers, used))
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not used.idle_connection:
                    raise Broken from error
            except BROKEN as error:
                raise Broken from error
        raise Broken

    async def warm(self, provider: Provider) -> int | None:
        """Open a connection by asking which models there are, which costs nothing.

        The status of the answer, or None where there is none.
        """
        try:
            async with (
                asyncio.timeout(WARM_SECONDS),
                self._session.get(
                    f"{provider.base_url}/models",
                    headers=key_of(provider),
                    allow_redirects=False,
                    trace_request_ctx=SimpleNamespace(idle_connection=False),
                ) as response,
            ):
                # To its end: what is left unread would cost the connection.
                while response.content.total_bytes < MOST_WARM_BYTES:
                    if not await response.content.readany():
                        break
                return response.status
        except (TimeoutError, RuntimeError, *BROKEN):
            return None

    async def _send(
        self, url: str, body: bytes, headers: Mapping[str, str], used: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        # A redirect is not followed: the key and the prompt go nowhere but where the catalogue
        # says.
        return await self._session.post(
            url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=used
        )


def key_of(provider: Provider) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.api_key}"} if provider.api_key else {}


@asynccontextmanager
async def open_transport() -> AsyncIterator[Transport]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_CONNECTION_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        # Every wait is bounded by the one who waits; the library's own bounds would only be in the
        # way.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[_noting_idle_connections()],
    ) as session:
        yield Transport(session)


def _noting_idle_connections() -> aiohttp.TraceConfig:
    async def note(
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        __: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.idle_connection = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note)
    return config
