"""Agreement with the published package medusa-llm 0.1 itself: checkpoints, tree buffers, typical acceptance."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.drafting.draft_tree import ancestors
from medusa_apar.heads import MedusaHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm, write_medusa_llm
from medusa_apar.sampling.verification import typical_threshold

pytest.importorskip("medusa", reason="needs `pip install medusa-llm==0.1`, the extra `medusa-llm`")

from medusa.model import medusa_model
from medusa.model.utils import evaluate_posterior, generate_medusa_buffers

from benchmarks.medusa_llm import worker

WIDTHS = [[4], [2, 3], [3, 1, 2], [2, 2, 2, 2]]


@pytest.fixture
def backbone_folder(backbone: LlamaForCausalLM, tmp_path: Path) -> Path:
    """A folder that medusa-llm takes for a backbone: it wants a tokenizer there."""
    folder = tmp_path / "backbone"
    backbone.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"word": 0, "<unk>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def stock_llama(monkeypatch) -> None:
    """Let medusa-llm load its backbone with transformers' own Llama.

    Its private copy of Llama, of transformers 4.31, does not know the rope parameters of transformers 5. The heads,
    their loading and their forward pass remain the package's.
    """
    monkeypatch.setattr(medusa_model, "KVLlamaForCausalLM", LlamaForCausalLM)


def our_logits(heads: MedusaHeads, backbone: LlamaForCausalLM, input_ids: Tensor) -> Tensor:
    with torch.no_grad():
        return heads(backbone.model(input_ids)[0], backbone.lm_head)


@pytest.mark.usefixtures("stock_llama")
@pytest.mark.parametrize("shape", [{}, {"num_layers": 0}, {"shared_projection": True}])
def test_medusa_llm_reads_our_export_and_computes_our_logits(backbone, backbone_folder, tmp_path, random_heads, shape):
    heads = random_heads(num_heads=3, **shape)
    save_medusa_llm(heads, tmp_path / "exported", str(backbone_folder), backbone)
    theirs = medusa_model.MedusaModel.from_pretrained(str(tmp_path / "exported"))
    input_ids = torch.randint(31, (1, 9))
    torch.testing.assert_close(theirs(input_ids), our_logits(heads, backbone, input_ids), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("stock_llama")
def test_the_benchmark_has_medusa_llm_compute_heads_of_several_blocks(
    backbone, backbone_folder, tmp_path, random_heads, monkeypatch
):
    monkeypatch.setattr(medusa_model, "AutoTokenizer", None)  # to have it back after this test
    heads = random_heads(num_heads=3, num_layers=4)
    write_medusa_llm(heads, tmp_path / "exported", str(backbone_folder), backbone)
    theirs = worker.load(str(tmp_path / "exported"), eos_token_id=1)
    input_ids = torch.randint(31, (1, 9))
    torch.testing.assert_close(theirs(input_ids), our_logits(heads, backbone, input_ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [{"num_layers": 1}, {"num_layers": 0}, {"shared_projection": True}])
def test_our_export_has_exactly_the_parameters_of_medusa_llms_heads(
    backbone, backbone_folder, tmp_path, shape, random_heads
):
    save_medusa_llm(random_heads(num_heads=3, **shape), tmp_path / "exported", "backbone", backbone)
    theirs = medusa_model.MedusaModel(backbone, 3, shape.get("num_layers", 1), str(backbone_folder))
    state = torch.load(tmp_path / "exported" / "medusa_lm_head.pt", weights_only=True)
    theirs.medusa_head.load_state_dict(state, strict=True)


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_we_read_medusa_llms_checkpoint_and_compute_its_logits(backbone, backbone_folder, tmp_path, num_layers):
    theirs = medusa_model.MedusaModel(backbone, 3, num_layers, str(backbone_folder))
    for parameter in theirs.medusa_head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "theirs"
    medusa_model.MedusaConfig(3, num_layers, str(backbone_folder)).save_pretrained(folder)
    torch.save(theirs.medusa_head.state_dict(), folder / "medusa_lm_head.pt")
    input_ids = torch.randint(31, (1, 9))
    ours = our_logits(load_heads(folder, backbone), backbone, input_ids)
    torch.testing.assert_close(ours, theirs(input_ids), rtol=0, atol=1e-5)


def test_untrained_heads_are_medusa_llms_untrained_heads(backbone, backbone_folder, tmp_path):
    theirs = medusa_model.MedusaModel(backbone, 2, 1, str(backbone_folder)).medusa_head.state_dict()
    save_medusa_llm(MedusaHeads.for_backbone(backbone, num_heads=2), tmp_path / "exported", "backbone")
    ours = torch.load(tmp_path / "exported" / "medusa_lm_head.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    # With its weight at zero, a block of medusa-llm still adds SiLU(bias), and the bias starts at random.
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("linear.bias"))


def parents(paths: list[tuple[int, ...]]) -> list[int]:
    return [paths.index(path[:-1]) if path else -1 for path in paths]


@pytest.fixture(params=WIDTHS, ids=str)
def widths(request) -> list[int]:
    return request.param


@pytest.fixture
def buffers(widths) -> dict[str, Tensor]:
    """medusa-llm's buffers; the 1 that its choices begin with is the backbone's own next token, our root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return generate_medusa_buffers([1, *widths], device="cpu")


