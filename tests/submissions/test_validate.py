"""`basisbench validate`: good records pass, every kind of fault is one line that says where, what and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from basisbench.cli import main
from basisbench.results.record import Record, read_record, write_record
from basisbench.results.store import Store
from basisbench.submissions.invariants import NARROW_TOLERANCE
from basisbench.submissions.validate import validate
from basisbench.types import Ablation
from helpers.synthetic_records import synthetic_record, synthetic_suite, with_endpoint_moved, write_suite
from helpers.verifications import write_verification

RESULTS = Path(__file__).parents[2] / "results"
BASES = ("mlp_act", "mlp_out", "transcoder")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with twelve records, to be read only: two tasks, three bases, two methods."""
    folder = tmp_path_factory.mktemp("written") / "results"
    write_suite(
        folder,
        list(synthetic_suite(tasks=("ioi", "sva_rc"), bases=BASES, methods=("relp", "random"), examples=6)),
    )
    return folder


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(copytree(written, tmp_path / "results"))


def file_of(folder: Path, basis: str, method: str = "relp", task: str = "ioi") -> Path:
    """Return the file of a cell."""
    for path in sorted(Store(folder).records.glob("*.json")):
        cell = read_record(path).cell
        if (cell.task, cell.basis, cell.method) == (task, basis, method):
            return path
    raise LookupError(basis)


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the content of a file and nothing else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def moved(record: Record, field: Any, amount: float) -> Record:
    """Return the record with the last value of an endpoint moved, and the curve with it."""
    return with_endpoint_moved(record, field, [*[0.0] * (len(record.endpoints.full) - 1), amount])


def lines_of(folder: Path) -> list[str]:
    return list(validate([folder]).lines())


# --- good records ---


