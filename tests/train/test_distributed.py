"""Training in several processes gives the losses of one, also where FSDP or DeepSpeed spreads the weights over them."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from medusa_apar.heads import MedusaHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.train.command_line import InputError, run
from medusa_apar.train.evaluation.held_out import measure
from medusa_apar.train.rows.tree_data import TreeCollator, TreeRow, pack
from medusa_apar.train.tree_attention import attend_along_paths

pytestmark = pytest.mark.integration

LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
STEPS = 4


RECIPES = files("medusa_apar.train.recipes")
Save = Callable[..., Path]


class Launch(NamedTuple):
    """How `accelerate launch` starts a training.

    Attributes:
        processes: how many.
        configuration: of them.
        program: that trains.
        environment: more of it.
    """

    processes: int
    configuration: Sequence[str] = ()
    program: Sequence[str] = ("-m", "medusa_apar.cli")
    environment: Mapping[str, str] = MappingProxyType({})

    def __call__(self, *training: str) -> None:
        """Launch a training as a user would."""
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(self.processes),
            *self.configuration, "--mixed_precision", "no", "--main_process_port", "0", *self.program,
            "train", *training,
            "--use_cpu", "True", "--disable_tqdm", "True", *["--ddp_backend", "gloo"] * (self.processes > 1),
        ]  # fmt: skip
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise LaunchError(done.stderr)


class LaunchError(Exception):
    """A training has failed; its message is what it said on stderr."""


ONE = Launch(1, ["--num_machines", "1", "--dynamo_backend", "no"])
# `--cpu` would need MPI; `--multi_gpu` starts torch's own launcher, and the training picks gloo for CPUs.
TWO = Launch(2, ["--multi_gpu", "--num_machines", "1", "--dynamo_backend", "no"])
FSDP = Launch(2, ["--config_file", str(RECIPES / "fsdp.yaml")], [str(Path(__file__).with_name("fsdp_on_cpus.py"))])
DEEPSPEED = Launch(2, ["--config_file", str(RECIPES / "deepspeed_zero3.yaml")], environment={"DS_ACCELERATOR": "cpu"})


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Colours {n}?", "response": LISTED if n % 2 else "Red and blue, " * n} for n in range(1, 17)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(launch: Launch, folder: Path, model: Path, data: Path, *more: str, steps: int = STEPS) -> list[float]:
    """Of each step of a training of a backbone; four rows make a step."""
    launch(
        "backbone", "--model", str(model), "--data", str(data), "--output_dir", str(folder), "--max_length", "96",
        "--per_device_train_batch_size", str(4 // launch.processes), "--gradient_accumulation_steps", "1",
        "--max_steps", str(steps), "--save_steps", str(STEPS), "--logging_steps", "1", "--learning_rate", "1e-2", *more,
    )  # fmt: skip
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_two_processes_give_the_losses_of_one(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    one = losses(ONE, tmp_path / "one", tiny_backbone_dir, rows_file)
    two = losses(TWO, tmp_path / "two", tiny_backbone_dir, rows_file)
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, rel=1e-3)
    assert one[-1] < one[0]


@pytest.mark.parametrize(
    "spread",
    [pytest.param(FSDP, id="FSDP"), pytest.param(DEEPSPEED, id="DeepSpeed", marks=pytest.mark.deepspeed)],
)
class TestSpreadWeights:
    """On CPUs, with the configurations of the recipes but for processes and precision."""

    def test_they_give_the_losses_and_the_weights_of_whole_ones(
        self, spread: Launch, save_backbone: Save, plain_tokenizer: PreTrainedTokenizerFast, rows_file: Path,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        """From a model without control tokens, whose embeddings, tied ones, have to grow while they are spread."""
        model, more = save_backbone(plain_tokenizer, tied=True), ["--eval_data", str(rows_file)]
        whole = losses(TWO, tmp_path / "whole", model, rows_file, *more)
        assert losses(spread, tmp_path / "spread", model, rows_file, *more) == pytest.approx(whole, rel=1e-3)
        assert whole[-1] < whole[0]
        assert figures(tmp_path / "spread") == pytest.approx(figures(tmp_path / "whole"), rel=1e-2, abs=1e-3)
        expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "spread"))
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-2, atol=1e-3)

    def test_an_interrupted_run_goes_on(
        self, spread: Launch, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path
    ) -> None:
        constant = ["--lr_scheduler_type", "constant"]
        whole = losses(spread, tmp_path / "a", tiny_backbone_dir, rows_file, *constant, steps=STEPS + 2)
        part = losses(spread, tmp_path / "b", tiny_backbone_dir, rows_file, *constant)
        both = losses(spread, tmp_path / "b", tiny_backbone_dir, rows_file, *constant, steps=STEPS + 2)
        assert len(part) == STEPS
        assert both == pytest.approx(whole, rel=1e-3)


def test_muon_orthogonalises_whole_matrices_that_fsdp_spreads(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    whole = losses(TWO, tmp_path / "whole", tiny_backbone_dir, rows_file, "--muon")
    assert losses(FSDP, tmp_path / "spread", tiny_backbone_dir, rows_file, "--muon") == pytest.approx(whole, rel=1e-3)


@pytest.mark.deepspeed
def test_deepspeed_takes_apart_what_muon_and_heads_need_whole(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match="--muon: needs the matrices that DeepSpeed takes apart"):
        losses(DEEPSPEED, tmp_path / "muon", tiny_backbone_dir, rows_file, "--muon")
    with pytest.raises(LaunchError, match="train heads: needs the weights whole that FSDP or DeepSpeed spreads"):
        DEEPSPEED("heads", "--model", str(tiny_backbone_dir), "--data", str(rows_file), "--output_dir", str(tmp_path))


def figures(folder: Path) -> dict[str, float]:
    """Of a last evaluation, without the times that it took."""
    found: dict[str, float] = json.loads((folder / "eval_results.json").read_text())
    return {name: value for name, value in found.items() if "second" not in name and "runtime" not in name}


def test_joint_training_is_saved_once_and_whole(tiny_backbone_dir: Path, tmp_path: Path) -> None:
    data, heads, folder = tmp_path / "rows.jsonl", tmp_path / "heads", tmp_path / "joint"
    data.write_text("".join(json.dumps({"prompt": f"Colours {n}?", "response": LISTED}) + "\n" for n in range(8)))
    MedusaHeads.for_backbone(AutoModelForCausalLM.from_pretrained(tiny_backbone_dir), num_heads=2).save_pretrained(
        heads
    )
    TWO(
        "joint", "--model", str(tiny_backbone_dir), "--heads", str(heads), "--data", str(data),
        "--output_dir", str(folder), "--max_length", "96", "--max_steps", "2", "--save_steps", "1",
    )  # fmt: skip
    for made in (folder, folder / "checkpoint-2"):
        AutoModelForCausalLM.from_pretrained(made)
        assert load_heads(made / "heads").config.num_heads == 2
        assert json.loads((made / "heads" / "training.json").read_text())["steps"] == 2


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero3"])
def test_the_configurations_are_ones_that_accelerate_knows(name: str) -> None:
    config = load_config_from_file(str(RECIPES / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"


def test_own_answers_are_written_once_and_figures_are_those_of_all_processes(
    tiny_backbone_dir: Path, tmp_path: Path
) -> None:
    data, folder = tmp_path / "rows.jsonl", tmp_path / "heads"
    data.write_text("".join(json.dumps({"prompt": f"Colours {n}?", "response": "Red."}) + "\n" for n in range(40)))
    TWO(
        "heads", "--model", str(tiny_backbone_dir), "--data", str(data), "--eval_data", str(data),
        "--labels", "self", "--output_dir", str(folder), "--max_new_tokens", "24", "--max_length", "64",
        "--num_heads", "2", "--per_device_eval_batch_size", "1", "--max_steps", "20", "--learning_rate", "1e-1",
    )  # fmt: skip
    batches = [json.loads(line) for line in (folder / "_own-eval.jsonl").read_text().splitlines()]
    assert [len(batch["prompts"]) for batch in batches] == [32, 8]
    rows = pack((TreeRow(**row) for batch in batches for row in batch["rows"]), 64)
    backbone, heads = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir), load_heads(folder)
    attend_along_paths(backbone)
    collate = TreeCollator(pad_token_id=0, label_heads=2)
    alone = measure(backbone, heads, [collate([row]) for row in rows])
    assert max(map(max, alone.accuracy)) > 0.1, "so that this tells something"
    for recorded, found in zip(heads.config.accuracy, alone.accuracy, strict=True):
        assert recorded == pytest.approx(found, abs=0.03), "but for a row that fills up the last batch"
    assert heads.config.acceptance == pytest.approx(alone.acceptance, abs=0.03)


@pytest.mark.parametrize("error", [None, InputError("--data x: no usable row")])
def test_a_process_leaves_its_group_at_its_end_and_not_before(
    error: InputError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another training of the same process goes on in the group; one that gets wrong input ends as well."""
    at_the_end: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    store = f"file://{tmp_path / 'store'}"

    def train() -> None:
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        if error is not None:
            raise error

    with nullcontext() if error is None else pytest.raises(SystemExit):
        run(train, (), "train", [])
    assert torch.distributed.is_initialized()
    for leave in at_the_end:
        leave()
    assert not torch.distributed.is_initialized()
