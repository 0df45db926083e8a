"""`basisbench tune` on a tiny model: it learns, its checkpoints are a plain loop's, and a kill changes nothing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.registry import load_registry
from basisbench.runs.model_names import find_model
from basisbench_baselines.training.settings import TuningSettings
from basisbench_baselines.training.text import Packed, pack
from basisbench_baselines.training.tune import Tuning, measure, tune, written_form
from helpers.tiny_training import some_text

SETTINGS = TuningSettings(
    tokens=1024, snapshots=(256,), context=16, batch_tokens=64, held_out_contexts=16, learning_rate=1e-2, warmup_steps=3
)


@pytest.fixture(scope="module")
def text(model: Model) -> Packed:
    """A text of few words, which a model learns soon."""
    return pack("words", [some_text(300) * 5], model.tokenizer, SETTINGS, all_of_it=True)


@pytest.fixture(scope="module")
def tuned(model: Model, text: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two checkpoints."""
    out = tmp_path_factory.mktemp("tuned") / "out"
    tune(model, text, SETTINGS, out, command="basisbench tune tiny", progress=False)
    return out


def test_tuning_learns_and_leaves_checkpoints_that_load(tuned: Path, model: Model, text: Packed) -> None:
    assert {path.name for path in tuned.iterdir()} == {"256", "1024", "card.json", "README.md"}
    card = json.loads((tuned / "card.json").read_text())
    early, last = (card["measured"][name] for name in ("256", "1024"))
    assert early["tokens"] == 256
    assert last["loss"] < early["loss"] < early["loss_before"] == last["loss_before"]
    assert 0 < early["kl"] < last["kl"]
    assert f"| 1,024 | {last['loss']:.4f} | {last['kl']:.4f} |" in (tuned / "README.md").read_text()
    loaded = load_model(find_model(f"mine={tuned}/1024", load_registry()))
    found = measure(model.body, loaded.body, text.rows(range(-16, 0)), 4)
    assert found == pytest.approx({name: last[name] for name in found}, rel=1e-4)
    assert loaded.tuning == {
        "start": model.weights_hash, "tokens": 1024, "text": "words", "text_digest": text.digest,
        "digest": card["fingerprint"],
    }  # fmt: skip
    assert model.tuning is None


def test_checkpoints_are_those_of_the_plain_loop(tuned: Path, model: Model, text: Packed) -> None:
    body = copy.deepcopy(model.body).requires_grad_(True)
    optimizer = torch.optim.AdamW(body.parameters(), weight_decay=0.0)
    for step in range(16):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 3)
        rows = text.contexts[16:][4 * step : 4 * step + 4].long()
        logits = body(input_ids=rows).logits[:, :-1]
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        optimizer.step()
        if step + 1 in (4, 16):
            written = load_file(tuned / str(64 * (step + 1)) / "model.safetensors")
            for name, expected in body.named_parameters():
                torch.testing.assert_close(written[name], expected.detach(), msg=name)


def test_a_checkpoint_is_what_a_shorter_tuning_leaves(tuned: Path, model: Model, tmp_path: Path) -> None:
    short = replace(SETTINGS, tokens=256, snapshots=())
    text = pack("words", [some_text(300) * 5], model.tokenizer, short, all_of_it=True)
    tune(model, text, short, tmp_path, progress=False)
    one, other = (load_file(folder / "256/model.safetensors") for folder in (tuned, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tuning_that_is_stopped_ends_with_the_same_weights(
    tuned: Path, model: Model, text: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = Tuning._step

    def stopped(self: Tuning, bar: object) -> None:
        step(self, bar)  # type: ignore[arg-type]
        steps.append(self.state["step"])
        if len(steps) in (2, 7):
            raise KeyboardInterrupt

    monkeypatch.setattr(Tuning, "_step", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(model, text, SETTINGS, tmp_path, progress=False)
    tune(model, text, SETTINGS, tmp_path, progress=False)
    assert steps == list(range(1, 17))
    for name in ("256", "1024"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (tuned, tmp_path))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((tmp_path / "card.json").read_text())["runs"] == 3
    tune(model, text, SETTINGS, tmp_path, progress=False)  # nothing to do
    assert len(steps) == 16


def test_drift_is_the_mean_over_tokens(model: Model, text: Packed) -> None:
    other = copy.deepcopy(model.body)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    rows = text.rows(range(6))
    found = measure(model.body, other, rows, 4)
    kl = []
    for row in rows:
        old, new = (body(input_ids=row[None]).logits[0, :-1].double().softmax(-1) for body in (model.body, other))
        kl += (old * (old / new).log()).sum(-1).tolist()
    assert found["kl"] == pytest.approx(sum(kl) / len(kl), rel=1e-5)
    assert found["loss"] == pytest.approx(float(other(input_ids=rows, labels=rows).loss), rel=1e-5)
    assert measure(model.body, model.body, rows, 4)["kl"] == 0


def test_dictionaries_of_the_model_before_come_along(model: Model, text: Packed, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "cfg.json").write_text("{}")
    spec = replace(model.spec, dictionaries={"sae_mlp_out": mine})
    tune(replace(model, spec=spec), text, replace(SETTINGS, tokens=64, snapshots=()), tmp_path / "out", progress=False)
    found = find_model(f"mine={tmp_path}/out/64", load_registry()).dictionaries
    assert found == {"sae_mlp_out": tmp_path / "out/dictionaries/sae_mlp_out"}
    assert (found["sae_mlp_out"] / "cfg.json").read_text() == "{}"


def test_a_quantised_configuration_is_written_plain(model: Model) -> None:
    body = copy.deepcopy(model.body)
    body.config.quantization_config = {"quant_method": "gguf"}
    form = written_form(body, {"tokens": 7})
    assert "quantization_config" not in form.config.to_dict()
    assert form.config.basisbench_tuning == {"tokens": 7}
    assert all(torch.equal(form.state_dict()[name], tensor) for name, tensor in body.state_dict().items())


def test_what_cannot_be_done_is_told(model: Model, text: Packed, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(BasisBenchError, match="holds another training"):
        tune(model, text, replace(SETTINGS, seed=1), tuned, progress=False)
    (tmp_path / "letters").write_text("")
    with pytest.raises(BasisBenchError, match="holds 'letters', which no training makes"):
        tune(model, text, SETTINGS, tmp_path, progress=False)
    with pytest.raises(BasisBenchError, match="--learning-rate 1e\\+18: the loss is no number any more after"):
        tune(model, text, replace(SETTINGS, learning_rate=1e18), tmp_path / "far", progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to read: give --text FILE... or --dataset HUB"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file; expected a text file"),
        (["--dataset", "a/b", "--snapshots", "2k"], "--snapshots 2000: not before the end of the training"),
        (["--dataset", "a/b", "--seed", "-1"], "--seed -1: expected a whole number of at least 0"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "pocket-llama", "--tokens", "1k", "--out", "out", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("rate", ["0", "1", "nan", "fast"])
def test_a_rate_is_told_by_the_parser(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "pocket-llama", "--tokens", "1k", "--out", "out", "--learning-rate", rate])
    assert f"expected a learning rate such as 5e-5, found '{rate}'" in capsys.readouterr().err
