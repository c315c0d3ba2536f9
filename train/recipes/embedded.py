"""The recipe of the embedded model: from response files to a folder that `MedusaAparModel` loads.

    python -m medusa_apar.train.recipes.embedded --data responses-train.jsonl.xz --output runs/embedded

Stages: hold out every 20th prompt, train a tokenizer, initialise a small Llama, pre-train it on tree-packed rows of
all short answers, tune it on a narrow domain, whose answers it can learn to write fluently, train sequential heads on
its own answers to training prompts (self-distillation, as in Medusa's section 2.3.2), and Medusa heads on the same
answers, bundle.
A stage that has finished is not run again; an interrupted one goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.heads.checkpoints import load_heads
from medusa_apar.runner.dtype import default_dtype
from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from ..backbone import main as train_backbone
from ..heads import main as train_heads
from ..own_answers import kept_answers
from ..provenance import FILE_NAME as TRAINING_RECORD
from ..rows.responses import BadRows, Response, read_responses
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
FINISHED = "_finished"
"""Stands in the folder of a stage whose weights have all been written."""

HELD_OUT = 20
"""Every so manieth prompt is seen by no stage."""

LONGEST_PROMPT = 200
"""Characters of a prompt that the backbone answers for its heads."""

MEASURED = 300
"""Responses to unseen prompts that evaluations of the backbone read."""

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


def reworded(responses: Iterable[Response], random: Random) -> list[Response]:
    """The responses, half of their prompts reworded."""
    return [
        Response(reword(response.prompt, random), response.response) if random.random() < 0.5 else response
        for response in responses
    ]


def hold_out_prompts(responses: Iterable[Response]) -> tuple[list[Response], list[Response]]:
    """Part responses by prompt: those to train on, and those to every 20th prompt, which no stage sees."""
    responses = list(responses)
    held_out = set(sorted({response.prompt for response in responses})[::HELD_OUT])
    parts: tuple[list[Response], list[Response]] = ([], [])
    for response in responses:
        parts[response.prompt in held_out].append(response)
    return parts


def write_responses(path: Path, responses: Iterable[Response]) -> None:
    """Write JSON lines of `{prompt, response}`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": r.prompt, "response": r.response}) + "\n" for r in responses)


