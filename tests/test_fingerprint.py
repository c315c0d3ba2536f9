"""Short names for weights and files."""

from __future__ import annotations

from pathlib import Path

from medusa_apar import fingerprint


def test_a_folder_is_named_by_the_contents_of_the_files_that_count(tmp_path: Path) -> None:
    weights = tmp_path / "heads" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    before = fingerprint.of_files(tmp_path, "**/*.safetensors")
    (tmp_path / "README.md").write_text("notes")
    assert fingerprint.of_files(tmp_path, "**/*.safetensors") == before
    weights.write_bytes(b"two")
    assert fingerprint.of_files(tmp_path, "**/*.safetensors") != before


def test_a_file_is_named_by_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (fingerprint.of_files(tmp_path / name) for name in "abc")
    assert a == b != c
