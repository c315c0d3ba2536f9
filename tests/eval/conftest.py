"""A tiny tokenizer, a scripted model, question files, and commands that find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.eval.cli import main as eval_main
from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from .scripted_model import CONTEXT, ScriptedModel

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' + message['content'] }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
Command = Callable[..., int]
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", FORK, CHILD)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    result = PreTrainedTokenizerFast(
        tokenizer_object=bytes_,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=list(SPECIAL_TOKENS[2:]),
    )
    result.chat_template = CHAT_TEMPLATE
    return result


@pytest.fixture(scope="session")
def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaConfig]:
    """Makes configs of tiny backbones for the tokenizer, with what is given beside or in place of the defaults."""

    def make(**given: Any) -> LlamaConfig:
        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }
        return LlamaConfig(**{**shape, **given})

    return make


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast, tiny_config: Callable[..., LlamaConfig]) -> ScriptedModel:
    """A scripted model over a tiny random backbone that may write control tokens unless they are suppressed."""
    torch.manual_seed(0)
    backbone = LlamaForCausalLM(tiny_config()).eval()
    return ScriptedModel(tokenizer, backbone, ControlTokens.of_tokenizer(tokenizer), torch.nn.Linear(2, 2))


@pytest.fixture
def question_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines into a question file."""

    def write(*lines: str) -> Path:
        path = tmp_path / "question.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def eval_command(
    tokenizer: PreTrainedTokenizerFast,
    question_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Command]:
    """Makes a function that runs a subcommand with a model on questions, its results in `out`."""

    def make(subcommand: str, module: ModuleType, model: object, questions: Sequence[str], *given: str) -> Command:
        monkeypatch.setattr(module, "load_model", lambda *_, **__: (model, tokenizer))
        common = [
            subcommand,
            "--questions",
            str(question_file(*questions)),
            "--output_dir",
            str(tmp_path / "out"),
            *given,
        ]
        return lambda *arguments: eval_main([*common, *arguments])

    return make


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command with arguments that it has to refuse, and gives what it says."""

    def run(command: Command, *arguments: str) -> str:
        with pytest.raises(SystemExit) as error:
            command(*arguments)
        assert error.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return run
