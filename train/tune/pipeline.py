"""`medusa-apar tune`: make a chat model fork and draft, without any data but its own.

Every stage calls commands that can be run by hand. The model writes questions and answers them. It is tuned to fork
where these answers have a structure. The tuned model answers again, and heads are trained on that. All training text is
the model's own, so its style and knowledge change little.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from medusa_apar.checkpoint import convert_gguf, load_backbone
from medusa_apar.linears.dtype import default_dtype

from ..claims import settle
from ..command_line import InputError, Positional, run
from ..own_text.row_files import write_rows
from ..rows.bad_rows import BadRows
from ..rows.responses import read_questions, read_responses
from ..rows.row_arguments import load_chat_tokenizer
from ..structure import extract
from .adapter_folder import write_adapter_folder
from .arguments import TuneArguments
from .model_card import CATEGORIES, write_model_card
from .plan import Planner, Training, duration, table
from .progress import Progress, is_main_process, processes
from .rates import Rates

Commands = Mapping[str, Callable[[Sequence[str]], None]]
"""Those of `medusa-apar`, by name."""

logger = logging.getLogger(__name__)

STAGES = ("questions", "answers", "backbone", "heads", "measurement")
_STRUCTURED_SHARE = 0.6
"""Of the answers to train on; the others teach not to fork."""
_FLAT_SHARE = 0.15
"""Of the structured answers; modes without forks write the rest of an answer as these have it."""
_FORK_WEIGHT = 4.0
"""Of `[Fork]` in the loss: own answers have little else to teach."""
_HEADS_LEARNING_RATES = {"medusa": 3e-3, "sequential": 3e-3, "eagle3": 8e-3}
"""Of Muon. 63 steps on SmolLM2-135M's answers brought the loss of sequential heads to 14.7, and AdamW at 1e-3 to 18.0.
30 steps brought that of EAGLE-3 heads to 16.6, and 3e-3 to 20.0."""
_SAVES = 10
"""Checkpoints of a training; an interruption costs the time since the last one."""
_PATIENCE = 7 * 24 * 3600
"""Seconds that processes wait for the first one, which alone writes answers."""
_HELD_OUT, _FEWEST_HELD_OUT, _FEWEST_ANSWERS = 20, 8, 4
"""One in 20 answers is held out, but at least 8 where that leaves enough; fewer than 4 answers are an error."""


class Tuning:
    """One run of the command, from a model to a folder that `MedusaAparModel.from_pretrained` loads.

    Args:
        model: folder or hub id of a chat model, or a GGUF file.
        arguments: of the command.
        commands: what the stages call.
    """

    def __init__(self, model: str, arguments: TuneArguments, commands: Commands) -> None:
        arguments.check_files()
        self.arguments = arguments
        self.commands = commands
        self.folder = Path(arguments.output_dir)
        self.work = self.folder / "work"
        holds = f"--output_dir {self.folder}: holds a tuning with"
        settle(self.work / "settings.json", arguments.settings(model), holds)
        self.model = self._as_folder(model)
        self.tokenizer: PreTrainedTokenizerBase = load_chat_tokenizer(self.model, "MODEL")
        self.progress = Progress.of(self.work / "progress.json")

    def _as_folder(self, model: str) -> str:
        """A GGUF file becomes a folder; anything else stays as it is."""
        if not model.endswith(".gguf"):
            return model
        folder, partial = self.work / "base", self.work / "base.partial"
        if not folder.exists() and is_main_process():
            try:
                convert_gguf(Path(model), partial)
            except OSError as error:
                raise InputError(f"MODEL {model}: {error}") from error
            partial.replace(folder)
        return str(folder)

    @property
    def planner(self) -> Planner:
        """Plans the stages, from measured rates."""
        if "rates" not in self.progress.planned:
            self._measure_rates()
        return Planner(
            rates=Rates(**self.progress.planned["rates"]),
            budget=3600 * self.arguments.budget_hours,
            max_new_tokens=self.arguments.max_new_tokens,
            max_length=self.arguments.max_length,
            processes=processes(),
        )

    def _measure_rates(self) -> None:
        print("measuring how fast this machine answers and trains", flush=True)
        try:
            backbone = load_backbone(self.model, dtype=default_dtype())
            rates = Rates.measure(backbone, self.tokenizer, self.arguments.max_length)
        except (OSError, ValueError) as error:
            raise InputError(f"MODEL {self.model}: {error}") from error
        self.progress.plan("hidden_size", backbone.config.get_text_config().hidden_size)
        self.progress.plan("rates", asdict(rates))

    def run(self) -> None:
        """Run all stages that are not finished."""
        if is_main_process():
            self._plan_questions()
        self._run_alone("questions", self._questions)
        self._run_alone("answers", self._answers)
        self._run("backbone", self._backbone)
        self._run("heads", self._heads)
        self._run("measurement", self._measurement)
        if is_main_process():
            self._tell()

    def _plan_questions(self) -> None:
        if "questions" in self.progress.planned:
            return
        written = self.arguments.data is None
        fitting = self.planner.questions(written=written)
        wanted = self.arguments.questions or (fitting if written else self._given_questions())
        if wanted > fitting:
            logger.warning(
                "%d questions would take longer than --budget_hours %g; %d fit, and are taken",
                wanted, self.arguments.budget_hours, fitting,
            )  # fmt: skip
        self.progress.plan("questions", min(wanted, fitting))

    def _given_questions(self) -> int:
        bad_rows = BadRows()
        count = sum(1 for file in self.arguments.data or () for _ in read_questions(file, bad_rows))
        if not count:
            raise InputError(f"--data {' '.join(self.arguments.data or ())}: no usable question (left out: {bad_rows})")
        return count

    def _run(self, name: str, stage: Callable[[], None]) -> None:
        """Run a stage that is not finished."""
        if name not in self.progress.finished:
            with self.progress.stage(name):
                stage()

    def _run_alone(self, name: str, stage: Callable[[], None]) -> None:
        """Run a stage in the first process, while the others wait."""
        if is_main_process():
            self._run(name, stage)
        else:
            self.progress.wait_for_stage(name)

    def _call(self, *argv: str) -> None:
        if is_main_process():
            print(f"$ medusa-apar {' '.join(argv)}", flush=True)
        self.commands[argv[0]](list(argv[1:]))

    def _announce(self, stage: str, what: str, seconds: float) -> None:
        if is_main_process():
            number = f"{STAGES.index(stage) + 1}/{len(STAGES)}"
            print(f"\n[{number}] {stage}: {what}; about {duration(seconds)}", flush=True)

    def _questions(self) -> None:
        count = self.progress.planned["questions"]
        if self.arguments.data is not None:
            return
        self._announce("questions", f"the model writes {count}", self.planner.writing_seconds(count))
        exclude = ["--exclude", *self.arguments.exclude] if self.arguments.exclude else []
        self._call(
            "train", "questions", "--model", self.model, "--output", str(self.work / "questions.jsonl"),
            "--questions", str(count), "--seed", str(self.arguments.seed), *exclude,
        )  # fmt: skip

    def _answers(self) -> None:
        count = self.progress.planned["questions"]
        tokens = self.arguments.max_new_tokens
        self._announce("answers", f"to {count} questions, up to {tokens} tokens each",
                       self.planner.answering_seconds(count))  # fmt: skip
        self._call(
            "train", "answers", "--model", self.model, "--data",
            *(self.arguments.data or [str(self.work / "questions.jsonl")]),
            "--output", str(self.work / "answers.jsonl"), "--limit", str(count),
            "--max_new_tokens", str(tokens), "--seed", str(self.arguments.seed),
        )  # fmt: skip
        self._part_answers()

    def _part_answers(self) -> None:
        """Part answers into those to train on and held-out ones, and write the held-out questions for `eval`."""
        rows = [json.loads(line) for line in (self.work / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        if len(rows) < _FEWEST_ANSWERS:
            raise InputError(
                f"MODEL {self.model}: {len(rows)} of its answers are usable; give more --questions, or a larger "
                f"--max_new_tokens; {self.work / 'answers.made.jsonl'} holds all that it wrote"
            )
        every = max(2, min(_HELD_OUT, len(rows) // _FEWEST_HELD_OUT))
        write_rows(self.work / "train.jsonl", [row for at, row in enumerate(rows) if at % every])
        write_rows(self.work / "held-out.jsonl", rows[::every])
        held_out = read_responses(self.work / "held-out.jsonl", BadRows())
        write_rows(
            self.work / "held-out-questions.jsonl",
            [
                {
                    "question_id": number,
                    "category": CATEGORIES[extract(response.response) is None],
                    "turns": [response.question[0]["content"]],
                }
                for number, response in enumerate(held_out, start=1)
                if len(response.question) == 1
            ],
        )

    def _backbone(self) -> None:
        training = self._training("backbone")
        learning_rate = _learning_rate(self.progress.planned["hidden_size"])
        self._announce("backbone", f"learns to fork in {training.steps} steps", training.seconds)
        self._call(
            "train", "backbone", "--model", self.model, "--output_dir", str(self.work / "backbone"),
            "--lora_rank", str(self.arguments.lora_rank), "--learning_rate", f"{learning_rate:.1e}",
            "--structured_share", str(_STRUCTURED_SHARE), "--flat_share", str(_FLAT_SHARE),
            "--fork_weight", str(_FORK_WEIGHT), *self._training_arguments(training),
        )  # fmt: skip

    def _heads(self) -> None:
        training = self._training("heads")
        self._announce(
            "heads", f"learn to draft in {training.steps} steps, on answers of the tuned model", training.seconds
        )
        backbone, heads = self.work / "backbone", self.work / "heads"
        self._call(
            "train", "heads", "--model", str(backbone), "--output_dir", str(heads), "--kind", self.arguments.kind,
            "--num_heads", str(self.arguments.num_heads),
            "--draft_vocab_size", str(self.arguments.draft_vocab_size), "--labels", "both",
            "--own_answers", str(self.progress.planned["own_answers"]),
            "--muon", "--learning_rate", str(_HEADS_LEARNING_RATES[self.arguments.kind]),
            "--keep_hidden_states", "True",
            "--max_new_tokens", str(self.arguments.max_new_tokens), *self._training_arguments(training),
        )  # fmt: skip
        if is_main_process():
            write_adapter_folder(self.folder, backbone, heads)

    def _training(self, stage: str) -> Training:
        """Its length, decided when it begins."""
        if not is_main_process():
            self.progress.wait_for_plan(stage)
        if stage not in self.progress.planned:
            tokens, questions = self._training_tokens()
            spent = self.progress.spent
            if stage == "backbone":
                training = self.planner.backbone(tokens, spent)
            else:
                own = self.planner.own_answers(questions, spent)
                self.progress.plan("own_answers", own)
                training = self.planner.heads(tokens, own, spent)
            self.progress.plan(stage, asdict(training))
        return Training(**self.progress.planned[stage])

    def _training_tokens(self) -> tuple[int, int]:
        """Of the answers to train on, and how many these are."""
        texts = [
            response.prompt + response.response for response in read_responses(self.work / "train.jsonl", BadRows())
        ]
        return sum(map(len, self.tokenizer(texts).input_ids)), len(texts)

    def _training_arguments(self, training: Training) -> list[str]:
        saves = max(1, training.steps // _SAVES)
        return [
            "--data", str(self.work / "train.jsonl"), "--eval_data", str(self.work / "held-out.jsonl"),
            "--max_length", str(self.arguments.max_length), "--max_steps", str(training.steps),
            "--per_device_train_batch_size", "1", "--per_device_eval_batch_size", "1",
            "--gradient_accumulation_steps", str(training.accumulation), "--save_steps", str(saves),
            "--save_total_limit", "1", "--logging_steps", str(max(1, saves // 2)),
            "--bf16", str(default_dtype().itemsize == 2), "--seed", str(self.arguments.seed),
            "--ddp_timeout", str(_PATIENCE), *_device_arguments(),
        ]  # fmt: skip

    def _measurement(self) -> None:
        questions = self.work / "held-out-questions.jsonl"
        count = self.planner.measured(len(questions.read_text(encoding="utf-8").splitlines()), self.progress.spent)
        self._announce("measurement", f"{count} held-out questions in all modes", self.planner.measuring_seconds(count))
        measured = self.work / "measured"
        self._call(  # in all processes, as training does
            "eval", "backbone", str(self.work / "held-out.jsonl"), "--model", str(self.work / "backbone"),
            "--max_length", str(self.arguments.max_length), "--batch_size", "1",
            "--output", str(measured / "backbone.json"),
        )  # fmt: skip
        if is_main_process():
            self._measure_modes(measured, ["--questions", str(questions), "--limit", str(count)], count)

    def _measure_modes(self, measured: Path, asked: Sequence[str], count: int) -> None:
        """Speed and quality of all modes beside the untuned model, and the model card."""
        tokens = str(self.arguments.max_new_tokens)
        for name, model, modes in (
            ("tuned", str(self.folder), []),
            ("untuned", self.model, ["--modes", "ar", "--no-generate"]),
        ):
            speed = measured / f"speed-{name}"
            self._call("eval", "speed", "--model", model, *modes, *asked, "--max-new-tokens", tokens,
                       "--output_dir", str(speed))  # fmt: skip
            self._call("eval", "quality", "--answers", str(speed / "answers"), "--model", self.model, *asked,
                       "--output_dir", str(measured / f"quality-{name}"))  # fmt: skip
        write_model_card(self.folder, measured, self.model, self.progress.seconds)
        self._call(  # the last one: its status is that of the whole where the heads fall short
            "heads", "verify", str(self.folder / "heads"), "--backbone", str(self.folder),
            "--data", str(self.work / "held-out.jsonl"), "--limit", str(count), "--max-new-tokens", tokens,
        )  # fmt: skip

    def _tell(self) -> None:
        print(f"\n{(self.folder / 'README.md').read_text(encoding='utf-8').partition('## Figures')[2].strip()}\n")
        print(table([*self.progress.seconds.items(), ("together", self.progress.spent)]))
        print(f"\n{self.folder} is ready: medusa-apar generate 'Your question' --model {self.folder} --show tree")


def _device_arguments() -> list[str]:
    if torch.cuda.is_available():
        return []
    return ["--use_cpu", "True", *(["--ddp_backend", "gloo"] if processes() > 1 else [])]


def _learning_rate(hidden_size: int) -> float:
    """Of LoRA. Source: LoRA Without Regret (Schulman et al. 2025, thinkingmachines.ai/blog/lora), section on rates."""
    return float(5e-4 * (2000 / hidden_size) ** 0.781)


def main(argv: Sequence[str], commands: Commands) -> None:
    """Run `medusa-apar tune` with these arguments.

    Args:
        argv: the arguments.
        commands: of `medusa-apar`, by name.
    """

    def tune(model: str, arguments: TuneArguments) -> None:
        tuning: Any = None
        try:
            tuning = Tuning(model, arguments, commands)
            tuning.run()
        except (KeyboardInterrupt, SystemExit):
            if tuning is not None and is_main_process():
                print(f"the same command goes on from here; {tuning.work} keeps what is done", flush=True)
            raise

    positional = Positional("MODEL", "folder or hub id of a chat model, or a GGUF file")
    run(tune, (TuneArguments,), "medusa-apar tune", argv, positional=positional)
