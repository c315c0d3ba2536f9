"""The comparison with medusa-llm; its own environment takes part in the slow test alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich import box
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.medusa_llm import bench, run
from benchmarks.medusa_llm.bench import TIE, gap, parting, summarize, table
from benchmarks.medusa_llm.export import export
from benchmarks.medusa_llm.run import Bench, SystemRecord, Worker
from medusa_apar import MedusaAparModel, MedusaHeads
from medusa_apar.eval.measurement.question_sets import Question
from medusa_apar.tree.control_tokens import ControlTokens

ENVIRONMENT = Path(__file__).parents[2] / ".venv-medusa-llm" / "bin" / "python"
QUESTIONS = [f'{{"question_id": {n}, "category": "math", "turns": ["{n * "Why? "}"]}}' for n in (1, 2)]


@pytest.fixture
def grouped(tokenizer: PreTrainedTokenizerFast, tiny_config: Callable[..., LlamaConfig]) -> MedusaAparModel:
    """A tiny model with grouped heads, tied embeddings and a backbone that likes to fork."""
    torch.manual_seed(0)
    config = tiny_config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    control = ControlTokens.of_tokenizer(tokenizer)
    control.record_in(config)
    backbone = LlamaForCausalLM(config)
    with torch.no_grad():
        backbone.lm_head.weight[control.fork_token_id] *= 4
    return MedusaAparModel(backbone, MedusaHeads.for_backbone(backbone, num_heads=3))


def logits(backbone: Any, input_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone(input_ids).logits[0]


def test_the_export_computes_the_models_logits_and_never_control_tokens(
    grouped: MedusaAparModel, tmp_path: Path
) -> None:
    folder, heads = export(grouped, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.float32
    assert plain.config.num_key_value_heads == 4
    assert plain.config.eos_token_id == grouped.config.eos_token_id
    assert json.loads((heads / "config.json").read_text())["base_model_name_or_path"] == str(folder.resolve())
    control = grouped.control
    assert control is not None
    input_ids = torch.randint(6, grouped.config.vocab_size, (1, 200), generator=torch.Generator().manual_seed(1))
    theirs, ours = logits(plain, input_ids), logits(grouped.backbone, input_ids)
    unreachable = [control.fork_token_id, control.child_token_id]
    reachable = [token for token in range(ours.shape[-1]) if token not in unreachable]
    assert (ours.argmax(-1) == control.fork_token_id).sum() > 5, "the backbone should want to fork"
    torch.testing.assert_close(theirs[:, reachable], ours[:, reachable], rtol=0, atol=1e-4)
    mean = ours[:, reachable].mean(-1)
    torch.testing.assert_close(theirs[:, unreachable], mean[:, None].expand(-1, 2), rtol=0, atol=1e-4)
    ours[:, unreachable] = -torch.inf
    assert torch.equal(theirs.argmax(-1), ours.argmax(-1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
        ("attention_bias", True),
        ("head_dim", 16),
        ("model_type", "qwen2"),
    ],
)
def test_refuses_what_medusa_llm_does_not_know(
    grouped: MedusaAparModel, tmp_path: Path, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped.config, name, value, raising=False)
    with pytest.raises(ValueError, match=r"backbone has .*, but medusa-llm 0\.1 decodes with"):
        export(grouped, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_refuses_a_model_without_heads(grouped: MedusaAparModel, tmp_path: Path) -> None:
    grouped = MedusaAparModel(grouped.backbone)
    with pytest.raises(ValueError, match="the model has no heads"):
        export(grouped, tmp_path)


class Generating:
    """A worker that answers with transformers' `generate` on the exported backbone."""

    spoil = 0

    def __init__(self, python: Path, heads: Path, eos_token_id: int) -> None:
        self.backbone = LlamaForCausalLM.from_pretrained(heads.parent / "backbone")
        self.versions = {"torch": "0", "python": str(python)}
        self.requests: list[tuple[int, ...]] = []

    def answer(self, input_ids: list[int], choices: tuple[int, ...], max_new_tokens: int) -> dict[str, Any]:
        self.requests.append((*choices, max_new_tokens))
        output = self.backbone.generate(torch.tensor([input_ids]), max_new_tokens=max_new_tokens, do_sample=False)
        token_ids = output[0, len(input_ids) :].tolist()
        if self.spoil:
            token_ids[self.spoil] = (token_ids[self.spoil] + 1) % self.backbone.config.vocab_size
        return {"token_ids": token_ids, "steps": 5, "seconds": 0.5}

    def __enter__(self) -> Generating:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def command(
    grouped: MedusaAparModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """Runs the comparison on two questions."""
    monkeypatch.setattr(bench, "load_model", lambda *_: (grouped, tokenizer))
    monkeypatch.setattr(bench, "Worker", Generating)
    asked = tmp_path / "question.jsonl"
    asked.write_text("".join(f"{line}\n" for line in QUESTIONS))
    given = [
        "--model",
        "llama",
        "--questions",
        str(asked),
        "--output_dir",
        str(tmp_path / "out"),
        "--max-new-tokens",
        "8",
    ]

    def run(*arguments: str) -> int:
        return bench.main([*given, "--worker-python", "python", "--choices", "1,3,2", "1,2", *arguments])

    return run


def test_finds_the_same_tokens_and_writes_tables(command: Callable[..., int], tmp_path: Path) -> None:
    assert command() == 0
    out = tmp_path / "out"
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    systems = ["generate", "ar", "medusa", "medusa-llm 1,3,2", "medusa-llm 1,2"]
    assert [row["system"] for row in answers] == [*systems, *systems[1:], systems[0]]
    summary = json.loads((out / "summary.json").read_text())
    assert [row["system"] for row in summary["rows"]] == systems
    assert {(row["same"], row["ties"], row["other"]) for row in summary["rows"]} == {(2, 0, 0)}
    assert summary["settings"]["medusa_llm_on"]["torch"] == "0"
    assert "| medusa-llm 1,3,2 |" in (out / "summary.md").read_text()
    assert command() == 0
    assert len((out / "answers.jsonl").read_text().splitlines()) == 10


def test_says_where_tokens_are_other(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generating, "spoil", 2)
    assert command() == 1
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["other"] for row in rows] == [0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--choices", "1,2,2,2,2"), "choices='1,2,2,2,2': give 1, then the draft tokens of one to 3 heads"),
        (("--choices", "2,2"), "choices='2,2': give 1, then the draft tokens"),
        (("--max-new-tokens", "250"), "leaves no room for a prompt"),
    ],
)
def test_says_what_is_wrong_with_an_argument(
    command: Callable[..., int], arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        command(*arguments)
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_worker_speaks_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "print(json.dumps({'heads': sys.argv[1], 'eos': sys.argv[2], 'threads': sys.argv[3]}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if request['max_new_tokens'] == 0: sys.exit(3)\n"
        "    print(json.dumps({'token_ids': request['input_ids'][::-1], 'choices': request['choices']}), flush=True)\n"
    )
    monkeypatch.setattr(run, "_WORKER", script)
    with Worker(Path(sys.executable), tmp_path / "heads", 1) as worker:
        expected = {"heads": str(tmp_path / "heads"), "eos": "1", "threads": str(torch.get_num_threads())}
        assert worker.versions == expected
        assert worker.answer([1, 2, 3], (1, 4), 8) == {"token_ids": [3, 2, 1], "choices": [1, 4]}
        with pytest.raises(ChildProcessError, match="ended with status 3"):
            worker.answer([1], (1, 4), 0)


