"""Load over HTTP, closed and open loop, from one process that costs the machine as little as it can.

A client library spends as long on a request as a small model does on a text, and on a shared machine that is taken from
the server: here a request is bytes made beforehand, and of an answer only its status and length are read.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Seen:
    """What the load met: seconds of each answer by status; 0 stands for a connection that broke."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    elapsed: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.seconds.setdefault(status, []).append(seconds)

    @property
    def counts(self) -> Counter[int]:
        """Answers by status."""
        return Counter({status: len(values) for status, values in self.seconds.items()})

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.seconds.get(200, ())) / self.elapsed

    def quantile(self, share: float, status: int = 200) -> float:
        """Milliseconds that this share of the answers with a status took at most."""
        values = self.seconds.get(status, [])
        return 1000 * statistics.quantiles(values, n=1000)[round(share * 1000) - 1] if len(values) > 1 else float("nan")


def request_of(path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of one POST."""
    payload = json.dumps(body, ensure_ascii=False).encode()
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(payload))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + payload


async def ask(streams: Streams, request: bytes) -> tuple[int, float]:
    """Send one request on an open connection and read its answer; returns the status, and seconds to stay away."""
    reader, writer = streams
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    await reader.readexactly(int(fields["content-length"]))
    return int(head.split(" ", 2)[1]), float(fields.get("retry-after", 0))


async def closed(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """As many clients as given, each with one request in flight; who is refused stays away as long as told."""
    seen, turn = Seen(), cycle(requests)
    began = time.perf_counter()

    async def client() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            status, away = await ask(streams, next(turn))
            seen.add(status, time.perf_counter() - started)
            await asyncio.sleep(away)
        streams[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    seen.elapsed = time.perf_counter() - began
    return seen


async def opened(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Seen:
    """So many requests a second, whatever becomes of those before; the connection that was free longest is used again.

    A server closes connections on which nothing has come for some seconds.
    """
    seen, turn, free = Seen(), cycle(requests), deque[Streams]()
    began, pending = time.perf_counter(), set()

    async def one(request: bytes, due: float) -> None:
        try:
            streams = free.popleft() if free else await asyncio.open_connection("127.0.0.1", port)
            status, _ = await ask(streams, request)
            free.append(streams)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        # From when it was due, or a slow server would slow the clock it is measured by.
        seen.add(status, time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(due - time.perf_counter())
        task = asyncio.create_task(one(next(turn), due))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    seen.elapsed = time.perf_counter() - began
    for _, writer in free:
        writer.close()
    return seen


def run(load: Callable[..., Awaitable[Seen]], *arguments: object) -> Seen:
    """One load in an event loop of its own."""

    async def main() -> Seen:
        return await load(*arguments)

    return asyncio.run(main())
