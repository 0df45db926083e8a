"""`basisbench verify`: honest records are re-run and agree, every kind of forgery is found, nothing is half written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import basisbench.circuits.curve
from basisbench.cli import main
from basisbench.errors import BasisBenchError, RecordError
from basisbench.results.record import Record, read_record
from basisbench.results.store import VERIFICATION_FILE, Store
from basisbench.runs.session import Session
from basisbench.runs.verify import draw_sample, verify
from basisbench.submissions.sampling import sample_sizes
from basisbench.submissions.verification import (
    Verification,
    check_verification,
    read_verification,
    records_digest,
    standing,
)
from basisbench.submissions.verification_fields import VerifiedCell
from basisbench.types import ModelSpec
from helpers.few_cells import PAIRS, run, store
from helpers.forgeries import ALL, FORGERIES, MORE, Content, Forge, circuit

pytestmark = pytest.mark.slow

BASES = ("mlp_act", "mlp_act_rotated", "sae_mlp_out", "transcoder", "resid")
METHODS = ("ixg", "relp", "magnitude", "random")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder: every basis and method above, and one cell with divergence and halves of complements."""
    folder = tmp_path_factory.mktemp("honest")
    run(folder, bases=BASES, methods=METHODS)
    run(folder, bases=["mlp_out"], methods=["ixg", "magnitude"])
    run(folder, bases=["mlp_out"], methods=["relp"], kl=True, subset_sizes=(20,), subset_draws=3, subset_blocks=6)
    return folder


