"""What `/metrics` shows: this server's own figures, and those of an engine in the same process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..snapshots import Snapshot
from .admission import Admission

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class Metrics:
    """Figures of a server, in a registry of their own.

    Args:
        admission: whose queue is shown.
        kv_slots: KV slots by state.
    """

    def __init__(self, admission: Admission, kv_slots: Callable[[], Mapping[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "medusa_apar_requests", "Requests by how they ended.", ["outcome"], registry=self.registry
        )
        self.tokens = Counter("medusa_apar_tokens", "Tokens by kind.", ["kind"], registry=self.registry)
        self.forks = Counter("medusa_apar_forks", "Threads opened beside root threads.", registry=self.registry)
        self.threads = Gauge("medusa_apar_threads", "Threads that write now.", registry=self.registry)
        self.first_token = Histogram(
            "medusa_apar_time_to_first_token_seconds", "Until there is something to read.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            "medusa_apar_request_seconds", "Until the answer is complete.", buckets=_SECONDS, registry=self.registry
        )
        running = Gauge("medusa_apar_requests_running", "Answers that are written now.", registry=self.registry)
        running.set_function(lambda: admission.running)
        waiting = Gauge("medusa_apar_requests_waiting", "Requests in the queue.", registry=self.registry)
        waiting.set_function(lambda: admission.waiting)
        slots = Gauge("medusa_apar_kv_slots", "KV slots by state.", ["state"], registry=self.registry)

        def count(state: str) -> float:
            return kv_slots()[state]

        for state in kv_slots():
            slots.labels(state).set_function(partial(count, state))

    def finished(self, prompt_tokens: int, snapshot: Snapshot, seconds: float) -> None:
        """Count a finished answer."""
        self.requests.labels("finished").inc()
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("cached").inc(snapshot.cached_tokens)
        self.tokens.labels("answer").inc(snapshot.tokens)
        self.forks.inc(snapshot.threads - 1)
        self.latency.observe(seconds)

    def exposition(self) -> bytes:
        """All figures in Prometheus's text format, with those that an engine such as vLLM keeps for the process."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
