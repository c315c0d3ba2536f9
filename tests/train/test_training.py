"""`medusa-apar train backbone` and `train heads`, for a few steps on a random tiny Llama."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from benchmarks import tree_cost
from medusa_apar.heads import MedusaHeads, SequentialHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.model import MedusaAparModel
from medusa_apar.train import trainer
from medusa_apar.train import training_record as provenance
from medusa_apar.train.backbone import training as backbone
from medusa_apar.train.backbone.held_out_figures import measure_backbone
from medusa_apar.train.command_line import InputError
from medusa_apar.train.evaluation import held_out
from medusa_apar.train.evaluation.fork_decisions import BIASES
from medusa_apar.train.evaluation.places import head_inputs
from medusa_apar.train.heads import joint
from medusa_apar.train.heads import training as heads
from medusa_apar.train.heads.hidden_states import HiddenStates
from medusa_apar.train.rows.bad_rows import BadRows
from medusa_apar.train.rows.responses import read_prompts
from medusa_apar.train.rows.row_arguments import RowArguments
from medusa_apar.train.rows.tree_data import (
    IGNORE_INDEX,
    NO_SUCCESSOR,
    TreeCollator,
    TreeDataset,
    TreeRow,
    decoded_row,
)
from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from ..fixtures import TINY
from .hub import PUSHING, Hub

Save = Callable[..., Path]
Train = Callable[[list[str]], None]

STEPS = 6
LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
COMMON = [
    "--max_length", "128", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1",
    "--max_steps", str(STEPS), "--logging_steps", "1", "--save_steps", "2", "--learning_rate", "1e-2",
    "--disable_tqdm", "True", "--use_cpu", "True",
]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, object]], bad: tuple[str, ...] = ()) -> Path:
    path.write_text("\n".join([*map(json.dumps, rows), *bad]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, object]] = [
        {"prompt": f"Colours {n}?", "response": LISTED if n % 2 else "Red, blue and green are colours."}
        for n in range(8)
    ]
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", rows, bad=("{", '{"prompt": "a"}'))


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--output_dir", str(output), *COMMON, *more]


def record(folder: Path) -> dict[str, list[dict[str, float]]]:
    state: dict[str, list[dict[str, float]]] = json.loads((folder / "trainer_state.json").read_text())
    return state


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in record(folder)["log_history"] if "loss" in entry]


@pytest.fixture(scope="session")
def trained_backbone(tiny_backbone_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "backbone"
    backbone.main(arguments(tiny_backbone_dir, rows_file, output, "--eval_data", str(rows_file)))
    return output


@pytest.fixture(scope="session", params=[False, True], ids=["own projections", "shared projection"])
def trained_heads(
    request: pytest.FixtureRequest, tiny_backbone_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("trained") / "heads"
    more = ["--num_heads", "3", "--shared_projection", str(request.param), "--eval_data", str(rows_file)]
    heads.main(arguments(tiny_backbone_dir, rows_file, output, *more))
    return output


@pytest.mark.integration
class TestBackbone:
    def test_the_loss_goes_down(self, trained_backbone: Path) -> None:
        values = losses(trained_backbone)
        assert len(values) == STEPS
        assert values[-1] < values[0] - 0.2

    def test_the_result_is_a_plain_model_with_its_tokenizer(self, trained_backbone: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(trained_backbone)
        tokenizer = AutoTokenizer.from_pretrained(trained_backbone)
        control = replace(ControlTokens.of_tokenizer(tokenizer), fork_bias=model.config.fork_bias)
        assert ControlTokens.of_config(model.config) == control
        assert tokenizer.chat_template is not None
        assert model.config.thread_depth == 3

    def test_its_bias_of_forks_finds_the_held_out_ones(
        self, trained_backbone: Path, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path
    ) -> None:
        figures = json.loads((trained_backbone / "eval_results.json").read_text())
        bias = AutoConfig.from_pretrained(trained_backbone).fork_bias
        assert bias in BIASES
        assert (bias == 0) is (figures["eval_first_fork_recall"] >= 0.9)
        given = RowArguments(model=str(trained_backbone), max_length=128)
        found = measure_backbone([str(rows_file)], given)
        assert bias == BIASES[-1] or found["first_fork_recall"] >= 0.9
        unchanged = measure_backbone([str(rows_file)], given, fork_bias=0.0)
        assert unchanged["first_fork_recall"] == pytest.approx(figures["eval_first_fork_recall"])
        unbiased = arguments(tiny_backbone_dir, rows_file, tmp_path, "--eval_data", str(rows_file))
        backbone.main([*unbiased, "--fork_recall", "0"])
        assert AutoConfig.from_pretrained(tmp_path).fork_bias == 0

    def test_provenance_is_written_beside_it(self, trained_backbone: Path) -> None:
        made = json.loads((trained_backbone / provenance.FILE_NAME).read_text())
        assert made["steps"] == STEPS
        assert set(made["versions"]) >= {"medusa-apar", "torch", "transformers"}
        assert made["command"]
        assert {"loss", "train_loss", "eval_structured_loss", "eval_unstructured_loss"} <= set(made["figures"])

    def test_evaluations_tell_how_well_it_forks(self, trained_backbone: Path) -> None:
        figures = json.loads((trained_backbone / provenance.FILE_NAME).read_text())["figures"]
        for kind in ("first", "later"):
            assert 0 <= figures[f"eval_{kind}_fork_recall"] <= 1

    def test_they_tell_what_the_tree_costs_beside_plain_text(self, trained_backbone: Path) -> None:
        figures = json.loads((trained_backbone / provenance.FILE_NAME).read_text())["figures"]
        tree, flat = (figures[f"eval_{name}_text_loss"] for name in ("structured", "flat"))
        assert figures["eval_tree_cost"] == pytest.approx(tree / flat - 1)

    def test_the_best_checkpoint_is_kept(self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
        more = ["--eval_data", str(rows_file), "--eval_strategy", "steps", "--eval_steps", "2"]
        more += ["--load_best_model_at_end", "True", "--save_total_limit", "1"]
        backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
        best = json.loads((tmp_path / provenance.FILE_NAME).read_text())["best"]
        losses = [
            entry["eval_structured_loss"]
            for entry in record(tmp_path)["log_history"]
            if "eval_structured_loss" in entry
        ]
        assert best["figure"] == min(losses)
        kept = load_file(Path(best["checkpoint"]) / "model.safetensors")
        assert all(torch.equal(kept[name], each) for name, each in load_file(tmp_path / "model.safetensors").items())

    def test_gradient_checkpointing_changes_no_loss(
        self, tiny_backbone_dir: Path, rows_file: Path, trained_backbone: Path, tmp_path: Path
    ) -> None:
        backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--gradient_checkpointing", "True"))
        assert losses(tmp_path) == pytest.approx(losses(trained_backbone), rel=1e-3)

    def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
        self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--learning_rate", "1e30"))
        line = capsys.readouterr().err
        assert re.search(
            r"the loss of step [2-6] is (nan|inf), on the batch of rows that begin with the tokens \[\[", line
        )
        assert not (tmp_path / "model.safetensors").exists()

    def test_muon_trains_too(self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
        backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--muon"))
        values = losses(tmp_path)
        assert values[-1] < values[0] - 0.2

    def test_forks_may_count_more(
        self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, trained_backbone: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--fork_weight", "4"))
        assert sum(losses(tmp_path)) > sum(losses(trained_backbone)) + 0.5, "the first of the batches holds no fork"
        with pytest.raises(SystemExit):
            backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--fork_weight", "2"))
        assert "holds a training with fork_weight=4.0, not 2.0" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "other", "--fork_weight", "0"))
        assert "--fork_weight 0 is not above 0; give a positive number" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "other", "--fork_recall", "1.5"))
        assert "--fork_recall 1.5 is no share; give a number from 0 to 1" in capsys.readouterr().err

    def test_bad_rows_are_reported_and_not_fatal(
        self, tiny_tokenizer: PreTrainedTokenizerFast, rows_file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = RowArguments(model="", max_length=128, structured_share=0.5).rows([str(rows_file)], tiny_tokenizer)
        assert isinstance(data, TreeDataset)
        assert data.bad_rows.counts == {"not JSON": 1, "no text in `response`": 1}
        assert "1 x not JSON (first: rows.jsonl:9)" in caplog.text


@pytest.fixture(scope="module")
def adapted(tiny_backbone_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    backbone.main(arguments(tiny_backbone_dir, rows_file, folder, "--lora_rank", "4"))
    return folder


@pytest.mark.integration
class TestLora:
    def test_the_loss_goes_down(self, adapted: Path) -> None:
        values = losses(adapted)
        assert values[-1] < values[0] - 0.2

    def test_the_result_is_a_plain_model_with_the_adapter_beside_it(
        self, adapted: Path, tiny_backbone_dir: Path
    ) -> None:
        merged = AutoModelForCausalLM.from_pretrained(adapted)
        assert ControlTokens.of_config(merged.config) is not None
        base = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
        beside = PeftModel.from_pretrained(base, adapted / backbone.ADAPTER)
        token_ids = torch.arange(5, 40)[None]
        with torch.no_grad():
            torch.testing.assert_close(merged(token_ids).logits, beside(token_ids).logits, atol=1e-4, rtol=1e-4)

    def test_tied_embeddings_stay_tied(self, rows_file: Path, tmp_path: Path) -> None:
        backbone.main(arguments(TINY, rows_file, tmp_path, "--lora_rank", "4"))
        merged, base = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (tmp_path, TINY)
        )
        assert base.config.tie_word_embeddings
        assert merged.config.tie_word_embeddings
        assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
        beside = PeftModel.from_pretrained(base, tmp_path / backbone.ADAPTER)
        token_ids = torch.arange(5, 40)[None]
        with torch.no_grad():
            torch.testing.assert_close(merged(token_ids).logits, beside(token_ids).logits, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("tied", [False, True], ids=["own projection", "tied embeddings"])
    def test_the_adapter_alone_decodes_as_the_merged_model(
        self, tied: bool, plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path, tmp_path: Path
    ) -> None:
        """Also where the base lacks the control tokens; a checkpoint of the last step is as good."""
        base = save_backbone(plain_tokenizer, tied=tied)
        backbone.main(arguments(base, rows_file, tmp_path, "--lora_rank", "4", "--max_depth", "4"))
        merged = MedusaAparModel.from_pretrained(tmp_path, heads=False)
        prompt = torch.tensor([plain_tokenizer("Colours 1?")["input_ids"]])
        for folder in (tmp_path / backbone.ADAPTER, tmp_path / f"checkpoint-{STEPS}"):
            loaded = MedusaAparModel.from_pretrained(folder, heads=False)
            assert loaded.control == merged.control is not None
            assert loaded.config.thread_depth == 4
            answers = [model.generate(prompt, max_new_tokens=40, do_sample=False) for model in (loaded, merged)]
            assert torch.equal(*answers)  # type: ignore[arg-type]

    @pytest.mark.parametrize("tied", [False, True], ids=["own projection", "tied embeddings"])
    def test_of_all_embeddings_those_of_the_control_tokens_learn(
        self, tied: bool, plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path, tmp_path: Path
    ) -> None:
        base = save_backbone(plain_tokenizer, tied=tied)
        backbone.main(arguments(base, rows_file, tmp_path, "--lora_rank", "4"))
        before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, tmp_path))
        control = ControlTokens.of_config(after.config)
        assert control is not None
        for name in ("get_input_embeddings", "get_output_embeddings"):
            old, new = getattr(before, name)().weight, getattr(after, name)().weight
            assert torch.equal(new[: len(plain_tokenizer)], old[: len(plain_tokenizer)])
            mean = old[: len(plain_tokenizer)].mean(dim=0)
            assert not torch.allclose(new[control.fork_token_id], mean, atol=1e-3)
        assert not any(
            len(weight) >= len(plain_tokenizer)
            for weight in load_file(tmp_path / backbone.ADAPTER / "adapter_model.safetensors").values()
        )

    def test_checkpoints_hold_the_adapter_alone(self, adapted: Path) -> None:
        for folder in adapted.glob("checkpoint-*"):
            assert (folder / "adapter_model.safetensors").exists()
            assert not (folder / "model.safetensors").exists()

    def test_an_interrupted_run_goes_on(self, adapted: Path, tiny_backbone_dir: Path, rows_file: Path) -> None:
        backbone.main(
            arguments(tiny_backbone_dir, rows_file, adapted, "--lora_rank", "4", "--max_steps", str(STEPS + 2))
        )
        assert len(losses(adapted)) == STEPS + 2

    def test_an_adapter_is_no_base(
        self, adapted: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            backbone.main(arguments(adapted / backbone.ADAPTER, rows_file, tmp_path, "--lora_rank", "2"))
        assert "is an adapter; train on its base, or on the merged model" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "error"),
        [
            (["--lora_rank", "0"], "--lora_rank 0 is below 1"),
            (["--lora_rank", "2", "--lora_targets", "nowhere"], "nowhere"),
        ],
    )
    def test_bad_arguments(
        self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        more: list[str], error: str,
    ) -> None:  # fmt: skip
        with pytest.raises(SystemExit):
            backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
        assert error in capsys.readouterr().err


@pytest.mark.parametrize("spare_rows", [0, 10], ids=["no spare rows", "spare rows"])
def test_missing_control_tokens_are_added_with_the_mean_embedding(
    spare_rows: int, plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save
) -> None:
    folder = save_backbone(plain_tokenizer, spare_rows=spare_rows)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    size, special = len(tokenizer), set(tokenizer.all_special_tokens)
    before = [model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()]
    control = backbone.prepare_for_forks(tokenizer, model)
    assert control == ControlTokens(size, size + 1) == ControlTokens.of_config(model.config)
    assert set(tokenizer.all_special_tokens) == special | {FORK, CHILD}, "the old ones stay special"
    for old, embeddings in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert len(embeddings.weight) == size + max(2, spare_rows)
        assert torch.equal(embeddings.weight[:size], old[:size])
        for token in (control.fork_token_id, control.child_token_id):
            torch.testing.assert_close(embeddings.weight[token], old[:size].mean(dim=0))


def test_weights_that_zero_3_spreads_are_whole_while_control_tokens_get_their_embeddings(
    plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in for deepspeed takes weights away but for where they are asked for."""
    folder = save_backbone(plain_tokenizer, spare_rows=10)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    weights = {parameter: parameter.data for parameter in model.parameters()}

    @contextmanager
    def gathered(parameters: list[torch.nn.Parameter], modifier_rank: int) -> Iterator[None]:
        assert modifier_rank == 0
        for parameter in parameters:
            parameter.data = weights[parameter]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    for parameter in weights:
        parameter.data = torch.empty(0)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gathered)))
    monkeypatch.setattr(backbone, "is_deepspeed_zero3_enabled", lambda: True)
    size = len(tokenizer)
    backbone.prepare_for_forks(tokenizer, model)
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        whole = weights[embeddings.weight]
        assert len(embeddings.weight) == 0
        torch.testing.assert_close(whole[size], whole[:size].mean(dim=0))


