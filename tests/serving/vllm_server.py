"""vLLM's own server as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2

from ..fixtures import TINY
from .server_process import free_port

NAME = "tiny"
_START_SECONDS = 240


@dataclass
class VllmServer:
    """A server on this machine, started with the tiny model.

    Attributes:
        url: of its interface, with `/v1`.
        process: the server, which leads a group of its own.
        log: where it writes.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @staticmethod
    def start(folder: Path, name: str, *options: str) -> VllmServer:
        """Start it; it is ready once `wait` returns."""
        port = free_port()
        log = folder / f"{name}.log"
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY),
            "--served-model-name", NAME, "--dtype", "float32", "--enforce-eager", "--block-size", "32",
            "--max-model-len", "512", "--host", "127.0.0.1", "--port", str(port),
            "--max-num-seqs", "32", *options,
        ]  # fmt: skip
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        process = subprocess.Popen(
            command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        return VllmServer(f"http://127.0.0.1:{port}/v1", process, log)

    def wait(self) -> None:
        """Return once it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if httpx2.get(self.url.removesuffix("/v1") + "/health").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.5)
        raise AssertionError(f"not ready after {_START_SECONDS} s: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it and all that it started at once, as a power cut would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
