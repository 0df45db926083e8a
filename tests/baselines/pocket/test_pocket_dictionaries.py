"""The pocket dictionaries together: trained, measured one document at a time, and what is shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench_baselines.pocket import ASSETS, DICTIONARY_BASES, PROVIDES
from basisbench_baselines.pocket.corpus import stream as corpus
from basisbench_baselines.pocket.sae_files import load_weights
from basisbench_baselines.pocket.training.activations import DictionarySite, dictionary_sites
from basisbench_baselines.pocket.training.dictionaries import collect_activations, train_dictionaries
from basisbench_baselines.pocket.training.dictionary_trainer import (
    DictionaryTrainer,
    DictionaryWeights,
)
from basisbench_baselines.pocket.training.documents import EncodedDocuments, encode_documents
from basisbench_baselines.pocket.training.evaluate import DictionaryStatistics, dictionary_statistics, splice
from basisbench_baselines.pocket.training.plan import BuildPlan
from basisbench_baselines.training.scaling import Scaling
from helpers.dictionary_training import (
    PLAN,
    QUIET,
    assert_within_bounds,
)

# --- all dictionaries together


class _StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.slow
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


@pytest.mark.slow
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
        fvu=float((late_y - rebuild(late_x)).square().sum() / (late_y - late_y.mean(0)).square().sum()),
        fvu_with_bos=float((all_y - rebuild(all_x)).square().sum() / (all_y - all_y.mean(0)).square().sum()),
        silent_units=int((~fired.any(0)).sum()),
        units=fired.shape[1],
        loss_clean=loss(None),
        loss_spliced=loss(lambda index: rebuild(x[index])),
        loss_zero=loss(lambda index: torch.zeros_like(y[index])),
        loss_mean=loss(lambda index: late_y.mean(0).expand_as(y[index])),
    )


@pytest.mark.slow
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
    assert_within_bounds(card_sites)


@pytest.mark.slow
def test_shipped_dictionaries_measure_again_as_the_card_says(
    tokenizer: Any, shipped: dict[DictionarySite, DictionaryWeights], card_sites: dict[str, dict[str, Any]]
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(PROVIDES[0].path).eval()
    held_out = encode_documents(tokenizer, corpus.documents(0, "held_out"), 200, QUIET)
    # One of each basis, each in another layer.
    some = {site: shipped[site] for site in dictionary_sites(4)[::5]}
    assert len({site.basis for site in some}) == len({site.layer for site in some}) == 4
    for site, found in dictionary_statistics(model, some, held_out, QUIET).items():
        stored = card_sites[site.name]
        # The card measures more documents; these are its first 200.
        assert found.l0 == pytest.approx(stored["l0"], rel=0.03), site.name
        assert found.fvu == pytest.approx(stored["fraction_of_variance_unexplained"], rel=0.15), site.name
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
