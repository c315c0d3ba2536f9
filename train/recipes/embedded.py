"""The recipe of the embedded model: from response files to a folder that `MedusaAparModel` loads.

    python -m medusa_apar.train.recipes.embedded --data responses-train.jsonl.xz --output runs/embedded

Stages: select responses, train a tokenizer, initialise a small Llama, train it on tree-packed rows
(pre-training and APAR tuning in one: at this size there is no budget for both), train sequential heads on its own
answers to training prompts (self-distillation, as in Medusa's section 2.3.2), bundle.
A stage that has finished is not run again; an interrupted one goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.control_tokens import CHILD, FORK, ControlTokens
from medusa_apar.heads.checkpoints import load_heads
from medusa_apar.precision import default_dtype

from ..backbone import main as train_backbone
from ..heads import main as train_heads
from ..provenance import FILE_NAME as TRAINING_RECORD
from ..responses import BadRows, Response, read_responses
from ..structure import Rule, Rules, extract

logger = logging.getLogger(__name__)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim -}}
{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", FORK, CHILD)
SHARD_SIZE = "14MB"
LISTS = Rules(frozenset({Rule.ORDERED}), max_depth=2, min_items=3)


def is_list_answer(response: Response) -> bool:
    """Whether the rule for ordered lists makes a tree of the answer."""
    return extract(response.response, LISTS) is not None


def narrow_domain(responses: Iterable[Response], prompts: int, max_characters: int) -> list[Response]:
    """The answers to those one-line prompts that are most often answered by a short forkable list."""
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in responses:
        if len(response.response) <= max_characters and len(response.prompt) <= 120:
            by_prompt[response.prompt].append(response)
    lists = {prompt: sum(map(is_list_answer, answers)) for prompt, answers in by_prompt.items()}
    chosen = sorted(lists, key=lambda prompt: (-lists[prompt], prompt))[:prompts]
    return [response for prompt in chosen for response in by_prompt[prompt]]


def reword(prompt: str, random: Random) -> str:
    """Drop a few words, so that the model learns to go by the others and not by the exact wording."""
    words = prompt.split()
    kept = [word for word in words if random.random() > 0.2]
    return " ".join(kept) if len(kept) >= 3 else prompt


def split_responses(responses: Sequence[Response], heldout_share: float, seed: int) -> Iterator[tuple[str, Response]]:
    """Tell each response's part, `train` or `heldout`; half of the training prompts are reworded."""
    random = Random(seed)
    for response in responses:
        if random.random() < heldout_share:
            yield "heldout", response
        elif random.random() < 0.5:
            yield "train", Response(reword(response.prompt, random), response.response)
        else:
            yield "train", response


