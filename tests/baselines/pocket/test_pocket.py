"""The pocket model: what is shipped keeps its promises, and the build that made it can be trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from basisbench.errors import BasisBenchError
from basisbench.models.hooks import edited
from basisbench_baselines.pocket import ASSETS, PROVIDES
from basisbench_baselines.pocket.build import corpus_fingerprint
from basisbench_baselines.pocket.card import render_card
from basisbench_baselines.pocket.corpus import stream as corpus
from basisbench_baselines.pocket.training.activations import (
    dictionary_sites,
    place_of,
    record_activations,
)
from basisbench_baselines.pocket.training.documents import (
    WINDOW_BATCHES,
    EncodedDocuments,
    batch_indices,
    encode_documents,
    load_or_encode,
)
from basisbench_baselines.pocket.training.evaluate import (
    REQUIRED_ACCURACY,
    document_loss,
    evaluation_pairs,
    task_accuracies,
)
from basisbench_baselines.pocket.training.plan import BuildPlan, ModelPlan
from basisbench_baselines.pocket.training.train import create_model, learning_rate, next_token_loss, train_model
from basisbench_baselines.training.checkpoint import load_state, replace_file, save_state
from basisbench_baselines.training.progress import Progress

QUIET = Progress(enabled=False)
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def documents(tokenizer: Any) -> EncodedDocuments:
    return encode_documents(tokenizer, corpus.documents(3, "train"), 640, QUIET)


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = PROVIDES[0].path
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((ASSETS / "card.json").read_text(encoding="utf-8"))


# --- what is shipped


@pytest.mark.slow
def test_shipped_accuracies_are_high_and_measured_again_the_same(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = shipped
    stored = json.loads((ASSETS / "model" / "accuracy.json").read_text(encoding="utf-8"))
    pairs = evaluation_pairs(tokenizer, BuildPlan().evaluation_pairs, seed=0)
    measured = task_accuracies(model, pairs)
    assert set(stored) == set(measured) == set(REQUIRED_ACCURACY)
    for task, accuracy in measured.items():
        assert pairs[task].pair_count >= 200, task
        assert accuracy >= REQUIRED_ACCURACY[task], task
        # One pair may turn with the rounding of another machine's matrix products.
        assert accuracy == pytest.approx(stored[task]["accuracy"], abs=1.5 / pairs[task].pair_count), task


def test_shipped_model_is_the_planned_llama_in_float32(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = shipped
    plan = BuildPlan().model
    config = model.config
    assert config.model_type == "llama"
    assert config.hidden_act == "silu"
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads) == (
        plan.layers,
        plan.width,
        plan.mlp_width,
        plan.heads,
    )
    assert config.max_position_embeddings >= 128
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer("Mary")["input_ids"][0] == tokenizer.bos_token_id


def test_shipped_files_come_from_the_code_as_it_stands(card: dict[str, Any]) -> None:
    assert card["corpus_fingerprint"] == corpus_fingerprint(0), "the corpus changed: run `basisbench pocket build`"
    assert card["fingerprint"] == BuildPlan().fingerprint(corpus_fingerprint(0))
    assert (ASSETS / "README.md").read_text(encoding="utf-8") == render_card(card)


def test_shipped_card_tells_how_the_files_were_made(card: dict[str, Any]) -> None:
    assert card["command"] == "basisbench pocket build"
    assert card["plan"]["seed"] == 0
    assert card["machine"]["packages"]["torch"]
    assert card["seconds"]["total"] == pytest.approx(sum(v for k, v in card["seconds"].items() if k != "total"))
    assert card["model"]["steps"] == BuildPlan().model.steps
    assert set(card["tasks"]) == set(REQUIRED_ACCURACY)


def test_shipped_files_are_small_and_hold_no_pickles() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * MEBIBYTE
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".yaml"}


@pytest.mark.slow
def test_shipped_model_predicts_held_out_documents_as_the_card_says(
    shipped: tuple[Any, Any], card: dict[str, Any]
) -> None:
    model, tokenizer = shipped
    held_out = encode_documents(tokenizer, corpus.documents(0, "held_out"), card["plan"]["evaluation_documents"], QUIET)
    assert document_loss(model, held_out) == pytest.approx(card["model"]["held_out_loss"], abs=1e-4)


# --- activations under TransformerLens's names


def test_activation_names_agree_with_transformer_lens(shipped: tuple[Any, Any]) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = shipped
    bridge = TransformerBridge.boot_transformers(PROVIDES[0].path, device="cpu", dtype=torch.float32)
    ids = tokenizer(["Mary and John went to the school ."], return_tensors="pt")["input_ids"]
    hooks = sorted({hook for site in dictionary_sites(4) for hook in (site.read, site.write)})
    ours = record_activations(model, hooks, ids)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    for hook in hooks:
        torch.testing.assert_close(ours[hook], cache[hook], rtol=1e-4, atol=1e-4)


def test_editing_an_activation_reaches_the_output_and_leaves_no_hook(shipped: tuple[Any, Any]) -> None:
    model, tokenizer = shipped
    ids = tokenizer(["Mary and John went to the school ."], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(ids).logits
        for hook in (
            "blocks.1.hook_mlp_out",
            "blocks.1.hook_attn_out",
            "blocks.1.hook_resid_post",
            "blocks.1.mlp.hook_in",
        ):
            with edited(model, {place_of(model, hook): torch.zeros_like}):
                assert not torch.equal(model(ids).logits, before), hook
        assert torch.equal(model(ids).logits, before)
    with pytest.raises(BasisBenchError, match="no activation named"):
        place_of(model, "blocks.0.x")


# --- documents and batches


def test_every_document_is_in_exactly_one_batch(documents: EncodedDocuments) -> None:
    steps = len(documents) // 3
    assert steps > WINDOW_BATCHES
    seen = np.concatenate([batch_indices(documents.lengths, 3, step, seed=5) for step in range(steps)])
    assert sorted(seen) == list(range(steps * 3))


def test_batches_hold_documents_of_nearly_one_length(documents: EncodedDocuments) -> None:
    lengths = documents.lengths
    spread = [np.ptp(lengths[batch_indices(lengths, 8, step, seed=0)]) for step in range(64)]
    assert np.mean(spread) < 0.3 * np.ptp(lengths)


def test_rows_are_the_documents_with_padding_on_the_right(documents: EncodedDocuments, tokenizer: Any) -> None:
    texts = corpus.documents(3, "train")
    expected = [tokenizer(next(texts))["input_ids"] for _ in range(20)]
    ids, lengths = documents.rows(np.array([4, 0, 19]), pad=tokenizer.pad_token_id)
    for row, length, index in zip(ids.tolist(), lengths.tolist(), (4, 0, 19), strict=True):
        assert row[:length] == expected[index]
        assert set(row[length:]) <= {tokenizer.pad_token_id}
    assert documents.first(7).lengths.tolist() == documents.lengths[:7].tolist()


def test_documents_are_saved_and_read_back(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "documents.safetensors"
    first = load_or_encode(path, tokenizer, corpus.documents(0, "train"), 30, QUIET)
    again = load_or_encode(path, tokenizer, iter(()), 30, QUIET)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.ends, again.ends)


def test_a_word_outside_the_vocabulary_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BasisBenchError, match="does not know every word of 'xylophonist'"):
        encode_documents(tokenizer, iter(["xylophonist"]), 1, QUIET)


# --- training


def test_loss_of_a_padded_batch_is_the_mean_over_its_real_tokens(documents: EncodedDocuments, tokenizer: Any) -> None:
    model = create_model(ModelPlan(layers=2, width=16, mlp_width=24, heads=2), tokenizer, seed=1).double()
    rows = np.argsort(documents.lengths, kind="stable")[[0, 300, -1]]
    with torch.no_grad():
        batched = next_token_loss(model, *documents.rows(rows, pad=3))
        total = 0.0
        for index in rows:
            ids, _ = documents.rows(np.array([index]), pad=0)
            probabilities = model(ids).logits[0, :-1].log_softmax(-1)
            total -= float(probabilities.gather(-1, ids[0, 1:, None]).sum())
    # The loss itself is taken in float32.
    assert float(batched) == pytest.approx(total / (documents.lengths[rows] - 1).sum(), rel=1e-5)


def test_learning_rate_rises_to_its_peak_and_falls_to_its_end() -> None:
    plan = ModelPlan(documents=6400, batch_documents=64, warmup_steps=10)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert rates[9] == pytest.approx(plan.learning_rate)
    assert max(rates) <= plan.learning_rate * (1 + 1e-9)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(plan.learning_rate * plan.final_share, rel=0.2)


class _StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, documents: EncodedDocuments, tokenizer: Any
) -> None:
    plan = BuildPlan.tiny()
    whole, _ = train_model(plan, tokenizer, documents, tmp_path / "whole", QUIET, lambda _: "")
    calls = 0

    def stop(_: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 17:
            raise _StoppedError
        return ""

    eager = replace(plan, checkpoint_seconds=0.0, accuracy_seconds=0.0)
    with pytest.raises(_StoppedError):
        train_model(eager, tokenizer, documents, tmp_path / "parts", QUIET, stop)
    saved = load_state(tmp_path / "parts" / "model.safetensors")
    assert saved is not None
    assert saved[1]["step"] == 17
    resumed, training = train_model(plan, tokenizer, documents, tmp_path / "parts", QUIET, lambda _: "")
    assert training.steps == plan.model.steps
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path, documents: EncodedDocuments, tokenizer: Any) -> None:
    plan = BuildPlan.tiny()
    untrained = document_loss(create_model(plan.model, tokenizer, plan.seed), documents)
    trained, training = train_model(plan, tokenizer, documents, tmp_path, QUIET, lambda _: "")
    assert document_loss(trained, documents) < untrained - 0.5
    assert training.tokens == (documents.lengths[: plan.model.documents] - 1).sum()


# --- checkpoints


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"x": torch.ones(3)}, {"step": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise _StoppedError

    with pytest.raises(_StoppedError):
        replace_file(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = load_state(path)
    assert loaded is not None
    assert loaded[1] == {"step": 1}
    assert torch.equal(loaded[0]["x"], torch.ones(3))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_broken_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BasisBenchError, match=r"model\.safetensors: not a checkpoint of this build"):
        load_state(path)


def test_fingerprints_follow_what_shapes_the_result_and_nothing_else() -> None:
    plan = BuildPlan()
    assert replace(plan, checkpoint_seconds=1.0).fingerprint("c") == plan.fingerprint("c")
    assert replace(plan, seed=1).fingerprint("c") != plan.fingerprint("c")
    assert plan.fingerprint("d") != plan.fingerprint("c")
    other = replace(plan, dictionaries=replace(plan.dictionaries, active_units=9.0))
    assert other.fingerprint("c") != plan.fingerprint("c")
    across = replace(plan, cross_layer=replace(plan.cross_layer, active_units=9.0))
    assert across.fingerprint("c") != plan.fingerprint("c")
