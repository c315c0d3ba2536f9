"""`medusa-apar heads inspect` and `medusa-apar heads export`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.heads.cli import main


def rows(printed: str) -> dict[str, str]:
    """The two-column table of `inspect` as a dictionary."""
    return dict(re.findall(r"│ ([a-z_]+?) +│ (.+?) +│", printed))


def test_inspect_prints_sizes_calibration_and_accuracy(heads, tmp_path, capsys):
    heads.config.calibration_temperature = [1.25, 1.5, 2.0]
    heads.config.accuracy = [[0.5625, 0.6875], [0.25, 0.375], [0.125, 0.1875]]
    heads.to(torch.bfloat16).save_pretrained(tmp_path)
    capsys.readouterr()
    main(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    assert rows(printed) == {
        "format": "medusa-apar",
        "kind": "Medusa",
        "num_heads": "3",
        "hidden_size": "16",
        "vocab_size": "31",
        "num_layers": "1",
        "shared_projection": "False",
        "parameters": "2,304",
        "size": "0.00 MB in bfloat16",
    }
    for line in ("1 .*1.250 .*0.562 .*0.688", "2 .*1.500 .*0.250 .*0.375", "3 .*2.000 .*0.125 .*0.188"):
        assert re.search(line, printed)


def test_inspect_reads_medusa_llms_format_and_says_that_accuracy_is_unknown(heads, tmp_path, capsys):
    save_medusa_llm(heads, tmp_path, "some/backbone")
    main(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    assert rows(printed)["format"] == "medusa-llm"
    assert rows(printed)["num_heads"] == "3"
    assert "accuracy not recorded" in printed


def test_export_writes_medusa_llms_format(heads, own_checkpoint, tmp_path):
    output = tmp_path / "exported"
    main(
        ["export", str(own_checkpoint), "--format", "medusa-llm", "--output_dir", str(output), "--backbone", "org/base"]
    )
    assert json.loads((output / "config.json").read_text()) == {
        "base_model_name_or_path": "org/base",
        "medusa_num_heads": 3,
        "medusa_num_layers": 1,
    }
    exported = load_heads(output).state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in heads.state_dict().items())


@pytest.mark.parametrize("named", [True, False])
def test_export_takes_shared_projections_from_the_backbone_named_or_around(
    backbone, hidden_states, tmp_path, named, random_heads
):
    model, output = tmp_path / "model", tmp_path / "exported"
    heads = random_heads(num_heads=2, shared_projection=True)
    backbone.save_pretrained(model)
    heads.save_pretrained(model / "heads")
    option = ["--backbone", str(model)] if named else []
    main(["export", str(model / "heads"), "--format", "medusa-llm", "--output_dir", str(output), *option])
    assert Path(json.loads((output / "config.json").read_text())["base_model_name_or_path"]) == model
    expected = heads(hidden_states, backbone.lm_head)
    torch.testing.assert_close(load_heads(output)(hidden_states, torch.nn.Identity()), expected)


def test_export_needs_to_know_the_backbone(own_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="give it with --backbone DIR"):
        main(["export", str(own_checkpoint), "--format", "medusa-llm", "--output_dir", str(tmp_path / "exported")])
    assert not (tmp_path / "exported").exists()


def test_a_missing_checkpoint_is_one_line_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        main(["inspect", str(tmp_path / "absent")])
    assert "absent" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [[], ["inspect"], ["export", "x", "--output_dir", "y"], ["export", "x", "--format", "gguf", "--output_dir", "y"]],
)
def test_wrong_arguments_end_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: medusa-apar heads" in capsys.readouterr().err


def test_vllms_format_needs_no_backbone(own_checkpoint, tmp_path):
    main(["export", str(own_checkpoint), "--format", "vllm", "--output_dir", str(tmp_path / "exported")])
    assert load_heads(tmp_path / "exported").config.num_heads == load_heads(own_checkpoint).config.num_heads


def test_an_export_keeps_how_the_heads_were_made(own_checkpoint, tmp_path):
    (own_checkpoint / "training.json").write_text("{}")
    main(["export", str(own_checkpoint), "--format", "vllm", "--output_dir", str(tmp_path / "exported")])
    assert (tmp_path / "exported" / "training.json").read_text() == "{}"
