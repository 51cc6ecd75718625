"""A photo host for the benchmarks: a folder of JPEGs held in memory, HTTP/1.1 with keep-alive, one process.

python benchmarks/support/photo_server.py FOLDER      prints its port; ends with its standard input
"""

import asyncio
import sys
from pathlib import Path


class Connection(asyncio.Protocol):
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.pending = files, b""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while b"\r\n\r\n" in self.pending:
            head, self.pending = self.pending.split(b"\r\n\r\n", 1)
            # Whatever comes after a question mark makes another URL of the same photo.
            body = self.files.get(head.split(b" ", 2)[1].decode().split("?")[0].lstrip("/"))
            status, body = ("200 OK", body) if body else ("404 Not Found", b"")
            self.transport.write(
                f"HTTP/1.1 {status}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )


async def main(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.glob("*.jpg")}
    server = await asyncio.get_running_loop().create_server(lambda: Connection(files), "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
