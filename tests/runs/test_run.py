"""The outer loop: what is done, what is kept, what goes on when something fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import basisbench
from basisbench.errors import BasisBenchError
from basisbench.results.record import read_record
from basisbench.runs.progress import Event
from basisbench.runs.run import Outcome, Request, default_jobs, run_request
from basisbench.runs.runner import RunOptions
from basisbench.types import ModelSpec
from helpers import oracle

Write = Callable[..., Path]
CELLS: dict[str, Any] = {
    "models": ["tiny-llama"],
    "tasks": ["sva_simple", "ioi"],
    "bases": ["mlp_act", "resid"],
    "methods": ["ixg", "random"],
    "attribution_pairs": 4,
    "evaluation_pairs": 4,
}


def request(out: Path, plugin: Path, jobs: int = 1, resume: bool = True, **changes: Any) -> Request:
    settings = RunOptions(out=out, plugins=(plugin,), resume=resume)
    return Request(suite="pocket", changes={**CELLS, **changes}, options=settings, jobs=jobs, progress=False)


def states(outcome: Any) -> list[str]:
    return [event.state for event in outcome.events]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").iterdir()}


def test_two_workers_on_a_cpu_and_one_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (2, 2), (64, 2)):
        monkeypatch.setattr("basisbench.runs.workers.available_cores", lambda cores=cores: cores)
        assert default_jobs("cpu") == expected
        assert default_jobs("cuda:0") == 1


@pytest.mark.slow
def test_where_all_cells_failed_no_others_are_named(tmp_path: Path) -> None:
    failed = Event("failed", oracle.cell("resid"), message="a reason")
    with pytest.raises(BasisBenchError, match=r"^1 of 1 cells failed; first: a reason$"):
        Outcome(tmp_path, (failed,), 1.0).raise_failures()


@pytest.mark.slow
def test_a_second_run_keeps_everything(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    out, plugin = tmp_path / "out", plugin_with(tiny_llama)
    few: dict[str, Any] = {"methods": ["ixg"]}
    assert states(run_request(request(out, plugin, **few))) == ["finished"] * 4
    before = contents(out)
    assert len(before) == 4
    assert states(run_request(request(out, plugin, **few))) == ["kept"] * 4
    assert contents(out) == before
    assert states(run_request(request(out, plugin, resume=False, **few))) == ["finished"] * 4
    assert set(contents(out)) == set(before)


@pytest.mark.slow
def test_only_what_is_missing_or_damaged_is_done_again(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    out, plugin = tmp_path / "out", plugin_with(tiny_llama)
    few: dict[str, Any] = {"methods": ["random"]}
    run_request(request(out, plugin, **few))
    missing, damaged, *_ = sorted((out / "records").iterdir())
    missing.unlink()
    damaged.write_text("{", encoding="utf-8")
    again = states(run_request(request(out, plugin, **few)))
    assert sorted(again) == ["finished"] * 2 + ["kept"] * 2
    assert read_record(damaged).id == damaged.stem


@pytest.mark.slow
def test_another_setting_or_another_model_of_that_name_makes_new_cells(
    tiny_llama: ModelSpec, tiny_gpt2: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    out, plugin = tmp_path / "out", plugin_with(tiny_llama)
    few: dict[str, Any] = {"tasks": ["ioi"], "bases": ["mlp_act"], "methods": ["random"]}
    assert states(run_request(request(out, plugin, **few))) == ["finished"]
    assert states(run_request(request(out, plugin, **few, ablations=["zero"]))) == ["finished"]
    assert states(run_request(request(out, plugin, **few, seeds=[1]))) == ["finished"]
    disguised = ModelSpec(name="tiny-llama", path=tiny_gpt2.path, summary="other weights under the same name")
    assert states(run_request(request(out, plugin_with(disguised), **few))) == ["finished"]
    assert len(contents(out)) == 4


@pytest.mark.slow
def test_the_python_interface_returns_its_own_cells(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    few: dict[str, Any] = {
        "models": ["tiny-llama"],
        "tasks": ["sva_simple"],
        "methods": ["random"],
        "examples": 4,
        "out": tmp_path,
        "plugins": [plugin_with(tiny_llama)],
        "progress": False,
    }
    basisbench.run(bases=["resid"], **few)
    frame = basisbench.run(bases=["mlp_act"], **few)
    assert set(frame["basis"]) == {"mlp_act"}
    assert frame["size"].is_monotonic_increasing
    assert set(basisbench.load_results(tmp_path)["basis"]) == {"mlp_act", "resid"}


@pytest.mark.slow
def test_a_failing_cell_fails_alone(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model has no dictionaries: that is told once, and the neurons go on."""
    out = tmp_path / "out"
    outcome = run_request(request(out, plugin_with(tiny_llama), bases=["sae_resid", "resid"]))
    assert sorted(states(outcome)) == ["failed"] * 4 + ["finished"] * 4
    assert {event.cell.basis for event in outcome.failures} == {"sae_resid"}
    assert len(contents(out)) == 4
    assert capsys.readouterr().err.count("failed: ") == 1
    with pytest.raises(BasisBenchError, match=r"4 of 8 cells failed; the others are in .*; first: .*sae_resid"):
        outcome.raise_failures()


