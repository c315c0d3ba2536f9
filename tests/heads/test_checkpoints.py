"""Reading both checkpoint formats, writing medusa-llm's, and what is said of broken ones."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from medusa_apar.heads import MedusaHeads
from medusa_apar.heads.checkpoints import formats
from medusa_apar.heads.checkpoints.formats import CheckpointFormat, detect_format
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm


@pytest.fixture
def medusa_llm_checkpoint(heads: MedusaHeads, tmp_path: Path) -> Path:
    save_medusa_llm(heads, tmp_path / "medusa-llm", "some/backbone")
    return tmp_path / "medusa-llm"


@pytest.fixture(params=[CheckpointFormat.MEDUSA_APAR, CheckpointFormat.MEDUSA_LLM])
def weights(request, own_checkpoint: Path, medusa_llm_checkpoint: Path) -> Path:
    """The weight file of a sound checkpoint, in either format."""
    if request.param is CheckpointFormat.MEDUSA_APAR:
        return own_checkpoint / "model.safetensors"
    return medusa_llm_checkpoint / "medusa_lm_head.pt"


def same_weights(heads: MedusaHeads, others: MedusaHeads) -> bool:
    ours, theirs = heads.state_dict(), others.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_pt(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "medusa_lm_head.pt"
    state = torch.load(path, weights_only=True) | changes
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)


# Reading


def test_the_format_is_told_by_config_json(own_checkpoint, medusa_llm_checkpoint):
    assert detect_format(own_checkpoint) is CheckpointFormat.MEDUSA_APAR
    assert detect_format(str(medusa_llm_checkpoint)) is CheckpointFormat.MEDUSA_LLM


@pytest.mark.parametrize("shape", [{}, {"num_layers": 2}, {"num_layers": 0}, {"shared_projection": True}])
def test_own_checkpoints_load_as_from_pretrained_loads_them(random_heads, tmp_path, shape):
    random_heads(num_heads=2, **shape).save_pretrained(tmp_path)
    loaded, expected = load_heads(tmp_path), MedusaHeads.from_pretrained(tmp_path)
    assert same_weights(loaded, expected)
    assert not loaded.training
    for field in ("num_heads", "num_layers", "hidden_size", "vocab_size", "shared_projection"):
        assert getattr(loaded.config, field) == getattr(expected.config, field)


def test_own_checkpoints_keep_calibration_and_accuracy(heads, tmp_path):
    heads.config.calibration_temperature, heads.config.accuracy = [1.5, 1.0, 0.5], [[0.5, 0.7]] * 3
    heads.save_pretrained(tmp_path)
    config = load_heads(tmp_path).config
    assert (config.calibration_temperature, config.accuracy) == ([1.5, 1.0, 0.5], [[0.5, 0.7]] * 3)


def test_own_checkpoints_may_come_in_shards(heads, tmp_path):
    heads.save_pretrained(tmp_path, max_shard_size="3KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert same_weights(load_heads(tmp_path), heads)


@pytest.mark.parametrize("sizes", [("3KB", "50GB"), ("50GB", "3KB")])
def test_the_heads_that_were_saved_last_are_loaded_whatever_the_shards(heads, random_heads, tmp_path, sizes):
    for saved, size in zip((random_heads(), heads), sizes, strict=True):
        saved.save_pretrained(tmp_path, max_shard_size=size)
    assert same_weights(load_heads(tmp_path), heads)


def test_an_export_replaces_heads_of_the_same_formats_other_file(heads, random_heads, medusa_llm_checkpoint):
    state = torch.load(medusa_llm_checkpoint / "medusa_lm_head.pt", weights_only=True)
    save_file(state, medusa_llm_checkpoint / "medusa_lm_head.safetensors")
    other = random_heads()
    save_medusa_llm(other, medusa_llm_checkpoint, "someone/backbone")
    assert same_weights(load_heads(medusa_llm_checkpoint), other)


def test_medusa_llm_checkpoints_take_their_sizes_from_the_tensors(heads, medusa_llm_checkpoint):
    assert "hidden_size" not in json.loads((medusa_llm_checkpoint / "config.json").read_text())
    loaded = load_heads(medusa_llm_checkpoint)
    assert same_weights(loaded, heads)
    assert (loaded.config.hidden_size, loaded.config.vocab_size) == (16, 31)
    assert not loaded.config.shared_projection


def test_medusa_llm_checkpoints_may_be_safetensors(heads, medusa_llm_checkpoint):
    pt = medusa_llm_checkpoint / "medusa_lm_head.pt"
    save_file(torch.load(pt, weights_only=True), medusa_llm_checkpoint / "medusa_lm_head.safetensors")
    pt.unlink()
    assert same_weights(load_heads(medusa_llm_checkpoint), heads)


def test_heads_beyond_the_number_in_medusa_llms_config_are_kept(medusa_llm_checkpoint):
    edit_config(medusa_llm_checkpoint, medusa_num_heads=2)
    assert load_heads(medusa_llm_checkpoint).config.num_heads == 3


@pytest.mark.parametrize("num_layers", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_medusa_llm_round_trip_keeps_every_bit(random_heads, tmp_path, num_layers, dtype):
    heads = random_heads(num_heads=2, num_layers=num_layers).to(dtype)
    save_medusa_llm(heads, tmp_path, "some/backbone")
    assert same_weights(load_heads(tmp_path), heads)
    assert load_heads(tmp_path).dtype is dtype


def test_projections_saved_as_one_shared_tensor_are_loaded_apart(backbone, random_heads, tmp_path):
    save_medusa_llm(random_heads(num_heads=3, shared_projection=True), tmp_path, "some/backbone", backbone)
    heads = load_heads(tmp_path)
    assert len({parameter.untyped_storage().data_ptr() for parameter in heads.parameters()}) == 9
    assert all(parameter.requires_grad for parameter in heads.parameters())


def test_dtype_is_the_argument_then_the_backbones_then_the_files(weights, backbone):
    backbone = backbone.to(torch.bfloat16)
    assert load_heads(weights.parent).dtype is torch.float32
    assert load_heads(weights.parent, backbone).dtype is torch.bfloat16
    assert load_heads(weights.parent, backbone, dtype=torch.float64).dtype is torch.float64


def test_device_is_the_argument_then_the_backbones(weights, backbone):
    assert load_heads(weights.parent, backbone.to("meta"), dtype=torch.float32).device.type == "meta"
    assert load_heads(weights.parent, backbone.to("meta"), device="cpu").device.type == "cpu"


@pytest.mark.parametrize(("name", "size"), [("hidden_size", 32), ("vocab_size", 40)])
def test_heads_of_another_backbone_are_refused(weights, backbone, name, size):
    other = LlamaForCausalLM(LlamaConfig(**(backbone.config.to_dict() | {name: size})))
    with pytest.raises(ValueError, match=rf"{name}=\d+.*{name}={size}.*medusa-apar train heads"):
        load_heads(weights.parent, other)


# Broken checkpoints: the message names the file, the problem and the remedy


def test_missing_weights(weights):
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(weights))} is missing; .*download"):
        load_heads(weights.parent)


def test_missing_config(own_checkpoint):
    (own_checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; pass a folder"):
        load_heads(own_checkpoint)


def test_tensors_of_medusa_llm_tell_what_a_missing_config_does_not(medusa_llm_checkpoint, heads):
    (medusa_llm_checkpoint / "config.json").unlink()
    assert same_weights(load_heads(medusa_llm_checkpoint), heads)


def test_a_whole_models_folder_points_to_its_heads(backbone, heads, tmp_path):
    backbone.save_pretrained(tmp_path)
    heads.save_pretrained(tmp_path / "heads")
    with pytest.raises(ValueError, match=rf"no config of draft heads.*{re.escape(str(tmp_path / 'heads'))}"):
        load_heads(tmp_path)


def test_a_path_that_is_neither_a_folder_nor_a_hub_id(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))}/absent not found.*check the path"):
        load_heads(tmp_path / "absent")


def test_a_hub_id_out_of_reach(monkeypatch):
    def unreachable(repo_id: str, **_: object) -> str:
        raise OSError(f"no network for {repo_id}")

    monkeypatch.setattr(formats, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"some/heads not found.*no network.*check the path, the id"):
        load_heads("some/heads")


def test_a_hub_id_is_fetched_without_files_of_no_use(monkeypatch, weights, heads):
    patterns: list[str] = []

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        assert repo_id == "some/heads"
        patterns.extend(allow_patterns)
        return str(weights.parent)

    monkeypatch.setattr(formats, "snapshot_download", snapshot_download)
    assert same_weights(load_heads("some/heads"), heads)
    assert "config.json" in patterns
    assert not {"*", "*.bin", "*.py"} & set(patterns)


def test_a_file_instead_of_a_folder(weights):
    with pytest.raises(NotADirectoryError, match="is a file; pass the folder"):
        load_heads(weights)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_truncated_weights(weights, share):
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=rf"{re.escape(str(weights))} is .*corrupt.*; .*download"):
        load_heads(weights.parent)


@pytest.mark.parametrize("content", [b"\x93 noise" * 40, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
def test_weights_that_are_something_else(weights, content):
    weights.write_bytes(content)
    with pytest.raises(OSError, match=rf"{re.escape(str(weights))} is .*corrupt.*; .*download"):
        load_heads(weights.parent)


class Payload:
    """Creates a file when it is unpickled as code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_in_a_pt_file_is_refused_and_not_run(medusa_llm_checkpoint, tmp_path, save, protocol):
    path, target = medusa_llm_checkpoint / "medusa_lm_head.pt", tmp_path / "executed"
    content = {"0.1.weight": torch.zeros(31, 16), "0.0.linear.weight": Payload(target)}
    if save == "torch":
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises((ValueError, OSError), match=rf"{re.escape(str(path))} .*pickled code.* refused"):
        load_heads(medusa_llm_checkpoint)
    assert not target.exists()
    torch.load(path, weights_only=False) if save == "torch" else pickle.loads(path.read_bytes())
    assert target.exists(), "the payload is not one"


