"""The verification file, what it is bound to, the draw, and the comparison of records: without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.agreement import TOLERANCES, compare_identities, compare_records, tolerance_for
from basisbench.errors import RecordError
from basisbench.frame import summarise
from basisbench.record import Record, write_whole
from basisbench.sampling import detection, draw_seed, sample_cells, sample_sizes
from basisbench.verification import (
    VERIFICATION_FILE,
    Verification,
    check_verification,
    read_verification,
    record_files,
    standing,
)
from synthetic_records import synthetic_record, synthetic_suite, write_suite
from verifications import FLOAT32, verification_of, write_verification


def moved(record: Record, **changes: Any) -> Record:
    """Return the record with some fields of its curve or endpoints replaced, checked as any record is."""
    content = record.model_dump()
    for place, value in changes.items():
        part, _, field = place.partition("__")
        content[part] = {**content[part], field: value} if field else value
    return Record.model_validate(content)


def shifted(rows: tuple[tuple[float, ...], ...], row: int, amount: float, examples: slice = slice(None)) -> Any:
    """Return rows with some values of one of them moved."""
    values = np.array(rows)
    values[row, examples] += amount
    return tuple(map(tuple, values.tolist()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A verified submission of six cells."""
    folder = tmp_path / "submission"
    write_suite(folder, list(synthetic_suite(tasks=("ioi", "sva_rc"), bases=("mlp_act", "transcoder", "resid"),
                                             methods=("relp",), examples=12)))  # fmt: skip
    write_verification(folder)
    return folder


def test_a_verified_folder_is_shown_as_verified(folder: Path) -> None:
    assert standing(folder) == "verified"
    assert check_verification(folder) == ()
    verification = read_verification(folder)
    assert verification is not None
    assert (verification.by, len(verification.cells), verification.passed) == ("Ada", 3, True)
    # What is written is what is read.
    assert Verification.model_validate_json(verification.model_dump_json(), strict=True) == verification


def test_without_a_file_a_folder_is_self_reported(folder: Path) -> None:
    (folder / VERIFICATION_FILE).unlink()
    assert standing(folder) == "self-reported"
    assert check_verification(folder) == ()
    assert read_verification(folder) is None


def test_an_edited_added_removed_or_renamed_record_makes_it_self_reported_again(folder: Path) -> None:
    files = record_files(folder)
    content = files[0].read_bytes()
    files[0].write_bytes(content.replace(b"1", b"2", 1))
    assert standing(folder) == "self-reported"
    files[0].write_bytes(content)
    assert standing(folder) == "verified"

    extra = folder / "records" / "0123456789abcdef01234567.json"
    extra.write_bytes(content)
    assert standing(folder) == "self-reported"
    extra.unlink()
    assert standing(folder) == "verified"

    moved_to = files[1].rename(folder / "records" / "0123456789abcdef01234567.json")
    assert standing(folder) == "self-reported"
    moved_to.unlink()
    assert standing(folder) == "self-reported"
    assert check_verification(folder) == ()  # of other records: no fault of the file