def test_a_bug_goes_up_and_finished_cells_stay(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basisbench.runs.session import Session

    original = Session.run

    def fail_on_resid(self: Any, cell: Any, *rest: Any, **others: Any) -> Any:
        if cell.basis == "resid":
            raise ZeroDivisionError
        return original(self, cell, *rest, **others)

    monkeypatch.setattr(Session, "run", fail_on_resid)
    with pytest.raises(ZeroDivisionError):
        run_request(request(tmp_path, plugin_with(tiny_llama), methods=["random"]))
    assert len(contents(tmp_path)) == 1


def test_a_run_in_which_nothing_finishes_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(tmp_path / "out", (Event("failed", oracle.cell("resid"), message="a reason"),), 1.0)
    monkeypatch.setattr("basisbench.runs.run._run_blocks", lambda *_: failed)
    run_request(Request("pocket", {}, RunOptions(out=failed.out), progress=False))
    assert list(tmp_path.iterdir()) == []


def test_jobs_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(BasisBenchError, match="jobs must be at least 1, found 0"):
        basisbench.run(out=tmp_path, jobs=0)


DEADLY = """
import os, signal
from pathlib import Path
from basisbench.protocols import BasisSpec
from basisbench_baselines.bases.neurons import neurons_at

def build(model):
    try:
        Path({mark!r}).touch(exist_ok=False)
    except FileExistsError:
        return neurons_at("deadly", "resid", "resid_post", model)
    os.write(2, b"the last words\\nof a library\\n")
    os.kill(os.getpid(), signal.SIGKILL)

PROVIDES = BasisSpec(name="deadly", family="resid", summary="kills the first process that builds it", build=build)
"""


@pytest.mark.slow
def test_workers_do_the_same_cells_and_one_that_dies_takes_no_other_along(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two workers share two tasks; a first cell kills its process, and a new one does the second of that task."""
    deadly = tmp_path / "deadly.py"
    deadly.write_text(DEADLY.format(mark=str(tmp_path / "mark")), encoding="utf-8")
    plugin = plugin_with(tiny_llama)
    alone = run_request(request(tmp_path / "alone", plugin, bases=["resid"], methods=["random"]))

    changes = {**CELLS, "bases": ["deadly", "resid"], "methods": ["random"]}
    settings = RunOptions(out=tmp_path / "together", plugins=(plugin, deadly))
    together = run_request(Request("pocket", changes, settings, jobs=2, progress=False))
    assert {event.cell.basis for event in together.failures} == {"deadly"}
    (line,) = capfd.readouterr().err.splitlines()
    assert "a worker process was killed by SIGKILL (of a library); its unfinished cells" in line
    with pytest.raises(BasisBenchError, match="1 of 4 cells failed"):
        together.raise_failures()

    assert len(together.records) == 3
    assert {path.name for path in together.records} > {path.name for path in alone.records}
    for path in alone.records:
        one, other = read_record(path), read_record(tmp_path / "together" / "records" / path.name)
        assert one.endpoints.full == pytest.approx(other.endpoints.full, rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    """A process with two workers is killed once first records are written; the same request finishes the rest."""
    out, plugin = tmp_path / "out", plugin_with(tiny_llama)
    options = [f"--{name[:-1]}={value}" for name in ("models", "tasks", "methods") for value in CELLS[name]]
    command = [
        *(sys.executable, "-m", "basisbench.cli", "run", *options, "--basis=mlp_act", "--basis=resid"),
        *("--examples=4", f"--out={out}", f"--plugin={plugin}", "--jobs=2"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 300
    while not list(out.glob("records/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until its workers, too, are gone: they notice that it is after the cell they are in
    survived = contents(out)
    assert survived
    for path in (out / "records").glob("*.json"):
        assert read_record(path).id == path.stem
    kept = {name for name in survived if name.endswith(".json")}
    again = states(run_request(request(out, plugin)))
    assert sorted(again) == ["finished"] * (8 - len(kept)) + ["kept"] * len(kept)
    after = contents(out)
    assert len([name for name in after if name.endswith(".json")]) == 8
    assert all(after[name] == survived[name] for name in kept), "finished cells are not done again"