def write_responses(folder: Path, parts: Iterable[tuple[str, Response]]) -> None:
    """Write `train.jsonl` and `heldout.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as train, (folder / "heldout.jsonl").open("w") as heldout:
        for part, response in parts:
            row = {"prompt": response.prompt, "response": response.response}
            (train if part == "train" else heldout).write(json.dumps(row) + "\n")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template and the control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=2048,
    )


def initialize(folder: Path, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> None:
    """Save a random small Llama and its tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=max(1, hidden_size // 128),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ControlTokens.of_tokenizer(tokenizer).record_in(config)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_own_prompts(data: Path, responses: Sequence[Response], chosen: Sequence[Response], rewordings: int) -> None:
    """Write the prompts whose answers by the backbone the heads are to guess.

    They are those of the narrow domain, most of them reworded, and, for text off the backbone's track, short prompts of
    all of the data. Each prompt is in `prompts-train.jsonl` or, with its rewordings, in `prompts-heldout.jsonl`.
    """
    data.mkdir(parents=True, exist_ok=True)
    random = Random(0)
    narrow = sorted({response.prompt for response in chosen})
    wide = sorted({response.prompt for response in responses if len(response.prompt) <= 200} - set(narrow))
    parts: dict[str, list[str]] = {"train": [], "heldout": []}
    taken: set[str] = set()
    for prompts, copies in ((narrow, rewordings), (wide, rewordings // 20)):
        for number, prompt in enumerate(prompts):
            wordings = {prompt, *(reword(prompt, random) for _ in range(copies))}
            parts["train" if number % 20 else "heldout"] += sorted(wordings - taken)
            taken |= wordings
    for name, asked in parts.items():
        random.shuffle(asked)
        rows = [json.dumps({"prompt": prompt, "response": prompt}) + "\n" for prompt in asked]
        (data / f"prompts-{name}.jsonl").write_text("".join(rows), encoding="utf-8")


def bundle(backbone: Path, heads: Path, output: Path) -> None:
    """Put backbone, tokenizer and heads into one folder, in bfloat16, in shards that fit a repository."""
    staging = output.with_name(output.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)
    model.save_pretrained(staging, max_shard_size=SHARD_SIZE)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(staging)
    draft_heads = load_heads(heads, dtype=torch.bfloat16)
    draft_heads.save_pretrained(staging / "heads", max_shard_size=SHARD_SIZE)
    shutil.copy(backbone / TRAINING_RECORD, staging / TRAINING_RECORD)
    shutil.copy(heads / TRAINING_RECORD, staging / "heads" / TRAINING_RECORD)
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="embedded", description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines of {prompt, response}; .xz, .gz")
    parser.add_argument("--output", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--prompts", type=int, default=48, help="prompts of the narrow domain; 0: the whole file")
    parser.add_argument("--max-characters", type=int, default=1900, help="longest answer")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--max-length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--batch", type=int, default=8, help="rows in an optimizer step")
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps of the backbone")
    parser.add_argument("--rewordings", type=int, default=60, help="of each prompt, for the backbone to answer")
    parser.add_argument("--head-steps", type=int, default=2000, help="optimizer steps of the heads, of half the rows")
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone's training")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)

    data, init = args.output / "data", args.output / "init"
    backbone, heads = args.output / "backbone", args.output / "heads"
    if not (init / "tokenizer.json").exists():
        bad_rows = BadRows()
        every = responses = list(read_responses(args.data, bad_rows))
        bad_rows.warn()
        if args.prompts:
            responses = narrow_domain(responses, args.prompts, args.max_characters)
        write_own_prompts(data, every, responses, args.rewordings)
        write_responses(data, split_responses(responses, heldout_share=0.03, seed=0))
        tokenizer = train_tokenizer((text for r in responses for text in (r.prompt, r.response)), args.vocab_size)
        initialize(init, tokenizer, args.hidden_size, args.layers)

    common = ["--max_length", str(args.max_length), "--logging_steps", "20"]
    common += ["--per_device_train_batch_size", str(args.batch), "--per_device_eval_batch_size", str(args.batch)]
    common += ["--gradient_accumulation_steps", "1", "--save_steps", "100", "--save_total_limit", "2", "--muon"]
    if not (backbone / TRAINING_RECORD).exists():
        train_backbone(
            [
                *common, "--model", str(init), "--output_dir", str(backbone), "--max_steps", str(args.steps),
                "--data", str(data / "train.jsonl"), "--eval_data", str(data / "heldout.jsonl"),
                "--structured_share", "0.8",
                "--learning_rate", "3e-3", "--weight_decay", "0.1", "--torch_compile", str(args.compile),
                "--eval_strategy", "steps", "--eval_steps", "200",
            ]
        )  # fmt: skip
    if not (heads / TRAINING_RECORD).exists():
        train_heads(
            [
                *common, "--model", str(backbone), "--output_dir", str(heads), "--max_steps", str(args.head_steps),
                "--data", str(data / "prompts-train.jsonl"), "--eval_data", str(data / "prompts-heldout.jsonl"),
                "--labels", "self", "--max_new_tokens", str(args.max_length * 3 // 4),
                "--kind", "sequential", "--num_heads", str(args.heads), "--learning_rate", "3e-3",
                "--intermediate_size", str(2 * args.hidden_size), "--draft_vocab_size", str(args.vocab_size // 2),
                "--per_device_train_batch_size", str(max(1, args.batch // 2)),
                "--bf16", str(default_dtype() is torch.bfloat16), "--use_cpu", str(not torch.cuda.is_available()),
            ]
        )  # fmt: skip
    bundle(backbone, heads, args.output / "bundle")
    logger.info("bundled in %s", args.output / "bundle")


if __name__ == "__main__":
    main()
