"""A photo host that sends what it is told to, byte for byte, and keeps the first line of every request."""

import asyncio
import collections
import contextlib
import threading


def response(body=b"", status=200, **headers):
    """A whole response; `content_type="x"` becomes the header Content-Type. Values may be bytes."""
    lines = [f"HTTP/1.1 {status} X".encode()]
    for name, value in {"Content-Length": len(body), **headers}.items():
        value = value if isinstance(value, bytes) else str(value).encode()
        lines.append(name.replace("_", "-").title().encode() + b": " + value)
    return b"\r\n".join([*lines, b"", body])


class RawHost:
    """`answer(target, times)` returns the bytes sent for a request's target, asked for `times` times so far.

    `lines` holds the request lines in order, `asked` counts targets, `sent` the bytes of all bodies and headers.
    """

    def __init__(self, answer, address="127.0.0.1"):
        self.answer, self.address = answer, address
        self.lines, self.asked, self.sent = [], collections.Counter(), 0
        self._ready = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self):
        return f"http://{self.address}:{self.port}"

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, self.address, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
                target = line.split(" ")[1]
                self.lines.append(line)
                self.asked[target] += 1
                answer = self.answer(target, self.asked[target])
                self.sent += len(answer)
                writer.write(answer)
                await writer.drain()
        writer.close()
