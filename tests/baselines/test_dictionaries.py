"""One dictionary in training, against slow oracles, and as SAELens reads it from its files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from basisbench.protocols import PublishedBasis
from basisbench.types import Site
from basisbench_baselines.bases.saelens import DictionaryBasis
from basisbench_baselines.pocket.sae_files import load_weights, save_dictionary, to_sae_lens
from basisbench_baselines.pocket.training.activations import DictionarySite
from basisbench_baselines.pocket.training.dictionaries import learning_rate
from basisbench_baselines.pocket.training.dictionary_trainer import (
    DictionaryTrainer,
    batch_threshold,
)
from basisbench_baselines.pocket.training.plan import DictionaryPlan
from basisbench_baselines.training.scaling import Scaling
from helpers.dictionary_training import (
    AUTOENCODER,
    PLAN,
    TRANSCODER,
    activations_of,
    make_trainer,
    random_normal,
    train_for,
)

# --- one dictionary in training


@pytest.mark.parametrize("active_units", [1.0, 3.7, 20.0])
def test_threshold_leaves_the_asked_number_of_units_active(active_units: float) -> None:
    before = random_normal(200, 64, seed=0)
    active = (before > batch_threshold(before, active_units)).sum()
    assert int(active) == round(active_units * 200)


def test_threshold_is_never_negative() -> None:
    assert batch_threshold(-random_normal(50, 8, seed=0).abs(), 4.0) == 0.0


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_loss_is_the_unexplained_variance_of_a_plain_formula(site: DictionarySite) -> None:
    trainer, x, y = make_trainer(site)
    train_for(trainer, x, y, 20)
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
    trainer, x, y = make_trainer(site)
    history = train_for(trainer, x, y, 200)
    assert history[-1] < 0.5 * history[0]
    torch.testing.assert_close(trainer.decoder.norm(dim=1), torch.ones(48))


def test_the_first_reconstruction_is_scaled_by_least_squares() -> None:
    x, _ = activations_of(AUTOENCODER)
    read = Scaling.of(x)
    u = read.apply(x[:48])
    trainer = DictionaryTrainer(AUTOENCODER, read, read, u, u, PLAN)
    before = (u @ trainer.encoder).detach()
    output = before * (before > batch_threshold(before, PLAN.active_units)) @ trainer.decoder.detach()
    best = (u * output).sum() / output.square().sum()
    assert float(best) == pytest.approx(1.0, rel=1e-3)


def test_dead_units_get_gradient_from_the_auxiliary_loss_alone() -> None:
    trainer, x, y = make_trainer(AUTOENCODER)
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
    trainer, x, y = make_trainer(AUTOENCODER)
    with torch.no_grad():
        trainer.encoder_bias[3] = -1e6
    for _ in range(2):
        trainer.loss(trainer.read.apply(x), trainer.write.apply(y))
    assert float(trainer.silent_tokens[3]) == 2 * len(x)
    assert (trainer.silent_tokens == 0).any()


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_folding_the_scaling_changes_nothing(site: DictionarySite) -> None:
    trainer, x, y = make_trainer(site)
    train_for(trainer, x, y, 50)
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


# --- SAELens's files


@pytest.mark.parametrize("site", [AUTOENCODER, TRANSCODER], ids=lambda site: site.basis)
def test_saved_dictionary_is_one_that_saelens_loads_and_computes_alike(site: DictionarySite, tmp_path: Path) -> None:
    from sae_lens import SAE

    trainer, x, y = make_trainer(site)
    train_for(trainer, x, y, 30)
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


def test_a_feature_has_the_page_that_its_release_names() -> None:
    site = Site(3, "blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out")
    metadata = SimpleNamespace(neuronpedia_id="gpt2-small/3-mlp")
    for given, unit, expected in (
        (metadata, 7, "https://www.neuronpedia.org/gpt2-small/3-mlp/7"),
        (metadata, 8, None),  # a unit that the adapter added
        (SimpleNamespace(neuronpedia_id=None), 7, None),
        (None, 7, None),
    ):
        dictionary = SimpleNamespace(cfg=SimpleNamespace(metadata=given, d_sae=8), parameters=tuple)
        basis = DictionaryBasis("published", "mlp", (site,), (dictionary,))
        assert isinstance(basis, PublishedBasis)
        assert basis.page(site, unit) == expected
