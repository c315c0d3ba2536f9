"""A judge on this machine that speaks the format of chat completions and says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a key"
PROMPTS = {
    "single-v1": "one|{question}|{answer}",
    "single-math-v1": "one-math|{question}|{ref_answer_1}|{answer}",
    "single-v1-multi-turn": "two|{question_1}|{answer_1}|{question_2}|{answer_2}",
    "single-math-v1-multi-turn": (
        "two-math|{question_1}|{ref_answer_1}|{question_2}|{ref_answer_2}|{question_1}|{answer_1}|{question_2}|{answer_2}"
    ),
    "pair-v2": "pair|{question}|A={answer_a}|B={answer_b}",
    "pair-math-v1": "pair-math|{question}|{ref_answer_1}|A={answer_a}|B={answer_b}",
    "pair-v2-multi-turn": "pair-two|{question_1}|{question_2}|A={answer_a_1},{answer_a_2}|B={answer_b_1},{answer_b_2}",
    "pair-math-v1-multi-turn": (
        "pair-two-math|{question_1}|{question_2}|{ref_answer_1}|{ref_answer_2}"
        "|A={answer_a_1},{answer_a_2}|B={answer_b_1},{answer_b_2}"
    ),
}
"""FastChat's prompts by name, in a few words."""
Asked = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the server answers: a status, and a body or, where there is none, a chat completion."""

    text: str | None = "Good. [[7]]"
    status: int = 200
    body: str | None = None
    delay: float = 0.0


@dataclass
class Judge:
    """Attributes: what to say to a request, the address, and the requests so far."""

    say: Callable[[Asked], Reply] = lambda _: Reply()
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    at_once: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def users(self) -> list[str]:
        """The user's prompts so far."""
        return [request["messages"][1]["content"] for request in self.asked]


def completion(text: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def _handler(judge: Judge) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                judge.asked.append({**asked, "path": self.path})
                judge.keys.add(self.headers["Authorization"])
                judge.under_way += 1
                judge.at_once = max(judge.at_once, judge.under_way)
                reply = judge.say(asked)
            threading.Event().wait(reply.delay)
            with judge.lock:
                judge.under_way -= 1
            body = json.dumps(completion(reply.text)) if reply.body is None else reply.body
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/html")
                self.send_header("Content-Length", str(len(body.encode())))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(body.encode())
            except OSError:  # the client has gone
                pass

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(judge: Judge) -> Iterator[Judge]:
    """Serve a judge while open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(judge))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
