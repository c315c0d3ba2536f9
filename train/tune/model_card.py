"""The model card of a tuned model: what it is, what was measured, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medusa_apar.modes import Mode

from .plan import duration

CATEGORIES = ("structured", "plain")
"""Of held-out questions: whether the untuned model's own answer has a structure."""
_OVERALL = "overall"


def write_model_card(folder: Path, measured: Path, base: str, seconds: Mapping[str, float]) -> None:
    """Write `README.md`.

    Args:
        folder: of the tuned model.
        measured: folder with the results of the last stage.
        base: the model that was tuned.
        seconds: what each stage took.
    """
    measurement = _read(measured / "speed-tuned" / "summary.json")
    settings, speed = measurement["settings"], measurement["tables"]["Speed"]
    quality, untuned = (
        _read(measured / f"quality-{model}" / "summary.json")["tables"]["Without a judge"]
        for model in ("tuned", "untuned")
    )
    backbone = _read(measured / "backbone.json")
    heads = _read(folder / "heads" / "config.json")
    seconds = {stage: taken for stage, taken in seconds.items() if stage != "measurement"}
    together = duration(sum(seconds.values()))
    questions = max(row["turns"][0] for row in _overall(speed))
    text = f"""---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags:
- medusa-apar
- speculative-decoding
---

# {folder.resolve().name}

{base}, tuned to write its answers in parallel paragraph threads, with draft heads: several tokens per forward pass.
It was tuned on its own questions and answers.

```python
from transformers import AutoTokenizer
from medusa_apar import MedusaAparModel

model = MedusaAparModel.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

Made by `medusa-apar tune` in {together} before the measurement ({_list(seconds)}), on {settings["device"]}.

## Figures

{questions} held-out questions, greedy, up to {settings["max_new_tokens"]} tokens. {settings["device"]},
{settings["dtype"]}, {settings["cpu_threads"]} CPU threads.

{_speed_table(speed)}

x generate: tokens/s against transformers' own `generate`, median over questions; forks: mean per answer.

{_quality_table([*quality, *({**row, "mode": "untuned model"} for row in untuned)])}

nats/token: minus the log-likelihood of the answers under the untuned model; broken: an empty item, an introduction
without what it introduces, or a wrong number.

Answers that fork, by what the untuned model's own answer is: {_forking(speed)}. Forks along the untuned model's
held-out answers, against where these have their structure: {_forks(backbone)}.
Heads, best drafts alone on held-out answers: {1 + sum(heads["acceptance"]):.2f} tokens per step; top-1 accuracy
{", ".join(f"{row[0]:.2f}" for row in heads["accuracy"])}.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _list(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {duration(taken)}" for stage, taken in seconds.items())


def _overall(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["category"] == _OVERALL]


def _speed_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| mode | tokens/s | x generate | tokens per step | forks | s per answer |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for row in _overall(rows):
        lines.append(
            f"| {row['mode']} | {_number(row['tokens/s'], '.1f')} "
            f"| {_number(row['x gen'] and row['x gen']['median'], '.2f')} | {_number(row['tokens/step'], '.2f')} "
            f"| {_number(row['forks'], '.1f')} | {_number(row['s/turn'], '.1f')} |"
        )
    return "\n".join(lines)


def _forking(rows: Iterable[dict[str, Any]]) -> str:
    shares = {row["category"]: row["forked"] for row in rows if row["mode"] == Mode.APAR}
    parts = [f"{name} {_number(shares[name], '.0%')}" for name in CATEGORIES if name in shares]
    return ", ".join(parts)


def _quality_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| answers of | tokens | nats/token | loops | broken |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in _overall(rows):
        lines.append(
            f"| {row['mode']} | {_number(row['tokens'], '.0f')} | {_number(row['nats/token'], '.2f')} "
            f"| {_number(row['loops'], '.0%')} | {_number(row['broken'], '.0%')} |"
        )
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _forks(backbone: Mapping[str, float]) -> str:
    names = ("first_fork_precision", "first_fork_recall", "later_fork_precision", "later_fork_recall")
    found = [f"{name.replace('_', ' ')} {backbone[name]:.2f}" for name in names if name in backbone]
    return ", ".join(found) or "no held-out answer has one"
