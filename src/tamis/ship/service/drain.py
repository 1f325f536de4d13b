"""The end of a worker: say so, take what still comes for a while, turn new connections away, and only then stop.

A port that is closed resets every connection the system has set up and the worker has not accepted yet, and under load
there are some at any moment. So before it is closed the system is told to ignore who knocks (a classic BPF program on
the socket, Linux alone): they try again a second later and are refused plainly, and nobody who was let in is dropped.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

SETTLE = 0.3
"""Seconds in which what is connected is accepted, and its request has come."""

ATTACH_FILTER = 26
# Load the byte of TCP's flags; where SYN (2) is set return 0 bytes of the packet, else all: linux/filter.h.
PROGRAM = ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def drain_on_sigterm(begin: Callable[[], bool], seconds: float, listening: socket.socket | None) -> None:
    """On SIGTERM, let the server stop only after a while; a second one stops it now.

    Args:
        begin: called with the signal; whether it is the first.
        seconds: how long requests are still taken.
        listening: the port, which is turned deaf before it is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    stop, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()

    def end(number: int, frame: Any) -> None:
        if listening is not None:
            turn_away(listening)
        if callable(stop):
            loop.call_later(SETTLE, stop, number, frame)

    def told(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(loop.call_later, seconds if begin() else 0.0, end, number, frame)

    signal.signal(signal.SIGTERM, told)


def turn_away(listening: socket.socket) -> None:
    """Let a port ignore new connections, in all processes that hold it; those already set up can still be accepted."""
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in PROGRAM))
    listening.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", len(PROGRAM), ctypes.addressof(program)))
