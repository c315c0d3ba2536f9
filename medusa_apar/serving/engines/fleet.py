"""Completions servers that take and return token ids, such as vLLM's, behind one engine.

All threads of an answer go to one replica, which holds the keys and values of their common prefix. When a replica
fails, its threads go on at another one, after the tokens that they have already written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI

from .text_engine import EngineError, ThreadRequest

logger = logging.getLogger(__name__)

RETRY_AFTER = 5.0
"""Seconds for which a replica that failed is left alone."""
REMEMBERED = 10_000
"""Answers whose replica is remembered."""


class _ReplicaError(Exception):
    """A replica did not finish a thread; another one may."""


@dataclass(slots=True, eq=False)
class Replica:
    """One server.

    Attributes:
        url: of its OpenAI-compatible interface, with `/v1`.
        client: talks to it.
        running: threads that it writes now.
        failed_at: when it last failed, on the monotonic clock; None if it did not since it last worked.
    """

    url: str
    client: AsyncOpenAI
    running: int = 0
    failed_at: float | None = None

    @property
    def available(self) -> bool:
        """Whether to send it anything."""
        return self.failed_at is None or time.monotonic() - self.failed_at > RETRY_AFTER


@dataclass(slots=True)
class Fleet:
    """Writes threads on the replicas of a model.

    Attributes:
        model: the name under which the replicas serve it.
        replicas: the servers.
        priorities: whether they know priorities, as vLLM's server does with `--scheduling-policy priority`.
    """

    model: str
    replicas: list[Replica]
    priorities: bool = False
    _of_answer: dict[str, Replica] = field(default_factory=dict)

    @staticmethod
    def at(
        urls: Sequence[str], model: str, *, api_key: str = "none", timeout: float = 60.0, priorities: bool = False
    ) -> Fleet:
        """Replicas at these addresses.

        Args:
            urls: of their OpenAI-compatible interfaces, such as `http://host:8000/v1`.
            model: the name under which they serve the model.
            api_key: for all of them.
            timeout: seconds between two tokens of a thread after which its replica has failed.
            priorities: whether to send them each thread's priority; others than vLLM's server may refuse it.
        """
        limits = httpx2.Timeout(timeout, connect=min(timeout, 5.0))
        clients = {url: AsyncOpenAI(base_url=url, api_key=api_key, timeout=limits, max_retries=0) for url in urls}
        return Fleet(model, [Replica(url, client) for url, client in clients.items()], priorities)

    async def stream(self, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        """Write a thread, as `Engine` says, on one replica after the other if need be."""
        written: list[int] = []
        tried: list[Replica] = []
        while True:
            replica = self._choose(request.answer, tried)
            rest = replace(
                request,
                prompt_token_ids=[*request.prompt_token_ids, *written],
                max_tokens=request.max_tokens - len(written),
            )
            replica.running += 1
            try:
                async with aclosing(self._tokens_of(replica, rest)) as stream:
                    async for token_ids in stream:
                        written += token_ids
                        yield token_ids
                replica.failed_at = None
                return
            except _ReplicaError as error:
                logger.warning("%s failed (%s); its thread goes on at another replica", replica.url, error)
                replica.failed_at = time.monotonic()
                self._of_answer.pop(request.answer, None)
                tried.append(replica)
                if written and (written[-1] in request.stop_token_ids or len(written) >= request.max_tokens):
                    return
            finally:
                replica.running -= 1

    def _choose(self, answer: str, tried: Sequence[Replica]) -> Replica:
        """The replica that writes the answer's other threads; else the least busy one."""
        known = self._of_answer.get(answer)
        if known is not None and known.available and known not in tried:
            return known
        left = [replica for replica in self.replicas if replica not in tried]
        if not left:
            raise EngineError(f"none of the replicas answers: {', '.join(replica.url for replica in self.replicas)}")
        chosen = min(left, key=lambda replica: (not replica.available, replica.running))
        self._of_answer[answer] = chosen
        while len(self._of_answer) > REMEMBERED:
            del self._of_answer[next(iter(self._of_answer))]
        return chosen

    async def _tokens_of(self, replica: Replica, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        """The tokens of one thread as one replica streams them.

        Raises:
            _ReplicaError: it cannot be reached, breaks off, or is in trouble.
            EngineError: it refuses the request, as any other would.
        """
        sampling = request.sampling
        priority = {"priority": request.priority} if self.priorities else {}
        finished = False
        try:
            stream = await replica.client.completions.create(
                model=self.model,
                prompt=list(request.prompt_token_ids),
                max_tokens=request.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                stream=True,
                extra_body={
                    "top_k": sampling.top_k,
                    "min_p": sampling.min_p,
                    "repetition_penalty": sampling.repetition_penalty,
                    "presence_penalty": sampling.presence_penalty,
                    "frequency_penalty": sampling.frequency_penalty,
                    "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
                    "bad_words": list(request.bad_words),
                    "stop_token_ids": list(request.stop_token_ids),
                    "return_token_ids": True,
                    **priority,
                },
            )
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices:
                        token_ids = getattr(choice, "token_ids", None)
                        if token_ids:
                            yield list(token_ids)
                        elif choice.text and token_ids is None:
                            raise EngineError(
                                f"{replica.url} returns no token ids; use a server that knows return_token_ids"
                            )
                        finished = finished or choice.finish_reason is not None
        except APITimeoutError as error:
            raise _ReplicaError("timed out") from error
        except APIConnectionError as error:
            raise _ReplicaError(f"cannot be reached: {error.__cause__ or error}") from error
        except APIStatusError as error:
            if error.status_code == 429 or error.status_code >= 500:
                raise _ReplicaError(f"status {error.status_code}") from error
            raise EngineError(
                f"{replica.url} refuses the request with status {error.status_code}: {error.message}"
            ) from error
        except (APIError, ValueError) as error:  # an error, or no JSON, in place of a chunk
            raise _ReplicaError(f"broke off: {error}") from error
        except httpx2.HTTPError as error:
            raise _ReplicaError(f"broke off: {type(error).__name__}") from error
        if not finished:
            raise _ReplicaError("ended its stream without a finish reason")

    async def check(self) -> None:
        """As `Engine` says."""
        found = await asyncio.gather(*(_answers(replica) for replica in self.replicas))
        if not any(found):
            raise EngineError(f"none of the replicas answers: {', '.join(replica.url for replica in self.replicas)}")

    async def close(self) -> None:
        """As `Engine` says."""
        await asyncio.gather(*(replica.client.close() for replica in self.replicas))


async def _answers(replica: Replica) -> bool:
    try:
        await replica.client.models.list(timeout=5.0)
    except (APIConnectionError, APIStatusError):
        return False
    return True
