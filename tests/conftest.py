"""Tiny random backbones that fork often, and heads for them."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from medusa_apar import ControlTokens, MedusaHeads, SequentialHeads
from medusa_apar.drafting import budget
from medusa_apar.heads import Eagle3Heads, Eagle3HeadsConfig

if TYPE_CHECKING:
    from playwright.sync_api import Browser

gc.disable()  # while modules are imported, which leaves little garbage


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


VOCABULARY = 64
EOS, FORK, CHILD = 1, 2, 3
CONTROL = ControlTokens(FORK, CHILD)

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "bos_token_id": None,
}
"""What the tiny backbones have in common."""

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
}
FORKING_SEEDS = {"llama": 0, "qwen2": 1, "qwen3": 4}
"""Seeds with which the random backbones fork and end often."""


def forking_backbone(
    family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float64, attention: str = "sdpa"
) -> PreTrainedModel:
    """A random backbone whose `[Fork]` and EOS logits vary more than others', so that both are chosen often."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    CONTROL.record_in(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()
    with torch.no_grad():
        model.lm_head.weight[FORK] *= 2.2
        model.lm_head.weight[EOS] *= 2.4
    return model


def random_heads(
    backbone: PreTrainedModel, seed: int = 0, num_heads: int = 3, draft_token_ids: Tensor | None = None
) -> MedusaHeads:
    """Heads that draft at random, but often the same as the backbone."""
    torch.manual_seed(seed)
    heads = MedusaHeads.for_backbone(backbone, num_heads=num_heads, draft_token_ids=draft_token_ids)
    with torch.no_grad():
        for head in heads.heads:
            for block in head.blocks:
                block.linear.weight.normal_(std=0.3)
    return heads.eval()


def random_sequential_heads(
    backbone: PreTrainedModel, seed: int = 0, num_heads: int = 3, draft_token_ids: Tensor | None = None
) -> SequentialHeads:
    """Sequential heads that draft at random, but often the same as the backbone."""
    torch.manual_seed(seed)
    heads = SequentialHeads.for_backbone(backbone, num_heads=num_heads, draft_token_ids=draft_token_ids)
    with torch.no_grad():
        heads.head.down.weight.normal_(std=0.1)
    return heads.eval()


EVERY_OTHER = torch.tensor(sorted({FORK, CHILD, EOS, *range(0, VOCABULARY, 2)}))
"""A draft vocabulary: the control tokens, EOS and every other token."""


def random_draft_vocabulary_heads(backbone: PreTrainedModel, seed: int = 0, num_heads: int = 3) -> SequentialHeads:
    """The same, which draft among a part of the tokens."""
    return random_sequential_heads(backbone, seed, num_heads, draft_token_ids=EVERY_OTHER)


def random_medusa_draft_vocabulary_heads(backbone: PreTrainedModel, seed: int = 0, num_heads: int = 3) -> MedusaHeads:
    """Medusa heads that draft among a part of the tokens."""
    return random_heads(backbone, seed, num_heads, draft_token_ids=EVERY_OTHER)


def random_eagle3_heads(backbone: PreTrainedModel, seed: int = 0, num_heads: int = 3) -> Eagle3Heads:
    """EAGLE-3 heads that draft at random, among every other token."""
    torch.manual_seed(seed)
    sizes = backbone.config
    layer = LlamaConfig(**SHAPE | {"num_hidden_layers": 1, "rms_norm_eps": 1e-6})
    config = Eagle3HeadsConfig(
        num_heads=num_heads,
        hidden_size=sizes.hidden_size,
        vocab_size=sizes.vocab_size,
        layer_config=layer,
        auxiliary_layers=[0, 1, 1],
        draft_vocab_size=VOCABULARY // 2,
    )
    heads = Eagle3Heads(config).to(backbone.dtype)
    heads.draft_token_ids = EVERY_OTHER[: VOCABULARY // 2].clone()
    return heads.eval()


@pytest.fixture(params=sorted(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """Of the tiny forking backbones."""
    return str(request.param)


@pytest.fixture
def backbone(family: str) -> PreTrainedModel:
    """One tiny forking backbone per family, in float64."""
    return forking_backbone(family, FORKING_SEEDS[family])


@pytest.fixture(autouse=True, scope="session")
def _own_cost_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measure step costs anew, though not for long, and leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUSA_APAR_CACHE", str(tmp_path_factory.mktemp("step-costs")))
        patch.setattr(budget, "ENOUGH_SECONDS", 0.1)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the shared measuring and training files."""
    folder = Path(os.environ.get("MEDUSA_APAR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set MEDUSA_APAR_DATA to the folder that holds responses-train.jsonl.xz")
    return folder


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser, for tests of pages."""
    from playwright.sync_api import sync_playwright  # installed by `make test-browser`

    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert path is not None, f"needs one of {', '.join(BROWSERS)}; on Debian: apt-get install chromium"
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
