"""Text in reading order while threads run."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from medusa_apar import MedusaAparModel

from ..conftest import forking_backbone, random_heads
from ..engine.test_lossless import batch
from ..test_drop_in import letters


class Recorder(BaseStreamer):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.puts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.puts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("max_threads", [1, 8])
def test_a_streamer_gets_the_prompt_and_then_the_answer_in_reading_order(max_threads: int) -> None:
    backbone = forking_backbone(seed=0)
    prompts, ids, _ = batch(lengths=(5,))
    recorder = Recorder()
    sequences = MedusaAparModel(backbone, random_heads(backbone)).generate(
        ids, max_new_tokens=50, max_threads=max_threads, streamer=recorder
    )
    assert isinstance(sequences, torch.Tensor)
    assert recorder.puts[0] == prompts[0]
    assert [token for put in recorder.puts[1:] for token in put] == sequences[0, 5:].tolist()
    assert recorder.ended == 1


def test_the_streamer_is_ended_on_interruption() -> None:
    class Impatient(Recorder):
        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            if len(self.puts) == 4:
                raise KeyboardInterrupt

    backbone = forking_backbone(seed=0)
    _, ids, _ = batch(lengths=(5,))
    impatient = Impatient()
    with pytest.raises(KeyboardInterrupt):
        MedusaAparModel(backbone).generate(ids, max_new_tokens=50, streamer=impatient)
    assert impatient.ended == 1


def test_a_streamer_takes_one_row() -> None:
    _, ids, _ = batch()
    with pytest.raises(ValueError, match="streamer takes one row, but the batch has 3"):
        MedusaAparModel(forking_backbone()).generate(ids, streamer=Recorder())


@pytest.mark.parametrize(
    "arguments", [{"medusa": True}, {"max_threads": 0}, {"top_secret": 1}, {"assistant_model": object()}]
)
def test_the_streamer_is_ended_where_nothing_can_be_decoded(arguments: dict[str, object]) -> None:
    _, ids, _ = batch(lengths=(5,))
    recorder = Recorder()
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MedusaAparModel(forking_backbone()).generate(ids, streamer=recorder, **arguments)
    assert recorder.ended == 1


def test_a_streamer_of_the_hook_gets_the_answer_in_reading_order_and_is_ended() -> None:
    backbone: Any = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    prompts, ids, _ = batch(lengths=(5,))
    recorder = Recorder()
    sequences = backbone.generate(
        ids, custom_generate=model.decoding_method, streamer=recorder, max_new_tokens=50, do_sample=False
    )
    assert recorder.puts[0] == prompts[0]
    assert [token for put in recorder.puts[1:] for token in put] == sequences[0, 5:].tolist()
    assert recorder.ended == 1


def test_the_reader_of_a_streamer_of_the_hook_comes_to_the_end() -> None:
    backbone: Any = forking_backbone(seed=0)
    model = MedusaAparModel(backbone)
    tokenizer = letters()
    _, ids, _ = batch(lengths=(5,))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60.0)
    options = {"inputs": ids, "streamer": streamer, "max_new_tokens": 30, "do_sample": False}
    writer = Thread(target=backbone.generate, kwargs={**options, "custom_generate": model.decoding_method})
    writer.start()
    text = "".join(streamer)
    writer.join()
    assert text == tokenizer.decode(model.generate(ids, max_new_tokens=30, do_sample=False)[0, 5:])  # type: ignore[index]


@pytest.mark.parametrize("arguments", [{"medusa": True}, {"max_threads": 0}, {"num_return_sequences": 2}])
def test_a_streamer_of_the_hook_is_ended_after_an_error(arguments: dict[str, Any]) -> None:
    backbone: Any = forking_backbone()
    _, ids, _ = batch(lengths=(5,))
    recorder = Recorder()
    model = MedusaAparModel(backbone)
    with pytest.raises(ValueError, match=r"\w"):
        backbone.generate(
            ids, custom_generate=model.decoding_method, streamer=recorder, do_sample=True, max_new_tokens=9, **arguments
        )
    assert recorder.ended == 1