def test_a_verification_that_did_not_pass_leaves_it_self_reported(folder: Path) -> None:
    content = verification_of(folder).model_dump(mode="json")
    content["cells"][1].update(passed=False, problems=["curve.circuit: a mean deviates"])
    content["passed"] = False
    (folder / VERIFICATION_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert standing(folder) == "self-reported"
    assert check_verification(folder) == ()


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("passed", to=False), "passed: false, but not as its cells say"),
        (_set("cells", 0, "passed", to=False), "cells[0].passed: false, but 0 problems are listed"),
        (_set("cells", 0, "same_model", to=False), "cells[0].passed: true, but an identity differs"),
        (_set("cells", 0, "circuit", to=None), "cells[0].passed: true, but an identity differs or something was not"),
        (_set("cells", 0, "sizes", to=[]), "cells[0].passed: true, but no size was compared"),
        (_set("largest", to=0.5), "largest: is not the largest deviation of the cells"),
        (_set("records_digest", to="0" * 63), "records_digest: "),
        (_set("schema_version", to=True), "schema_version: input should be 1, found True"),
        (_set("schema_version", to=2), "schema_version: "),
        (_set("by", to=""), "by: "),
        (_set("by", to="Ada\nVerified"), "by: expected printable text on one line"),
        (_set("by", to="\x1b[31mAda"), "by: expected printable text on one line"),
        (_set("cells", to=[]), "cells: "),
        (_set("cells_in_folder", to=2), "cells: 3 cells, but cells_in_folder is 2"),
        (_set("cells_in_folder", to=7), "cells_in_folder is 7, but there are 6 records"),
        (_set("sampling", "seed", to=6), "cells are not the 3 that sampling.seed draws from the records"),
        (_set("sampling", "cells", to=4), "cells are not the 4 that sampling.seed draws from the records"),
        (_set("tolerances", to={}), "has dtype float32, for which tolerances has nothing"),
        (_set("surprise", to=1), "surprise: "),
        (_set("largest", to=float("nan")), "largest: "),
    ],
)
def test_a_file_that_contradicts_itself_is_told_and_counts_for_nothing(
    folder: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    content = verification_of(folder).model_dump(mode="json")
    change(content)
    (folder / VERIFICATION_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert standing(folder) == "self-reported"
    (line,) = check_verification(folder)
    assert line.startswith(f"{folder / VERIFICATION_FILE}: ")
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema_version": 1e999}',
        b"9" * 6000,
    ],
)
def test_any_other_content_is_refused_in_one_line(folder: Path, content: bytes) -> None:
    (folder / VERIFICATION_FILE).write_bytes(content)
    assert standing(folder) == "self-reported"
    (line,) = check_verification(folder)
    assert line.startswith(f"{folder / VERIFICATION_FILE}: ")
    with pytest.raises(RecordError):
        read_verification(folder)


def test_links_pipes_folders_and_giants_are_refused_unread(folder: Path, tmp_path: Path) -> None:
    path, elsewhere = folder / VERIFICATION_FILE, tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert "found a link" in check_verification(folder)[0]
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert "pipe" in check_verification(folder)[0]
    path.unlink()
    path.mkdir()
    assert "folder" in check_verification(folder)[0]
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(10**11)
    assert "are allowed" in check_verification(folder)[0]
    path.unlink()
    elsewhere.rename(path)
    assert standing(folder) == "verified"
    # The same for the records that it is bound to.
    record = record_files(folder)[0]
    target = record.rename(tmp_path / record.name)
    record.symlink_to(target)
    assert standing(folder) == "self-reported"
    record.unlink()
    os.mkfifo(record)
    assert standing(folder) == "self-reported"


@pytest.mark.parametrize("name", ["nowhere", "", "a\0b", "x" * 5000])
def test_standing_never_raises(tmp_path: Path, name: str) -> None:
    assert standing(tmp_path / name) == "self-reported"


def test_reading_and_drawing_load_no_torch(folder: Path) -> None:
    script = (
        "import sys; from basisbench.verification import standing; from basisbench.cli import main;"
        "assert standing(sys.argv[1]) == 'verified'; assert main(['verify', sys.argv[1], '--dry-run']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "drawn: 6 of 6 cells, 4 sizes each, seed " in done.stdout


@given(
    cells=st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=30),
    count=st.integers(1, 40),
    seed=st.integers(0),
)
def test_a_draw_depends_on_nothing_but_the_cells_and_the_seed(cells: set[str], count: int, seed: int) -> None:
    drawn = sample_cells(cells, count, seed)
    assert drawn == sample_cells(sorted(cells, reverse=True), count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, len(cells))
    assert set(drawn) <= cells
    assert set(sample_cells(cells, "all", seed)) == cells