@pytest.fixture(scope="module")
def contents(honest: Path) -> dict[tuple[str, str], Content]:
    """The records by basis and method."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Store(honest).records.glob("*.json"))]
    return {(content["cell"]["basis"], content["cell"]["method"]): content for content in read}


def few(honest: Path, folder: Path, count: int = 2) -> Path:
    """Return a folder with some of the records of neurons."""
    for path in sorted(Store(honest).records.glob("*.json")):
        record = read_record(path)
        if record.cell.basis == "resid" and len(list(Store(folder).records.glob("*.json"))) < count:
            Store(folder).write(record)
    return folder


@pytest.fixture(scope="module")
def honest_outcome(honest: Path) -> Verification:
    """The honest folder, verified whole."""
    sample = draw_sample(honest, cells="all", seed=1)
    verification, path = verify(sample, by="Ada Lovelace")
    assert path == honest / VERIFICATION_FILE
    assert read_verification(honest) == verification
    assert standing(honest) == "verified"
    assert check_verification(honest) == ()
    path.unlink()
    return verification


@pytest.fixture(scope="module")
def outcomes(
    contents: dict[tuple[str, str], Content], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, VerifiedCell]:
    """What is found in two folders of forged records, by the name of the forgery."""
    found: dict[str, VerifiedCell] = {}
    for forgeries in (FORGERIES, MORE):
        folder = tmp_path_factory.mktemp("forged")
        names: dict[str, str] = {}
        for key, (forge, _) in forgeries.items():
            content = json.loads(json.dumps(contents[key]))
            forge(content, contents)
            names[store(content, folder)] = forge.__name__
        verification, _ = verify(draw_sample(folder, cells="all", seed=1), by="Ada Lovelace")
        assert not verification.passed
        assert standing(folder) == "self-reported"
        assert check_verification(folder) == ()  # the file is what verify writes
        found |= {names[cell.cell_id]: cell for cell in verification.cells}
    return found


def test_honest_records_of_every_basis_and_method_agree(honest_outcome: Verification) -> None:
    assert {cell.basis for cell in honest_outcome.cells} == {*BASES, "mlp_out"}
    assert [cell.problems for cell in honest_outcome.cells] == [()] * (len(BASES) * len(METHODS) + 3)
    assert honest_outcome.passed
    # The same machine: what is left is the rounding of records to five digits, and of this rounding.
    assert honest_outcome.largest < 1e-4
    assert honest_outcome.by == "Ada Lovelace"
    assert honest_outcome.environment.threads >= 1
    assert honest_outcome.tolerances.keys() == {"float32"}
    for cell in honest_outcome.cells:
        assert len(cell.sizes) > 12
        assert cell.circuit is not None
        assert cell.circuit.values == len(cell.sizes) * PAIRS
        assert cell.ranking is not None
        assert (cell.ranking.compared, cell.ranking.missing) == (20, 0)


@pytest.mark.parametrize(("key", "forgery"), ALL, ids=[forge.__name__ for _, (forge, _) in ALL])
def test_every_kind_of_forgery_is_found(
    outcomes: dict[str, VerifiedCell], key: tuple[str, str], forgery: tuple[Forge, str]
) -> None:
    forge, expected = forgery
    cell = outcomes[forge.__name__]
    assert (cell.basis, cell.method) == key
    assert not cell.passed
    assert any(problem.startswith(expected) for problem in cell.problems), cell.problems
    assert all("\n" not in problem for problem in cell.problems)


def test_only_the_drawn_sizes_are_evaluated(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    circuits: list[int] = []
    evaluate = basisbench.circuits.curve.evaluate

    def counted(*given: Any, **named: Any) -> Any:
        circuits.append(given[4])
        return evaluate(*given, **named)

    monkeypatch.setattr(basisbench.circuits.curve, "evaluate", counted)
    folder = few(honest, tmp_path / "few", count=1)
    record = read_record(next(Store(folder).records.glob("*.json")))
    verification, _ = verify(draw_sample(folder, cells=1, points=2, seed=1), by="Ada")
    assert verification.passed
    drawn = set(sample_sizes(record, 2, 1))  # between 0 and all nodes, which are F(0) and F(M)
    assert set(verification.cells[0].sizes) == drawn | {0, record.curve.sizes[-1]}
    assert 2 <= len(drawn) < len(record.curve.sizes) / 2
    both = [size for size, value in zip(record.curve.sizes, record.curve.complement, strict=True) if value is not None]
    assert circuits == [len(drawn) + len(drawn & set(both))] * len(record.groups)


def test_another_type_of_weights_verifies_the_same_records(honest: Path, tmp_path: Path) -> None:
    folder = few(honest, tmp_path / "few", count=1)
    verification, _ = verify(draw_sample(folder, cells=1, points=3, seed=1), by="Ada", dtype="float64")
    (cell,) = verification.cells
    assert (cell.dtype, cell.same_model, cell.passed, cell.problems) == ("float64", True, True, ())


def test_an_earlier_version_is_verified_by_its_numbers(
    contents: dict[tuple[str, str], Content], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store({**contents["resid", "ixg"], "basisbench": "0.2.9"}, tmp_path)
    assert main(["verify", str(tmp_path), "--by", "Ada", "--points", "1"]) == 0
    text = capsys.readouterr().out
    assert "made by BasisBench 0.2.9, re-run by " in text
    assert "verified: 1 of 1 cells agree" in text


def test_a_model_of_ones_own_is_found_where_it_is_said_to_be(tiny_llama: ModelSpec, tmp_path: Path) -> None:
    mine = f"mine={tiny_llama.path}"
    run(tmp_path, models=[mine], bases=["resid"], methods=["ixg"])
    assert main(["verify", str(tmp_path), "--by", "Ada", "--cells", "1", "--points", "2", "--model", mine]) == 0
    assert standing(tmp_path) == "verified"


def test_a_cell_that_fails_half_way_leaves_no_file(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = few(honest, tmp_path / "few")
    runs: list[object] = []
    real = Session.run

    def failing(self: Session, *given: Any, **named: Any) -> Record:
        runs.append(given)
        if len(runs) == 2:
            raise BasisBenchError("out of memory")
        return real(self, *given, **named)

    monkeypatch.setattr(Session, "run", failing)
    with pytest.raises(BasisBenchError, match="cannot be re-run: out of memory; nothing was written"):
        verify(draw_sample(folder, cells="all", points=1, seed=1), by="Ada")
    assert len(runs) == 2
    assert [path.name for path in folder.iterdir()] == ["records"]


def test_records_that_change_meanwhile_are_not_vouched_for(honest: Path, tmp_path: Path) -> None:
    folder = few(honest, tmp_path / "few")
    sample = draw_sample(folder, cells=1, points=1, seed=1)
    other = sorted(Store(folder).records.glob("*.json"))[-1]
    with pytest.raises(RecordError, match="its records changed while they were verified"):
        verify(sample, by="Ada", on_cell=lambda _cell: other.unlink())
    assert [path.name for path in folder.iterdir()] == ["records"]


def test_the_command_as_a_user_runs_it(honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = few(honest, tmp_path / "few")
    out = tmp_path / "elsewhere.json"
    before = records_digest(folder)
    words = ["--by", "Ada Lovelace", "--cells", "1", "--points", "2", "--seed", "7", "--out", str(out)]
    assert main(["verify", str(folder), *words]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    drawn, chance, cell, summary = printed.out.splitlines()
    assert drawn == "drawn: 1 of 2 cells, 2 sizes each, seed 7"
    assert chance.endswith(
        "at least 1-(1-p)^1 for a share p of forged ones: 5% if 5% are, 10% if 10% are, 25% if 25% are"
    )
    assert cell.startswith("[1/1] pocket-llama sva_simple resid ")
    assert cell.endswith(": ok")
    assert summary.startswith("verified: 1 of 1 cells agree, largest deviation ")
    assert summary.endswith(f"; written: {out}")
    assert records_digest(folder) == before
    assert standing(folder) == "self-reported"  # it was written elsewhere
    shutil.copy(out, folder / VERIFICATION_FILE)
    assert standing(folder) == "verified"
    assert {path.name for path in tmp_path.iterdir()} == {"few", "elsewhere.json"}


def test_a_forged_record_ends_in_exit_code_2_and_a_file_that_says_so(
    contents: dict[tuple[str, str], Content], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(json.dumps(contents["resid", "ixg"]))
    circuit(content, contents)
    store(content, tmp_path)
    assert main(["verify", str(tmp_path), "--by", "Ada", "--cells", "all"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "every cell is drawn" in lines[1]
    assert "NOT verified: curve.circuit: " in lines[2]
    assert lines[3].startswith("NOT verified: 0 of 1 cells agree, ")
    verification = read_verification(tmp_path)
    assert verification is not None
    assert not verification.passed
    assert standing(tmp_path) == "self-reported"


@pytest.mark.slow
def test_a_killed_command_leaves_what_was_there(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(honest, folder)
    (folder / VERIFICATION_FILE).write_text("of yesterday", encoding="utf-8")
    words = [sys.executable, "-m", "basisbench.cli", "verify", str(folder), "--by", "Ada", "--cells", "all"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[1/"):
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert {path.name for path in folder.iterdir()} == {"records", VERIFICATION_FILE}
    assert (folder / VERIFICATION_FILE).read_text(encoding="utf-8") == "of yesterday"
    assert {path.suffix for path in (folder / "records").iterdir()} == {".json"}
