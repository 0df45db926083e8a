"""The verification file: what it is bound to, what it may not say, and how it is read and written; without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from basisbench.errors import RecordError
from basisbench.results.record import write_whole
from basisbench.results.store import VERIFICATION_FILE
from basisbench.submissions.sampling import sample_cells
from basisbench.submissions.verification import (
    SupersededError,
    Verification,
    check_verification,
    list_records,
    read_verification,
    standing,
)
from helpers.synthetic_records import synthetic_suite, write_suite
from helpers.verifications import verification_of, write_verification


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified submission of six cells, to be read only."""
    folder = tmp_path_factory.mktemp("written") / "submission"
    write_suite(folder, list(synthetic_suite(tasks=("ioi", "sva_rc"), bases=("mlp_act", "transcoder", "resid"),
                                             methods=("relp",), examples=12)))  # fmt: skip
    write_verification(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of that submission."""
    return Path(copytree(written, tmp_path / "submission"))


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
    files = list_records(folder)
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


def test_a_verification_of_version_1_counts_for_nothing_and_is_no_fault(folder: Path) -> None:
    """Its tolerances let alterations pass; whoever has one did nothing wrong."""
    content = verification_of(folder).model_dump(mode="json")
    for tolerance in content["tolerances"].values():
        del tolerance["fit"], tolerance["summary"]
    (folder / VERIFICATION_FILE).write_text(json.dumps({**content, "schema_version": 1}), encoding="utf-8")
    assert standing(folder) == "self-reported"
    assert check_verification(folder) == ()
    with pytest.raises(SupersededError, match="is of version 1, which counts for nothing: verify again"):
        read_verification(folder)


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
        (_set("schema_version", to=True), "schema_version: input should be 2, found True"),
        (_set("schema_version", to=3), "schema_version: found 3, but BasisBench"),
        (_set("schema_version", to=0), "schema_version: "),
        (_set("by", to=""), "by: "),
        (_set("by", to="Ada\nVerified"), "by: expected printable text on one line"),
        (_set("by", to="\x1b[31mAda"), "by: expected printable text on one line"),
        (_set("cells", to=[]), "cells: "),
        (_set("cells_in_folder", to=2), "cells: 3 cells, but cells_in_folder is 2"),
        (_set("cells_in_folder", to=7), "cells_in_folder is 7, but there are 6 records"),
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


def test_cells_that_another_seed_draws_are_told(folder: Path) -> None:
    content = verification_of(folder).model_dump(mode="json")
    files, own = [path.stem for path in list_records(folder)], content["sampling"]["seed"]
    drawn = set(sample_cells(files, 3, own))
    # Ids change with the version, and with them what a seed draws.
    content["sampling"]["seed"] = next(seed for seed in range(100) if set(sample_cells(files, 3, seed)) != drawn)
    (folder / VERIFICATION_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert standing(folder) == "self-reported"
    (line,) = check_verification(folder)
    assert "cells are not the 3 that sampling.seed draws from the records" in line


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
    record = list_records(folder)[0]
    target = record.rename(tmp_path / record.name)
    record.symlink_to(target)
    assert standing(folder) == "self-reported"
    record.unlink()
    os.mkfifo(record)
    assert standing(folder) == "self-reported"


@pytest.mark.parametrize("name", ["nowhere", "", "a\0b", "x" * 5000])
def test_standing_never_raises(tmp_path: Path, name: str) -> None:
    assert standing(tmp_path / name) == "self-reported"


@pytest.mark.slow
def test_reading_and_drawing_load_no_torch(folder: Path) -> None:
    script = (
        "import sys; from basisbench.submissions.verification import standing; from basisbench.cli import main;"
        "assert standing(sys.argv[1]) == 'verified'; assert main(['verify', sys.argv[1], '--dry-run']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "drawn: 6 of 6 cells, all sizes each, seed " in done.stdout


def test_a_write_that_fails_leaves_the_file_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / VERIFICATION_FILE).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="cannot be written: No space left on device"):
        write_whole(folder / VERIFICATION_FILE, "half of it")
    assert (folder / VERIFICATION_FILE).read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"records", VERIFICATION_FILE}
