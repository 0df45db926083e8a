"""`basisbench train` on a tiny model: what it leaves, what a basis makes of it, and that a kill changes nothing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basisbench.errors import BasisBenchError
from basisbench.models.model import Model
from basisbench.protocols import Training, training_of
from basisbench.runs.layer_subset import restrict
from basisbench_baselines.bases.cross_layer_transcoder import resolve_name as resolve_clt
from basisbench_baselines.bases.published import resolve_name
from basisbench_baselines.dictionaries.trained_on import how_trained
from basisbench_baselines.training.activations import record
from basisbench_baselines.training.dictionary import InTraining
from basisbench_baselines.training.text import Packed, pack
from basisbench_baselines.training.train import train
from helpers.tiny_training import SETTINGS, some_text, weights


@pytest.fixture(scope="module")
def trained(model: Model, text: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained dictionaries of every kind."""
    out = tmp_path_factory.mktemp("trained") / "out"
    train(model, text, SETTINGS, out, progress=False)
    return out


@pytest.mark.slow
def test_dictionaries_learn_and_are_measured_at_every_snapshot(trained: Path) -> None:
    measured = json.loads((trained / "card.json").read_text())["measured"]
    assert list(measured) == ["512", "end"]
    for name, row in measured["end"]["dictionaries"].items():
        assert row["fvu"] < 0.75, name
        assert row["fvu"] < measured["512"]["dictionaries"][name]["fvu"], name
        assert row["l0"] == pytest.approx(6, rel=0.4), name
    written = {Path(file).parent.as_posix() for file in weights(trained / "snapshots/512")}
    assert written == set(measured["end"]["dictionaries"])
    page = (trained / "README.md").read_text()
    assert "| 4,096 | skip-transcoder/layer_2 |" in page
    assert {path.name for path in trained.iterdir()} == {
        *(*SETTINGS.kinds, "snapshots", "card.json", "README.md"),
    }


@pytest.mark.parametrize("kind", SETTINGS.kinds)
def test_the_basis_reads_them_and_reconstructs_as_saelens_does(
    kind: str, trained: Path, model: Model, text: Packed
) -> None:
    from sae_lens import SAE

    basis = resolve_name(f"sae:{trained}:{kind}/*").build(model)
    assert [site.layer for site in basis.sites] == [0, 2]
    assert resolve_name(f"sae:{trained}:*sae/layer_*").layers == (0, 2)  # snapshots are no dictionaries of their own
    rows = json.loads((trained / "card.json").read_text())["measured"]["end"]["dictionaries"]
    for site in basis.sites:
        held_out = record(model, (site.read, site.write), text.rows(range(-16, 0)))
        x, y = held_out[site.read], held_out[site.write]
        rebuilt = basis.decode(site, basis.encode(site, x))
        torch.testing.assert_close(rebuilt, SAE.load_from_disk(trained / f"{kind}/layer_{site.layer}")(x))
        unexplained = (y - rebuilt).square().sum() / (y - y.mean(0)).square().sum()
        assert float(unexplained) == pytest.approx(rows[f"{kind}/layer_{site.layer}"]["fvu"], rel=1e-4)