def test_every_cell_is_as_likely_to_be_drawn() -> None:
    cells = [f"{index:024x}" for index in range(20)]
    counts = Counter(cell for seed in range(2000) for cell in sample_cells(cells, 5, seed))
    # 500 expected, standard deviation 19; the largest of twenty lies within four of them.
    assert all(abs(counts[cell] - 500) < 4 * 19.4 for cell in cells)
    assert len({draw_seed() for _ in range(100)}) == 100


def test_detection_is_what_drawing_gives() -> None:
    cells = [f"{index:024x}" for index in range(200)]
    forged = set(cells[:20])
    found = np.mean([bool(forged & set(sample_cells(cells, 10, seed))) for seed in range(2000)])
    assert detection(0.1, 10) == pytest.approx(1 - 0.9**10)
    # Drawing without replacement finds a little more; three standard errors are 0.032.
    assert detection(0.1, 10) - 0.032 < found < detection(0.1, 10) + 0.05
    assert detection(0.0, 10) == 0.0
    assert detection(1.0, 1) == 1.0


def test_sizes_around_eighty_percent_are_always_drawn() -> None:
    for record in synthetic_suite(tasks=("ioi",), methods=("relp", "random"), examples=20):
        nodes = float(summarise([record])["nodes_to_80"].iloc[0])
        inner = record.curve.sizes[1:-1]
        for seed in range(5):
            drawn = sample_sizes(record, 4, seed)
            assert drawn == tuple(sorted(set(drawn)))
            assert len(drawn) == 4
            assert set(drawn) <= set(inner)
            if inner[0] < nodes < inner[-1]:
                below = max(size for size in inner if size <= nodes)
                above = min(size for size in inner if size >= nodes)
                assert {below, above} <= set(drawn)
        assert sample_sizes(record, 100, 0) == inner
        assert len({sample_sizes(record, 4, seed) for seed in range(20)}) > 5


def test_a_record_agrees_with_itself() -> None:
    record = synthetic_record("ioi", "transcoder", examples=20)
    cell = compare_records(record, record, record.identities, FLOAT32)
    assert cell.passed
    assert cell.problems == ()
    assert cell.largest == 0.0
    assert cell.circuit is not None
    assert cell.circuit.values == 20 * len(record.curve.sizes)


def test_a_deviation_is_placed_and_relative_above_one() -> None:
    record = synthetic_record("ioi", "mlp_act", examples=20)
    index = int(np.argmax(np.abs(np.array(record.endpoints.full))))
    value = record.endpoints.full[index]
    assert value > 4
    circuit = shifted(record.curve.circuit, 3, 0.0)
    row = len(circuit) - 1  # the whole circuit: F(M)
    circuit = shifted(circuit, row, 0.01 * circuit[row][index], slice(index, index + 1))
    cell = compare_records(moved(record, curve__circuit=circuit), record, record.identities, FLOAT32)
    assert cell.circuit is not None
    assert (cell.circuit.size, cell.circuit.example) == (record.curve.sizes[row], index)
    assert cell.circuit.largest == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert cell.circuit.outside == 1


def compared(record: Record, **changes: Any) -> Any:
    """Compare a record with a re-run whose curve differs."""
    return compare_records(record, moved(record, **changes), record.identities, FLOAT32)


