"""A photo host that misbehaves in every way that hosts are known to, by the name of what it is asked for."""

import asyncio
import collections
import contextlib
import time
import zlib

from support.loopback_host import LoopbackHost

HTML = b"\n <!DOCTYPE html><title>Sorry</title>"


class HostileHost(LoopbackHost):
    """An HTTP server on loopback in a thread of its own; use as a context. `asked` counts requests by name, `times`
    holds when each came (seconds of time.monotonic), `most` how many were open at once.

    good-*  a photo                   moody-*   500, then the photo        busy-*    429 with Retry-After 1, then it
    html-*  a page with status 200    missing-* 404                        down-*    always 503
    half-*  half a photo              short-*   announces 100 bytes more   endless-* a body without end
    drip-*  a byte every 50 ms        hung-*    accepts, never answers     reset-*   resets the connection
    loop-*  redirects to itself       moved-*   redirects to good-*        away-*    redirects to a file: URL
    gzip-*  Content-Encoding: gzip    rubbish-* no HTTP                    empty-*   an empty body
    small-* 48 x 12 px                quiet-*   begins, then falls silent  inside-*  redirects to 127.0.0.2
    late-*  429 with Retry-After of an hour               cdn-*   redirects to good-* at `elsewhere`
    *?*     the same photo under another URL            other-*  another photo than good-*
    """

    def __init__(self, jpeg, address="127.0.0.1"):
        super().__init__(address)
        self.asked, self.times, self.agents = collections.Counter(), [], set()
        self.photo_of = lambda name: jpeg(zlib.crc32(name.partition("?")[0].encode()), (48, 40))
        self.delay, self.down, self.elsewhere = 0.0, False, ""
        self.becomes = {}  # {name: kind that it answers as from now on}
        self.open, self.most = 0, 0

    @property
    def url(self):
        return f"{super().url}/"

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                name = head.split(b" ")[1].decode().lstrip("/")
                self.asked[name] += 1
                self.times.append((time.monotonic(), name))
                self.agents |= {line for line in head.decode().split("\r\n") if line.startswith("User-Agent")}
                self.open += 1
                self.most = max(self.most, self.open)
                try:
                    await asyncio.sleep(self.delay)
                    await self._answer(name, writer)
                finally:
                    self.open -= 1
                if writer.is_closing():
                    return
        writer.close()

    async def _answer(self, name, writer):
        kind, first = self.becomes.get(name, name.split("-")[0]), self.asked[name] == 1
        photo = self.photo_of(f"other-{name}" if kind == "other" else name)
        status, body, headers = 200, photo, {}
        if self.down or kind == "down" or (kind == "busy" and first):
            status, body = (503 if kind != "busy" else 429), b""
            headers = {"Retry-After": "1"} if kind == "busy" else {}
        elif kind == "late":
            status, body, headers = 429, b"", {"Retry-After": "3600"}
        elif kind == "moody" and first:
            status, body = 500, b""
        elif kind == "missing":
            status, body = 404, HTML
        elif kind in ("loop", "moved", "away", "inside", "cdn"):
            target = {"loop": f"/{name}", "moved": "/good-elsewhere.jpg", "away": "file:///etc/passwd"}
            target["cdn"] = self.elsewhere + name.replace("cdn", "good")
            status, body = 302, b""
            headers = {"Location": target.get(kind, f"http://127.0.0.2:{self.port}/good-1.jpg")}
        elif kind == "gzip":
            headers = {"Content-Encoding": "gzip"}
        else:
            body = {"html": HTML, "empty": b"", "half": photo[: len(photo) // 2]}.get(kind, body)
        if kind == "reset":
            writer.transport.abort()
        elif kind == "hung":
            await asyncio.sleep(3600)
        elif kind == "rubbish":
            writer.write(b"SSH-2.0-OpenSSH_9.0\r\n")
            writer.close()
        else:
            length = {"short": len(body) + 100, "quiet": len(body), "drip": len(body), "endless": None}
            await self._send(writer, status, headers, length.get(kind, len(body)), body, kind)

    async def _send(self, writer, status, headers, length, body, kind):
        headers |= {"Connection": "close"} if length is None else {"Content-Length": str(length)}
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        if kind == "endless":
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        if kind == "drip":
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        if kind == "quiet":
            writer.write(body[:100])
            await asyncio.sleep(3600)
        writer.write(body)
        await writer.drain()
        if kind == "short":
            writer.close()
