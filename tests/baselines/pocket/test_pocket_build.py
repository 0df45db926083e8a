"""The build of the pocket model as a whole: killed, finished, changed in part, and pointed at the wrong folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.explore import load_model
from basisbench_baselines.pocket.build import WORK, build, corpus_fingerprint, train_dictionaries_again
from basisbench_baselines.pocket.training import dictionaries, evaluate, train
from basisbench_baselines.pocket.training.activations import cross_layer_sites, dictionary_sites, record_activations
from basisbench_baselines.pocket.training.plan import BuildPlan
from basisbench_baselines.training.checkpoint import save_state

BUILD = """
import sys
from pathlib import Path
from basisbench_baselines.pocket.build import build
from basisbench_baselines.pocket.training import evaluate
from basisbench_baselines.pocket.training.plan import BuildPlan
evaluate.REQUIRED_ACCURACY = {"sva_simple": 0.97}
build(Path(sys.argv[1]), plan=BuildPlan.tiny())
"""


def _start_build(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BUILD, str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _weights(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


class _StoppedError(Exception):
    """Stands for a kill."""


def _stop_at(checkpoint: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build until a checkpoint is there for the first time."""

    def stop(path: Path, *what: Any, save: Callable[..., None] = save_state) -> None:
        save(path, *what)
        if path.stem == checkpoint:
            raise _StoppedError

    with monkeypatch.context() as patch:
        for module in (train, dictionaries):
            patch.setattr(module, "save_state", stop)
        with pytest.raises(_StoppedError):
            build(out, plan=BuildPlan.tiny(), progress=False)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_with_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "REQUIRED_ACCURACY", {"sva_simple": 0.97})  # others take longer than the training
    build(tmp_path / "whole", plan=BuildPlan.tiny(), progress=False)
    out = tmp_path / "killed"
    # End it after its first model checkpoint, kill it while it trains dictionaries of single layers, and end it when it
    # has trained the cross-layer transcoder, which it measures and saves after that.
    _stop_at("model", out, monkeypatch)
    process = _start_build(out)
    while process.poll() is None and not list(out.glob(f"{WORK}/*/dictionaries.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    _stop_at("cross_layer", out, monkeypatch)
    build(out, plan=BuildPlan.tiny(), progress=False)
    whole, killed = _weights(tmp_path / "whole"), _weights(out)
    assert list(whole) == list(killed)
    assert len(whole) == 1 + len(dictionary_sites(2)) + 2 * len(cross_layer_sites(2))
    assert [name for name in whole if whole[name] != killed[name]] == []
    assert not (out / WORK).exists()
    assert not list(out.rglob(".*"))
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert (
        card["fingerprint"] == json.loads((tmp_path / "whole" / "card.json").read_text(encoding="utf-8"))["fingerprint"]
    )


def test_a_finished_build_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    plan = BuildPlan.tiny(seed=4)
    card = {"fingerprint": plan.fingerprint(corpus_fingerprint(4))}
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    build(tmp_path, plan=plan)
    assert "already built" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model"]


def test_a_build_refuses_a_folder_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important", encoding="utf-8")
    with pytest.raises(BasisBenchError, match=r"holds 'thesis\.tex'.*choose an empty folder"):
        build(tmp_path, plan=BuildPlan.tiny(), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_dictionaries_trained_again_differ_and_their_model_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "REQUIRED_ACCURACY", {"sva_simple": 0.97})
    plan = BuildPlan.tiny(seed=3)
    plan = replace(plan, model=replace(plan.model, architecture="gpt2"))
    build(tmp_path / "first", plan=plan, progress=False)
    for seed in (3, 4):
        train_dictionaries_again(tmp_path / f"seed-{seed}", tmp_path / "first", seed=seed, progress=False)
    first, same, other = (_weights(tmp_path / name) for name in ("first", "seed-3", "seed-4"))
    assert list(first) == list(same) == list(other)
    assert same == first  # the seed is all that is drawn from
    changed = {name for name in first if first[name] != other[name]}
    assert changed == set(first) - {"model/model.safetensors"}
    cards = [json.loads((tmp_path / name / "card.json").read_text("utf-8")) for name in ("first", "seed-4")]
    assert cards[0]["model"] == cards[1]["model"]
    assert (cards[1]["plan"]["seed"], cards[1]["plan"]["dictionary_seed"]) == (3, 4)
    assert cards[0]["fingerprint"] != cards[1]["fingerprint"]
    _reads_what_the_bridge_reads(tmp_path / "first")


def _reads_what_the_bridge_reads(folder: Path) -> None:
    """Hold that dictionaries of a build were trained where TransformerLens says that they are."""
    model = load_model(str(folder / "model"))
    sites = (*dictionary_sites(2), *cross_layer_sites(2))
    hooks = sorted({hook for site in sites for hook in (site.read, site.write)})
    ids = torch.tensor([[3, 5, 8, 13]])
    plain = AutoModelForCausalLM.from_pretrained(folder / "model")
    ours = record_activations(plain, hooks, ids)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(ids)
    for hook in hooks:
        torch.testing.assert_close(ours[hook], cache[hook], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model-of", "nowhere", "--dictionary-seed", "1"], "expected the folder of a finished 'pocket build'"),
        (["--model-of", "--dictionary-seed", "1", "--seed", "2"], "--seed and --architecture are those of the model"),
        (["--model-of", "--architecture", "gpt2"], "--seed and --architecture are those of the model"),
        (["--model-of"], "--dictionary-seed is missing"),
    ],
)
def test_what_does_not_go_with_another_build_s_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["pocket", "build", "--out", str(tmp_path / "out"), *arguments]) != 0
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("card", ["{}", "[]", '{"plan": {"model": {"wings": 2}}}'])
def test_a_card_of_something_else_is_one_line(tmp_path: Path, card: str) -> None:
    (tmp_path / "card.json").write_text(card, encoding="utf-8")
    with pytest.raises(BasisBenchError, match=r"card\.json: is not the card of a build"):
        train_dictionaries_again(tmp_path / "out", tmp_path, seed=1, progress=False)
    assert not (tmp_path / "out").exists()
