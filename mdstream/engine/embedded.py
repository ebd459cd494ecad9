"""The embedded simulator: a child process that replaces the service when there are no keys."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import msgspec

from mdstream.config import Credentials, SimulatorConfig
from mdstream.errors import MdstreamError
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.system import children

HOW_TO_GO_LIVE = (
    "no keys set: running on the embedded simulator with made-up data. For live data, set "
    "APCA_API_KEY_ID and APCA_API_SECRET_KEY"
)


class EmbeddedSimulator:
    """A simulator in a process of its own, on a free port of the loopback."""

    def __init__(self, config: SimulatorConfig, streams: Sequence[str], timeout_s: float) -> None:
        settings = SimulatorSettings(
            port=0,
            streams=tuple(streams),
            seed=config.seed,
            rate=config.rate,
            messages_per_payload=config.messages_per_payload,
            latency_ms=config.latency_ms,
        )
        self._context = multiprocessing.get_context("spawn")
        self._settings = settings
        self._timeout_s = timeout_s
        self._port = 0
        self._start()

    def restart(self) -> None:
        """Replace a simulator that died, on its port. Raises `MdstreamError` if the port is taken."""
        self._pipe.close()
        self._settings = msgspec.structs.replace(self._settings, port=self._port)
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self.process: SpawnProcess = self._context.Process(
            target=_serve, args=(self._settings, theirs), name="simulator"
        )
        with children.protect_start(), children.without_script():
            self.process.start()
        theirs.close()
        self._port = self._await_port(self._pipe, self._timeout_s)

    def _await_port(self, pipe: Connection, timeout_s: float) -> int:
        if not pipe.poll(timeout_s):
            raise MdstreamError(f"the simulator did not start within {timeout_s:.0f} s")
        try:
            kind, content = pipe.recv()
        except EOFError:
            raise MdstreamError("the simulator ended before it was up") from None
        if kind == "failed":
            raise MdstreamError(content)
        return int(content)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self.process.pid

    @property
    def address(self) -> dict[str, Any]:
        """The settings that point at this simulator, with a key that it accepts."""
        return {
            "stream_url": f"ws://127.0.0.1:{self._port}",
            "data_url": f"http://127.0.0.1:{self._port}",
            "credentials": Credentials(key_id="simulated", secret_key="simulated"),
        }

    def stop(self) -> None:
        self._pipe.close()
        self.process.terminate()
        self.process.join(2.0)
        if self.process.is_alive():
            self.process.kill()


def _serve(settings: SimulatorSettings, pipe: Connection) -> None:
    """Be the simulator's process, the only one that loads the server."""
    from mdstream.simulator.server import main

    main(settings, pipe)
