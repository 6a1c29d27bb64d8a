"""A channel whose certificates are replaced while calls go on (ALL-3)."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from services.runtime.tls import PeerTls, Tls

# How often files are looked at, and how long a new channel may take to connect.
LOOK_SECONDS = 1.0
CONNECT_SECONDS = 5.0
READY = grpc.ChannelConnectivity.READY
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
log = logging.getLogger("gatehouse.rotation")

Make = Callable[[PeerTls], grpc.aio.Channel]


class _Method:
    """A method of whichever channel is the current one when it is called."""

    def __init__(self, channels: "RotatingChannel", kind: str, *args: Any, **options: Any) -> None:
        self._channels = channels
        self._make: Callable[[Any], Any] = lambda channel: getattr(channel, kind)(*args, **options)
        self._of: grpc.aio.Channel | None = None
        self._made: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        channel = self._channels.current
        if channel is not self._of:
            self._of, self._made = channel, self._make(channel)
        call = self._made(*args, **options)
        self._channels.begun(channel, call)
        return call


class RotatingChannel:
    """Stands for a channel, and is made anew with new certificates; for stubs alone.

    The one before is closed once the last call over it has ended.
    """

    def __init__(self, make: Make, tls: Tls) -> None:
        self._make = make
        self._tls = tls
        self._shown = tls.current()
        self.current = make(self._shown)
        self._running: Counter[grpc.aio.Channel] = Counter()
        self._ended = asyncio.Event()

    def unary_unary(self, *args: Any, **options: Any) -> _Method:
        return _Method(self, "unary_unary", *args, **options)

    def unary_stream(self, *args: Any, **options: Any) -> _Method:
        return _Method(self, "unary_stream", *args, **options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        channel = self.current
        try:
            await channel.wait_for_state_change(last)
        except Exception:  # gRPC asserts, if a channel is closed meanwhile
            if channel is self.current:
                raise

    def begun(self, channel: grpc.aio.Channel, call: Any) -> None:
        self._running[channel] += 1

        def ended(_: Any) -> None:
            self._running[channel] -= 1
            if channel is not self.current:
                self._ended.set()

        call.add_done_callback(ended)

    async def follow(self) -> None:
        """Take up new certificates, and close what nobody uses any more, for ever."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                await self._renew()
            self._ended.clear()
            await self._close_idle()

    async def _renew(self) -> None:
        shown = self._tls.current()
        if shown is self._shown:
            return
        made = self._make(shown)
        try:
            usable = await connects(made) or not await connects(self.current)
        except BaseException:
            await made.close()
            raise
        if usable:
            self._running[self.current] += 0  # so that it is closed, though nothing was called
            self.current, self._shown = made, shown
        else:
            # The connection that there is holds; what is new is tried again.
            log.warning("a peer cannot be called with the new TLS files; the old ones stay in use")
            await made.close()

    async def _close_idle(self) -> None:
        for channel, count in list(self._running.items()):
            if count == 0 and channel is not self.current:
                del self._running[channel]
                await channel.close()

    async def close(self) -> None:
        for channel in {self.current, *self._running}:
            await channel.close()


async def connects(channel: grpc.aio.Channel) -> bool:
    """Whether *channel* gets a connection at the first attempt."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) not in (READY, FAILED):
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return state is READY


@asynccontextmanager
async def rotating(make: Make, tls: Tls) -> AsyncIterator[RotatingChannel]:
    channels = RotatingChannel(make, tls)
    follow = asyncio.create_task(channels.follow())
    try:
        yield channels
    finally:
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)
        await channels.close()
