"""`medusa-apar eval quality`: how good answers are, measured without a judge and graded by one."""

from .command import main

__all__ = ["main"]
