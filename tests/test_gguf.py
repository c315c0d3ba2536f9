"""Models in GGUF files: weights, config and control tokens come from one file."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar import ControlTokens, MedusaAparModel
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.tree.control_tokens import CHILD, FORK

from .conftest import SHAPE, random_heads

FILE = "model.gguf"
EOS = "<|end|>"
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
         "up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}  # fmt: skip
"""GGUF's names of a Llama layer's modules."""


SPECIAL = (EOS, FORK, CHILD)


def vocabulary(*, control_tokens: bool) -> list[str]:
    special = SPECIAL if control_tokens else SPECIAL[:1]
    return [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "an"]


def tokenizer_of(tokens: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, merges=[("t", "h"), ("a", "n")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in tokens if token in SPECIAL]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, additional_special_tokens=special[1:])


def forking_llama(tokens: list[str]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE | {"vocab_size": len(tokens), "eos_token_id": 0, "pad_token_id": None})
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[:2] *= 2.2  # EOS and `[Fork]` are chosen often
    return model


def as_gguf(name: str) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{NAMES[parts[-2]]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
        name, "output.weight"
    )


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in the order in which llama.cpp rotates them."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(model: LlamaForCausalLM, tokens: list[str], path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(["t h", "a n"])  # transformers 5.16 misreads a list of one
    writer.add_bos_token_id(0)  # and does not load a file without it
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        if "q_proj" in name:
            weight = interleaved(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = interleaved(weight, config.num_key_value_heads)
        writer.add_tensor(as_gguf(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_decodes_as_the_same_weights_in_safetensors(tmp_path: Path) -> None:
    tokens = vocabulary(control_tokens=True)
    llama = forking_llama(tokens)
    write_gguf(llama, tokens, tmp_path / FILE)
    random_heads(llama).save_pretrained(tmp_path / "heads")
    llama.save_pretrained(tmp_path / "plain")
    tokenizer_of(tokens).save_pretrained(tmp_path / "plain")
    loaded = MedusaAparModel.from_pretrained(tmp_path, gguf_file=FILE, dtype=torch.float32)
    plain = MedusaAparModel.from_pretrained(tmp_path / "plain", heads=tmp_path / "heads", dtype=torch.float32)
    assert loaded.control == plain.control == ControlTokens(tokens.index(FORK), tokens.index(CHILD))
    assert loaded.heads is not None
    loaded.save_pretrained(tmp_path / "saved")
    saved = MedusaAparModel.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert all(map(torch.equal, saved.backbone.state_dict().values(), loaded.backbone.state_dict().values()))
    ids = torch.randint(3, len(tokens), (2, 6))
    answers = [
        model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=0, return_dict_in_generate=True)
        for model in (loaded, plain)
    ]
    assert torch.equal(answers[0].sequences, answers[1].sequences)  # type: ignore[union-attr]
    assert all(answer.stats.forks for answer in answers)  # type: ignore[union-attr]


def test_a_gguf_file_without_control_tokens_is_said_to_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = vocabulary(control_tokens=False)
    write_gguf(forking_llama(tokens), tokens, tmp_path / FILE)
    with caplog.at_level(logging.WARNING, logger="medusa_apar"):
        loaded = MedusaAparModel.from_pretrained(tmp_path, gguf_file=FILE)
    assert loaded.control is None
    assert "does not fork: tokenizer " in caplog.text


def test_heads_of_medusa_llm_beside_a_gguf_file_are_found(tmp_path: Path) -> None:
    """Their config.json is then no backbone's, and none is asked for."""
    tokens = vocabulary(control_tokens=True)
    llama = forking_llama(tokens)
    save_medusa_llm(random_heads(llama), tmp_path, "somebody/base")
    write_gguf(llama, tokens, tmp_path / FILE)
    loaded = MedusaAparModel.from_pretrained(tmp_path, gguf_file=FILE)
    assert loaded.heads is not None
    assert loaded.heads.config.num_heads == 3


def test_a_truncated_gguf_file_is_named(tmp_path: Path) -> None:
    tokens = vocabulary(control_tokens=True)
    write_gguf(forking_llama(tokens), tokens, tmp_path / FILE)
    whole = (tmp_path / FILE).read_bytes()
    for size in (40, 3000, len(whole) - 100):
        (tmp_path / FILE).write_bytes(whole[:size])
        with pytest.raises(OSError, match=r"truncated or corrupt"):
            MedusaAparModel.from_pretrained(tmp_path, gguf_file=FILE)
