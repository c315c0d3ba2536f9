"""`medusa-apar eval report`: one page out of the folders of other measurements."""

from .command import main

__all__ = ["main"]