@pytest.fixture(scope="module")
def trained_across(model: Model, text: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained cross-layer transcoder of two of the three layers."""
    out = tmp_path_factory.mktemp("across") / "out"
    train(model, text, replace(SETTINGS, kinds=("clt",)), out, progress=False)
    return out


def test_the_basis_reads_a_cross_layer_transcoder(trained_across: Path, model: Model, text: Packed) -> None:
    card = json.loads((trained_across / "card.json").read_text())["measured"]
    folder = trained_across / "clt"
    basis: Any = resolve_clt(f"clt:{folder}").build(model)
    before: dict[str, float] = {name: row["fvu"] for name, row in card["512"]["dictionaries"].items()}
    hooks = [hook for site in basis.sites for hook in (site.read, site.write)]
    held_out = record(model, hooks, text.rows(range(-16, 0)))
    codes = [basis.encode(site, held_out[site.read]) for site in basis.sites]
    assert codes[1].shape[1] == 1
    assert not codes[1].any()  # a layer that was not chosen
    for name, layer in (("clt/layer_0", 0), ("clt/layer_2", 2)):
        site, row = basis.sites[layer], card["end"]["dictionaries"][name]
        rebuilt = basis.decode(site, codes[layer])
        for source in range(layer):
            rebuilt = rebuilt + basis.spread(basis.sites[source], codes[source], site)
        y = held_out[site.write]
        unexplained = (y - rebuilt).square().sum() / (y - y.mean(0)).square().sum()
        assert float(unexplained) == pytest.approx(row["fvu"], rel=1e-4)
        assert float((codes[layer] > 0).sum() / len(y)) == pytest.approx(row["l0"])
        assert row["fvu"] < min(0.75, before[name])
        assert row["l0"] == pytest.approx(6, rel=0.4)
    written = load_file(folder / "W_dec_0.safetensors")["W_dec_0"]
    assert written.shape == (48, 3, 16)
    assert not written[:, 1].any()
    torch.testing.assert_close(written.flatten(1).norm(dim=1), torch.ones(48))
    assert written[:, 2].norm() > 0.5  # it does write across layers


def test_a_basis_says_how_it_was_trained(trained: Path, model: Model, text: Packed) -> None:
    card = json.loads((trained / "card.json").read_text())
    known = Training(1, card["trained_on"], "transcoder", "words", text.digest, card["fingerprint"])
    snapshot = replace(known, tokens=512 // 16 * 15, kind="skip transcoder")
    folder = trained / "snapshots/512"
    for name, layers, expected in (
        (f"{trained}/transcoder", None, known),
        (f"{trained}:transcoder/*", [2], known),
        (f"{folder}/skip-transcoder", None, snapshot),
        (f"{folder}:skip-transcoder/*", [0], snapshot),
    ):
        assert training_of(restrict(resolve_name(f"sae:{name}").build(model), layers)) == expected
    assert card["trained_on"] == 4096 // 16 * 15


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, Training(kind="SAE")),
        ({"seqpos_slice": [None], "training_tokens": 0}, Training(kind="SAE")),
        ({"seqpos_slice": [5, -5], "training_tokens": 10**9}, Training(5, 10**9, "SAE")),
        ({"seqpos_slice": [-5, None], "training_tokens": "many"}, Training(kind="SAE")),
    ],
)
def test_what_other_makers_say_of_a_training(metadata: Any, expected: Training, tmp_path: Path) -> None:
    from sae_lens import JumpReLUSAEConfig

    (tmp_path / "card.json").write_text('{"text": "somebody else\'s card"}')
    told, later = (
        JumpReLUSAEConfig.from_dict({"architecture": "jumprelu", "d_in": 2, "d_sae": 3, "metadata": each})
        for each in (metadata, {"seqpos_slice": [7], "training_tokens": 5})
    )
    assert how_trained([told], tmp_path / "sae") == expected
    assert how_trained([told, later]) == replace(expected, first_position=7, tokens=expected.tokens and 5)


@pytest.mark.parametrize("site", ["mlp_act", "attn_z", "attn_out", "resid_post"])
def test_autoencoders_of_every_site(site: Any, model: Model, text: Packed, tmp_path: Path) -> None:
    train(
        model,
        text,
        replace(SETTINGS, kinds=("sae",), site=site, layers=(1,), tokens=512, snapshots=()),
        tmp_path,
        progress=False,
    )
    basis = resolve_name(f"sae:{tmp_path}/sae").build(model)
    x = record(model, (basis.sites[0].read,), text.rows(range(3)))[basis.sites[0].read]
    assert basis.sites[0].read == model.hook(site, 1)
    assert basis.decode(basis.sites[0], basis.encode(basis.sites[0], x)).shape == x.shape


class _KilledError(BaseException):
    """Stands for a kill, which nothing can answer."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "end"), [(("sae", "skip-transcoder"), _KilledError), (("clt",), KeyboardInterrupt)], ids=["kill", "stop"]
)
def test_a_training_that_ends_early_ends_with_the_same_weights(
    kinds: Any, end: type[BaseException], model: Model, text: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = (0, 1, 2) if "clt" in kinds else (1,)
    settings = replace(SETTINGS, kinds=kinds, layers=layers, tokens=1536, chunk_contexts=16)
    train(model, text, settings, tmp_path / "whole", progress=False)
    steps, out = iter(range(1000)), tmp_path / "early"
    stops = [19 * len(kinds), 21 * len(kinds) + 1]
    seconds = 0.0 if end is _KilledError else 3600.0  # asked to end it writes a checkpoint

    def ending(self: InTraining, batch: Any, step: Any = InTraining.step) -> Any:
        if next(steps) in stops:  # in the middle of a chunk; the second time after a checkpoint of the second run
            if end is KeyboardInterrupt:
                signal.raise_signal(signal.SIGTERM)  # answered when the step is over
            else:
                raise end
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(InTraining, "step", ending)
        for run in range(2):
            with pytest.raises(end):
                train(model, text, settings, out, progress=False, checkpoint_seconds=seconds)
            assert len(list((out / ".training").glob("chunk_*"))) == 1
            measured = json.loads((out / "card.json").read_text())["measured"] if run else {"512": 0}
            assert list(measured) == ["512"]
    torch.manual_seed(99)  # nothing hangs on the state of the process
    train(model, text, settings, out, progress=False, checkpoint_seconds=0)
    expected, found = weights(tmp_path / "whole"), weights(out)
    assert expected.keys() == found.keys()
    assert len(expected) == 2 * (len(kinds) if "sae" in kinds else 6)
    for place, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found[place][name]), (place, name)
    assert json.loads((out / "card.json").read_text())["runs"] == 3
    before = (out / "card.json").stat().st_mtime_ns
    train(model, text, settings, out, progress=False)  # finished: left alone
    assert (out / "card.json").stat().st_mtime_ns == before


def test_what_does_not_fit_is_one_line(model: Model, text: Packed, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(BasisBenchError, match=r"--k 60 is more than the 48 units of --width 3x"):
        train(model, text, replace(SETTINGS, k=60), tmp_path / "wide", progress=False)
    assert not (tmp_path / "wide").exists()
    with pytest.raises(BasisBenchError, match=r"short: too little text: 81 tokens, expected at least 4,080"):
        pack("short", [some_text(80)], model.tokenizer, SETTINGS, all_of_it=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BasisBenchError, match=r"holds 'notes.txt', which no training makes"):
        train(model, text, SETTINGS, tmp_path, progress=False)
    with pytest.raises(BasisBenchError, match="holds another training"):
        train(model, text, replace(SETTINGS, seed=1), trained, progress=False)
    with pytest.raises(BasisBenchError, match="is a file; choose a folder"):
        train(model, text, SETTINGS, tmp_path / "notes.txt", progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