def test_a_pickled_module_is_refused(heads, medusa_llm_checkpoint):
    torch.save(heads, medusa_llm_checkpoint / "medusa_lm_head.pt")
    with pytest.raises(ValueError, match=r"pickled code.*nothing of it was run.*safetensors"):
        load_heads(medusa_llm_checkpoint)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"0.1.weight": [1.0]}, {1: torch.zeros(2)}])
def test_a_pt_file_without_a_state_dict(medusa_llm_checkpoint, content):
    torch.save(content, medusa_llm_checkpoint / "medusa_lm_head.pt")
    with pytest.raises(ValueError, match=r"medusa_lm_head\.pt holds no state dict"):
        load_heads(medusa_llm_checkpoint)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"1.0.linear.bias": None}, "`1.0.linear.bias` is missing"),
        ({"0.1.weight": None}, "no matrix `0.1.weight`"),
        ({"2.1.weight": torch.zeros(30, 16)}, r"`2.1.weight` is \[30, 16\] where \[31, 16\] is due"),
        ({"0.0.linear.weight": torch.zeros(16, 8)}, r"`0.0.linear.weight` is \[16, 8\] where \[16, 16\] is due"),
        ({"0.7.weight": torch.zeros(31, 16)}, "`0.7.weight` is unknown"),
        ({"4.1.weight": torch.zeros(31, 16)}, "`3.0.linear.weight` is missing"),
        ({"0.1.weight": torch.zeros(31, 16, dtype=torch.int8)}, "`0.1.weight` is torch.int8"),
        ({"0.1.weight": torch.zeros(31)}, "no matrix `0.1.weight`"),
    ],
)
def test_inconsistent_medusa_llm_tensors(medusa_llm_checkpoint, changes, problem):
    edit_pt(medusa_llm_checkpoint, **changes)
    with pytest.raises(ValueError, match=rf"medusa_lm_head\.pt .*{problem}.*; .*download"):
        load_heads(medusa_llm_checkpoint)