def test_switched_units_pass_and_a_moved_mean_does_not() -> None:
    record = synthetic_record("ioi", "sae_mlp_out", examples=100)
    circuit, rows = record.curve.circuit, len(record.curve.sizes)
    # Two examples of a hundred, at every size: units at their thresholds.
    few = circuit
    for row in range(rows):
        few = shifted(few, row, 0.02, slice(0, 2))
    cell = compared(record, curve__circuit=few)
    assert cell.passed
    assert cell.circuit.outside == 2 * rows
    assert cell.circuit.tied == ()
    # A third one at one end of the curve, where no two nodes can have changed places.
    assert not compared(record, curve__circuit=shifted(circuit, 0, 0.02, slice(0, 3))).passed
    # One example by as much as moves the mean.
    cell = compared(record, curve__circuit=shifted(circuit, rows // 2, 5.0, slice(0, 1)))
    assert not cell.passed
    assert cell.problems[0].startswith(
        f"curve.circuit: at size {record.curve.sizes[rows // 2]} 1 of 100 values deviate"
    )


def test_nodes_that_changed_places_pass_at_one_size_in_four_and_by_little() -> None:
    record = synthetic_record("ioi", "mlp_act", examples=100)
    circuit, sizes = record.curve.circuit, record.curve.sizes
    group = slice(0, 25)
    cell = compared(record, curve__circuit=shifted(circuit, 5, 0.02, group))
    assert cell.passed
    assert (cell.circuit.tied, cell.complement.tied) == ((sizes[5],), ())
    assert not compared(record, curve__circuit=shifted(circuit, 5, 0.5, group)).passed
    assert not compared(record, curve__circuit=shifted(circuit, 0, 0.02, group)).passed
    # Two moved values whose mean stays where it was.
    opposite = shifted(shifted(circuit, 5, 5.0, slice(3, 4)), 5, -5.0, slice(4, 5))
    assert not compared(record, curve__circuit=opposite).passed
    many = circuit
    for row in range(1, 1 + len(sizes) // 4):
        many = shifted(many, row, 0.02, group)
    assert compared(record, curve__circuit=many).passed
    # The complement at the same sizes is the same change of places; at another one it is one more.
    assert compared(
        record, curve__circuit=many, curve__complement=shifted(record.curve.complement, 1, 0.02, group)
    ).passed
    cell = compared(record, curve__circuit=many, curve__complement=shifted(record.curve.complement, 9, 0.02, group))
    assert not cell.passed
    assert f"nearly equal scores explain {len(sizes) // 4} of {len(sizes)} sizes" in cell.problems[0]


def test_endpoints_may_not_move_at_all() -> None:
    record = synthetic_record("ioi", "mlp_act", examples=100)
    for name in ("full", "empty"):
        (values,) = shifted((getattr(record.endpoints, name),), 0, 0.02, slice(7, 8))
        cell = compared(record, **{f"endpoints__{name}": values})
        assert cell.problems[0].startswith(f"endpoints.{name}: 1 of 100 values deviate by more than 0.001")


def test_tolerances_are_narrower_where_weights_are_finer() -> None:
    assert tolerance_for("float64") == TOLERANCES["float64"]
    assert tolerance_for("bfloat16").value > tolerance_for("float32").value >= tolerance_for("float64").value
    assert tolerance_for("bfloat16").share < 1


def test_other_identities_are_told_in_one_line_each() -> None:
    record = synthetic_record("ioi", "transcoder", examples=12)
    here = record.identities.model_copy(update={"model": "0" * 64, "dictionary": None})
    problems = compare_identities(record, here)
    assert len(problems) == 2
    assert problems[0].startswith(f"identities.model: the record has {record.identities.model[:12]}, here ")
    assert "give none: not re-run" in problems[1]
    assert compare_identities(record, record.identities) == ()


def test_near_ties_at_the_end_of_the_top_nodes_are_no_difference(full_record: Record) -> None:
    *others, last = full_record.top_nodes
    tied = last.model_copy(update={"unit": 99_999})
    cell = compare_records(full_record, moved(full_record, top_nodes=(*others, tied)), full_record.identities, FLOAT32)
    assert cell.passed
    first = full_record.top_nodes[0].model_copy(update={"unit": 99_999})
    for forged in (
        (first, *full_record.top_nodes[1:]),
        full_record.top_nodes[:-1],
        (),
        (full_record.top_nodes[0],) * 20,
    ):
        record = moved(full_record, top_nodes=forged)
        cell = compare_records(record, full_record, full_record.identities, FLOAT32)
        assert not cell.passed
        assert cell.problems[0].startswith("top_nodes: ")


def test_a_write_that_fails_leaves_the_file_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / VERIFICATION_FILE).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="cannot be written: No space left on device"):
        write_whole(folder / VERIFICATION_FILE, "half of it")
    assert (folder / VERIFICATION_FILE).read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"records", VERIFICATION_FILE}
