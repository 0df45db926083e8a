"""`basisbench validate` on submissions: whatever is forged, hidden, linked or left over is one line that names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import basisbench.submissions.find_records
import basisbench.submissions.folder
from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.record import read_record
from basisbench.results.store import SUBMISSION_FILE, Store
from basisbench.submissions.submission import read_submission
from basisbench.submissions.validate import validate
from helpers.mutations import KINDS
from helpers.submissions import edit_json, mine, only_line, the_record
from helpers.synthetic_records import synthetic_record
from helpers.verifications import write_verification


def test_a_good_tree_passes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for paths, records in (([tree], 7), ([mine(tree)], 1), ([tree, mine(tree)], 7), ([mine(tree), tree], 7)):
        assert main(["validate", *map(str, paths)]) == 0
        assert capsys.readouterr().out == f"records: {records} valid, 0 not valid; submissions: 1 valid\n"


def test_a_submission_beside_other_files(tree: Path) -> None:
    """A README belongs to a submission; the tree may hold pictures and tables."""
    (mine(tree) / "README.md").write_text("Mine", encoding="utf-8")
    (tree / "README.md").write_text("Results", encoding="utf-8")
    (tree / "submissions" / "README.md").write_text("Submissions", encoding="utf-8")
    assert validate([tree]).problems == {}


def test_verifications_are_checked_too(tree: Path) -> None:
    """Of submissions and of other results folders; one of other records is no fault of its file."""
    folders = (mine(tree), tree / "pocket")
    for folder in folders:
        write_verification(folder, cells=1)
    assert validate([tree]).problems == {}
    for folder in folders:
        path = folder / "verification.json"
        whole = path.read_text(encoding="utf-8")
        for content, problem in (
            ("{}", "schema_version: field required"),
            (whole.replace('"by":"Ada"', '"by":3'), "by: "),
        ):
            path.write_text(content, encoding="utf-8")
            report = validate([tree])
            assert list(report.problems) == [path]
            assert report.problems[path][0].startswith(problem)
            assert report.problems[path][0].endswith("remove it, or run basisbench verify again")
        path.write_text(whole, encoding="utf-8")
    copied = (tree / "pocket" / "verification.json").read_text(encoding="utf-8")
    (mine(tree) / "verification.json").write_text(copied, encoding="utf-8")
    assert validate([tree]).problems == {}


# --- what lies in the folder ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("notes.txt", "belongs to nothing in a submission; expected records/ and submission.json"),
        (".hidden", "belongs to nothing in a submission"),
        ("hardware/x.json", "belongs to nothing in a submission"),
        ("records/notes.txt", "belongs to nothing in a submission; expected records, files named CELL-ID.json"),
        ("records/deeper/x.json", "belongs to nothing in a submission; expected records"),
        ("run\x1b[31m.py", "belongs to nothing in a submission"),
    ],
)
def test_what_belongs_to_nothing_is_named(tree: Path, name: str, expected: str) -> None:
    path = mine(tree) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    for paths in ([tree], [mine(tree)]):
        assert expected in only_line(*paths)


def test_a_submission_needs_its_metadata(tree: Path) -> None:
    (mine(tree) / SUBMISSION_FILE).unlink()
    assert "submission.json: cannot be read: No such file or directory" in only_line(tree)
    assert validate([tree]).submissions == 0
    shutil.rmtree(mine(tree))
    mine(tree).mkdir()
    assert any("holds no records" in line for line in validate([tree]).lines())


def test_links_are_refused_in_a_submission(tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("do not read", encoding="utf-8")
    record = the_record(tree)
    target = tree / "pocket" / "records"
    for link, to in ((record.with_name("0" * 24 + ".json"), secret), (mine(tree) / "README.md", secret)):
        link.symlink_to(to)
        line = only_line(tree)
        assert line.startswith(f"{link}: is a link; expected the file itself")
        assert "do not read" not in line
        link.unlink()
    shutil.rmtree(record.parent)
    record.parent.symlink_to(target)
    lines = list(validate([tree]).lines())
    assert any(line.startswith(f"{record.parent}: is a link") for line in lines)
    record.parent.unlink()
    (mine(tree) / SUBMISSION_FILE).unlink()
    (mine(tree) / SUBMISSION_FILE).symlink_to(secret)
    lines = list(validate([tree]).lines())
    assert any("submission.json: is a link" in line for line in lines)
    assert not any("do not" in line for line in lines)


def test_a_submission_that_is_a_link_is_not_followed(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "outside"
    mine(tree).rename(moved)
    mine(tree).symlink_to(moved)
    report = validate([tree])
    assert (report.valid, report.links, report.submissions) == (6, 1, 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_submission_is_not_read(tree: Path) -> None:
    os.mkfifo(mine(tree) / "records" / ("0" * 24 + ".json"))
    assert "belongs to nothing" in only_line(tree)
    (mine(tree) / "records" / ("0" * 24 + ".json")).unlink()
    (mine(tree) / SUBMISSION_FILE).unlink()
    os.mkfifo(mine(tree) / SUBMISSION_FILE)
    assert "submission.json: expected a file, found a folder, a pipe" in only_line(tree)


# --- hashes, names and records ---


def test_a_record_that_was_edited_shows_in_its_hash(tree: Path) -> None:
    path = the_record(tree)
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{path}: its SHA-256 is " in only_line(tree)


def test_records_and_metadata_name_each_other(tree: Path) -> None:
    path, extra = the_record(tree), synthetic_record("ioi", "mlp_act_rotated", examples=6, seed=1)
    added = Store(mine(tree)).write(extra)
    assert f"{added}: belongs to nothing: submission.json does not name it" in only_line(tree)
    added.unlink()
    path.rename(path.with_suffix(".txt"))
    assert any(f"records: {path.name} is named, but records/ does not hold it" in x for x in validate([tree]).lines())


def test_the_folder_has_the_submission_s_name(tree: Path) -> None:
    mine(tree).rename(mine(tree).with_name("yours"))
    assert "name: found 'mine', but the folder is 'yours'" in only_line(tree)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(name="../mine"), "name: string should match pattern"),
        (lambda c: c.update(name=".."), "name: string should match pattern"),
        (lambda c: c.update(name="a..b"), "name: string should match pattern"),
        (lambda c: c.update(name="a.b" * 30), "name: string should have at most 64 characters"),
        (lambda c: c.update(schema_version=2), "schema_version: found 2, but BasisBench"),
        (lambda c: c.update(schema_version=True), "schema_version: "),
        (lambda c: c.update(authors=[]), "authors: tuple should have at least 1 item"),
        (lambda c: c.update(authors=["a\u202eb"]), "authors[0]: expected printable text on one line"),
        (lambda c: c.update(link="file:///etc/passwd"), "link: string should match pattern"),
        (lambda c: c.update(licence="mine"), "licence: 'mine' is no SPDX licence"),
        (lambda c: c["code"].pop("revision"), "code.revision: field required"),
        (lambda c: c["records"].update({"../../x.json": "0" * 64}), "records.../../x.json.[key]: string should match"),
        (lambda c: c["records"].update({"0" * 24 + ".json": "0"}), "records.000000000000000000000000.json: string"),
        (lambda c: c.update(records={}), "records: dictionary should have at least 1 item"),
        (lambda c: c.update(bases={}), "bases: lacks 'mlp_act_rotated', which a record names"),
        (lambda c: c["methods"].update(ig={}), "methods: 'ig' is named, but no record has it"),
        (lambda c: c.update(surprise=1), "surprise: extra inputs are not permitted"),
        (lambda c: c.pop("created"), "created: field required"),
    ],
)
def test_wrong_metadata_is_told_by_field(tree: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    path = mine(tree) / SUBMISSION_FILE
    edit_json(path, change)
    line = only_line(tree)
    assert line.startswith(f"{path}: {expected}")
    assert line.endswith("; correct the file")
    if "lacks" not in expected and "is named" not in expected:
        with pytest.raises(RecordError, match=r"submission\.json: "):
            read_submission(mine(tree))


def test_metadata_that_is_no_metadata_is_told(tree: Path) -> None:
    path = mine(tree) / SUBMISSION_FILE
    good = path.read_text(encoding="utf-8")
    for content, expected in (
        (b"", "invalid JSON"),
        (b"[" * 10_000, "invalid JSON: recursion limit exceeded"),
        (b" " * (2**20 + 1), "1048577 bytes, but at most 1048576 are allowed"),
        (good.replace('"title"', '"title": "a", "title"').encode(), "title: is given twice"),
        (good.replace('"revision"', '"revision": "a", "revision"').encode(), "code.revision: is given twice"),
    ):
        path.write_bytes(content)
        assert expected in only_line(tree)


# --- limits ---


def test_a_large_record_is_not_read(tree: Path) -> None:
    path = the_record(tree)
    for size, limit in ((2**36, 2**25), (96 * 1024 + 1, 96 * 1024)):
        with path.open("ab") as file:
            file.truncate(size)  # no bytes on disk
        assert any(f"{size} bytes, but at most {limit} are allowed" in line for line in validate([tree]).lines())


def test_numbers_of_files_and_depth_are_bounded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basisbench.submissions.folder, "SUBMISSION_BYTES", 100)
    assert f"{mine(tree)}: holds " in next(iter(validate([tree]).lines()))
    monkeypatch.undo()
    monkeypatch.setattr(basisbench.submissions.folder, "SUBMISSION_RECORDS", 0)
    assert any("holds 1 records, but at most 0 are allowed" in line for line in validate([tree]).lines())
    monkeypatch.undo()
    monkeypatch.setattr(basisbench.submissions.find_records, "ENTRIES", 5)
    assert any("holds more than 5 files and folders" in line for line in validate([tree]).lines())
    monkeypatch.undo()
    deep = tree.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "x.json").write_text("{}", encoding="utf-8")
    assert "lies more than 6 folders deep" in only_line(tree)


@pytest.mark.slow
def test_no_submitted_code_and_nothing_heavy_is_imported(tree: Path, tmp_path: Path) -> None:
    """Code in a submission, and entry points of other packages, stay where they are."""
    (mine(tree) / "conftest.py").write_text("raise SystemExit('run')", encoding="utf-8")
    packages = tmp_path / "packages"
    (packages / "evil-1.0.dist-info").mkdir(parents=True)
    (packages / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (packages / "evil-1.0.dist-info" / "entry_points.txt").write_text("[basisbench.bases]\nevil = evil\n")
    (packages / "evil.py").write_text("raise SystemExit('run')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(packages)!r}); from basisbench.submissions.validate import validate\n"
        f"report = validate([{str(tree)!r}])\n"
        "assert report.valid == 7 and len(report.problems) == 1, report\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'evil'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["broken bytes", "wrong type", "harmful text", "deep or huge", "no number"])
def test_mutated_metadata_is_one_line_or_accepted(kind: str, tree: Path) -> None:
    """The same mutations as of records: never a traceback, and what is accepted can be read."""
    path = mine(tree) / SUBMISSION_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content["bases"]["mlp_act_rotated"]["training_cost"] = {"gpu_hours": 1.5, "tokens": 3, "note": "none"}
    random = Random(kind)
    refused = 0
    for number in range(150):
        path.write_bytes(KINDS[kind][0](content, random).data)
        report = validate([mine(tree)], [])
        for line in report.lines():
            assert line.isprintable(), number
            assert len(line) < 1500, number
        if not report.problems:
            assert read_submission(mine(tree)).name == "mine"
        refused += bool(report.problems)
    assert refused > 75


def test_reading_back_gives_what_was_written(tree: Path) -> None:
    assert read_record(the_record(tree)).cell.basis == "mlp_act_rotated"
