"""Who judges, how requests are sent, and how that may fail."""

from __future__ import annotations

from dataclasses import dataclass

TEMPERATURE = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Who judges, and how requests are sent.

    Attributes:
        url: of the endpoint, without `/chat/completions`.
        model: the judge's name there.
        key_variable: the environment variable that holds the key.
        max_tokens: limit of a judgement.
        timeout: seconds to wait for a judgement.
        retries: further attempts, after growing pauses, where the endpoint is busy, fails or does not answer.
        requests_per_minute: limit, retries included; None for none.

    Raises:
        ValueError: for an address that is none, or no time to answer in.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: int = 2048
    timeout: float = 120.0
    retries: int = 5
    requests_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"judge_url={self.url!r} is no address; give one like https://api.openai.com/v1 or "
                "http://localhost:8000/v1"
            )
        if self.timeout <= 0:
            raise ValueError(f"judge_timeout={self.timeout:g} leaves no time for a judgement; give seconds above 0")


class JudgeError(RuntimeError):
    """The endpoint cannot be used as it is: nothing further is to be asked."""


class InquiryRefusedError(RuntimeError):
    """The endpoint refuses this inquiry, a text that is too long, say; another may pass."""
