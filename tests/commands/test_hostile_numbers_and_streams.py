"""Numbers beyond what a record holds, files nested beyond reason, a closed or full output, no memory: one line each."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from basisbench.attribution.values import shaped
from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.registry import load_registry
from basisbench.runs.basis_cache import checked_fingerprint
from basisbench.runs.plugin_failure import check_scores
from basisbench.runs.suite import load_suite
from basisbench.types import Scores, Site

BIG = "9" * 30


@pytest.mark.parametrize(
    "words",
    [
        *(["run", option, BIG] for option in ("--seed", "--examples", "--draws", "--limit", "--jobs")),
        ["run", "--seed", "-" + BIG],
        ["run", "--seed", "9" * 5000],
        ["show", "ioi", "--seed", BIG],
        ["run", "--halves", "20," + BIG],
        ["run", "--halves", "20", "--adversarial-halves", BIG],
    ],
)
def test_numbers_that_no_record_holds_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "expected a whole number from " in line
    assert len(line) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[" * 20_000, "nested too deep for a suite", marks=pytest.mark.slow),
        ("name: 2024-99-99", "YAML cannot read: month must be in 1..12"),
        ("name: !!int ''", "YAML cannot read: "),
        ("name: !!timestamp x", "YAML cannot read: "),
        ("name: !!float x", "YAML cannot read: "),
        ("seeds: [9999999999999999999999]", "seeds[0]: input should be less than or equal to 9007199254740992"),
        ("attribution_pairs: 9999999999999999999999", "attribution_pairs: input should be less than or equal to"),
    ],
)
def test_a_hostile_suite_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "suite.yaml"
    whole = "name: x\nsummary: x\nmodels: [a]\ntasks: [a]\nbases: [a]\nmethods: [a]\n"
    path.write_text(whole + text if text.startswith(("seeds", "attribution")) else text, encoding="utf-8")
    with pytest.raises(BasisBenchError) as told:
        load_suite(path)
    assert expected in str(told.value)
    assert "\n" not in str(told.value)


def test_output_that_is_closed_or_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    redirected: list[bool] = []
    monkeypatch.setattr("basisbench.cli._write_no_more", lambda: redirected.append(True))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("basisbench.commands.list.execute", full)
    assert main(["list", "tasks"]) == 2
    assert capsys.readouterr().err == "basisbench: error: the output cannot be written: No space left on device\n"
    assert redirected == [True]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "suites"]) == 0


@pytest.mark.parametrize("error", [MemoryError(), ImportError("x.so: failed to map segment from shared object")])
def test_a_process_without_memory_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("basisbench.commands.list.execute", fail)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit, match="2"):
        main(["list", "tasks"])
    assert capsys.readouterr().err.startswith("basisbench: error: out of memory; ")


@pytest.mark.parametrize("found", ["not hex", 17, "a" * 1000, b"ab" * 8, "../../records", "ABCDEF0123", ""])
def test_a_fingerprint_is_a_digest(found: object) -> None:
    with pytest.raises(
        BasisBenchError, match=r"basis 'mine': its fingerprint is .*expected 8 to 64 hexadecimal digits"
    ):
        checked_fingerprint(found, "mine")


@pytest.mark.parametrize("name", ["calibrated:calibrated:transcoder", "clt:"])
def test_names_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(BasisBenchError, match=f"basis '{name}': "):
        load_registry().get("basis", name)


@pytest.mark.parametrize("scores", [Scores(3, None), Scores(None, None), Scores((torch.ones(1, 2),), 3)])
def test_scores_that_are_no_tuples_of_tensors(scores: Scores) -> None:
    basis = SimpleNamespace(name="mine", exact=scores.errors is None, sites=(Site(0, "a", "a"),))
    method = SimpleNamespace(name="own")
    with pytest.raises(BasisBenchError, match=r"method 'own' on basis 'mine': .* expected a tuple of tensors"):
        check_scores(scores, method, basis, 1, "coordinates")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int64])
def test_coordinates_are_floating_point(dtype: torch.dtype) -> None:
    with pytest.raises(BasisBenchError, match="basis 'mine': encode gives a tensor of torch"):
        shaped(torch.ones(1, 2, dtype=dtype), (1,), SimpleNamespace(name="mine"), "encode", Site(0, "a", "a"))
