"""What vLLM tells of itself, through the figures that it keeps for Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY
from psutil import Process

from medusa_apar.serving.engines.vllm_engine import VllmEngine


class VllmGauges:
    """Figures of an engine in this process."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def kv_usage(self) -> float:
        """Share of the KV blocks in use."""
        return _value("vllm:kv_cache_usage_perc")

    def prefix_tokens(self) -> tuple[float, float]:
        """Tokens of contexts so far, and those of them that the prefix cache held."""
        return _value("vllm:prefix_cache_queries_total"), _value("vllm:prefix_cache_hits_total")

    def memory_mib(self) -> float:
        """Memory of the engine's processes and this one."""
        own = Process()
        return sum(process.memory_info().rss for process in (own, *own.children(recursive=True))) / 2**20

    def requests_left(self) -> int:
        """Requests that the engine has."""
        return int(self._engine.llm.output_processor.get_num_unfinished_requests())

    async def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        await self._engine.llm.reset_prefix_cache()


def _value(name: str) -> float:
    return sum(sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name)
