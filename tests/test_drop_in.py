"""With `apar=False`, `generate` is the backbone's own: the same arguments, tokens, shapes, warnings and errors."""

from __future__ import annotations

import re
import string
import warnings
from itertools import combinations
from random import Random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
    pipeline,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from medusa_apar import MedusaAparModel, MedusaAparOutput
from medusa_apar.sampling.processors import on_device

from .conftest import EOS, VOCABULARY, forking_backbone, random_heads
from .engine.test_lossless import batch


class Alternate(LogitsProcessor):
    """Every other token is even: a user's processor that looks at the context."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        odd = torch.arange(scores.shape[1]) % 2 == 1
        return scores.masked_fill(odd & (input_ids[:, -1:] % 2 == 1), -torch.inf)


class EndsOn(StoppingCriteria):
    """A user's criterion that looks at the last tokens."""

    def __init__(self, tokens: set[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([int(row[-1]) in self.tokens for row in input_ids])


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of single letters, one for each token of the tiny backbones."""
    alphabet = string.ascii_letters + string.digits + ".,"
    tokenizer = Tokenizer(models.BPE({letter: token for token, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[EOS], pad_token=alphabet[0])


ENDS = [EOS, 7, 12, 31, 49]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "max_length": {"max_new_tokens": None, "max_length": 25},
    "min_new_tokens": {"min_new_tokens": 14, "eos_token_id": ENDS},
    "min_length": {"min_length": 20, "eos_token_id": ENDS},
    "several ends": {"eos_token_id": ENDS},
    "no end": {"eos_token_id": None},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.4},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[n] for n in range(4, 30)] + [[31, 32]]},
    "sequence_bias": {"sequence_bias": {(33,): 3.0, (40, 41): 5.0}},
    "suppress_tokens": {"suppress_tokens": [*range(30, 50)]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [*range(4, 40)]},
    "forced_eos_token_id": {"forced_eos_token_id": EOS, "eos_token_id": [50]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.5)},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=4.0, seeding_scheme="lefthash")},
    "logits_processor": {"logits_processor": LogitsProcessorList([Alternate()])},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: [*range(row, VOCABULARY, 2)]},
    "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([EndsOn({*range(5, 60, 6)})])},
    "stop_strings": {"stop_strings": ["k", "Ab", "x", "9", "QR"], "tokenizer": letters()},
    "max_time": {"max_time": 600.0},
    "pad_token_id": {"pad_token_id": 5},
    "generation_config": {"generation_config": GenerationConfig(max_new_tokens=9, repetition_penalty=1.3)},
    "use_cache": {"use_cache": False},
}
LONG = {"max_new_tokens": 24}


@pytest.fixture(scope="module")
def backbone() -> PreTrainedModel:
    """A backbone without control tokens."""
    backbone = forking_backbone(seed=8)
    for name in ("fork_token_id", "child_token_id"):
        delattr(backbone.config, name)
    return backbone


@pytest.fixture(scope="module")
def model(backbone: PreTrainedModel) -> MedusaAparModel:
    return MedusaAparModel(backbone, random_heads(backbone))


def both(model: MedusaAparModel, ids: Tensor, mask: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The same call of our `generate` and of the backbone's."""
    arguments = {"do_sample": False, "attention_mask": mask, **arguments}
    ours = model.generate(ids, nodes_per_step=12, **arguments)
    theirs: Any = model.backbone.generate(ids, **arguments)  # type: ignore[operator]
    assert isinstance(ours, Tensor)
    return ours, theirs


def inputs(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    _, ids, mask = batch(seed=5, lengths=lengths)
    return ids, mask


@pytest.mark.parametrize("lengths", [(6,), (5, 9, 3)], ids=["one row", "left-padded rows"])
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_argument_does_what_it_does_in_transformers(
    model: MedusaAparModel, name: str, lengths: tuple[int, ...]
) -> None:
    given = ARGUMENTS[name]
    ours, theirs = both(model, *inputs(lengths), given if "generation_config" in given else {**LONG, **given})
    assert torch.equal(ours, theirs)


def pairs() -> list[tuple[str, str]]:
    """Random pairs of arguments that do not speak about the same thing.

    Without an EOS, transformers lets a row that met a stopping criterion run on until its neighbours have, too. Here no
    neighbour changes a row, so that is left out.
    """
    runs_on = {"stopping_criteria", "stop_strings"}
    every = [
        (a, b)
        for a, b in combinations(sorted(set(ARGUMENTS) - {"plain", "generation_config"}), 2)
        if not set(ARGUMENTS[a]) & set(ARGUMENTS[b]) and not ({"no end"} & {a, b} and runs_on & {a, b})
    ]
    return Random(0).sample(every, 60)


@pytest.mark.integration
@pytest.mark.parametrize(("first", "second"), pairs())
def test_arguments_go_together_as_in_transformers(model: MedusaAparModel, first: str, second: str) -> None:
    ours, theirs = both(model, *inputs((4, 7)), {**LONG, **ARGUMENTS[first], **ARGUMENTS[second]})
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("lengths", [(6,), (5, 9, 3)], ids=["one prompt", "several"])
@pytest.mark.parametrize("name", ["encoder_no_repeat_ngram_size", "repetition_penalty", "prefix_allowed_tokens_fn"])
def test_processors_that_know_rows_go_with_several_answers_to_a_prompt(
    model: MedusaAparModel, name: str, lengths: tuple[int, ...]
) -> None:
    """With one token to draw from, both samplings draw the same."""
    given = {**LONG, **ARGUMENTS[name], "do_sample": True, "top_k": 1, "num_return_sequences": 2}
    ours, theirs = both(model, *inputs(lengths), given)
    assert torch.equal(ours, theirs)


def test_a_users_processor_keeps_what_it_learns(model: MedusaAparModel) -> None:
    class Counting(Alternate):
        calls = 0

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.calls += 1
            return super().__call__(input_ids, scores)

    counting = Counting()
    ids, mask = inputs((5, 9))
    model.generate(ids, attention_mask=mask, logits_processor=LogitsProcessorList([counting]), **LONG)
    assert counting.calls > 0


def test_processors_are_asked_on_the_device_of_their_tensors() -> None:
    """Which the meta device plays; what they give comes back to where the scores were."""

    class Elsewhere(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            assert input_ids.is_meta
            assert scores.is_meta
            return torch.ones(2, 3)

    (processor,) = on_device(LogitsProcessorList([Elsewhere()]), torch.device("meta"))
    processed: Any = processor(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 3))
    assert processed.device == torch.device("cpu")
    assert on_device(LogitsProcessorList(), torch.device("meta")) == []


def test_stop_strings_of_the_call_come_before_those_of_configs(
    backbone: PreTrainedModel, model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = inputs((6,))
    stops, tokenizer = ARGUMENTS["stop_strings"]["stop_strings"], letters()
    monkeypatch.setattr(backbone.generation_config, "stop_strings", stops)
    stopped, unstopped = (
        both(model, ids, mask, {**LONG, "tokenizer": tokenizer, **given}) for given in ({}, {"stop_strings": None})
    )
    assert torch.equal(*stopped)
    assert torch.equal(*unstopped)
    assert unstopped[0].shape[1] > stopped[0].shape[1]


def test_stop_strings_of_a_generation_config_need_no_warning(
    model: MedusaAparModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(logging._get_library_root_logger(), "propagate", True)
    logging.warning_once.cache_clear()
    ids, mask = inputs((6,))
    config = GenerationConfig(stop_strings=["k"], max_new_tokens=24)
    model.generate(ids, config, attention_mask=mask, tokenizer=letters())
    assert "is deprecated" not in caplog.text
    assert config.stop_strings == ["k"]


def test_every_argument_of_the_table_changes_something(model: MedusaAparModel) -> None:
    """A table of arguments that do nothing would prove nothing."""
    idle = {"plain", "remove_invalid_values", "renormalize_logits", "max_time", "pad_token_id", "use_cache"}
    ids, mask = inputs((5, 9, 3))

    def ours_with(arguments: dict[str, Any]) -> Tensor:
        output = model.generate(ids, nodes_per_step=12, do_sample=False, attention_mask=mask, **{**LONG, **arguments})
        assert isinstance(output, Tensor)
        return output

    plainly = {True: ours_with({"eos_token_id": ENDS}), False: ours_with({})}
    for name in sorted(set(ARGUMENTS) - idle):
        plain, ours = plainly[name.startswith("min_")], ours_with(ARGUMENTS[name])
        assert ours.shape != plain.shape or not torch.equal(ours, plain), name


def test_the_output_is_what_transformers_returns(model: MedusaAparModel) -> None:
    ids, mask = inputs((5, 9))
    output = model.generate(input_ids=ids, attention_mask=mask, return_dict_in_generate=True, **LONG)
    theirs: Any = model.backbone.generate(ids, attention_mask=mask, do_sample=False, **LONG)  # type: ignore[operator]
    assert isinstance(output, MedusaAparOutput)
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert torch.equal(output.sequences, theirs)
    assert not output.sequences.is_inference()
    assert output.scores is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 4, "max_length": 30},
        {"max_new_tokens": 4, "temperature": 0.5},
        {"max_new_tokens": 4, "min_new_tokens": 9},
        {},
        {"max_new_tokens": 4, "pad_token_id": -1},
    ],
)
def test_it_warns_where_transformers_warns(
    model: MedusaAparModel, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(logging._get_library_root_logger(), "propagate", True)
    ids, _ = inputs((5, 9))
    heard = []
    for generate in (model.generate, model.backbone.generate):
        caplog.clear()
        logging.warning_once.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generate(ids, do_sample=False, **arguments)  # type: ignore[operator]
        heard.append(([str(w.message) for w in caught], [r.getMessage() for r in caplog.records]))
    assert heard[0] == heard[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_return_sequences": 2},
        {"min_new_tokens": 3, "eos_token_id": EOS, "max_length": 2},
        {"repetition_penalty": -1.0},
        {"stop_strings": "a"},
        {"do_sample": True, "temperature": 0.0},
    ],
)
def test_it_fails_where_transformers_fails(model: MedusaAparModel, arguments: dict[str, Any]) -> None:
    ids, _ = inputs((5,))
    with pytest.raises(ValueError, match=r"\w") as theirs:
        model.backbone.generate(ids, **arguments)  # type: ignore[operator]
    with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
        model.generate(ids, **arguments)


def test_it_is_transformers_own_hook(model: MedusaAparModel) -> None:
    ids, mask = inputs((5, 9))
    arguments: dict[str, Any] = {"attention_mask": mask, "do_sample": False, "repetition_penalty": 1.2, **LONG}
    generate: Any = model.backbone.generate
    hooked = generate(ids, custom_generate=model.decoding_method, nodes_per_step=9, max_threads=2, **arguments)
    assert torch.equal(hooked, generate(ids, **arguments))
    output = generate(ids, custom_generate=model.decoding_method, return_dict_in_generate=True, **arguments)
    assert output.stats.forward_nodes > output.stats.steps, "the heads should have drafted"


def test_the_hook_of_another_backbone_is_refused(model: MedusaAparModel) -> None:
    other: Any = forking_backbone(seed=3)
    with pytest.raises(ValueError, match="custom_generate belongs to another LlamaForCausalLM"):
        other.generate(torch.tensor([[9]]), custom_generate=model.decoding_method, max_new_tokens=2)


def test_it_serves_a_pipeline(model: MedusaAparModel) -> None:
    backbone = model.backbone
    pipe = pipeline("text-generation", model=backbone, tokenizer=letters())
    arguments: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    hooked = pipe("hello", custom_generate=model.decoding_method, **arguments)
    assert hooked == pipe("hello", **arguments)
    assert len(hooked[0]["generated_text"]) > len("hello")


def test_padding_on_the_right_is_left_out_too(model: MedusaAparModel) -> None:
    """A row is decoded after its last token, where transformers warns and decodes after the padding."""
    ids, mask = inputs((5, 9))
    right, right_mask = ids.clone(), mask.clone()
    right[0], right_mask[0] = ids[0].roll(-4), mask[0].roll(-4)
    left, padded = (
        model.generate(each, attention_mask=its, do_sample=False, **LONG)
        for each, its in ((ids, mask), (right, right_mask))
    )
    assert torch.equal(left[:, 9:], padded[:, 9:])  # type: ignore[call-overload]


def test_an_answer_that_ends_with_the_context_says_so_in_every_call(
    model: MedusaAparModel, caplog: pytest.LogCaptureFixture
) -> None:
    ids, _ = inputs((5,))
    context = model.config.max_position_embeddings
    for new, said in ((10, 0), (context - 5, 0), (context, 1), (context, 1)):
        caplog.clear()
        output = model.generate(ids, max_new_tokens=new, do_sample=False, eos_token_id=None)
        assert output.shape[1] == min(5 + new, context)  # type: ignore[union-attr]
        warned = [record for record in caplog.records if record.name == "medusa_apar.generation"]
        assert len(warned) == said
        assert all(f"reached the model's predefined maximum length ({context})" in w.getMessage() for w in warned)
