"""What sequential heads compute, and how they are saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from medusa_apar.heads import SequentialHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.heads.cli import main

VOCABULARY = 31


@pytest.fixture
def sequential(backbone: LlamaForCausalLM) -> SequentialHeads:
    heads = SequentialHeads.for_backbone(backbone, num_heads=3)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return heads.eval()


@pytest.fixture
def path(hidden_states: Tensor) -> Tensor:
    return torch.randint(0, VOCABULARY, (*hidden_states.shape[:-1], 3), generator=torch.Generator().manual_seed(0))


def test_untrained_heads_repeat_the_backbones_next_token_logits(backbone, hidden_states, path):
    heads = SequentialHeads.for_backbone(backbone, num_heads=3)
    logits = heads(hidden_states, backbone.lm_head, backbone.get_input_embeddings(), path)
    torch.testing.assert_close(logits, backbone.lm_head(hidden_states).expand(3, -1, -1, -1))


def test_every_head_moves_the_state_on_by_a_token(backbone, sequential, hidden_states, path):
    embeddings = backbone.get_input_embeddings()
    logits = sequential(hidden_states, backbone.lm_head, embeddings, path)
    state, head = hidden_states, sequential.head
    for level in range(3):
        embedding = embeddings.weight[path[..., level]] / embeddings.weight.pow(2).mean().sqrt()
        inner = torch.cat([state, embedding], dim=-1) @ head.up.weight.T + head.up.bias
        state = state + torch.nn.functional.silu(inner) @ head.down.weight.T + head.down.bias
        torch.testing.assert_close(logits[level], state @ backbone.lm_head.weight.T)


def test_a_head_sees_the_tokens_before_its_draft_and_no_later_ones(backbone, sequential, hidden_states, path):
    def logits(path: Tensor) -> Tensor:
        found: Tensor = sequential(hidden_states, backbone.lm_head, backbone.get_input_embeddings(), path)
        return found

    other = path.clone()
    other[..., 1] = (path[..., 1] + 1) % VOCABULARY
    before, after = logits(path), logits(other)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_the_scale_of_a_backbones_embeddings_does_not_matter(backbone, hidden_states, path):
    def logits() -> Tensor:
        heads = SequentialHeads.for_backbone(backbone, num_heads=3)
        for parameter in heads.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
        found: Tensor = heads(hidden_states, backbone.lm_head, backbone.get_input_embeddings(), path)
        return found

    before = logits()
    with torch.no_grad():
        backbone.get_input_embeddings().weight *= 50
    torch.testing.assert_close(logits(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision_take_the_backbones_hidden_states(backbone, sequential, hidden_states, path, dtype):
    ends = backbone.lm_head, backbone.get_input_embeddings()
    expected = sequential(hidden_states, *ends, path)
    logits = sequential.to(dtype)(hidden_states, *ends, path)
    assert logits.dtype is backbone.dtype
    torch.testing.assert_close(logits, expected, atol=0.2, rtol=0.1)


def test_without_a_path_there_is_nothing_to_draft_behind(backbone, sequential, hidden_states):
    with pytest.raises(ValueError, match="sequential heads draft after known tokens; pass embeddings and path"):
        sequential(hidden_states, backbone.lm_head)


class TestDraftVocabulary:
    """Heads that draft among some tokens, and know one logit for all others."""

    TOKENS = torch.tensor([2, 3, 11, 30])

    @pytest.fixture
    def heads(self, backbone: LlamaForCausalLM) -> SequentialHeads:
        return SequentialHeads.for_backbone(backbone, num_heads=3, draft_token_ids=self.TOKENS)

    def test_untrained_they_repeat_the_backbones_logits_of_these_tokens(self, backbone, heads, hidden_states, path):
        logits = heads(hidden_states, backbone.lm_head, backbone.get_input_embeddings(), path)
        expected = backbone.lm_head(hidden_states)[..., self.TOKENS].expand(3, -1, -1, -1)
        torch.testing.assert_close(logits[..., :-1], expected)
        assert not logits[..., -1].any()
        assert heads.draftable == 4

    def test_the_last_logit_stands_for_all_other_tokens(self, heads):
        assert heads.places_of(torch.tensor([[3, 30], [0, 2]])).tolist() == [[1, 3], [4, 0]]
        probabilities = torch.zeros(VOCABULARY)
        probabilities[[2, 11, 12, 13]] = torch.tensor([0.5, 0.25, 0.125, 0.125])
        assert heads.as_drafted(probabilities).tolist() == [0.5, 0, 0.25, 0, 0.25]

    def test_all_tokens_are_drafted_among_without_one(self, sequential):
        assert sequential.draftable == VOCABULARY
        probabilities, tokens = torch.rand(VOCABULARY), torch.tensor([4, 0])
        assert sequential.as_drafted(probabilities) is probabilities
        assert sequential.places_of(tokens) is tokens

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_is_saved_and_loaded_with_the_heads(self, backbone, heads, tmp_path: Path, dtype):
        heads.to(dtype).save_pretrained(tmp_path)
        for loaded in (SequentialHeads.from_pretrained(tmp_path, dtype=dtype), load_heads(tmp_path, dtype=dtype)):
            assert loaded.draft_token_ids.tolist() == self.TOKENS.tolist()
            assert loaded.draft_token_ids.dtype is torch.int64
            assert loaded.projection.weight.dtype is dtype
            assert torch.equal(loaded.projection.weight, heads.projection.weight)

    def test_tokens_that_the_backbone_does_not_have_are_refused(self, backbone, heads):
        heads.draft_token_ids[3] = VOCABULARY
        with pytest.raises(ValueError, match="draft_token_ids of these heads lie outside a vocabulary of 31 tokens"):
            heads.check_fits(backbone)

    def test_they_are_whole_numbers(self, heads, tmp_path: Path):
        heads.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        save_file(state | {"draft_token_ids": self.TOKENS.float()}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"`draft_token_ids` is torch.float32, not torch.int64"):
            load_heads(tmp_path)


def test_they_are_saved_and_loaded_with_what_was_measured(backbone, sequential, tmp_path: Path):
    sequential.config.calibration_temperature, sequential.config.accuracy = [1.1, 1.2, 1.3], [[0.5, 0.75]] * 3
    sequential.save_pretrained(tmp_path)
    for loaded in (SequentialHeads.from_pretrained(tmp_path), load_heads(tmp_path, backbone)):
        assert isinstance(loaded, SequentialHeads)
        assert loaded.config.calibration_temperature == [1.1, 1.2, 1.3]
        assert loaded.config.accuracy == [[0.5, 0.75]] * 3
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, sequential.state_dict()[name])


def test_weights_that_contradict_their_config_are_refused(sequential, tmp_path: Path):
    sequential.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 7}))
    with pytest.raises(ValueError, match=r"heads of .*intermediate_size=7.*`head\.up\.weight` is \[64, 32\]"):
        load_heads(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "least"), [("draft_vocab_size", 1, 2), ("draft_vocab_size", "8", 2), ("intermediate_size", 0, 1)]
)
def test_a_config_with_bad_sizes_is_refused(sequential, tmp_path: Path, name: str, value: object, least: int):
    sequential.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=f"{name}={value!r}, which must be a whole number from {least}"):
        load_heads(tmp_path)


def test_medusa_llms_format_has_no_place_for_them(sequential, tmp_path: Path):
    with pytest.raises(ValueError, match="no place for heads of another kind; export Medusa heads"):
        save_medusa_llm(sequential, tmp_path, "some/backbone")
    assert not list(tmp_path.iterdir())


def test_inspect_names_their_kind(sequential, tmp_path: Path, capsys):
    sequential.save_pretrained(tmp_path)
    capsys.readouterr()
    main(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "sequential" in printed
    assert "intermediate_size" in printed