@pytest.mark.parametrize("python", ["no/such/python", sys.executable])
def test_names_a_worker_that_does_not_start(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_WORKER", tmp_path / "missing.py")
    with pytest.raises(ValueError, match=r"worker_python=.* does not run medusa-llm .*`make bench-medusa-llm` builds"):
        Worker(Path(python), tmp_path, 1)


def record(question: int, system: str, tokens: list[int], seconds: float, steps: int = 2) -> SystemRecord:
    return SystemRecord(question_id=question, system=system, token_ids=tokens, steps=steps, seconds=seconds)


def test_summary_compares_question_by_question_and_counts_ties() -> None:
    records = [
        record(1, "generate", [1, 2, 3, 4], 4),
        record(1, "ar", [1, 2, 3, 4], 2),
        record(1, "slow", [1, 2, 3, 4], 4),
        record(1, "fast", [1, 2, 3, 4], 1),
        record(2, "generate", [1, 2], 4),
        record(2, "ar", [1, 2], 1),
        record(2, "slow", [1, 3], 4),
        record(2, "fast", [5, 6], 2, steps=4),
    ]
    by_key = {record.key: record for record in records}
    gaps = {(2, "slow"): TIE / 2, (2, "fast"): TIE}
    rows = {row.system: row for row in summarize(by_key, ["generate", "ar", "slow", "fast"], gaps)}
    assert [(row.same, row.ties, row.other) for row in rows.values()] == [(2, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    fast, ar = rows["fast"], rows["ar"]
    assert (fast.tokens_per_second, fast.tokens_per_step, fast.steps) == (2, 1, 3)
    assert fast.against_ar is not None
    assert ar.against_medusa_llm is not None
    assert (fast.against_ar.median, ar.against_medusa_llm.median) == (1.25, 1.25)
    assert rows["slow"].against_medusa_llm is not None
    assert rows["slow"].against_medusa_llm.median == 0.375


@pytest.mark.parametrize(
    ("reference", "answer", "place"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([1], [1, 2], 1), ([], [], None)],
)
def test_parting(reference: list[int], answer: list[int], place: int | None) -> None:
    assert parting(reference, answer) == place


def test_gap_is_that_of_the_two_largest_logits(grouped: MedusaAparModel) -> None:
    largest, second = logits(grouped.backbone, torch.tensor([[7, 8, 9]]))[-1].topk(2).values.tolist()
    assert gap(grouped, [7, 8, 9]) == pytest.approx(largest - second, abs=1e-5)


@pytest.mark.slow
def test_medusa_llm_itself_decodes_the_same_tokens(
    grouped: MedusaAparModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    if not ENVIRONMENT.exists():
        pytest.skip(f"no {ENVIRONMENT}; `make test-slow` builds it")
    folder, heads = export(grouped, tmp_path)
    model = MedusaAparModel(LlamaForCausalLM.from_pretrained(folder), grouped.heads)
    with Worker(ENVIRONMENT, heads, grouped.config.eos_token_id) as worker:
        bench = Bench(model, worker, tokenizer, [(1, 7, 6), (1, 3, 2, 2)], 48)
        store = run.SystemStore(tmp_path / "out", {})
        bench.run([Question(n, "math", (n * "Why?",)) for n in range(1, 5)], store)
    reference = {key[0]: record.token_ids for key, record in store.records.items() if key[1] == "generate"}
    assert all(record.token_ids == reference[key[0]] for key, record in store.records.items())


def test_the_terminal_table_fits_into_80_columns() -> None:
    records = [record(1, system, [1], 1) for system in ("generate", "ar", "medusa-llm 1,3,2,1,1")]
    rows = summarize({record.key: record for record in records}, [record.system for record in records], {})
    text = StringIO()
    Console(file=text, width=80).print(table(rows, box.SIMPLE_HEAD))
    assert "1/0/0" in text.getvalue()
    assert "…" not in text.getvalue()
