"""A TCP proxy that lets every byte wait, each way; run as a program: `delay.py SECONDS LISTEN:PORT=HOST:PORT …`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial


async def _forward(delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read `delay` seconds later, in its order; what is under way does not keep the next from leaving."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    writing = asyncio.create_task(write())
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            waiting.put_nowait((loop.time() + delay, data))
    waiting.put_nowait((loop.time() + delay, b""))
    with suppress(OSError):
        await writing


async def _serve(delay: float, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, _, port = target.rpartition(":")
    # A connection takes a round trip before anything can be sent.
    await asyncio.sleep(2 * delay)
    try:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.transport.abort()
        return
    await asyncio.gather(_forward(delay, reader, far_writer), _forward(delay, far_reader, writer))
    for end in (far_writer, writer):
        end.close()


async def _main(delay: float, routes: list[str]) -> None:
    for route in routes:
        here, _, target = route.partition("=")
        host, _, port = here.rpartition(":")
        await asyncio.start_server(partial(_serve, delay, target), host, int(port))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(float(sys.argv[1]), sys.argv[2:]))
