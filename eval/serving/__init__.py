"""`medusa-apar eval serving`: what threads are worth on vLLM under load."""

from .command import main

__all__ = ["main"]