@pytest.fixture
def paths(widths) -> list[tuple[int, ...]]:
    levels = [widths[:level] for level in range(len(widths) + 1)]
    return [path for level in levels for path in itertools.product(*map(range, level))]


def test_our_ancestors_are_medusa_llms_tree_mask(paths, buffers):
    ours = torch.as_tensor(ancestors(parents(paths)))
    assert torch.equal(ours, buffers["medusa_attn_mask"][0, 0].bool())


def test_our_depths_are_medusa_llms_position_ids(paths, buffers):
    assert [len(path) for path in paths] == buffers["medusa_position_ids"].tolist()


def test_our_ranks_are_medusa_llms_tree_indices(widths, paths, buffers):
    first_of_head = [1, *(1 + total for total in itertools.accumulate(widths))]
    ours = [first_of_head[len(path) - 1] + path[-1] if path else 0 for path in paths]
    assert ours == buffers["tree_indices"].tolist()


def test_our_leaves_are_medusa_llms_candidates(widths, paths, buffers):
    leaves = [path for path in paths if len(path) == len(widths)]
    ours = [[paths.index(leaf[:length]) for length in range(len(widths) + 1)] for leaf in leaves]
    assert ours == buffers["retrieve_indices"].tolist()


def peaked_logits(*shape: int) -> Tensor:
    """Logits from nearly flat to nearly certain."""
    return torch.randn(shape, dtype=torch.float64) * torch.logspace(-1, 1.3, shape[0], dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("threshold", "alpha"), [(0.09, 0.3), (0.2, 0.25), (0.01, 0.1)])
def test_typical_threshold_parts_the_tokens_that_medusa_llm_accepts(threshold, alpha):
    logits = peaked_logits(60, 16)
    probabilities = logits.softmax(-1)
    thresholds = typical_threshold(probabilities, threshold, alpha)
    assert thresholds.shape == (60,)
    bound = torch.isclose(thresholds, torch.tensor(threshold, dtype=thresholds.dtype))
    assert 0 < bound.sum() < 60, "both terms of the minimum should bind somewhere"
    for row, token in itertools.product(range(60), range(16)):
        candidate = torch.tensor([[0, token]])
        row_logits = torch.stack([logits[row], logits[row]])[None]
        _, accepted = evaluate_posterior(row_logits, candidate, 1.0, threshold, alpha)
        margin = probabilities[row, token] - thresholds[row]
        # medusa-llm adds 1e-5 inside the logarithm of its entropy.
        if abs(margin) > 1e-3 * thresholds[row]:
            assert bool(accepted) == bool(margin > 0)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_typical_acceptance_along_candidates_has_medusa_llms_length(temperature):
    lengths = set()
    for _ in range(40):
        logits = (3 * torch.randn(4, 16, dtype=torch.float64)).repeat(3, 1, 1)
        candidates = torch.randint(16, (3, 4))
        _, expected = evaluate_posterior(logits, candidates, temperature, 0.09, 0.3)
        probabilities = (logits[:, :-1] / temperature).softmax(-1)
        chosen = probabilities.gather(-1, candidates[:, 1:, None]).squeeze(-1)
        accepted = chosen > typical_threshold(probabilities, 0.09, 0.3)
        assert accepted.cumprod(1).sum(1).max() == expected
        lengths.add(int(expected))
    assert len(lengths) > 2, "the candidates should be accepted to different lengths"
