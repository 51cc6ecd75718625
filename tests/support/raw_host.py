"""A photo host that sends what it is told to, byte for byte, and keeps the first line of every request."""

import asyncio
import collections
import contextlib

from support.loopback_host import LoopbackHost


def response(body=b"", status=200, **headers):
    """A whole response; `content_type="x"` becomes the header Content-Type. Values may be bytes."""
    lines = [f"HTTP/1.1 {status} X".encode()]
    for name, value in {"Content-Length": len(body), **headers}.items():
        value = value if isinstance(value, bytes) else str(value).encode()
        lines.append(name.replace("_", "-").title().encode() + b": " + value)
    return b"\r\n".join([*lines, b"", body])


class RawHost(LoopbackHost):
    """`answer(target, times)` returns the bytes sent for a request's target, asked for `times` times so far.

    `lines` holds the request lines in order, `asked` counts targets, `sent` the bytes of all bodies.
    """

    def __init__(self, answer, address="127.0.0.1"):
        super().__init__(address)
        self.answer = answer
        self.lines, self.asked, self.sent = [], collections.Counter(), 0

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
                target = line.split(" ")[1]
                self.lines.append(line)
                self.asked[target] += 1
                answer = self.answer(target, self.asked[target])
                self.sent += len(answer.partition(b"\r\n\r\n")[2])
                writer.write(answer)
                await writer.drain()
        writer.close()
