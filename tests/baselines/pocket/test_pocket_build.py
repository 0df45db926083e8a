"""The build of the pocket model as a whole: killed, finished, changed in part, and pointed at the wrong folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basisbench.errors import BasisBenchError
from basisbench_baselines.pocket.build import WORK, build, corpus_fingerprint
from basisbench_baselines.pocket.training import dictionaries, evaluate, train
from basisbench_baselines.pocket.training.activations import cross_layer_sites, dictionary_sites
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