def test_fewer_heads_than_medusa_llms_config_says(medusa_llm_checkpoint):
    edit_config(medusa_llm_checkpoint, medusa_num_heads=4)
    with pytest.raises(ValueError, match=r"does not hold heads of num_heads=4.*`3\.0\.linear\.weight` is missing"):
        load_heads(medusa_llm_checkpoint)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_heads": 4}, r"num_heads=4.*`heads\.3\.blocks\.0\.linear\.weight` is missing"),
        ({"num_heads": 2}, r"num_heads=2.*`heads\.2\.blocks\.0\.linear\.(weight|bias)` is unknown"),
        ({"vocab_size": 30}, r"is \[31, 16\] where \[30, 16\] is due"),
        ({"shared_projection": True}, r"`heads\.0\.projection\.weight` is unknown"),
    ],
)
def test_own_weights_that_contradict_their_config(own_checkpoint, changes, problem):
    calibration = [1.0] * changes.get("num_heads", 3)
    edit_config(own_checkpoint, **changes, calibration_temperature=calibration)
    with pytest.raises(ValueError, match=rf"model\.safetensors does not hold .*{problem}"):
        load_heads(own_checkpoint)


def test_a_missing_tensor_is_never_replaced_by_random_numbers(own_checkpoint):
    path = own_checkpoint / "model.safetensors"
    state = load_file(path)
    state.pop("heads.1.projection.weight")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"`heads\.1\.projection\.weight` is missing"):
        load_heads(own_checkpoint)


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_broken_config(weights, content):
    (weights.parent / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is not valid JSON|holds no JSON object).*; .*download"):
        load_heads(weights.parent)


