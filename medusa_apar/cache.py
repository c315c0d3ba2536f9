"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of what is kept: `$MEDUSA_APAR_CACHE`, else in the user's cache folder. It may be deleted.

    Args:
        kind: name of the folder in the user's cache folder.
    """
    chosen = os.environ.get("MEDUSA_APAR_CACHE")
    return Path(chosen) if chosen else user_cache_path("medusa-apar") / kind
