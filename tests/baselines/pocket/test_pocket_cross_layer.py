"""The pocket model's cross-layer transcoder: the trainer against a plain formula, its files, and what is shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench_baselines.pocket import ASSETS, PROVIDES
from basisbench_baselines.pocket.corpus import stream as corpus
from basisbench_baselines.pocket.training.activations import DictionarySite, cross_layer_sites
from basisbench_baselines.pocket.training.cross_layer import rebuilders, train_cross_layer
from basisbench_baselines.pocket.training.cross_layer_trainer import CrossLayerTrainer
from basisbench_baselines.pocket.training.dictionaries import collect_activations
from basisbench_baselines.pocket.training.documents import EncodedDocuments, encode_documents
from basisbench_baselines.pocket.training.evaluate import DictionaryStatistics, dictionary_statistics, splice
from basisbench_baselines.pocket.training.plan import BuildPlan, DictionaryPlan
from basisbench_baselines.training.cross_layer_files import CrossLayerWeights, load_cross_layer, save_cross_layer
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.scaling import Scaling
from helpers.dictionary_training import assert_within_bounds

QUIET = Progress(enabled=False)
SITES = cross_layer_sites(3)
PLAN = DictionaryPlan(active_units=5.0, dead_after_tokens=50_000, auxiliary_units=4)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _activations() -> dict[str, Tensor]:
    """Outputs of later layers depend on inputs of earlier ones too; every hook has its own mean and scale."""
    found: dict[str, Tensor] = {}
    stream = 3.0 * _random(400, 8, seed=1) @ _random(8, 8, seed=2)
    for layer, site in enumerate(SITES):
        x = (1 + layer) * stream + 5.0
        y = (stream @ _random(8, 8, seed=10 + layer)).relu() * (3 - layer) - 2.0
        found |= {site.read: x, site.write: y}
        stream = stream + y
    return found


def _trainer(plan: DictionaryPlan = PLAN) -> tuple[CrossLayerTrainer, dict[str, Tensor], dict[str, Tensor]]:
    raw = _activations()
    scalings = {hook: Scaling.of(x) for hook, x in raw.items()}
    scaled = {hook: scalings[hook].apply(x) for hook, x in raw.items()}
    x, y = ([scaled[hook][:40] for hook in hooks] for hooks in ([s.read for s in SITES], [s.write for s in SITES]))
    return CrossLayerTrainer(SITES, scalings, x, y, plan), raw, scaled


def _train(trainer: CrossLayerTrainer, scaled: dict[str, Tensor], steps: int) -> list[float]:
    optimizer = torch.optim.Adam(list(trainer.parameters.values()), lr=3e-3)
    history: list[float] = []
    for _ in range(steps):
        loss, unexplained = trainer.batch_loss(scaled)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.after_step()
        history.append(float(np.mean(list(unexplained.values()))))
    return history


def test_loss_is_the_unexplained_variance_of_a_plain_formula() -> None:
    trainer, raw, scaled = _trainer()
    _train(trainer, scaled, 20)
    trainer.silent_tokens.zero_()
    loss, unexplained = trainer.batch_loss(scaled)
    state = {name: tensor.detach().double() for name, tensor in trainer.parameters.items()}
    codes: list[Tensor] = []
    for layer, site in enumerate(SITES):
        x = ((raw[site.read] - raw[site.read].mean(0)) / trainer.scalings[site.read].scale).double()
        before = x @ state[f"encoder.{layer}"] + state[f"encoder_bias.{layer}"]
        # The threshold of a step comes from its first 256 tokens.
        threshold = before[:256].flatten().sort(descending=True).values[round(PLAN.active_units * 256)]
        codes.append(before * (before > threshold))
    for target, site in enumerate(SITES):
        y = ((raw[site.write] - raw[site.write].mean(0)) / trainer.scalings[site.write].scale).double()
        output = state["decoder_bias"][8 * target : 8 * target + 8].expand_as(y).clone()
        for source in range(target + 1):
            first = 8 * (target - source)
            output += codes[source] @ state[f"decoder.{source}"][:, first : first + 8]
        expected = float((y - output).square().sum() / y.square().sum())
        assert unexplained[site.name] == pytest.approx(expected, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(np.mean(list(unexplained.values())), rel=1e-6)


@pytest.mark.slow
def test_training_explains_more_and_keeps_what_units_write_at_unit_norm() -> None:
    trainer, _, scaled = _trainer()
    history = _train(trainer, scaled, 200)
    assert history[-1] < 0.5 * history[0]
    for decoder in trainer.decoders:
        torch.testing.assert_close(decoder.norm(dim=1), torch.ones(40))
    assert all(trainer.decoders[0][:, 8 * target : 8 * target + 8].norm() > 0.5 for target in range(3))


def test_the_first_reconstruction_is_scaled_by_least_squares() -> None:
    trainer, _, scaled = _trainer()
    first = {hook: x[:40] for hook, x in scaled.items()}
    y = torch.cat([first[site.write] for site in SITES], 1)
    _, unexplained = trainer.batch_loss(first)
    for stretch in (0.8, 1.25):
        other, *_ = _trainer()
        with torch.no_grad():
            for encoder in other.encoders:
                encoder.mul_(stretch)
        _, worse = other.batch_loss(first)
        assert np.mean(list(worse.values())) > np.mean(list(unexplained.values()))
    assert y.shape == (40, 24)


def test_dead_units_get_gradient_from_the_auxiliary_loss_alone() -> None:
    trainer, _, scaled = _trainer()
    with torch.no_grad():  # Unit 7 of layer 1 is positive everywhere, but below every threshold: it never fires.
        trainer.encoders[1][:, 7] = 0.0
        trainer.encoder_biases[1][7] = 1e-3
    loss, unexplained = trainer.batch_loss(scaled)
    loss.backward()
    decoder = trainer.decoders[1]
    assert decoder.grad is not None
    assert not decoder.grad[7].any()
    decoder.grad = None
    trainer.silent_tokens[1, 7] = PLAN.dead_after_tokens
    loss, unexplained = trainer.batch_loss(scaled)
    loss.backward()
    # One unit that is nearly zero explains nothing of the errors, so the auxiliary part is its whole weight.
    plain = np.mean(list(unexplained.values()))
    assert float(loss.detach()) == pytest.approx(plain + PLAN.auxiliary_weight / 3, rel=1e-2)
    assert decoder.grad is not None
    assert decoder.grad[7].view(2, 8).norm(dim=1).min() > 0, "a dead unit learns at every layer that it writes to"


def test_folding_the_scalings_changes_nothing() -> None:
    trainer, raw, scaled = _trainer()
    _train(trainer, scaled, 50)
    weights = trainer.finish(raw)
    features = [weights.encode(layer, raw[site.read]) for layer, site in enumerate(SITES)]
    trainer.silent_tokens.zero_()
    # Thresholds of the whole batch instead of its first tokens.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("basisbench_baselines.pocket.training.cross_layer_trainer.THRESHOLD_TOKENS", 400)
        _, unexplained = trainer.batch_loss(scaled)
    for target, site in enumerate(SITES):
        y = raw[site.write]
        error = y - weights.decode(features[: target + 1])
        found = float(error.square().sum() / (y - y.mean(0)).square().sum())
        # The pre-activation that sets the threshold sits exactly on it, and rounding may move it to either side.
        assert found == pytest.approx(unexplained[site.name], rel=2e-2, abs=1e-4)
        assert int((features[target] > 0).sum()) == pytest.approx(PLAN.active_units * 400, abs=2)
        torch.testing.assert_close(weights.decoder[target].flatten(1).norm(dim=1), torch.ones(40))


# --- training as a whole


class _StoppedError(Exception):
    """Stands for a kill."""


def _tensors(weights: CrossLayerWeights) -> dict[str, Tensor]:
    return {f"{name}.{layer}": part for name, parts in vars(weights).items() for layer, part in enumerate(parts)}


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, tiny_model: Any, documents: EncodedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, sites = BuildPlan.tiny(), cross_layer_sites(2)
    whole, _ = train_cross_layer(plan, tiny_model, sites, documents, tmp_path / "whole", QUIET)
    steps = 0

    def after_step(trainer: CrossLayerTrainer, original: Any = CrossLayerTrainer.after_step) -> None:
        nonlocal steps
        steps += 1
        if steps == 31:
            raise _StoppedError
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(CrossLayerTrainer, "after_step", after_step)
        eager = replace(plan, checkpoint_seconds=0.0)
        with pytest.raises(_StoppedError):
            train_cross_layer(eager, tiny_model, sites, documents, tmp_path / "parts", QUIET)
    resumed, training = train_cross_layer(plan, tiny_model, sites, documents, tmp_path / "parts", QUIET)
    assert training.steps > 31
    assert set(training.fvu) == {site.name for site in sites}
    for name, tensor in _tensors(whole).items():
        assert torch.equal(tensor, _tensors(resumed)[name]), name


def test_saved_files_are_read_back(tmp_path: Path) -> None:
    trainer, raw, _ = _trainer()
    weights = trainer.finish(raw)
    save_cross_layer(tmp_path / "clt", weights, (SITES[0].read, SITES[0].write), "pocket-llama")
    names = {f"W_{kind}_{layer}.safetensors" for kind in ("enc", "dec") for layer in range(3)}
    assert {path.name for path in (tmp_path / "clt").iterdir()} == {*names, "config.yaml"}
    again = _tensors(load_cross_layer(tmp_path / "clt", 3))
    for name, tensor in _tensors(weights).items():
        assert torch.equal(again[name], tensor), name


def _oracle(model: Any, layer: int, weights: CrossLayerWeights, documents: EncodedDocuments) -> DictionaryStatistics:
    """Measure one layer one document at a time, in float64, with the arithmetic written out."""
    sites = cross_layer_sites(2)
    site = sites[layer]
    seen = [collect_activations(model, sites, documents, index, 1) for index in range(len(documents))]
    tensors = {name: tensor.double() for name, tensor in _tensors(weights).items()}

    def code(source: int, document: dict[str, Tensor]) -> Tensor:
        before = (
            document[sites[source].read].double() @ tensors[f"encoder.{source}"].T + tensors[f"encoder_bias.{source}"]
        )
        return torch.where(before > tensors[f"threshold.{source}"], before, 0.0)

    def rebuild(document: dict[str, Tensor]) -> Tensor:
        output = tensors[f"decoder_bias.{layer}"]
        for source in range(layer + 1):
            output = output + code(source, document) @ tensors[f"decoder.{source}"][:, layer - source]
        return output

    def loss(replacement: Any) -> float:
        losses: list[float] = []
        for index, document in enumerate(seen):
            ids = documents.rows(np.array([index]), pad=0)[0]

            def swap(_: Any, __: Any, output: Tensor, document: Any = document) -> Tensor:
                return output if replacement is None else replacement(document).float()[None]

            handle = model.model.layers[layer].mlp.register_forward_hook(swap)
            with torch.no_grad():
                probabilities = model(ids).logits[0, :-1].double().log_softmax(-1)
            handle.remove()
            losses += (-probabilities.gather(-1, ids[0, 1:, None])[:, 0]).tolist()
        return float(np.mean(losses))

    y = [document[site.write].double() for document in seen]
    errors = [target - rebuild(document) for target, document in zip(y, seen, strict=True)]
    fired = torch.cat([code(layer, document) > 0 for document in seen])
    late, late_errors = torch.cat([part[1:] for part in y]), torch.cat([part[1:] for part in errors])
    everything = torch.cat(y)
    return DictionaryStatistics(
        l0=float(torch.cat([(code(layer, document) > 0)[1:] for document in seen]).sum(1).double().mean()),
        fvu=float(late_errors.square().sum() / (late - late.mean(0)).square().sum()),
        fvu_with_bos=float(torch.cat(errors).square().sum() / (everything - everything.mean(0)).square().sum()),
        silent_units=int((~fired.any(0)).sum()),
        units=fired.shape[1],
        loss_clean=loss(None),
        loss_spliced=loss(rebuild),
        loss_zero=loss(lambda document: torch.zeros_like(document[site.write])),
        loss_mean=loss(lambda document: late.mean(0).expand_as(document[site.write])),
    )


@pytest.mark.slow
def test_statistics_equal_those_of_one_document_at_a_time(
    tmp_path: Path, tiny_model: Any, documents: EncodedDocuments
) -> None:
    sites, few = cross_layer_sites(2), documents.first(12)
    weights, _ = train_cross_layer(BuildPlan.tiny(), tiny_model, sites, documents, tmp_path, QUIET)
    measured = dictionary_statistics(tiny_model, rebuilders(sites, weights), few, QUIET)
    for layer, site in enumerate(sites):
        expected, found = vars(_oracle(tiny_model, layer, weights, few)), vars(measured[site])
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=2e-3), (site.name, name)


# --- what is shipped


@pytest.fixture(scope="module")
def shipped() -> CrossLayerWeights:
    return load_cross_layer(PROVIDES[0].dictionaries["clt"], 4)


@pytest.fixture(scope="module")
def card_sites() -> dict[str, dict[str, Any]]:
    return json.loads((ASSETS / "card.json").read_text(encoding="utf-8"))["cross_layer"]["sites"]


def test_shipped_cross_layer_transcoder_has_the_promised_shape(shipped: CrossLayerWeights) -> None:
    tensors = _tensors(shipped)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    for layer in range(4):
        assert shipped.encoder[layer].shape == (1024, 128)
        assert shipped.decoder[layer].shape == (1024, 4 - layer, 128)
        norms = shipped.decoder[layer].flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(1024), rtol=1e-4, atol=1e-4)
        # It does write across layers: no target is left to its own layer's units.
        assert (shipped.decoder[layer].norm(dim=-1).mean(0) > 0.1).all()


def test_shipped_cross_layer_transcoder_keeps_its_bounds(card_sites: dict[str, dict[str, Any]]) -> None:
    assert set(card_sites) == {site.name for site in cross_layer_sites(4)}
    assert_within_bounds(card_sites)


@pytest.mark.slow
def test_shipped_cross_layer_transcoder_measures_again_as_the_card_says(
    tokenizer: Any, shipped: CrossLayerWeights, card_sites: dict[str, dict[str, Any]]
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PROVIDES[0].path).eval()
    held_out = encode_documents(tokenizer, corpus.documents(0, "held_out"), 100, QUIET)
    sites = cross_layer_sites(4)
    ids = held_out.rows(np.array([0]), pad=0)[0]
    with torch.no_grad():
        before = model(ids).logits
    by_site: dict[DictionarySite, Any] = rebuilders(sites, shipped)
    for site, found in dictionary_statistics(model, by_site, held_out, QUIET).items():
        stored = card_sites[site.name]
        # The card measures more documents; these are its first 100.
        assert found.l0 == pytest.approx(stored["l0"], rel=0.03), site.name
        assert found.fvu == pytest.approx(stored["fraction_of_variance_unexplained"], rel=0.15), site.name
        assert found.recovered == pytest.approx(stored["loss_recovered_from_zero"], abs=0.01), site.name
        with torch.no_grad(), splice(model, site, by_site[site]):
            assert not torch.equal(model(ids).logits, before)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
