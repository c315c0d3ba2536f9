"""Draws `docs/one-step.png`: the mask of one real step of the default model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from transformers import AutoTokenizer

from medusa_apar import DEFAULT_MODEL, MedusaAparModel
from medusa_apar.drafting.draft_tree import ROOT, StepNodes
from medusa_apar.engine.state import LiveThread
from medusa_apar.engine.verifier import StepOutput, Verifier

PROMPT = "How can I sleep better? Give me a list."
THREADS = 4
NODES = 22
COLOURS = ("#4477aa", "#228833", "#ccbb44", "#aa3377", "#ee6677")


def record_steps() -> list[dict[str, Any]]:
    """Decode the prompt and keep what every step looked like."""
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    model = MedusaAparModel.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
    steps: list[dict[str, Any]] = []
    original = Verifier.__call__

    def recorded(self: Verifier, threads: list[LiveThread], nodes: StepNodes, *rest: Any) -> StepOutput:
        pool = threads[0].pool
        owners: dict[int, int] = {}
        for live in threads:
            for slot in np.flatnonzero(pool.visible[live.row]):
                owners.setdefault(int(slot), live.index)
        steps.append(
            {
                "threads": [live.index for live in threads],
                "tokens": [live.thread.token_ids[:-1] for live in threads],
                "visible": pool.visible[[live.row for live in threads]].copy(),
                "owners": owners,
                "nodes": nodes,
                "labels": [repr(tokenizer.decode([token]))[1:-1] for token in nodes.token_ids],
            }
        )
        return original(self, threads, nodes, *rest)

    messages = [{"role": "user", "content": PROMPT}]
    inputs: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    Verifier.__call__ = recorded  # type: ignore[assignment, method-assign]
    try:
        model.generate(inputs["input_ids"], max_new_tokens=200, nodes_per_step=NODES, do_sample=False)
    finally:
        Verifier.__call__ = original  # type: ignore[method-assign]
    return steps


def draw(step: dict[str, Any], path: Path) -> None:
    """Draw a step's mask; columns are sorted by the thread that wrote them, then by slot."""
    nodes: StepNodes = step["nodes"]
    order = sorted(range(len(nodes)), key=lambda node: (nodes.thread[node], node))
    columns = sorted(step["owners"], key=lambda slot: (step["owners"][slot], slot))
    image = np.ones((len(order), len(columns) + len(order), 3))
    for line, node in enumerate(order):
        colour = np.array(to_rgb(COLOURS[nodes.thread[node] % len(COLOURS)]))
        for column, slot in enumerate(columns):
            if step["visible"][nodes.thread[node], slot]:
                image[line, column] = 0.45 + 0.55 * colour
        above = node
        while above != ROOT:
            image[line, len(columns) + order.index(above)] = colour
            above = nodes.parent[above]
    figure, axes = plt.subplots(figsize=(13, 0.27 * len(order) + 1.6), dpi=110)
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.axvline(len(columns) - 0.5, color="black", linewidth=1.5)
    for line in range(1, len(order)):
        if nodes.thread[order[line]] != nodes.thread[order[line - 1]]:
            axes.axhline(line - 0.5, color="grey", linewidth=0.6)
    axes.set_yticks(range(len(order)), [_label(step, node) for node in order], fontsize=8, family="monospace")
    for tick, node in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(COLOURS[nodes.thread[node] % len(COLOURS)])
    axes.set_xticks(
        [len(columns) / 2, len(columns) + len(order) / 2],
        [f"{len(columns)} slots of earlier steps (each light cell: visible)", f"this step's {len(order)} nodes"],
    )
    axes.tick_params(length=0)
    axes.set_title(f"One forward pass, one mask: {len(step['threads'])} threads, {len(order)} nodes", fontsize=11)
    figure.tight_layout()
    figure.savefig(path)


def _label(step: dict[str, Any], node: int) -> str:
    nodes: StepNodes = step["nodes"]
    depth, above = 0, nodes.parent[node]
    while above != ROOT:
        depth, above = depth + 1, nodes.parent[above]
    kind = "pending" if depth == 0 else "eager" if nodes.is_eager_child[node] else "draft"
    thread = step["threads"][nodes.thread[node]]
    return f"{step['labels'][node]:>14} {kind:<7} thread {thread}"


def main(path: Path = Path(__file__).parent / "one-step.png") -> None:
    """Draw the first step in which enough threads run and one of them forks."""
    steps = record_steps()
    busy = [step for step in steps if len(step["threads"]) >= THREADS]
    forking = [step for step in busy if any(step["nodes"].is_eager_child)]
    draw((forking or busy or steps)[0], path)


if __name__ == "__main__":
    main()
