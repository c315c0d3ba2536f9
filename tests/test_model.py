"""`MedusaAparModel`: what a user of transformers expects of it, and its errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig, GPT2Config, PreTrainedModel, PreTrainedTokenizerFast

from medusa_apar import MedusaAparModel, MedusaAparOutput, MedusaHeads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.tree.control_tokens import ControlTokens

from .conftest import CHILD, CONFIGS, EOS, FORK, forking_backbone, random_heads
from .engine.test_lossless import batch


@pytest.fixture(scope="module")
def model() -> MedusaAparModel:
    backbone = forking_backbone(seed=0)
    return MedusaAparModel(backbone, random_heads(backbone))


def test_output_has_generates_shape_and_padding(model: MedusaAparModel) -> None:
    _, ids, mask = batch(seed=5)
    sequences = model.generate(ids, attention_mask=mask, max_new_tokens=30)
    assert isinstance(sequences, torch.Tensor)
    assert sequences.dtype == torch.int64
    assert torch.equal(sequences[:, : ids.shape[1]], ids)
    answers = sequences[:, ids.shape[1] :]
    assert answers.shape[1] <= 30
    for answer in answers.tolist():
        if EOS in answer:
            assert set(answer[answer.index(EOS) + 1 :]) <= {0}, "padding follows the EOS"


def test_plain_decoding_attends_as_many_pairs_as_others_are_held_against(model: MedusaAparModel) -> None:
    _, ids, mask = batch()
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=20, medusa=False, apar=False, return_dict_in_generate=True
    )
    assert isinstance(output, MedusaAparOutput)
    assert output.stats is not None
    assert output.stats.attended_pairs == output.stats.ar_pairs > 0


def test_no_control_tokens_in_sequences(model: MedusaAparModel) -> None:
    _, ids, mask = batch()
    sequences = model.generate(ids, attention_mask=mask, max_new_tokens=60)
    assert isinstance(sequences, torch.Tensor)
    assert not (sequences == FORK).any()
    assert not (sequences == CHILD).any()


def test_every_token_knows_its_step(model: MedusaAparModel) -> None:
    _, ids, mask = batch()
    for medusa in (False, True):
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=60, medusa=medusa, return_dict_in_generate=True
        )
        assert isinstance(output, MedusaAparOutput)
        assert output.trees is not None
        assert output.stats is not None
        threads = [thread for tree in output.trees for thread in tree.threads]
        assert len(threads) > len(ids), "there are forks"
        for thread in threads:
            assert len(thread.steps) == len(thread.own_token_ids)
            assert thread.steps == sorted(thread.steps)
            chosen = thread.steps if thread.parent is None else thread.steps[1:]  # [Child] is nobody's choice
            if not medusa:
                assert len(set(chosen)) == len(chosen), "a thread writes one token in a step"
        assert max(thread.steps[-1] for thread in threads) <= output.stats.steps
        for tree in output.trees:
            assert tree.threads[0].steps[0] == 0, "the first token comes with the prompt"
            for child in tree.threads[1:]:
                assert child.parent is not None
                parent = tree.threads[child.parent]
                assert child.steps[0] >= parent.steps[child.own_start - 1 - parent.own_start]


@pytest.mark.parametrize("trained", [None, 1, 3])
def test_threads_fork_as_deep_as_the_backbone_was_trained_to(model: MedusaAparModel, trained: int | None) -> None:
    _, ids, mask = batch()
    if trained is not None:
        model.config.thread_depth = trained
    try:
        output = model.generate(ids, attention_mask=mask, max_new_tokens=60, return_dict_in_generate=True)
    finally:
        if trained is not None:
            del model.config.thread_depth
    assert isinstance(output, MedusaAparOutput)
    assert output.trees is not None
    assert max(thread.depth for tree in output.trees for thread in tree.threads) == (2 if trained is None else trained)


def test_trees_say_where_every_thread_comes_from(model: MedusaAparModel) -> None:
    prompts, ids, mask = batch()
    output = model.generate(ids, attention_mask=mask, max_new_tokens=60, max_depth=3, return_dict_in_generate=True)
    assert isinstance(output, MedusaAparOutput)
    assert output.trees is not None
    assert output.sequences is not None
    for prompt, tree, sequence in zip(prompts, output.trees, output.sequences.tolist(), strict=True):
        assert (tree.fork_token_id, tree.child_token_id, tree.max_depth) == (FORK, CHILD, 3)
        root = tree.threads[0]
        assert (root.parent, root.depth, root.own_start) == (None, 1, len(prompt))
        for thread in tree.threads:
            assert thread.prompt_length == len(prompt)
            assert thread.token_ids[: len(prompt)] == prompt
            assert thread.finish_reason in ("eos", "stop", "length", "context")
        for thread in tree.threads[1:]:
            assert thread.parent is not None
            parent = tree.threads[thread.parent]
            assert thread.depth == parent.depth + 1
            assert thread.token_ids[thread.own_start - 1 : thread.own_start + 1] == [FORK, CHILD]
            assert thread.token_ids[: thread.own_start] == parent.token_ids[: thread.own_start]
        joined = [t for thread, start, end in tree.nodes for t in tree.threads[thread].token_ids[start:end]]
        assert sequence[ids.shape[1] : ids.shape[1] + len(joined)] == joined


def test_stats_add_up(model: MedusaAparModel) -> None:
    _, ids, mask = batch()
    output = model.generate(ids, attention_mask=mask, max_new_tokens=60, return_dict_in_generate=True)
    assert isinstance(output, MedusaAparOutput)
    stats, trees = output.stats, output.trees
    assert stats is not None
    assert trees is not None
    assert stats.answer_tokens == sum(len(tree.answer_token_ids()) for tree in trees)
    assert stats.tokens_per_step == stats.answer_tokens / stats.steps
    assert stats.forks == sum(len(tree.threads) - 1 for tree in trees)
    assert stats.ar_slots == sum(tree.threads[0].prompt_length + len(tree.answer_token_ids()) - 1 for tree in trees)
    assert 0 < stats.mean_slots <= stats.peak_slots
    assert 0 < stats.head_seconds + stats.backbone_seconds < stats.seconds
    assert stats.attended_pairs > stats.forward_nodes >= stats.steps


def test_a_prefill_is_no_step(model: MedusaAparModel) -> None:
    _, ids, _ = batch(lengths=(5,))
    output = model.generate(ids, max_new_tokens=1, return_dict_in_generate=True)
    assert isinstance(output, MedusaAparOutput)
    assert output.stats is not None
    assert (output.stats.steps, output.stats.answer_tokens) == (0, 1)


@pytest.mark.parametrize("chunk", [7, 12, 100])
def test_prompts_are_prefilled_together_in_chunks(
    model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    prompts, ids, mask = batch(lengths=(23, 4, 2, 11))
    each = [model.generate(torch.tensor([prompt]), max_new_tokens=20) for prompt in prompts]
    monkeypatch.setattr("medusa_apar.engine.prefill.CHUNK", chunk)
    sizes = []
    prefill = ModelRunner.prefill

    def spy(self: ModelRunner, placement: Placement, token_ids: Ints, kept: Ints) -> tuple[Tensor, Tensor]:
        sizes.append(len(placement))
        return prefill(self, placement, token_ids, kept)

    monkeypatch.setattr(ModelRunner, "prefill", spy)
    together = model.generate(ids, attention_mask=mask, max_new_tokens=20)
    assert isinstance(together, Tensor)
    assert sizes == [*[chunk] * (40 // chunk), *([40 % chunk] if 40 % chunk else [])]
    for row, prompt, alone in zip(together, prompts, each, strict=True):
        assert isinstance(alone, Tensor)
        answer = alone[0, len(prompt) :]
        assert torch.equal(row[23 : 23 + len(answer)], answer)


def test_padding_is_inferred_as_generate_does(model: MedusaAparModel) -> None:
    _, ids, mask = batch()
    assert torch.equal(
        model.generate(ids, attention_mask=mask, max_new_tokens=20),  # type: ignore[arg-type]
        model.generate(input_ids=ids, max_new_tokens=20, pad_token_id=0),  # type: ignore[arg-type]
    )


def test_max_length_counts_the_prompt(model: MedusaAparModel) -> None:
    _, ids, _ = batch(lengths=(5,))
    assert torch.equal(
        model.generate(ids, max_length=17),  # type: ignore[arg-type]
        model.generate(ids, max_new_tokens=12),  # type: ignore[arg-type]
    )


def test_without_heads_and_without_control_tokens_it_is_plain(tmp_path: Path) -> None:
    backbone = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    plain = MedusaAparModel(backbone)
    assert plain.control is None
    _, ids, _ = batch(lengths=(5,))
    theirs = backbone.generate(ids, max_new_tokens=12, do_sample=False)
    assert torch.equal(plain.generate(ids, max_new_tokens=12), theirs)  # type: ignore[arg-type]


def test_bfloat16_decodes_and_leaves_the_backbone_as_it_was() -> None:
    backbone = forking_backbone(seed=0, dtype=torch.bfloat16)
    _, ids, mask = batch()
    before = backbone(ids).logits
    MedusaAparModel(backbone, random_heads(backbone)).generate(ids, attention_mask=mask, max_new_tokens=20)
    assert torch.equal(backbone(ids).logits, before)
    assert "forward" not in vars(backbone.lm_head)


def test_save_and_load_give_the_same_answers(model: MedusaAparModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = MedusaAparModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.heads is not None
    assert loaded.control == model.control
    _, ids, mask = batch()
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 40, "nodes_per_step": 12}
    assert torch.equal(model.generate(ids, **options), loaded.generate(ids, **options))  # type: ignore[arg-type]
    plain: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config.fork_token_id == FORK


def test_heads_may_lie_elsewhere(tmp_path: Path) -> None:
    backbone = forking_backbone(seed=0)
    MedusaAparModel(backbone).save_pretrained(tmp_path / "model")
    random_heads(backbone).save_pretrained(tmp_path / "other")
    assert MedusaAparModel.from_pretrained(tmp_path / "model").heads is None
    assert MedusaAparModel.from_pretrained(tmp_path / "model", heads=tmp_path / "other").heads is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be greater than 0, but is 0"),
        ({"max_length": 3}, "`max_length` is set to 3.* setting `max_new_tokens`"),
        ({"max_threads": 0}, "max_threads=0"),
        ({"max_depth": 0}, "max_depth=0"),
        ({"nodes_per_step": 0}, "nodes_per_step=0"),
        ({"max_slots": 0}, "max_slots=0"),
        ({"max_slots": 9}, "max_slots=9 is too small: the longest path of row 0 may need .* slots; raise max_slots"),
        ({"acceptance": "maybe"}, "acceptance='maybe' is unknown; choose 'exact' or 'typical'"),
        ({"acceptance": "typical"}, "pass do_sample=True, or acceptance='exact'"),
        ({"nodes_per_step": 4, "medusa_choices": [[0]]}, "nodes_per_step=4 and medusa_choices exclude each other"),
        ({"medusa_choices": [[0, 1]]}, r"medusa_choices has \[0, 1\] without its parent \[0\]"),
        ({"medusa_choices": [[64]]}, r"medusa_choices has \[64\], but these heads draft tokens of ranks 0 to 63"),
        ({"posterior_alpha": -1.0}, "posterior_alpha=-1.0 is below 0, which would accept any draft token; raise it"),
        ({"output_scores": True}, "output_scores=True is not supported"),
        ({"cache_implementation": "static"}, "cache_implementation='static' is not supported"),
        ({"guidance_scale": 2.0}, "guidance_scale is not supported"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds is not supported"),
        ({"position_ids": torch.tensor([[0, 1, 2, 4, 5]])}, "position_ids other than 0, 1, 2"),
        ({"stop_strings": "end"}, "must pass the model's tokenizer to the `tokenizer` argument"),
        ({"num_beams": 4}, "num_beams=4 is not supported; pass num_beams=1"),
        ({"top_secret": 1}, r"not used by the model: \['top_secret'\]"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(
    model: MedusaAparModel, options: dict[str, Any], message: str
) -> None:
    _, ids, _ = batch(lengths=(5,))
    with pytest.raises(ValueError, match=message):
        model.generate(ids, **options)


def test_an_empty_prompt_is_refused(model: MedusaAparModel) -> None:
    with pytest.raises(ValueError, match=r"row 0 .* is empty"):
        model.generate(torch.empty(1, 0, dtype=torch.int64), max_new_tokens=4)
    with pytest.raises(ValueError, match=r"row 1 .* is empty"):
        model.generate(torch.ones(2, 3, dtype=torch.int64) * 9, attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(ValueError, match="has to be defined when no `input_ids` are provided"):
        model.generate()


def test_inputs_of_another_shape_are_refused(model: MedusaAparModel) -> None:
    with pytest.raises(ValueError, match=r"input_ids has shape \(3,\) and torch.int64; it is \[batch, length\]"):
        model.generate(torch.tensor([9, 9, 9]), max_new_tokens=2)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), input_ids \(2, 3\)"):
        model.generate(torch.full((2, 3), 9), attention_mask=torch.ones(1, 3), max_new_tokens=2)


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ({"assistant_model": object()}, "generate with the backbone itself"),
        ({"negative_prompt_ids": torch.ones(1, 2)}, "generate with the backbone itself"),
        ({"custom_generate": "user/repository"}, "generate with the backbone"),
        ({"synced_gpus": True}, "leave it out"),
        ({"compile_config": CompileConfig()}, r"call compile\(\) of this model once"),
    ],
)
def test_arguments_that_another_way_of_decoding_takes_are_refused(
    model: MedusaAparModel, argument: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(argument))} is not supported: .*{remedy}"):
        model.generate(torch.tensor([[4, 5]]), max_new_tokens=4, **argument)


def test_a_prompt_longer_than_the_context_is_refused(model: MedusaAparModel) -> None:
    with pytest.raises(ValueError, match="has 256 tokens, but the backbone's context holds 256; shorten it"):
        model.generate(torch.full((1, 256), 9), max_new_tokens=4)


def test_a_token_outside_the_vocabulary_is_refused(model: MedusaAparModel) -> None:
    with pytest.raises(ValueError, match="holds the token 64, but the backbone's vocabulary has 64"):
        model.generate(torch.tensor([[9, 64]]), max_new_tokens=4)


def test_heads_of_another_size_are_refused() -> None:
    backbone = forking_backbone()
    wide = forking_backbone()
    wide.resize_token_embeddings(80)
    with pytest.raises(ValueError, match="vocab_size=80, but the backbone has vocab_size=64"):
        MedusaAparModel(backbone, MedusaHeads.for_backbone(wide))


def test_asking_for_what_the_model_lacks_names_the_remedy() -> None:
    backbone = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    ids = torch.tensor([[9, 10]])
    with pytest.raises(ValueError, match="medusa=True, but the model has no heads; pass heads="):
        MedusaAparModel(backbone).generate(ids, medusa=True)
    with pytest.raises(ValueError, match="apar=True, but no control tokens are known"):
        MedusaAparModel(backbone).generate(ids, apar=True)


def test_an_unsupported_backbone_is_refused_by_name() -> None:
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=64))
    with pytest.raises(ValueError, match="model_type='gpt2' is not supported; supported are llama"):
        MedusaAparModel(gpt2)
    backbone = forking_backbone()
    backbone.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attn_implementation='flash_attention_2' .* sdpa, eager"):
        MedusaAparModel(backbone)


def test_broken_checkpoints_are_refused(model: MedusaAparModel, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        MedusaAparModel.from_pretrained(str(tmp_path / "nowhere"))
    model.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OSError, match="truncated or corrupt"):
        MedusaAparModel.from_pretrained(tmp_path / "model")


def test_a_tokenizer_without_control_tokens_leaves_apar_off(model: MedusaAparModel, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    plain.save_pretrained(tmp_path)
    loaded = MedusaAparModel.from_pretrained(tmp_path)
    assert loaded.control is None
    with pytest.raises(ValueError, match="apar=True, but no control tokens are known"):
        loaded.generate(torch.tensor([[9]]), apar=True)


def test_python_threads_that_generate_at_once_wait_for_one_another(model: MedusaAparModel) -> None:
    prompts = [torch.randint(10, 60, (1, 4)) for _ in range(6)]
    alone = [model.generate(prompt, max_new_tokens=40) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: model.generate(prompt, max_new_tokens=40), prompts))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)  # type: ignore[arg-type]
    assert model.backbone.config._attn_implementation == "sdpa"


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception | None = None) -> list[dict[str, Any]]:
    """A hub that has one model, and what it was asked for of its heads."""
    asked: list[dict[str, Any]] = []
    of_transformers = AutoModelForCausalLM.from_pretrained

    def load(source: str, **options: Any) -> Any:
        for name in ("token", "local_files_only"):
            options.pop(name, None)
        return of_transformers(folder, **options)

    def download(source: str, file: str, **options: Any) -> str:
        asked.append({"source": source, **options})
        if error is not None:
            raise error
        if not (folder / file).is_file():
            raise RemoteEntryNotFoundError(f"404 {file}", response=Mock())
        return str(folder / file)

    def snapshot(source: str, **options: Any) -> str:
        asked.append({"source": source, **options})
        return str(folder)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr("medusa_apar.adapter.find_adapter_config_file", lambda *_, **__: None)
    monkeypatch.setattr("medusa_apar.heads.checkpoints.formats.hf_hub_download", download)
    monkeypatch.setattr("medusa_apar.heads.checkpoints.formats.snapshot_download", snapshot)
    return asked


def test_heads_of_a_private_repository_are_asked_for_with_its_token(
    model: MedusaAparModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MedusaAparModel(model.backbone, random_heads(model.backbone)).save_pretrained(tmp_path)
    asked = hub(monkeypatch, tmp_path)
    loaded = MedusaAparModel.from_pretrained("somebody/model", token="secret")
    assert loaded.heads is not None
    assert [(each["source"], each["token"]) for each in asked] == [("somebody/model", "secret")] * 2
    assert asked[-1]["allow_patterns"].count("heads/config.json") == 1
    assert not any(fnmatch("heads/checkpoint-5/optimizer.pt", pattern) for pattern in asked[-1]["allow_patterns"])


def test_a_model_on_the_hub_may_have_no_heads(
    model: MedusaAparModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.backbone.save_pretrained(tmp_path)
    hub(monkeypatch, tmp_path)
    assert MedusaAparModel.from_pretrained("somebody/model").heads is None


def test_heads_beside_the_weights_are_found_on_the_hub(
    model: MedusaAparModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.backbone.save_pretrained(tmp_path)
    assert model.heads is not None
    save_medusa_llm(model.heads, tmp_path / "exported", "somebody/model")
    (tmp_path / "exported" / "medusa_lm_head.pt").rename(tmp_path / "medusa_lm_head.pt")
    asked = hub(monkeypatch, tmp_path)
    loaded = MedusaAparModel.from_pretrained("somebody/model", dtype=torch.float64)
    assert loaded.heads is not None
    assert sorted(asked[-1]["allow_patterns"]) == ["config.json", "medusa_lm_head.pt"]


@pytest.mark.parametrize(
    "error",
    [HfHubHTTPError("503 Service Unavailable", response=Mock()), LocalEntryNotFoundError("503 Service Unavailable")],
)
def test_a_hub_that_does_not_answer_is_no_model_without_heads(
    model: MedusaAparModel, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf_hub_download` raises the second where it looked in the cache after the hub's own error."""
    model.backbone.save_pretrained(tmp_path)
    hub(monkeypatch, tmp_path, error)
    with pytest.raises(OSError, match=r"does not say whether 'somebody/model' has heads .*503.*pass heads="):
        MedusaAparModel.from_pretrained("somebody/model")


