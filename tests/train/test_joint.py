"""`medusa-apar train joint`: Medusa-2, for a few steps on a random tiny Llama."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from medusa_apar import MedusaAparModel
from medusa_apar.heads import DraftHeads, MedusaHeads, SequentialHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.train.heads import joint
from medusa_apar.train.rows.tree_data import TreeCollator, TreeRow
from medusa_apar.train.tree_attention import attend_along_paths

from .hub import PUSHING, Hub

pytestmark = pytest.mark.integration

STEPS = 6
LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"prompt": f"Colours {n}?", "response": LISTED if n % 2 else "Red and blue."} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=[MedusaHeads, SequentialHeads])
def model(
    request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast, save_backbone: Callable[..., Path]
) -> Path:
    """A backbone with heads in its folder."""
    folder = save_backbone(tiny_tokenizer)
    heads: DraftHeads = request.param.for_backbone(AutoModelForCausalLM.from_pretrained(folder), num_heads=3)
    heads.save_pretrained(folder / "heads")
    return folder


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        "--model", str(model), "--data", str(data), "--output_dir", str(output), "--max_length", "128",
        "--per_device_train_batch_size", "2", "--max_steps", str(STEPS), "--logging_steps", "1", "--save_steps", "2",
        "--learning_rate", "5e-3", "--disable_tqdm", "True", "--use_cpu", "True", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    joint.main(arguments(model, rows_file, folder, "--eval_data", str(rows_file)))
    return folder


def test_gradient_checkpointing_changes_no_loss(model: Path, rows_file: Path, trained: Path, tmp_path: Path) -> None:
    joint.main(arguments(model, rows_file, tmp_path, "--gradient_checkpointing", "True"))
    before, after = (
        [
            entry["loss"]
            for entry in json.loads((each / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for each in (trained, tmp_path)
    )
    assert after == pytest.approx(before, rel=1e-3)


def test_the_result_is_pushed_to_a_hub_with_its_heads(model: Path, rows_file: Path, tmp_path: Path, hub: Hub) -> None:
    joint.main(arguments(model, rows_file, tmp_path / "mine", *PUSHING))
    assert {
        "config.json", "model.safetensors", "tokenizer.json", "README.md",
        "heads/config.json", "heads/model.safetensors",
    } <= hub.pushed["me/mine"]  # fmt: skip


def test_the_result_is_a_folder_that_serves(trained: Path, model: Path) -> None:
    served = MedusaAparModel.from_pretrained(trained, dtype=torch.float32)
    assert served.heads is not None
    assert served.heads.config.tokens_per_step is not None
    assert served.heads.config.backbone == str(trained)
    prompt = AutoTokenizer.from_pretrained(trained)("Hello", return_tensors="pt")
    assert served.generate(**prompt, max_new_tokens=8).shape[1] > prompt["input_ids"].shape[1]


def test_both_learn(trained: Path, model: Path) -> None:
    for name in ("model.safetensors", "heads/model.safetensors"):
        before, after = load_file(model / name), load_file(trained / name)
        assert any(not torch.equal(before[key], after[key]) for key in after if "weight" in key)


def test_weight_decay_spares_norms_and_biases(model: Path, rows_file: Path, tmp_path: Path) -> None:
    joint.main(arguments(model, rows_file, tmp_path, "--learning_rate", "1e-4", "--weight_decay", "2e3"))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path))
    torch.testing.assert_close(after["model.norm.weight"], before["model.norm.weight"], atol=0.01, rtol=0.0)
    assert after["lm_head.weight"].norm() < 0.9 * before["lm_head.weight"].norm()


def test_the_backbones_loss_goes_down(trained: Path, model: Path) -> None:
    row = TreeRow.empty()
    tokenizer = AutoTokenizer.from_pretrained(model)
    row.append_node(tokenizer(LISTED, add_special_tokens=False).input_ids, -1, -1, prompt_length=1)
    batch = TreeCollator(pad_token_id=0, label_heads=3)([row])
    losses = []
    for folder in (model, trained):
        backbone = AutoModelForCausalLM.from_pretrained(folder)
        both = joint.Joint(backbone, load_heads(folder / "heads", backbone), decay=0.8)
        with torch.no_grad():
            losses.append(both(**batch)[0].item())
    assert losses[1] < losses[0] - 0.2


def test_the_backbones_loss_is_that_of_transformers(model: Path) -> None:
    row = TreeRow.empty()
    row.append_node(list(range(20, 50)), -1, -1, prompt_length=4)
    batch = TreeCollator(pad_token_id=0, label_heads=3)([row])
    backbone = AutoModelForCausalLM.from_pretrained(model)
    own, _ = joint.Joint(backbone, load_heads(model / "heads", backbone), decay=0.8)(**batch)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask", "labels", "shift_labels")}
    torch.testing.assert_close(own, backbone(**inputs).loss)


@pytest.mark.parametrize("kind", ["granite", "gemma3_text"])
def test_the_backbones_loss_is_that_of_backbones_which_scale_their_logits(kind: str) -> None:
    scaled = {"logits_scaling": 7.0} if kind == "granite" else {"final_logit_softcapping": 0.5}
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, initializer_range=0.5, **scaled,
    )  # fmt: skip
    backbone = AutoModelForCausalLM.from_config(config)
    row = TreeRow.empty()
    row.append_node(list(range(20, 50)), -1, -1, prompt_length=4)
    batch = TreeCollator(pad_token_id=0, label_heads=3)([row])
    attend_along_paths(backbone)
    own, _ = joint.Joint(backbone, MedusaHeads.for_backbone(backbone, num_heads=3), decay=0.8)(**batch)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask", "labels", "shift_labels")}
    torch.testing.assert_close(own, backbone(**inputs).loss)


def test_accumulated_batches_count_as_one(model: Path, rows_file: Path, tmp_path: Path) -> None:
    """The mean, not the sum: else gradients would grow with their number."""
    losses = []
    for accumulated in ("1", "2"):
        folder = tmp_path / accumulated
        joint.main(
            arguments(model, rows_file, folder, "--gradient_accumulation_steps", accumulated, "--learning_rate", "0")
        )
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        losses.append(sum(entry["loss"] for entry in history if "loss" in entry) / STEPS)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_an_interrupted_run_ends_as_a_whole_one(
    model: Path, rows_file: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = joint.JointTrainer.training_step, []

    def interrupted(self: joint.JointTrainer, *arguments: object, **kwargs: object) -> object:
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *arguments, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(joint.JointTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            joint.main(arguments(model, rows_file, tmp_path))
    joint.main(arguments(model, rows_file, tmp_path))
    for name in ("model.safetensors", "heads/model.safetensors"):
        whole, resumed = load_file(trained / name), load_file(tmp_path / name)
        for key, tensor in whole.items():
            torch.testing.assert_close(resumed[key], tensor, atol=1e-5, rtol=1e-4)


def test_the_held_out_loss_is_the_backbones_own(trained: Path, rows_file: Path) -> None:
    history = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    (held_out,) = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    (last,) = [entry["loss"] for entry in history if entry.get("step") == STEPS and "loss" in entry]
    assert 0 < held_out < last, "which has the heads' in it"


def test_missing_heads_are_named(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        joint.main(arguments(tiny_backbone_dir, rows_file, tmp_path))
    assert f"--heads {tiny_backbone_dir / 'heads'}: heads at" in capsys.readouterr().err