def write_training_responses(
    data: Path, responses: Sequence[Response], unseen: Sequence[Response], narrow: Sequence[Response]
) -> None:
    """Write what the backbone is trained on, and what it is measured on.

    Every 30th response of the narrow domain is held out from both stages. `wide`: all other responses, and some of
    those to unseen prompts. `narrow`: the narrow domain and, lest the rest be forgotten, others for a fifth of the
    responses.
    """
    random = Random(0)
    shuffled, size = random.sample(narrow, len(narrow)), -(-len(narrow) // 30)
    held_out = set(shuffled[:size])
    seen = [response for response in responses if response not in held_out]
    write_responses(data / "wide-train.jsonl", reworded(seen, random))
    write_responses(data / "wide-heldout.jsonl", random.sample(unseen, min(len(unseen), MEASURED)))
    tuning = [response for response in shuffled if response not in held_out]
    others = random.sample(seen, min(len(seen), len(narrow) // 4))
    write_responses(data / "narrow-train.jsonl", reworded([*tuning, *others], random))
    write_responses(data / "narrow-heldout.jsonl", shuffled[:size])


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


def write_own_prompts(
    data: Path, trained: Sequence[Response], unseen: Sequence[Response], narrow: Sequence[Response], rewordings: int
) -> None:
    """Write the prompts whose answers by the backbone the heads are to guess, each with rewordings.

    `prompts-train.jsonl` has those of the narrow domain and, for text off the backbone's track, the other short ones, a
    twentieth as often reworded; `prompts-heldout.jsonl` has the unseen ones.
    """
    random = Random(0)
    domain = {response.prompt for response in narrow}
    wide = {response.prompt for response in trained} - domain
    new = {response.prompt for response in unseen}
    taken: set[str] = set()
    for name, wanted in (
        ("train", {**dict.fromkeys(domain, rewordings), **dict.fromkeys(wide, rewordings // 20)}),
        ("heldout", dict.fromkeys(new, rewordings // 20)),
    ):
        asked: list[str] = []
        for prompt in sorted(wanted):
            if len(prompt) <= LONGEST_PROMPT:
                wordings = {prompt, *(reword(prompt, random) for _ in range(wanted[prompt]))}
                asked += sorted(wordings - taken)
                taken |= wordings
        random.shuffle(asked)
        write_responses(data / f"prompts-{name}.jsonl", (Response(prompt, prompt) for prompt in asked))


def bundle(backbone: Path, heads: Sequence[Path], output: Path) -> None:
    """Put backbone, tokenizer and heads into one folder, in bfloat16, in shards that fit a repository."""
    staging = output.with_name(output.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)
    model.save_pretrained(staging, max_shard_size=SHARD_SIZE)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(staging)
    shutil.copy(backbone / TRAINING_RECORD, staging / TRAINING_RECORD)
    for trained in heads:
        load_heads(trained, dtype=torch.bfloat16).save_pretrained(staging / trained.name, max_shard_size=SHARD_SIZE)
        shutil.copy(trained / TRAINING_RECORD, staging / trained.name / TRAINING_RECORD)
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="embedded", description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines of {prompt, response}; .xz, .gz")
    parser.add_argument("--output", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--prompts", type=int, default=48, help="prompts of the narrow domain; 0: no tuning to one")
    parser.add_argument("--max-characters", type=int, default=1900, help="longest answer")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--max-length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--batch", type=int, default=8, help="rows in an optimizer step; half of them for heads")
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps of pre-training")
    parser.add_argument("--tuning-steps", type=int, default=1100, help="optimizer steps on the narrow domain")
    parser.add_argument("--rewordings", type=int, default=200, help="of each prompt, for the backbone to answer")
    parser.add_argument("--sequential-steps", type=int, default=4000, help="optimizer steps of the sequential heads")
    parser.add_argument("--medusa-steps", type=int, default=7000, help="optimizer steps of the Medusa heads")
    parser.add_argument("--medusa-layers", type=int, default=4, help="residual blocks in a Medusa head")
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone's training")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)

    data, init = args.output / "data", args.output / "init"
    if not (init / "tokenizer.json").exists():
        bad_rows = BadRows()
        trained, unseen = hold_out_prompts(read_responses(args.data, bad_rows))
        bad_rows.warn()
        narrow = narrow_domain(trained, args.prompts, args.max_characters)
        write_own_prompts(data, trained, unseen, narrow, args.rewordings)
        short, short_unseen = (
            [r for r in part if len(r.response) <= args.max_characters] for part in (trained, unseen)
        )
        write_training_responses(data, short, short_unseen, narrow)
        texts = (text for r in short for text in (r.prompt, r.response))
        initialize(init, train_tokenizer(texts, args.vocab_size), args.hidden_size, args.layers)

    common = ["--max_length", str(args.max_length), "--logging_steps", "20", "--save_steps", "100"]
    common += ["--save_total_limit", "2", "--gradient_accumulation_steps", "1", "--muon"]
    common += ["--bf16", str(default_dtype() is torch.bfloat16), "--use_cpu", str(not torch.cuda.is_available())]
    backbone = init
    stages = {"wide": (args.steps, "3e-3", "0.6"), "narrow": (args.tuning_steps if args.prompts else 0, "2e-3", "0.8")}
    for stage, (steps, learning_rate, structured_share) in stages.items():
        if steps:
            start, backbone = backbone, args.output / stage
            if not (backbone / FINISHED).exists():
                train_backbone(
                    [
                        *common, "--model", str(start), "--output_dir", str(backbone), "--max_steps", str(steps),
                        "--data", str(data / f"{stage}-train.jsonl"), "--structured_share", structured_share,
                        "--eval_data", str(data / f"{stage}-heldout.jsonl"), "--eval_strategy", "steps",
                        "--eval_steps", "400", "--learning_rate", learning_rate, "--weight_decay", "0.1",
                        "--per_device_train_batch_size", str(args.batch),
                        "--per_device_eval_batch_size", str(args.batch), "--torch_compile", str(args.compile),
                    ]
                )  # fmt: skip
                (backbone / FINISHED).touch()

    heads = {
        "heads": ["--kind", "sequential", "--max_steps", str(args.sequential_steps),
                  "--draft_vocab_size", str(args.vocab_size // 2)],
        "medusa": ["--kind", "medusa", "--max_steps", str(args.medusa_steps), "--num_layers", str(args.medusa_layers)],
    }  # fmt: skip
    for kind, arguments in heads.items():
        folder = args.output / kind
        if not (folder / FINISHED).exists():
            folder.mkdir(exist_ok=True)
            for part in ("train", "eval"):
                answers = kept_answers(args.output / "heads", part)
                if answers.exists() and not kept_answers(folder, part).exists():
                    shutil.copy(answers, folder)
            train_heads(
                [
                    *common, *arguments, "--model", str(backbone), "--output_dir", str(folder), "--labels", "self",
                    "--data", str(data / "prompts-train.jsonl"), "--eval_data", str(data / "prompts-heldout.jsonl"),
                    "--max_new_tokens", str(args.max_length * 3 // 4), "--num_heads", str(args.heads),
                    "--per_device_train_batch_size", str(max(1, args.batch // 2)),
                    "--per_device_eval_batch_size", str(max(1, args.batch // 2)), "--learning_rate", "3e-3",
                ]
            )  # fmt: skip
            (folder / FINISHED).touch()
    bundle(backbone, [args.output / kind for kind in heads], args.output / "bundle")
    logger.info("bundled in %s", args.output / "bundle")


if __name__ == "__main__":
    main()