def test_good_records_pass(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(Store(results).records.glob("*.json"))
    for paths in ([results], [Store(results).records], [results, results / "records", file]):
        assert main(["validate", *map(str, paths)]) == 0
        captured = capsys.readouterr()
        assert captured.out == "records: 12 valid, 0 not valid\n"
        assert captured.err == ""
    assert main(["validate", str(file)]) == 0
    assert capsys.readouterr().out == "records: 1 valid, 0 not valid\n"


@pytest.mark.slow
@pytest.mark.skipif(not RESULTS.is_dir(), reason="the results are not here")
def test_the_records_in_this_repository_pass() -> None:
    report = validate([RESULTS])
    assert list(report.lines()) == []
    assert report.valid >= 450


def test_performance_figures_beside_the_records_are_not_read(results: Path) -> None:
    (results / "hardware").mkdir()
    (results / "hardware" / "figures.json").write_text("{}", encoding="utf-8")
    before = validate([results])
    assert before.problems == {}
    (results / "other").mkdir()
    (results / "other" / "figures.json").write_text("{}", encoding="utf-8")
    assert list(validate([results]).problems) == [results / "other" / "figures.json"]


def test_a_cell_occurs_once_under_all_paths(results: Path, tmp_path: Path) -> None:
    """Two files are an error, whichever path comes first; one file that two paths hold is none."""
    first, file = file_of(results, "mlp_act"), tmp_path / "other" / file_of(results, "mlp_act").name
    assert validate([results, first, first.parent / ".." / "records"]).problems == {}
    write_record(synthetic_record(examples=6), file)
    for paths, (bad, good) in (([results, file.parent], (file, first)), ([file, results], (first, file))):
        report = validate(paths)
        assert report.problems == {
            bad: (f"holds a record of the same cell as {good}; expected one record of a cell: remove one of them",)
        }


def test_a_verified_record_is_not_the_one_to_remove(tmp_path: Path) -> None:
    """A later date makes no record right, and neither does a path that comes first."""
    write_suite(tmp_path / "verified", [synthetic_record(examples=6)])
    write_verification(tmp_path / "verified")
    later = synthetic_record(examples=6).model_copy(update={"created": datetime(2030, 1, 1, tzinfo=UTC)})
    write_suite(tmp_path / "a", [later])
    for paths in ([tmp_path], [tmp_path / "a", tmp_path / "verified"], [tmp_path / "verified", tmp_path / "a"]):
        assert [path.parent.parent.name for path in validate(paths).problems] == ["a"]


# --- a record by itself ---


def test_a_bad_record_is_one_line_and_exit_code_2(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(results, "mlp_out")
    edit(path, lambda content: content["curve"]["circuit"][3].__setitem__(2, float("nan")))  # type: ignore[index]
    assert main(["validate", str(results)]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"{path}: curve.circuit[3][2]: input should be a finite number, found nan; "
        "restore the file or run the cell again\n"
    )
    assert captured.out == "records: 11 valid, 1 not valid\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "invalid JSON: EOF while parsing a value at line 1 column 0"),
        (b"\xff\xfe\x00", "invalid JSON: expected value at line 1 column 1"),
        (b"[" * 60_000, "invalid JSON: recursion limit exceeded"),
        (b"[" * 100_000, "100000 bytes, but at most 98304 are allowed"),
        (b"[]", "input should be an object, found []"),
        (b"{}", "schema_version: field required"),
        (b'{"a\\nb\\u001b": 1}', "schema_version: field required"),
    ],
    ids=["empty", "not text", "deep", "large", "list", "no field", "strange field"],
)
def test_what_is_no_record_is_told(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    (line,) = lines_of(tmp_path)
    assert line.startswith(f"{path}: {expected}")
    assert line.endswith(
        "; run the cell with fewer --examples" if "bytes" in line else "; restore the file or run the cell again"
    )
    assert len(line) < 500


def test_a_number_beyond_all_bounds_is_told(results: Path) -> None:
    def enlarge(content: dict[str, object]) -> None:
        for place, key in (("groups", 0), ("counts", None), ("curve", None)):
            part: dict[str, object] = content[place] if key is None else content[place][key]  # type: ignore[assignment, index]
            for name in {"nodes", "nodes_max"} & part.keys():
                part[name] = 10**400

    edit(file_of(results, "mlp_out"), enlarge)
    (line,) = lines_of(results)
    assert "groups[0].nodes: input should be less than or equal to 9007199254740992, found 1000" in line
    assert len(line) < 600


def test_long_and_unprintable_names_stay_on_one_bearable_line(results: Path) -> None:
    edit(file_of(results, "mlp_out"), lambda content: content.update({"line\nbreak\x1b" + "k" * 10_000: 1}))
    (line,) = lines_of(results)
    assert "line\\nbreak\\x1bkkk" in line
    assert len(line) < 600


# --- names and cells ---


def test_a_file_is_named_by_its_cell(results: Path) -> None:
    path = file_of(results, "mlp_out")
    wrong = path.rename(path.with_name("mlp_out.json"))
    (line,) = lines_of(results)
    advice = "rename it, or if it was edited, restore the file or run the cell again"
    assert line == f"{wrong}: expected the name {path.name}: {advice}"


def test_an_edited_cell_shows_in_the_name(results: Path) -> None:
    path = file_of(results, "mlp_out")
    edit(path, lambda content: content["cell"].update(method="ixg"))  # type: ignore[attr-defined]
    (line,) = lines_of(results)
    assert line.startswith(f"{path}: expected the name ")


def test_a_cell_has_one_record_under_a_path(results: Path) -> None:
    path = file_of(results, "mlp_out")
    copy, other = path.with_name("0 copy.json"), results / "more" / "records" / path.name
    copy.write_bytes(path.read_bytes())
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    report = validate([results])
    # The first of those that have the right name is kept.
    assert set(report.problems) == {copy, path}
    end = f"holds a record of the same cell as {other}; expected one record of a cell: remove one of them"
    assert report.problems[path] == (end,)
    assert report.problems[copy][1] == end
    assert report.valid == 12
    assert [line for line in report.lines() if "; also: holds a record of the same cell" in line]


# --- F(M) and F(0) ---


@pytest.mark.parametrize(("field", "name"), [("full", "F(M)"), ("empty", "F(0)")])
def test_an_endpoint_that_leaves_the_others_is_told(results: Path, field: str, name: str) -> None:
    path = file_of(results, "mlp_act", "relp")
    record = read_record(path)
    before = getattr(record.endpoints, field)[-1]
    write_record(moved(record, field, 0.01 * max(1, abs(before))), path)
    (line,) = lines_of(results)
    changed = getattr(read_record(path).endpoints, field)[-1]
    assert line.startswith(f"{path}: endpoints.{field}[5]: found {changed:g}, expected {before:g} as in {results}")
    assert f" and 4 more: {name} is one for a model" in line
    assert line.endswith("; run the cell again")


def test_rounding_of_another_machine_is_no_difference(results: Path) -> None:
    path = file_of(results, "mlp_act", "relp")
    write_record(moved(moved(read_record(path), "full", 2e-4), "empty", -2e-4), path)
    assert lines_of(results) == []


def test_narrow_weights_may_differ_more(tmp_path: Path) -> None:
    def stored(basis: str, amount: float) -> None:
        record = synthetic_record(basis=basis, examples=6)
        environment = record.environment.model_copy(update={"dtype": "bfloat16"})
        Store(tmp_path).write(moved(record.model_copy(update={"environment": environment}), "empty", amount))

    stored("mlp_act", 0)
    stored("mlp_out", NARROW_TOLERANCE / 2)
    assert lines_of(tmp_path) == []
    stored("mlp_out", NARROW_TOLERANCE * 10)
    assert len(lines_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("ablation", "bases", "problems"),
    [
        ("mean", ("mlp_act", "mlp_out"), 1),
        ("counterfactual", ("mlp_act", "mlp_out"), 1),
        ("zero", ("mlp_act", "mlp_out"), 0),  # what is at zero depends on the basis
        ("zero", ("mlp_out", "mlp_out"), 1),
        ("mean", ("mlp_act", "resid"), 0),  # other families
    ],
)
def test_where_f0_is_one_number(tmp_path: Path, ablation: Ablation, bases: tuple[str, str], problems: int) -> None:
    store = Store(tmp_path)
    for basis, method, amount in zip(bases, ("relp", "ixg"), (0.0, 5.0), strict=True):
        store.write(moved(synthetic_record(basis=basis, method=method, ablation=ablation, examples=6), "empty", amount))
    assert len(lines_of(tmp_path)) == problems


def test_other_tasks_models_and_versions_are_not_compared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = synthetic_record(examples=6)
    store.write(record)
    store.write(moved(record.model_copy(update={"basisbench": "9.9"}), "full", 5.0))
    store.write(moved(synthetic_record("sva_rc", examples=6), "full", 5.0))
    store.write(moved(synthetic_record(model="another", examples=6), "full", 5.0))
    assert lines_of(tmp_path) == []


# --- paths ---


def test_paths_that_hold_nothing_are_told(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["validate", str(tmp_path / "nowhere"), str(empty), str(results)]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"{tmp_path / 'nowhere'}: cannot be read: No such file or directory; expected a record or a folder of records, "
        "check the path",
        f"{empty}: holds no records; expected *.json files there or in folders below, check the path",
    ]
    assert captured.out == "records: 12 valid, 2 not valid\n"


def test_links_are_not_followed_out_of_a_folder(results: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_suite(outside, [synthetic_record("user_age", examples=6)])
    (target,) = Store(outside).records.iterdir()
    (target.parent / "bad.json").write_text("{", encoding="utf-8")
    records, record = Store(results).records, file_of(results, "mlp_out")
    (records / "bad.json").symlink_to(target.parent / "bad.json")
    (records / "more").symlink_to(target.parent)
    (records / "again").symlink_to(results)
    (records / "twice.json").symlink_to(record)
    report = validate([results])
    assert (report.valid, report.problems, report.links) == (12, {}, 3)
    assert report.counts() == "records: 12 valid, 0 not valid; links not followed: 3"
    # A link that is given itself is meant.
    assert validate([records / "more" / target.name]).valid == 1
    (records / "lost.json").symlink_to(records / "nothing.json")
    (line,) = lines_of(results)
    assert "lost.json: cannot be read: No such file or directory" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_read(results: Path) -> None:
    os.mkfifo(pipe := results / "records" / "pipe.json")
    for path in (results, pipe):
        (line,) = lines_of(path)
        assert line == f"{pipe}: expected a file, found a pipe, a socket or a device; remove it"
