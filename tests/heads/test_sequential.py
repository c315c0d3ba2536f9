"""What sequential heads compute, and how they are saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from medusa_apar.heads import SequentialHeads
from medusa_apar.heads.checkpoints import load_heads
from medusa_apar.heads.cli import main
from medusa_apar.heads.medusa_llm import save_medusa_llm

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
        embedding = embeddings.weight[path[..., level]]
        unit = embedding / embedding.pow(2).mean(dim=-1, keepdim=True).add(1e-6).sqrt()
        inner = torch.cat([state, unit], dim=-1) @ head.up.weight.T + head.up.bias
        state = state + torch.nn.functional.silu(inner) @ head.down.weight.T + head.down.bias
        torch.testing.assert_close(logits[level], state @ backbone.lm_head.weight.T)


def test_a_head_sees_the_tokens_before_its_guess_and_no_later_ones(backbone, sequential, hidden_states, path):
    def logits(path: Tensor) -> Tensor:
        found: Tensor = sequential(hidden_states, backbone.lm_head, backbone.get_input_embeddings(), path)
        return found

    other = path.clone()
    other[..., 1] = (path[..., 1] + 1) % VOCABULARY
    before, after = logits(path), logits(other)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_the_scale_of_a_backbones_embeddings_does_not_matter(backbone, sequential, hidden_states, path):
    embeddings = backbone.get_input_embeddings()
    before = sequential(hidden_states, backbone.lm_head, embeddings, path)
    with torch.no_grad():
        embeddings.weight *= 50
    after = sequential(hidden_states, backbone.lm_head, embeddings, path)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision_take_the_backbones_hidden_states(backbone, sequential, hidden_states, path, dtype):
    ends = backbone.lm_head, backbone.get_input_embeddings()
    expected = sequential(hidden_states, *ends, path)
    logits = sequential.to(dtype)(hidden_states, *ends, path)
    assert logits.dtype is backbone.dtype
    torch.testing.assert_close(logits, expected, atol=0.2, rtol=0.1)


def test_without_a_path_there_is_nothing_to_guess_behind(backbone, sequential, hidden_states):
    with pytest.raises(ValueError, match="sequential heads guess behind known tokens; pass embeddings and path"):
        sequential(hidden_states, backbone.lm_head)


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


def test_medusa_llms_format_has_no_place_for_them(sequential, tmp_path: Path):
    with pytest.raises(ValueError, match="no place for sequential heads; export Medusa heads"):
        save_medusa_llm(sequential, tmp_path, "some/backbone")
    assert not list(tmp_path.iterdir())


def test_inspect_names_their_kind(sequential, tmp_path: Path, capsys):
    sequential.save_pretrained(tmp_path)
    capsys.readouterr()
    main(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "sequential" in printed
    assert "intermediate_size" in printed
