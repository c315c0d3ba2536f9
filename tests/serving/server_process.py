"""`medusa-apar serve` as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

_START_SECONDS = 240


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve while open; gives the process, which leads a group of its own, and its address, once it answers."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "medusa_apar.cli", "serve", "--port", str(port), *options],
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _START_SECONDS
    try:
        while not _healthy(address):
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        yield server, address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _healthy(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health").status_code == 200
    except httpx2.TransportError:
        return False