@pytest.mark.parametrize(
    ("metric", "greater"), [("structured_loss", False), ("later_fork_recall", True), ("fork_precision", True)]
)
def test_the_best_checkpoint_is_the_one_with_the_least_loss_or_the_most_of_anything_else(
    metric: str, greater: bool, tmp_path: Path
) -> None:
    args = backbone.BackboneTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric, use_cpu=True)
    assert args.greater_is_better is greater


def test_a_process_trains_on_one_gpu(tmp_path: Path) -> None:
    """Trees cannot be dealt out to replicas in one process."""
    args = heads.HeadsTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    args._n_gpu = 4
    assert args.n_gpu == 1
    args._n_gpu = 0
    assert args.n_gpu == 0


def test_a_question_that_the_chat_template_refuses_is_left_out(
    tiny_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = copy.deepcopy(tiny_tokenizer)
    strict.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + str(tiny_tokenizer.chat_template)
    )
    folder = save_backbone(strict)
    system = {"messages": [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "u"), ("assistant", "a"))]}
    data = write_rows(tmp_path / "rows.jsonl", [system, {"prompt": "a", "response": "b"}])
    for labels in ("data", "self"):
        more = ["--labels", labels, "--max_new_tokens", "4"] if labels == "self" else []
        heads.main(arguments(folder, data, tmp_path / labels, "--num_heads", "1", *more))
    alone = write_rows(tmp_path / "alone.jsonl", [system])
    for labels, nothing in (("data", "no usable response"), ("self", "no usable question")):
        with pytest.raises(SystemExit):
            heads.main(arguments(folder, alone, tmp_path / nothing, "--labels", labels))
        said = capsys.readouterr().err
        assert nothing in said
        assert "1 x the chat template refuses it: System role not supported" in said


