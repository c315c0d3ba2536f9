"""vLLM's `AsyncLLM` in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from .text_engine import EngineError, ThreadRequest


def speculative_config(heads: str, tokens: int) -> dict[str, Any]:
    """The option of vLLM to decode with Medusa heads.

    Args:
        heads: folder of heads in vLLM's layout, as `medusa-apar heads export --format vllm` writes them.
        tokens: draft tokens in a step, one after the other; at most as many as there are heads.
    """
    return {"method": "medusa", "model": heads, "num_speculative_tokens": tokens}


class VllmEngine:
    """Writes threads on vLLM, whose prefix cache shares the blocks of their common contexts.

    Where KV memory is short, vLLM keeps the threads of the answers that came first. By itself it would preempt the
    newest threads: details of an answer that is nearly complete, which would soon give their blocks back.

    Args:
        model: folder or hub id.
        **options: of vLLM's `AsyncEngineArgs`, such as `dtype`, `max_model_len`, `num_gpu_blocks_override`,
            `tensor_parallel_size`, `speculative_config`.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
    """

    def __init__(self, model: str, **options: Any) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.arguments = AsyncEngineArgs(
            model=model, enable_prefix_caching=True, scheduling_policy="priority", **options
        )
        self.llm = AsyncLLM.from_engine_args(self.arguments)

    async def stream(self, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        """Write a thread, as `Engine` says; a closed generator aborts the request."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        sampling = request.sampling
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            seed=sampling.seed,
            max_tokens=request.max_tokens,
            bad_words=list(request.bad_words),
            stop_token_ids=list(request.stop_token_ids),
            output_kind=RequestOutputKind.DELTA,
            detokenize=False,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt_token_ids))
        try:
            generated = self.llm.generate(prompt, parameters, request_id=uuid4().hex, priority=request.priority)
            async with aclosing(generated) as outputs:
                async for output in outputs:
                    if token_ids := list(output.outputs[0].token_ids):
                        yield token_ids
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM has failed ({type(error).__name__}: {error}); see its log") from error
        except (ValueError, VLLMError) as error:
            raise EngineError(f"vLLM refuses the request: {error}") from error

    async def check(self) -> None:
        """As `Engine` says."""
        if self.llm.errored:
            raise EngineError("vLLM's engine is dead; see its log, and restart the server")

    async def close(self) -> None:
        """As `Engine` says."""
        self.llm.shutdown()