@pytest.mark.parametrize("value", [0, -1, "five", 2.5, None, True])
def test_a_config_with_a_bad_number_of_heads(weights, value):
    name = "num_heads" if weights.name == "model.safetensors" else "medusa_num_heads"
    edit_config(weights.parent, **{name: value})
    with pytest.raises(ValueError, match=rf"config\.json has {name}={value!r}, which must be a whole number from 1"):
        load_heads(weights.parent)


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 1.0, 0.0]])
def test_a_config_with_bad_calibration(own_checkpoint, temperatures):
    edit_config(own_checkpoint, calibration_temperature=temperatures)
    with pytest.raises(ValueError, match=r"config\.json has calibration_temperature=\[.*for 3 heads; give one number"):
        load_heads(own_checkpoint)


# Writing medusa-llm's format


def test_shared_projections_are_written_out_in_every_head(backbone, random_heads, hidden_states, tmp_path):
    heads = random_heads(num_heads=2, shared_projection=True)
    save_medusa_llm(heads, tmp_path, "some/backbone", backbone)
    loaded = load_heads(tmp_path)
    assert not loaded.config.shared_projection
    torch.testing.assert_close(loaded(hidden_states, torch.nn.Identity()), heads(hidden_states, backbone.lm_head))


def test_shared_projections_need_the_backbone(random_heads, tmp_path):
    heads = random_heads(num_heads=2, shared_projection=True)
    with pytest.raises(ValueError, match=r"share the backbone's lm_head.*--backbone"):
        save_medusa_llm(heads, tmp_path / "new", "some/backbone")
    assert not (tmp_path / "new").exists()


def test_a_projection_with_a_bias_cannot_be_written(backbone, random_heads, tmp_path):
    heads = random_heads(num_heads=2, shared_projection=True)
    backbone.lm_head = torch.nn.Linear(16, 31, bias=True)
    with pytest.raises(ValueError, match="lm_head has a bias"):
        save_medusa_llm(heads, tmp_path, "some/backbone", backbone)


def test_heads_of_another_backbone_are_not_written(heads, backbone, tmp_path):
    other = LlamaForCausalLM(LlamaConfig(**(backbone.config.to_dict() | {"vocab_size": 40})))
    with pytest.raises(ValueError, match=r"vocab_size=31.*vocab_size=40"):
        save_medusa_llm(heads, tmp_path, "some/backbone", other)


def test_blocks_that_medusa_llm_would_tie_are_not_written(random_heads, tmp_path):
    heads = random_heads(num_heads=2, num_layers=2)
    with pytest.raises(ValueError, match=r"one block several times.*num_layers=1.*--format vllm"):
        save_medusa_llm(heads, tmp_path, "some/backbone")


def test_another_checkpoints_config_is_not_overwritten(heads, own_checkpoint):
    before = {path.name: path.read_bytes() for path in own_checkpoint.iterdir()}
    with pytest.raises(ValueError, match=r"config\.json belongs to another checkpoint.*empty folder"):
        save_medusa_llm(heads, own_checkpoint, "some/backbone")
    assert {path.name: path.read_bytes() for path in own_checkpoint.iterdir()} == before


def test_a_file_in_the_place_of_the_folder(heads, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
        save_medusa_llm(heads, tmp_path / "file", "some/backbone")


def test_nothing_but_the_two_files_is_left(medusa_llm_checkpoint):
    assert sorted(path.name for path in medusa_llm_checkpoint.iterdir()) == ["config.json", "medusa_lm_head.pt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_full_disk_loses_nothing(heads, medusa_llm_checkpoint, monkeypatch, failure):
    before = {path.name: path.read_bytes() for path in medusa_llm_checkpoint.iterdir()}

    def full_disk(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"No space left|medusa-llm: unexpected pos 64; free some space"):
        save_medusa_llm(heads, medusa_llm_checkpoint, "other/backbone")
    assert {path.name: path.read_bytes() for path in medusa_llm_checkpoint.iterdir()} == before


def test_an_interruption_loses_nothing(heads, medusa_llm_checkpoint, monkeypatch):
    before = {path.name: path.read_bytes() for path in medusa_llm_checkpoint.iterdir()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_medusa_llm(heads, medusa_llm_checkpoint, "other/backbone")
    assert {path.name: path.read_bytes() for path in medusa_llm_checkpoint.iterdir()} == before
