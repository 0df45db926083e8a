"""The pocket dictionaries: the trainer against slow oracles, SAELens's files, and what is shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench_baselines.pocket import ASSETS, DICTIONARY_BASES, PROVIDES, corpus
from basisbench_baselines.pocket.activations import DictionarySite, dictionary_sites
from basisbench_baselines.pocket.dictionaries import collect_activations, learning_rate, train_dictionaries
from basisbench_baselines.pocket.dictionary_trainer import (
    DictionaryTrainer,
    DictionaryWeights,
    Scaling,
    batch_threshold,
)
from basisbench_baselines.pocket.documents import EncodedDocuments, encode_documents
from basisbench_baselines.pocket.evaluate import DictionaryStatistics, dictionary_statistics, splice
from basisbench_baselines.pocket.plan import BuildPlan, DictionaryPlan
from basisbench_baselines.pocket.progress import Progress
from basisbench_baselines.pocket.sae_files import load_weights, save_dictionary, to_sae_lens
from basisbench_baselines.pocket.train import create_model

QUIET = Progress(enabled=False)
AUTOENCODER = DictionarySite("sae_resid", 0, "blocks.0.hook_resid_post", "blocks.0.hook_resid_post")
TRANSCODER = DictionarySite("transcoder", 0, "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")
PLAN = DictionaryPlan(active_units=5.0, dead_after_tokens=50_000, auxiliary_units=4)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _activations(site: DictionarySite) -> tuple[Tensor, Tensor]:
    x = 3.0 * _random(400, 12, seed=1) @ _random(12, 12, seed=2) + 5.0
    y = x if site.read == site.write else (x @ _random(12, 8, seed=3)).relu() - 2.0
    return x, y


def _trainer(site: DictionarySite, plan: DictionaryPlan = PLAN) -> tuple[DictionaryTrainer, Tensor, Tensor]:
    x, y = _activations(site)
    read, write = Scaling.of(x), Scaling.of(y)
    return DictionaryTrainer(site, read, write, read.apply(x[:48]), write.apply(y[:48]), plan), x, y


def _train(trainer: DictionaryTrainer, x: Tensor, y: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(list(trainer.parameters.values()), lr=3e-3)
    history: list[float] = []
    for _ in range(steps):
        loss, unexplained = trainer.loss(trainer.read.apply(x), trainer.write.apply(y))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.after_step()
        history.append(unexplained)
    return history


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return corpus.build_tokenizer()


@pytest.fixture(scope="module")
def documents(tokenizer: Any) -> EncodedDocuments:
    return encode_documents(tokenizer, corpus.documents(1, "train"), 160, QUIET)


@pytest.fixture(scope="module")
def tiny_model(tokenizer: Any) -> Any:
    model = create_model(BuildPlan.tiny().model, tokenizer, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return model.train(False)


# --- one dictionary in training


@pytest.mark.parametrize("active_units", [1.0, 3.7, 20.0])
def test_threshold_leaves_the_asked_number_of_units_active(active_units: float) -> None:
    before = _random(200, 64, seed=0)
    active = (before > batch_threshold(before, active_units)).sum()
    assert int(active) == round(active_units * 200)


def test_threshold_is_never_negative() -> None:
    assert batch_threshold(-_random(50, 8, seed=0).abs(), 4.0) == 0.0


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_loss_is_the_unexplained_variance_of_a_plain_formula(site: DictionarySite) -> None:
    trainer, x, y = _trainer(site)
    _train(trainer, x, y, 20)
    trainer.silent_tokens.zero_()
    loss, unexplained = trainer.loss(trainer.read.apply(x), trainer.write.apply(y))
    u = ((x - x.mean(0)) / trainer.read.scale).double()
    v = ((y - y.mean(0)) / trainer.write.scale).double()
    encoder, bias, decoder, shift = (tensor.detach().double() for tensor in trainer.parameters.values())
    total = 0.0
    # The threshold of a step comes from its first 256 tokens.
    first = sorted((value for row in u[:256] @ encoder + bias for value in row.tolist()), reverse=True)
    threshold = first[round(PLAN.active_units * 256)]
    for token in range(len(u)):
        output = shift.clone()
        for unit, value in enumerate((u[token] @ encoder + bias).tolist()):
            if value > threshold:
                output += value * decoder[unit]
        total += float((v[token] - output).square().sum())
    expected = total / float((v - v.mean(0)).square().sum())
    assert unexplained == pytest.approx(expected, rel=1e-4)
    assert float(loss.detach()) == unexplained, "without dead units there is no auxiliary loss"


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_training_explains_more_and_keeps_decoder_rows_at_unit_norm(site: DictionarySite) -> None:
    trainer, x, y = _trainer(site)
    history = _train(trainer, x, y, 200)
    assert history[-1] < 0.5 * history[0]
    torch.testing.assert_close(trainer.decoder.norm(dim=1), torch.ones(48))


def test_the_first_reconstruction_is_scaled_by_least_squares() -> None:
    x, _ = _activations(AUTOENCODER)
    read = Scaling.of(x)
    u = read.apply(x[:48])
    trainer = DictionaryTrainer(AUTOENCODER, read, read, u, u, PLAN)
    before = (u @ trainer.encoder).detach()
    output = before * (before > batch_threshold(before, PLAN.active_units)) @ trainer.decoder.detach()
    best = (u * output).sum() / output.square().sum()
    assert float(best) == pytest.approx(1.0, rel=1e-3)


def test_dead_units_get_gradient_from_the_auxiliary_loss_alone() -> None:
    trainer, x, y = _trainer(AUTOENCODER)
    with torch.no_grad():  # Unit 7 is positive everywhere, but below every threshold: it never fires.
        trainer.encoder[:, 7] = 0.0
        trainer.encoder_bias[7] = 1e-3
    inputs = trainer.read.apply(x), trainer.write.apply(y)
    loss, unexplained = trainer.loss(*inputs)
    loss.backward()
    assert float(loss.detach()) == unexplained
    assert trainer.decoder.grad is not None
    assert not trainer.decoder.grad[7].any()
    trainer.decoder.grad = None
    trainer.silent_tokens[7] = PLAN.dead_after_tokens
    loss, unexplained = trainer.loss(*inputs)
    loss.backward()
    # One unit that is nearly zero explains nothing of the error, so the auxiliary part is its whole weight.
    assert float(loss.detach()) == pytest.approx(unexplained + PLAN.auxiliary_weight, rel=1e-2)
    assert trainer.decoder.grad is not None
    assert trainer.decoder.grad[7].any()


def test_silent_tokens_count_up_and_start_again_when_a_unit_fires() -> None:
    trainer, x, y = _trainer(AUTOENCODER)
    with torch.no_grad():
        trainer.encoder_bias[3] = -1e6
    for _ in range(2):
        trainer.loss(trainer.read.apply(x), trainer.write.apply(y))
    assert float(trainer.silent_tokens[3]) == 2 * len(x)
    assert (trainer.silent_tokens == 0).any()


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_folding_the_scaling_changes_nothing(site: DictionarySite) -> None:
    trainer, x, y = _trainer(site)
    _train(trainer, x, y, 50)
    finished = trainer.finish(x)
    before = (trainer.read.apply(x) @ trainer.encoder + trainer.encoder_bias).detach()
    threshold = batch_threshold(before, PLAN.active_units)
    f = before * (before > threshold)
    expected = (f @ trainer.decoder + trainer.decoder_bias).detach() * trainer.write.scale + trainer.write.mean
    # The pre-activation that sets the threshold sits exactly on it, and rounding may move it to either side.
    clear = ((before - threshold).abs() > 1e-4).all(1)
    assert clear.sum() > 0.9 * len(x)
    torch.testing.assert_close(finished.encode(x)[clear], (f * trainer.write.scale)[clear], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(finished.decode(finished.encode(x))[clear], expected[clear], rtol=1e-3, atol=1e-3)
    assert int((finished.encode(x) > 0).sum()) == pytest.approx(PLAN.active_units * len(x), abs=2)


def test_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    plan = DictionaryPlan(warmup_steps=10, decay_share=0.25)
    rates = [learning_rate(plan, step, 200) for step in range(200)]
    assert rates[:10] == sorted(rates[:10])
    assert set(rates[10:150]) == {plan.learning_rate}
    assert rates[150:] == sorted(rates[150:], reverse=True)
    assert 0 < rates[-1] < 0.03 * plan.learning_rate


# --- all dictionaries together


class _StoppedError(Exception):
    """Stands for a kill."""


def test_interrupted_training_ends_with_the_same_dictionaries(
    tmp_path: Path, tiny_model: Any, documents: EncodedDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BuildPlan.tiny()
    sites = dictionary_sites(2)
    whole, _ = train_dictionaries(plan, tiny_model, sites, documents, tmp_path / "whole", QUIET)
    steps = 0

    def after_step(trainer: DictionaryTrainer, original: Any = DictionaryTrainer.after_step) -> None:
        nonlocal steps
        steps += 1
        if steps == 30 * len(sites) + 3:  # In the middle of step 31, deep in a later chunk.
            raise _StoppedError
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(DictionaryTrainer, "after_step", after_step)
        eager = replace(plan, checkpoint_seconds=0.0)
        with pytest.raises(_StoppedError):
            train_dictionaries(eager, tiny_model, sites, documents, tmp_path / "parts", QUIET)
    resumed, training = train_dictionaries(plan, tiny_model, sites, documents, tmp_path / "parts", QUIET)
    assert training.steps > 31
    for site in sites:
        for name, tensor in vars(whole[site]).items():
            assert torch.equal(tensor, vars(resumed[site])[name]), (site.name, name)


def test_collected_activations_are_those_of_single_documents(tiny_model: Any, documents: EncodedDocuments) -> None:
    sites = dictionary_sites(2)
    together = collect_activations(tiny_model, sites, documents, 10, 5)
    order = 10 + np.argsort(documents.lengths[10:15], kind="stable")
    for hook, values in together.items():
        single = [collect_activations(tiny_model, sites, documents, int(index), 1)[hook] for index in order]
        torch.testing.assert_close(values, torch.cat(single), rtol=1e-4, atol=1e-4)


def _oracle(
    model: Any, site: DictionarySite, weights: DictionaryWeights, documents: EncodedDocuments
) -> DictionaryStatistics:
    """Measure one dictionary one document at a time, in float64, with the arithmetic written out."""
    rows = [documents.rows(np.array([index]), pad=0)[0] for index in range(len(documents))]
    x, y = (
        [collect_activations(model, [site], documents, index, 1)[hook].double() for index in range(len(documents))]
        for hook in (site.read, site.write)
    )
    tensors = {name: tensor.double() for name, tensor in vars(weights).items()}

    def code(z: Tensor) -> Tensor:
        before = z @ tensors["encoder"] + tensors["encoder_bias"]
        return torch.where(before > tensors["threshold"], before, 0.0)

    def rebuild(z: Tensor) -> Tensor:
        return code(z) @ tensors["decoder"] + tensors["decoder_bias"]

    def loss(replacement: Any) -> float:
        losses: list[float] = []
        for index, ids in enumerate(rows):
            layer = model.model.layers[site.layer]
            module = layer.mlp if "mlp" in site.write else layer.self_attn if "attn" in site.write else layer

            def swap(_: Any, __: Any, output: Any, index: int = index) -> Any:
                if replacement is None:
                    return output
                new = replacement(index).float()[None]
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = module.register_forward_hook(swap)
            with torch.no_grad():
                probabilities = model(ids).logits[0, :-1].double().log_softmax(-1)
            handle.remove()
            losses += (-probabilities.gather(-1, ids[0, 1:, None])[:, 0]).tolist()
        return float(np.mean(losses))

    late_x, late_y = torch.cat([z[1:] for z in x]), torch.cat([z[1:] for z in y])
    all_x, all_y = torch.cat(x), torch.cat(y)
    fired = code(all_x) > 0
    return DictionaryStatistics(
        l0=float((code(late_x) > 0).sum(1).double().mean()),
        unexplained=float((late_y - rebuild(late_x)).square().sum() / (late_y - late_y.mean(0)).square().sum()),
        unexplained_with_bos=float((all_y - rebuild(all_x)).square().sum() / (all_y - all_y.mean(0)).square().sum()),
        silent_units=int((~fired.any(0)).sum()),
        units=fired.shape[1],
        loss_clean=loss(None),
        loss_spliced=loss(lambda index: rebuild(x[index])),
        loss_zero=loss(lambda index: torch.zeros_like(y[index])),
        loss_mean=loss(lambda index: late_y.mean(0).expand_as(y[index])),
    )


def test_statistics_equal_those_of_one_document_at_a_time(tiny_model: Any, documents: EncodedDocuments) -> None:
    few = documents.first(12)
    weights: dict[DictionarySite, DictionaryWeights] = {}
    for seed, site in enumerate(dictionary_sites(2)):
        activations = collect_activations(tiny_model, [site], few, 0, len(few))
        x, y = activations[site.read], activations[site.write]
        read, write = Scaling.of(x), Scaling.of(y)
        chosen = torch.randint(len(x), (40,), generator=torch.Generator().manual_seed(seed))
        trainer = DictionaryTrainer(site, read, write, read.apply(x[chosen]), write.apply(y[chosen]), PLAN)
        weights[site] = trainer.finish(x)
    measured = dictionary_statistics(tiny_model, weights, few, QUIET)
    for site, dictionary in weights.items():
        expected, found = vars(_oracle(tiny_model, site, dictionary, few)), vars(measured[site])
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=2e-3), (site.name, name)


# --- SAELens's files


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_saved_dictionary_is_one_that_saelens_loads_and_computes_alike(site: DictionarySite, tmp_path: Path) -> None:
    from sae_lens import SAE

    trainer, x, y = _trainer(site)
    _train(trainer, x, y, 30)
    weights = trainer.finish(x)
    save_dictionary(tmp_path / "layer_0", site, weights)
    save_dictionary(tmp_path / "layer_0", site, weights)  # An earlier one is replaced.
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cfg.json", "layer_0", "sae_weights.safetensors"]
    loaded = SAE.load_from_disk(tmp_path / "layer_0")
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(x), weights.encode(x))
        torch.testing.assert_close(loaded.decode(loaded.encode(x)), weights.decode(weights.encode(x)))
    assert loaded.cfg.metadata.hook_name == site.read
    assert loaded.cfg.metadata.hook_name_out == (None if site.read == site.write else site.write)
    again = load_weights(tmp_path / "layer_0")
    assert all(torch.equal(tensor, vars(again)[name]) for name, tensor in vars(weights).items())
    assert to_sae_lens(site, weights).cfg.normalize_activations == "none"


# --- what is shipped


@pytest.fixture(scope="module")
def shipped() -> dict[DictionarySite, DictionaryWeights]:
    return {
        site: load_weights(PROVIDES[0].dictionaries[site.basis] / f"layer_{site.layer}") for site in dictionary_sites(4)
    }


@pytest.fixture(scope="module")
def card_sites() -> dict[str, dict[str, Any]]:
    return json.loads((ASSETS / "card.json").read_text(encoding="utf-8"))["dictionaries"]["sites"]


SHIPPED_FOLDERS = [
    PROVIDES[0].dictionaries[basis] / f"layer_{layer}" for basis in DICTIONARY_BASES for layer in range(4)
]


@pytest.mark.parametrize("folder", SHIPPED_FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_shipped_dictionary_has_the_promised_shape(folder: Path) -> None:
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    assert sae.cfg.d_in == 128
    assert sae.cfg.d_sae == 1024
    assert sae.cfg.normalize_activations == "none"
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}
    torch.testing.assert_close(sae.W_dec.detach().norm(dim=1), torch.ones(1024), rtol=1e-4, atol=1e-4)
    assert all(parameter.isfinite().all() for parameter in sae.parameters())
    assert sae.cfg.metadata.hook_layer == int(folder.name.removeprefix("layer_"))


def test_shipped_dictionaries_keep_their_bounds(card_sites: dict[str, dict[str, Any]]) -> None:
    assert set(card_sites) == {site.name for site in dictionary_sites(4)}
    for name, row in card_sites.items():
        assert row["l0"] <= 32, name
        assert row["fraction_of_variance_unexplained"] <= 0.05, name
        assert row["loss_recovered_from_zero"] >= 0.97, name
        assert row["within_bounds"] is True


def test_shipped_dictionaries_measure_again_as_the_card_says(
    tokenizer: Any, shipped: dict[DictionarySite, DictionaryWeights], card_sites: dict[str, dict[str, Any]]
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PROVIDES[0].path).eval()
    held_out = encode_documents(tokenizer, corpus.documents(0, "held_out"), 200, QUIET)
    for site, found in dictionary_statistics(model, shipped, held_out, QUIET).items():
        stored = card_sites[site.name]
        # The card measures more documents; these are its first 200.
        assert found.l0 == pytest.approx(stored["l0"], rel=0.03), site.name
        assert found.unexplained == pytest.approx(stored["fraction_of_variance_unexplained"], rel=0.15), site.name
        assert found.recovered == pytest.approx(stored["loss_recovered_from_zero"], abs=0.01), site.name
        assert found.loss_clean == pytest.approx(stored["loss_clean"], abs=0.05), site.name


def test_splicing_a_dictionary_leaves_no_hook(tokenizer: Any, shipped: dict[DictionarySite, DictionaryWeights]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PROVIDES[0].path).eval()
    ids = torch.tensor([tokenizer("Mary and John went to the school .")["input_ids"]])
    with torch.no_grad():
        before = model(ids).logits
        for site, dictionary in shipped.items():
            with splice(model, site, dictionary):
                assert not torch.equal(model(ids).logits, before), site.name
            assert torch.equal(model(ids).logits, before), site.name