def test_heads_that_the_cache_does_not_hold_are_said_to_be_left_out(
    model: MedusaAparModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model.backbone.save_pretrained(tmp_path)
    hub(monkeypatch, tmp_path, LocalEntryNotFoundError("not in the cache"))
    loaded = MedusaAparModel.from_pretrained("somebody/model", local_files_only=True, cache_dir=tmp_path)
    assert loaded.heads is None
    assert "somebody/model in the cache does not draft: it has none of heads/config.json, " in caplog.text


def test_a_model_may_lie_in_a_subfolder_with_its_heads(model: MedusaAparModel, tmp_path: Path) -> None:
    MedusaAparModel(model.backbone, random_heads(model.backbone)).save_pretrained(tmp_path / "second")
    assert MedusaAparModel.from_pretrained(tmp_path, subfolder="second").heads is not None


class UploadApi:
    """A hub that takes uploads."""

    def __init__(self) -> None:
        self.commits: list[tuple[str, set[str]]] = []

    def create_repo(self, name: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(repo_id=name)

    def create_commit(self, repo_id: str, operations: list[Any], **_: object) -> None:
        self.commits.append((repo_id, {operation.path_in_repo for operation in operations}))


def test_backbone_and_heads_are_pushed_to_one_repository(
    model: MedusaAparModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = UploadApi()
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: api)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: ModelCard("---\n---\n"))
    whole = MedusaAparModel(model.backbone, random_heads(model.backbone))
    whole.push_to_hub("me/whole")
    whole.save_pretrained(tmp_path / "whole", push_to_hub=True, repo_id="me/other", private=True)
    whole.save_pretrained(tmp_path / "whole", is_main_process=False, push_to_hub=True, repo_id="me/third")
    assert [name for name, _ in api.commits] == ["me/whole", "me/other"]
    for _, files in api.commits:
        assert {"config.json", "model.safetensors", "heads/config.json", "heads/model.safetensors"} <= files
    with pytest.raises(ValueError, match="repo_id, private: only for an upload; pass push_to_hub=True"):
        whole.save_pretrained(tmp_path / "whole", repo_id="me/other", private=True)


@pytest.mark.parametrize(
    ("fork", "child", "message"),
    [
        (64, 3, "fork_token_id=64 is none of the backbone's 64 tokens; enlarge it by backbone.resize_token_embeddings"),
        (2, -1, "child_token_id=-1 is none of the backbone's 64 tokens"),
        (2, 2, "fork_token_id and child_token_id are both 2; give two tokens"),
    ],
)
def test_control_tokens_that_the_backbone_does_not_have_are_refused(fork: int, child: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedusaAparModel(forking_backbone(), fork_token_id=fork, child_token_id=child)


def test_an_adapter_that_is_not_merged_is_refused() -> None:
    adapted = get_peft_model(forking_backbone(), LoraConfig(target_modules=["q_proj"]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"backbone is a PeftModel, no PreTrainedModel; pass its merge_and_unload\(\)"):
        MedusaAparModel(adapted)  # type: ignore[arg-type]


def test_a_checkpoint_like_thudms_loads_whole(model: MedusaAparModel, tmp_path: Path) -> None:
    """`[SplitMask]` and `[SplitSop]` in the tokenizer alone, and the heads in `medusa/`."""
    backbone = forking_backbone(seed=0)
    for name in ("fork_token_id", "child_token_id"):
        if hasattr(backbone.config, name):
            delattr(backbone.config, name)
    backbone.save_pretrained(tmp_path)
    random_heads(backbone).save_pretrained(tmp_path / "medusa")
    names = {FORK: "[SplitMask]", CHILD: "[SplitSop]"}
    words = {names.get(token, f"w{token}"): token for token in range(backbone.config.vocab_size)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words))).save_pretrained(tmp_path)
    loaded = MedusaAparModel.from_pretrained(tmp_path, dtype=backbone.dtype)
    assert loaded.heads is not None
    assert loaded.control == ControlTokens(FORK, CHILD)
