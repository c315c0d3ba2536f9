"""Training in several processes gives the losses of one."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForCausalLM

from medusa_apar.heads import MedusaHeads
from medusa_apar.heads.checkpoints import load_heads
from medusa_apar.train.command import InputError, run
from medusa_apar.train.held_out import measure
from medusa_apar.train.tree_attention import attend_along_paths
from medusa_apar.train.tree_data import TreeCollator, TreeRow, pack

LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
STEPS = 4


def launch(processes: int, *training: str) -> None:
    """Launch a training as a user would."""
    command = [
        # `--cpu` would need MPI; `--multi_gpu` starts torch's own launcher, and the training picks gloo for CPUs.
        sys.executable, "-m", "accelerate.commands.launch", *["--multi_gpu"] * (processes > 1),
        "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "medusa_apar.cli", "train", *training,
        "--use_cpu", "True", "--disable_tqdm", "True", *["--ddp_backend", "gloo"] * (processes > 1),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path, model: Path, data: Path, processes: int, batch: int) -> list[float]:
    """Of each step of a training."""
    launch(
        processes, "backbone", "--model", str(model), "--data", str(data),
        "--output_dir", str(folder), "--max_length", "96", "--per_device_train_batch_size", str(batch),
        "--gradient_accumulation_steps", "1", "--max_steps", str(STEPS), "--logging_steps", "1",
        "--learning_rate", "1e-2",
    )  # fmt: skip
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_two_processes_give_the_losses_of_one(tiny_backbone_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Colours {n}?", "response": LISTED if n % 2 else "Red and blue, " * n} for n in range(1, 17)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = losses(tmp_path / "one", tiny_backbone_dir, data, processes=1, batch=4)
    two = losses(tmp_path / "two", tiny_backbone_dir, data, processes=2, batch=2)
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, rel=1e-3)
    assert one[-1] < one[0]


def test_joint_training_is_saved_once_and_whole(tiny_backbone_dir: Path, tmp_path: Path) -> None:
    data, heads, folder = tmp_path / "rows.jsonl", tmp_path / "heads", tmp_path / "joint"
    data.write_text("".join(json.dumps({"prompt": f"Colours {n}?", "response": LISTED}) + "\n" for n in range(8)))
    MedusaHeads.for_backbone(AutoModelForCausalLM.from_pretrained(tiny_backbone_dir), num_heads=2).save_pretrained(
        heads
    )
    launch(
        2, "joint", "--model", str(tiny_backbone_dir), "--heads", str(heads), "--data", str(data),
        "--output_dir", str(folder), "--max_length", "96", "--max_steps", "2", "--save_steps", "1",
    )  # fmt: skip
    for made in (folder, folder / "checkpoint-2"):
        AutoModelForCausalLM.from_pretrained(made)
        assert load_heads(made / "heads").config.num_heads == 2
        assert json.loads((made / "heads" / "training.json").read_text())["steps"] == 2


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero3"])
def test_the_configurations_are_ones_that_accelerate_knows(name: str) -> None:
    config = load_config_from_file(str(files("medusa_apar.train.recipes") / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"


def test_own_answers_are_written_once_and_figures_are_those_of_all_processes(
    tiny_backbone_dir: Path, tmp_path: Path
) -> None:
    data, folder = tmp_path / "rows.jsonl", tmp_path / "heads"
    data.write_text("".join(json.dumps({"prompt": f"Colours {n}?", "response": "Red."}) + "\n" for n in range(40)))
    launch(
        2, "heads", "--model", str(tiny_backbone_dir), "--data", str(data), "--eval_data", str(data),
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