def test_control_tokens_that_are_there_are_kept_as_trained(tiny_backbone_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
    before = model.get_input_embeddings().weight.clone()
    backbone.prepare_for_forks(tokenizer, model)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_backbone_without_control_tokens_trains_and_has_them_in_the_end(
    plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path, tmp_path: Path
) -> None:
    backbone.main(arguments(save_backbone(plain_tokenizer), rows_file, tmp_path, "--eval_data", str(rows_file)))
    control = ControlTokens.of_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == control.child_token_id + 1
    assert "eval_first_fork_recall" in json.loads((tmp_path / "eval_results.json").read_text())


def test_what_trees_cost_is_measured_from_such_a_backbone_too(
    plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path, tmp_path: Path
) -> None:
    tree_cost.main(
        [
            "--model", str(save_backbone(plain_tokenizer)), "--data", str(rows_file), "--eval_data", str(rows_file),
            "--max_length", "128", "--output_dir", str(tmp_path), "--max_steps", "1",
            "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1", "--use_cpu", "True",
        ]
    )  # fmt: skip
    assert "tree_cost" in json.loads((tmp_path / "summary.json").read_text())


@pytest.mark.parametrize(
    ("train", "more", "what"),
    [
        (heads.main, [], "train heads"),
        (joint.main, [], "train joint"),
        (backbone.main, ["--lora_rank", "2"], "--lora_rank 2"),
    ],
    ids=["heads", "joint", "lora"],
)
def test_what_needs_whole_weights_is_refused_where_they_are_spread(
    train: Train, more: list[str], what: str, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # which `accelerate launch` sets
    with pytest.raises(SystemExit):
        train(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
    assert f"{what}: needs the weights whole that FSDP or DeepSpeed spreads" in capsys.readouterr().err


@pytest.mark.integration
class TestHeads:
    def test_the_loss_goes_down(self, trained_heads: Path) -> None:
        values = losses(trained_heads)
        assert values[-1] < values[0] - 0.2

    def test_checkpoints_hold_no_backbone(self, trained_heads: Path, tiny_backbone_dir: Path) -> None:
        folders = [trained_heads, *trained_heads.glob("checkpoint-*")]
        assert len(folders) == 1 + STEPS // 2
        for folder in folders:
            weights = load_file(folder / "model.safetensors")
            assert all(name.startswith("heads.") for name in weights)
            has_projection = any("projection" in name for name in weights)
            assert has_projection == (not MedusaHeads.from_pretrained(folder).config.shared_projection)

    def test_accuracy_and_calibration_are_stored(self, trained_heads: Path) -> None:
        config = MedusaHeads.from_pretrained(trained_heads).config
        assert len(config.accuracy) == len(config.calibration_temperature) == 3
        for row in config.accuracy:
            assert len(row) == held_out.TOP
            assert 0 <= row[0] <= row[-1] <= 1
            assert row == sorted(row)
        assert max(row[-1] for row in config.accuracy) > 0
        assert all(0.5 <= t <= 2.0 for t in config.calibration_temperature)

    def test_saved_heads_give_the_logits_of_the_trained_ones(
        self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained = []
        save_model = heads.HeadsTrainer.save_model
        monkeypatch.setattr(
            heads.HeadsTrainer,
            "save_model",
            lambda self, *a, **k: (trained.append(self.model), save_model(self, *a, **k)),
        )
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--num_heads", "2"))
        lm_head = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir).lm_head
        loaded, hidden = MedusaHeads.from_pretrained(tmp_path).eval(), torch.randn(2, 5, 32)
        with torch.no_grad():
            assert torch.equal(loaded(hidden, lm_head), trained[-1](hidden, lm_head))

    def test_the_backbone_does_not_change(self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
        before = (tiny_backbone_dir / "model.safetensors").read_bytes()
        model = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
        weights = {name: p.clone() for name, p in model.state_dict().items()}
        untrained = MedusaHeads.for_backbone(model, num_heads=2, shared_projection=True)
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone_dir)
        data = RowArguments(model="", max_length=128, structured_share=0.5).rows([str(rows_file)], tokenizer)
        args = heads.HeadsTrainingArguments(output_dir=str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True)
        collator = heads.TreeCollator(pad_token_id=0, label_heads=2)
        trainer = heads.HeadsTrainer(
            model,
            untrained,
            args,
            hidden_states=HiddenStates(model, None),
            decay=0.8,
            distil=False,
            data_collator=collator,
            train_dataset=data,
        )
        trainer.train()
        assert all(torch.equal(p, weights[name]) for name, p in model.state_dict().items())
        assert (tiny_backbone_dir / "model.safetensors").read_bytes() == before

    def test_provenance_is_written_beside_them(self, trained_heads: Path) -> None:
        assert json.loads((trained_heads / provenance.FILE_NAME).read_text())["steps"] == STEPS

    def test_a_head_without_any_label_gives_no_nan(self, tiny_backbone_dir: Path, tmp_path: Path) -> None:
        data = write_rows(tmp_path / "short.jsonl", [{"prompt": "a", "response": "b"}] * 4)
        more = ["--num_heads", "5", "--structured_share", "0", "--eval_data", str(data)]
        heads.main(arguments(tiny_backbone_dir, data, tmp_path / "out", *more))
        assert all(0 < value < 1000 for value in losses(tmp_path / "out"))
        config = MedusaHeads.from_pretrained(tmp_path / "out").config
        assert config.accuracy[-1] == [0.0] * held_out.TOP
        assert config.calibration_temperature[-1] == 1.0


@pytest.fixture(scope="module", name="folder")
def sequential_heads(tiny_backbone_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequential")
    more = ["--kind", "sequential", "--labels", "self", "--max_new_tokens", "40", "--num_heads", "2"]
    more += ["--eval_data", str(rows_file), "--muon", "--learning_rate", "1e-2"]
    heads.main(arguments(tiny_backbone_dir, rows_file, folder, *more))
    return folder


@pytest.mark.integration
class TestSequentialHeads:
    """Heads that see the draft tokens before their own, trained on the backbone's own answers and distribution."""

    def test_the_loss_goes_down(self, folder: Path) -> None:
        values = losses(folder)
        assert values[-1] < values[0]

    def test_they_load_with_accuracy_and_calibration(self, folder: Path, tiny_backbone_dir: Path) -> None:
        loaded = load_heads(folder, AutoModelForCausalLM.from_pretrained(tiny_backbone_dir))
        assert isinstance(loaded, SequentialHeads)
        assert len(loaded.config.accuracy) == len(loaded.config.calibration_temperature) == 2

    @pytest.mark.parametrize(("kind", "draftable"), [("medusa", 8), ("sequential", 7)])
    def test_they_draft_among_the_commonest_tokens_where_asked_to(
        self, folder: Path, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, kind: str, draftable: int
    ) -> None:
        for part in ("train", "eval"):
            shutil.copy(folder / f"_own-{part}.jsonl", tmp_path)
        more = ["--kind", kind, "--labels", "self", "--max_new_tokens", "40", "--num_heads", "2"]
        more += ["--draft_vocab_size", "8", "--eval_data", str(rows_file), "--muon", "--learning_rate", "1e-2"]
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
        values = losses(tmp_path)
        assert values[-1] < values[0]
        loaded = load_heads(tmp_path, AutoModelForCausalLM.from_pretrained(tiny_backbone_dir))
        assert loaded.draftable == draftable
        assert len(loaded.config.accuracy) == 2

    def test_the_answers_are_kept_and_used_again(
        self, folder: Path, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for part in ("train", "eval"):
            shutil.copy(folder / f"_own-{part}.jsonl", tmp_path)
        monkeypatch.setattr(MedusaAparModel, "generate", None)
        more = ["--labels", "self", "--max_new_tokens", "40", "--num_heads", "2"]
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
        assert (tmp_path / "_own-train.jsonl").read_bytes() == (folder / "_own-train.jsonl").read_bytes()

    def test_responses_and_own_answers_teach_together(
        self, folder: Path, tiny_backbone_dir: Path, rows_file: Path, tiny_tokenizer: PreTrainedTokenizerFast,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        shutil.copy(folder / "_own-train.jsonl", tmp_path)
        backbone = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
        tokens = {}
        for labels in ("data", "self", "both"):
            given = heads.HeadsDataArguments(
                model=str(tiny_backbone_dir), data=[str(rows_file)], max_length=128, labels=labels, max_new_tokens=40
            )
            rows: Any = given.all_rows(backbone, tiny_tokenizer, str(tmp_path))[0]
            tokens[labels] = sum(len(rows[at]) for at in range(len(rows)))
        assert tokens["both"] == tokens["data"] + tokens["self"]
        for name in ("own_answers", "answer_batch_size"):
            with pytest.raises(InputError, match=f"--{name} 0 is below 1"):
                heads.HeadsDataArguments(model="m", data=["d"], **{name: 0})  # type: ignore[arg-type]

    def test_heads_are_trained_on(self, folder: Path, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--heads", str(folder)))
        before, after = (load_heads(each) for each in (folder, tmp_path))
        assert isinstance(after, SequentialHeads), "kind and shape stay"
        assert after.config.shape == before.config.shape
        assert losses(tmp_path)[0] < losses(folder)[0]
        assert any(not torch.equal(*pair) for pair in zip(before.parameters(), after.parameters(), strict=True))

    def test_heads_that_are_not_there_are_named(
        self, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--heads", str(tmp_path / "nowhere")))
        assert f"--heads {tmp_path / 'nowhere'}: " in capsys.readouterr().err

    def test_own_answers_need_questions_alone(
        self, folder: Path, tiny_backbone_dir: Path, rows_file: Path, tiny_tokenizer: PreTrainedTokenizerFast,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        shutil.copy(folder / "_own-train.jsonl", tmp_path)
        questions = tmp_path / "questions.jsonl"
        asked = [response.question for response in read_prompts(rows_file, BadRows())]
        write_rows(questions, [{"prompt": each[-1]["content"]} for each in asked])
        backbone = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
        read: list[Any] = [
            heads.HeadsDataArguments(
                model=str(tiny_backbone_dir), data=[str(file)], max_length=128, labels="self", max_new_tokens=40
            ).all_rows(backbone, tiny_tokenizer, str(tmp_path))[0]
            for file in (rows_file, questions)
        ]
        assert [read[0][at] for at in range(len(read[0]))] == [read[1][at] for at in range(len(read[1]))]


def test_heads_draft_behind_the_tokens_that_come_and_learn_what_the_backbone_chooses(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """On a greedy answer of the backbone itself, each label is the best token of its own distribution there."""
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
    ids = tiny_tokenizer("a b", return_tensors="pt")
    answer: Any = MedusaAparModel(model).generate(**ids, max_new_tokens=30, return_dict_in_generate=True)
    row = decoded_row(answer.trees[0])
    batch = TreeCollator(pad_token_id=0, label_heads=3)([row])
    places = heads.Places.of_batch(head_inputs(model, batch), batch)
    known = places.labels != IGNORE_INDEX
    assert known.sum() > 20
    with torch.no_grad():
        best = model.lm_head(head_inputs(model, batch)).argmax(dim=-1).flatten()[heads.label_sources(batch)]
    agreeing = (best == places.labels)[known].float().mean()
    assert agreeing > 0.9, "all but what the rules of control tokens forbid"
    for head in range(2):
        both = known[head + 1]
        assert torch.equal(places.path[both, head + 1], places.labels[head, both]), "what was drafted is seen next"


def test_distilled_loss_of_certain_labels_is_the_mean_loss() -> None:
    logits, labels = torch.randn(6, 10), torch.tensor([1, IGNORE_INDEX, 3, 4, IGNORE_INDEX, 9])
    teacher, sources = torch.eye(10), labels.clamp(min=0)
    torch.testing.assert_close(heads.distilled_loss(logits, labels, teacher, sources), heads.mean_loss(logits, labels))
    assert heads.distilled_loss(logits, torch.full((6,), IGNORE_INDEX), teacher, sources) == 0


def test_the_commonest_tokens_are_counted_where_something_is_guessed() -> None:
    prompt_and_answer = TreeRow(
        input_ids=[1, 1, 1, 5, 5, 9],
        position_ids=list(range(6)),
        successor=[1, 2, 3, 4, 5, NO_SUCCESSOR],
        node=[0] * 6,
        node_parent=[-1],
        prompt=[True] * 3 + [False] * 3,
    )
    assert heads.commonest_tokens([prompt_and_answer] * 2, 1).tolist() == [5]
    assert heads.commonest_tokens([prompt_and_answer], 7).tolist() == [5, 9]


def test_mean_loss_is_per_label() -> None:
    logits, labels = torch.randn(6, 10), torch.tensor([1, IGNORE_INDEX, 3, 4, IGNORE_INDEX, 9])
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(heads.mean_loss(logits, labels), expected)
    assert heads.mean_loss(logits, torch.full((6,), IGNORE_INDEX)) == 0


@pytest.mark.integration
class TestInterruption:
    """A training that is cut off goes on from its last whole checkpoint and ends with the same weights."""

    @pytest.mark.parametrize(
        ("train", "more"), [(backbone.main, []), (backbone.main, ["--muon"]), (heads.main, ["--num_heads", "2"])]
    )
    def test_the_end_is_the_same(
        self,
        train: Train,
        more: list[str],
        tiny_backbone_dir: Path,
        rows_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        train(arguments(tiny_backbone_dir, rows_file, whole, *more))
        taken: list[int] = []
        training_step = trainer.TreeTrainer.training_step

        def interrupted(self: trainer.TreeTrainer, *args: object, **kwargs: object) -> object:
            taken.append(self.state.global_step)
            if len(taken) == 6:
                raise KeyboardInterrupt
            return training_step(self, *args, **kwargs)

        monkeypatch.setattr(trainer.TreeTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(arguments(tiny_backbone_dir, rows_file, cut, *more))
        assert not (cut / "model.safetensors").exists()
        (cut / "checkpoint-5").mkdir()
        (cut / "checkpoint-5" / "model.safetensors").write_bytes(b"cut off while it was written")
        train(arguments(tiny_backbone_dir, rows_file, cut, *more))
        assert taken == [0, 1, 2, 3, 4, 5, 4, 5]
        expected, actual = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[name], actual[name]) for name in expected)

    def test_checkpoints_are_ordered_by_number(self, tmp_path: Path) -> None:
        assert backbone.last_checkpoint(str(tmp_path / "nowhere")) is None
        for name in ("checkpoint-20", "checkpoint-100", "checkpoint-best", "other-300"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "trainer_state.json").touch()
        assert backbone.last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize(("train", "prog"), [(backbone.main, "train backbone"), (heads.main, "train heads")])
class TestCommandLine:
    def error(self, train: Train, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            train(argv)
        assert stop.value.code == 2
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert len(line) < 600
        return line

    def test_help_lists_the_arguments(self, train: Train, prog: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            train(["--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        for name in (f"medusa-apar {prog}", "--model", "--data", "--max_length", "--learning_rate"):
            assert name in text

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            ([], "--model, --data"),
            (["--model", "m", "--data", "d", "--nonsense", "3"], "unknown argument --nonsense 3"),
            (["--model", "m", "--data", "d", "--max_length", "many"], "--max_length.*'many'"),
            (["--model", "m", "--data", "d", "--eval_strategy", "sometimes"], "sometimes"),
        ],
    )
    def test_wrong_arguments(
        self, train: Train, prog: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.error(train, argv, capsys)
        assert line.startswith(f"medusa-apar {prog}: error: ")
        assert "--help" in line
        assert re.search(message, line)

    @pytest.mark.parametrize("name", ["--data", "--eval_data"])
    def test_a_missing_file(
        self, train: Train, prog: str, name: str, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        argv = [*arguments(tiny_backbone_dir, rows_file, tmp_path), name, "nowhere.jsonl"]
        assert f"{name} nowhere.jsonl: no such file; give one with conversations" in self.error(train, argv, capsys)

    @pytest.mark.parametrize("name", ["runs/nowhere", "/no/model", "./model", "no/such/model"])
    def test_a_missing_model_folder_is_not_sought_on_the_hub(
        self, train: Train, prog: str, name: str, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        Path("runs").mkdir()
        argv = ["--model", name, "--data", str(rows_file)]
        assert f"--model {name}: no such folder; give one with a model" in self.error(train, argv, capsys)

    def test_a_damaged_model(
        self, train: Train, prog: str, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        damaged = tmp_path / "damaged"
        shutil.copytree(tiny_backbone_dir, damaged)
        weights = (damaged / "model.safetensors").read_bytes()
        (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        line = self.error(train, arguments(damaged, rows_file, tmp_path / "out"), capsys)
        assert f"--model {damaged}: the weights in '{damaged}' are truncated or corrupt" in line

    def test_a_model_that_is_something_else(
        self, train: Train, prog: str, trained_heads: Path, rows_file: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        line = self.error(train, arguments(trained_heads, rows_file, tmp_path / "out"), capsys)
        assert f"{trained_heads} holds draft heads and no model" in line
        weights = trained_heads / "model.safetensors"
        line = self.error(train, arguments(weights, rows_file, tmp_path / "out"), capsys)
        assert f"--model {weights}: no such folder" in line

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("learning_rate", "nan", "nan is not finite; give a number"),
            ("weight_decay", "inf", "inf is not finite; give a number"),
            ("save_total_limit", "9" * 30, "is beyond 2147483647; give a smaller number"),
            ("gradient_accumulation_steps", "0", "0 is below 1; give a positive number"),
            ("lr_scheduler_kwargs", "fast", "fast is not a JSON object; write it in braces"),
        ],
    )
    def test_values_that_no_training_can_use(
        self, train: Train, prog: str, name: str, value: str, message: str, tiny_backbone_dir: Path, rows_file: Path,
        tmp_path: Path, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        argv = [*arguments(tiny_backbone_dir, rows_file, tmp_path / "out"), f"--{name}", value]
        line = self.error(train, argv, capsys)
        assert f"--{name} " in line
        assert message in line

    def test_a_folder_of_something_else_as_data(
        self, train: Train, prog: str, tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "settings.json").write_text('{"what": "speed"}')
        line = self.error(train, arguments(tiny_backbone_dir, tmp_path, tmp_path / "out"), capsys)
        assert f"{tmp_path}: holds something else than the rows of `medusa-apar train data`" in line

    def test_rows_longer_than_the_context(
        self, train: Train, prog: str, tiny_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path,
        tmp_path: Path, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        argv = arguments(save_backbone(tiny_tokenizer, context=100), rows_file, tmp_path)
        assert "--max_length 128: the model's context has 100 tokens" in self.error(train, argv, capsys)

    @pytest.mark.parametrize("missing", ["chat_template", "eos_token"])
    def test_a_tokenizer_that_lacks_something(
        self, train: Train, prog: str, missing: str, tiny_tokenizer: PreTrainedTokenizerFast, save_backbone: Save,
        rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        folder = save_backbone(tiny_tokenizer)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        setattr(tokenizer, missing, None)
        (folder / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder)
        line = self.error(train, arguments(folder, rows_file, tmp_path), capsys)
        assert f"has no {missing.replace('_token', ' token').replace('eos', 'EOS').replace('chat_', 'chat ')}" in line

    def test_data_of_one_kind(
        self, train: Train, prog: str, tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = write_rows(tmp_path / "lists.jsonl", [{"prompt": "a", "response": LISTED}] * 3)
        argv = [*arguments(tiny_backbone_dir, data, tmp_path / "out"), "--structured_share", "0.5"]
        line = self.error(train, argv, capsys)
        assert "structured_share=0.5 leaves nothing of 3 structured and 0 unstructured responses" in line


@pytest.mark.parametrize(("precision", "frozen"), [([], torch.float32), (["--bf16", "True"], torch.bfloat16)])
def test_frozen_weights_are_as_precise_as_the_products_and_trained_ones_whole(
    precision: list[str], frozen: torch.dtype, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trained: list[heads.HeadsTrainer] = []
    monkeypatch.setattr(heads.HeadsTrainer, "finish", lambda self: trained.append(self))
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--eval_data", str(rows_file), *precision))
    assert trained[0].backbone.dtype is frozen
    assert trained[0].heads.dtype is torch.float32


def test_heads_with_low_rank_projections_train(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--projection_rank", "4"))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert MedusaHeads.from_pretrained(tmp_path).config.projection_rank == 4


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--projection_rank", "4", "--kind", "sequential"], "--projection_rank 4 is for --kind medusa; leave it out"),
        (["--projection_rank", "4", "--shared_projection", "True"], "--projection_rank 4 is of own projections"),
        (["--projection_rank", "0"], "--projection_rank 0 is too small; give a whole number from 1"),
        (["--projection_rank", "32"], "--projection_rank 32 saves nothing beside a hidden size of 32"),
        (
            ["--draft_vocab_size", "8", "--shared_projection", "True"],
            "--draft_vocab_size 8 is of own projections; leave",
        ),
        (["--intermediate_size", "8"], "--intermediate_size 8 is for --kind sequential or eagle3; leave it out"),
        (["--num_heads", "0"], "--num_heads 0 drafts nothing; give a whole number from 1"),
    ],
)
def test_shapes_of_heads_that_do_not_fit(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: list[str], error: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value", "least"), [("draft_vocab_size", "1", 2), ("intermediate_size", "0", 1)])
def test_sequential_heads_that_are_too_small(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    option: str, value: str, least: int,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--kind", "sequential", f"--{option}", value))
    assert f"--{option} {value} is too small; give a whole number from {least}" in capsys.readouterr().err


def test_heads_on_a_backbone_without_control_tokens(
    plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Save, rows_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        heads.main(arguments(save_backbone(plain_tokenizer), rows_file, tmp_path))
    assert "has no control tokens" in capsys.readouterr().err


def test_no_commit_is_recorded_where_git_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["backbone", "lora", "heads"])
def test_a_trained_model_is_pushed_to_a_hub_as_it_lies_in_its_folder(
    kind: str, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, hub: Hub
) -> None:
    train = heads.main if kind == "heads" else backbone.main
    more = {"backbone": [], "lora": ["--lora_rank", "2"], "heads": ["--labels", "self", "--max_new_tokens", "8"]}[kind]
    train(arguments(tiny_backbone_dir, rows_file, tmp_path / "mine", *more, *PUSHING))
    pushed = hub.pushed["me/mine"]
    assert {"config.json", "model.safetensors", provenance.FILE_NAME, "README.md"} <= pushed
    assert not any("own-" in name for name in pushed), "what the backbone answered is the trainer's own affair"
    assert not any(name.startswith("adapter_") for name in pushed), "the merged model loads without peft"
    if kind == "lora":
        assert "adapter/adapter_model.safetensors" in pushed


def test_secrets_of_the_command_line_are_not_recorded() -> None:
    given = ["train", "--hub_token", "hf_secret", "--max_steps", "2", "--hub-token=hf_secret", "--some_key", "k"]
    recorded = provenance.without_secrets(given)
    assert not any("secret" in argument for argument in recorded)
    assert recorded == ["train", "--hub_token", "<hidden>", "--max_steps", "2", "--hub-token=<hidden>",
                        "--some_key", "<hidden>"]  # fmt: skip


def test_no_commit_is_recorded_of_a_checkout_that_something_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment in a project's folder, ignored by it."""
    installed = tmp_path / "environment" / "provenance.py"
    installed.parent.mkdir()
    installed.touch()
    (tmp_path / ".gitignore").write_text("environment\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", ".gitignore"], [*identity, "commit", "-qm", "theirs"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.commit() is None


def test_a_folder_of_another_training_is_refused(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoints would go on with other data, or be handed out as trained on these."""
    folder = tmp_path / "out"
    heads.main(arguments(tiny_backbone_dir, rows_file, folder))
    weights = (folder / "model.safetensors").read_bytes()
    other = shutil.copy(rows_file, tmp_path / "other.jsonl")
    other_data = arguments(tiny_backbone_dir, Path(other), folder)
    other_shape = arguments(tiny_backbone_dir, rows_file, folder, "--num_heads", "2")
    other_rate = arguments(tiny_backbone_dir, rows_file, folder, "--weight_decay", "0.5")
    for argv, difference in (
        (other_data, "data="),
        (other_shape, "num_heads=5, not 2"),
        (other_rate, "weight_decay=0.0, not 0.5"),
    ):
        with pytest.raises(SystemExit):
            heads.main(argv)
        assert f"holds a training with {difference}" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_file_that_has_changed_is_another_training(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copy(rows_file, tmp_path / "rows.jsonl"))
    argv = arguments(tiny_backbone_dir, data, tmp_path / "out")
    heads.main(argv)
    data.write_text(data.read_text() * 2)
    with pytest.raises(SystemExit):
        heads.main(argv)
    assert "holds a training with contents=[" in capsys.readouterr().err


def test_fewer_draft_tokens_than_are_reported(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    small = ["--kind", "sequential", "--draft_vocab_size", "4", "--eval_data", str(rows_file)]
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *small))
    assert [len(row) for row in SequentialHeads.from_pretrained(tmp_path).config.accuracy] == [3] * 5


def test_low_rank_projections_learn_with_muon(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--projection_rank", "4", "--muon", "True"))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_the_best_checkpoint_of_responses_without_structure(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = write_rows(tmp_path / "plain.jsonl", [{"prompt": "Colours?", "response": "Red and blue."}])
    evaluating = ["--eval_data", str(plain), "--eval_strategy", "steps", "--eval_steps", "2"]
    best = ["--load_best_model_at_end", "True"]
    backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "out", *evaluating, *best))
    assert "no response forks; the best checkpoint is that of unstructured_loss" in caplog.text
    record = json.loads((tmp_path / "out" / provenance.FILE_NAME).read_text())
    assert record["best"]["checkpoint"] is not None


def test_prompts_that_fill_a_row_are_left_out_and_counted(
    tiny_backbone_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, object]] = [
        {"prompt": "Colours? " * length, "response": "Red and blue."} for length in (1, 2, 60, 80)
    ]
    data = write_rows(tmp_path / "rows.jsonl", asked)
    heads.main(arguments(tiny_backbone_dir, data, tmp_path / "out", "--labels", "self", "--max_new_tokens", "8"))
    assert "left out: 2 x a prompt of 128 tokens or more (first: rows.jsonl:3)" in caplog.text


@pytest.mark.integration
@pytest.mark.parametrize("full", ["save_model", "_save_optimizer_and_scheduler"])
@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), RuntimeError("failed writing file")])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_same_command_goes_on(
    full: str, error: Exception, tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save = getattr(trainer.TreeTrainer, full)

    def fails(self: trainer.TreeTrainer, *given: object, **named: object) -> object:
        if self.state.global_step == 4:
            raise error
        return save(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.TreeTrainer, full, fails)
        with pytest.raises(SystemExit):
            heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path))
    line = " ".join(capsys.readouterr().err.split())
    assert f"step 4 could not be saved ({error}); mend it, and the same command goes on" in line
    assert backbone.last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path))
    assert (tmp_path / "model.safetensors").exists()


def test_accuracy_of_heads_is_told_during_training_too(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    evaluating = ["--eval_data", str(rows_file), "--eval_strategy", "steps", "--eval_steps", "3", "--num_heads", "2"]
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *evaluating))
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    told = {entry["step"]: entry for entry in history if "eval_head1_top1" in entry}
    assert sorted(told) == [3, 6]
    recorded = MedusaHeads.from_pretrained(tmp_path).config.accuracy
    for head, row in enumerate(recorded, start=1):
        for top, share in enumerate(row, start=1):
            assert told[6][f"eval_head{head}_top{top}"] == pytest.approx(share, abs=1e-4)


def test_checkpoints_say_how_they_were_made(trained_heads: Path) -> None:
    for folder in (trained_heads, trained_heads / f"checkpoint-{STEPS}"):
        assert json.loads((folder / provenance.FILE_NAME).read_text())["steps"] == STEPS


def test_training_in_bfloat16(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    backbone.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--bf16", "True"))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_a_loss_of_heads_that_is_not_finite_stops_the_run(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path, "--learning_rate", "1e30"))
    assert re.search(r"the loss of step [2-6] is (nan|inf), on the batch of rows", capsys.readouterr().err)
