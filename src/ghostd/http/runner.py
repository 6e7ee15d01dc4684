"""Runs the server in its spirit; goes away as soon as asynchronous bodies are there."""

from __future__ import annotations

import asyncio
import signal

from ghostd.http.serving import Serving
from ghostd.prefork import Prefork
from ghostd.spirit import Spirit


def run(server: Prefork, serving: Serving) -> None:
    """Beat from the loop; a QUIT drains."""
    spirit = server._spirit
    assert isinstance(spirit, Spirit)  # noqa: S101 - see above
    cleanup = min(2.0, server.graceful_timeout / 4)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        draining = asyncio.Event()

        def leave() -> None:
            spirit.on_quit(0, None)
            draining.set()
            if task is not None:
                loop.call_later(server.graceful_timeout - cleanup, task.cancel)

        def beat() -> None:
            server.tick()
            loop.call_later(server.heartbeat_interval, beat)

        loop.add_signal_handler(signal.SIGQUIT, leave)
        if not spirit.ok:
            leave()
        await serving.run(beat, draining.wait(), cleanup)

    factory = None
    if server.pool_settings.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
