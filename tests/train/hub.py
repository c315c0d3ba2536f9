"""What transformers asks of the hub, kept on this machine."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

PUSHING = ["--push_to_hub", "True", "--hub_model_id", "me/mine", "--hub_strategy", "end"]


class Hub:
    """A hub that remembers names.

    Attributes:
        pushed: the files of each repository.
    """

    def __init__(self) -> None:
        self.pushed: dict[str, set[str]] = {}

    def create_repo(self, name: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: list[str], **_: object) -> None:
        files = (str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file())
        self.pushed[repo_id] = {name for name in files if not any(fnmatch(name, each) for each in ignore_patterns)}
