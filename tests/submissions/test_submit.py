"""`basisbench submit`: a submission is whole or absent, complete, and passes `validate`; what is missing is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from basisbench.cli import main
from basisbench.commands import submit as submit_command
from basisbench.errors import BasisBenchError, RecordError
from basisbench.results.record import Record, write_record
from basisbench.results.store import SUBMISSION_FILE, Store
from basisbench.submissions.submission import Submission, read_submission
from basisbench.submissions.submit import SubmissionRequest, submit
from basisbench.submissions.validate import validate
from basisbench.submissions.verification import records_digest
from helpers.submissions import edit_json, make_submission, passed, some_records
from helpers.synthetic_records import synthetic_record, write_suite

COMMON = ("--name", "mine", "--author", "Ada Lovelace", "--licence", "cc-by-4.0")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run, to be read only."""
    folder = tmp_path_factory.mktemp("written")
    write_suite(folder, some_records())
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of those results; the working directory is beside them."""
    monkeypatch.chdir(tmp_path)
    return Path(copytree(written, "run"))


def with_basis(record: Record, name: str, **identities: str | None) -> Record:
    """Return the record as one of another basis."""
    changed = record.identities.model_copy(update=identities)
    return record.model_copy(update={"cell": record.cell.model_copy(update={"basis": name}), "identities": changed})


def test_a_submission_holds_the_records_and_says_whose_they_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--author", "Émilie du Châtelet", "--title", "Mine", "--link", "https://example.org/a?b=c#d")
    code = ("--repository", "https://example.org/code.git", "--revision", "v1.2")
    assert main(["submit", str(run), *COMMON, *options, *code]) == 0
    output = capsys.readouterr().out
    folder = Path("results/submissions/mine")
    submission = read_submission(folder)
    assert submission.name == "mine"
    assert submission.title == "Mine"
    assert submission.authors == ("Ada Lovelace", "Émilie du Châtelet")
    assert submission.licence == "CC-BY-4.0"
    assert str(submission.link) == "https://example.org/a?b=c#d"
    assert (submission.code.repository, submission.code.revision) == ("https://example.org/code.git", "v1.2")
    assert set(submission.bases) == {"mlp_act", "mlp_out", "transcoder"}
    assert set(submission.methods) == {"relp", "random"}
    assert submission.bases["transcoder"].parameters["units_per_layer"] == 1024
    for path in Store(run).records.iterdir():
        assert (folder / "records" / path.name).read_bytes() == path.read_bytes()
    assert set(submission.records) == {path.name for path in Store(run).records.iterdir()}
    assert list(folder.parent.iterdir()) == [folder], "nothing is left beside it"
    assert "pull request" in output
    assert "6 records" in output
    assert "basisbench validate results" in output
    report = validate(["results"])
    assert (report.valid, report.submissions, report.problems) == (6, 1, {})


def test_cells_that_are_there_already_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run holds the neurons that it was compared with; the reference, or somebody else, has sent these before."""
    records = {path.name: path for path in sorted(Store(run).records.iterdir())}
    reference, theirs, *_ = records
    for folder, name in (("results/pocket/records", reference), ("results/submissions/theirs/records", theirs)):
        Path(folder).mkdir(parents=True)
        (Path(folder) / name).write_bytes(records[name].read_bytes())
    assert main(["submit", str(run), *COMMON]) == 0
    assert "4 records, valid; left out, for they are there already: 2." in capsys.readouterr().out
    folder = Path("results/submissions/mine")
    assert {path.name for path in Store(folder).records.iterdir()} == records.keys() - {reference, theirs}
    assert set(read_submission(folder).records) == records.keys() - {reference, theirs}
    assert main(["submit", str(run), *COMMON[:1], "mine2", *COMMON[2:]]) == 2
    error = capsys.readouterr().err
    assert "every cell is in " in error
    assert "nothing to submit" in error
    assert not Path("results/submissions/mine2").exists()


def test_everything_can_come_from_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New bases need details; metadata and details of bases come from YAML or JSON, and options win."""
    monkeypatch.setattr(submit_command, "_check", lambda _registry, _model, *named: passed(*named))
    new = with_basis(synthetic_record("ioi", "transcoder", examples=6), "my_transcoder")
    Store(run).write(new)
    about = {
        "name": "theirs",
        "title": "In the file",
        "authors": ["Ada"],
        "licence": "MIT",
        "code": {"repository": "https://example.org/code", "revision": "abc"},
        "methods": {"relp": {"parameters": {"rule": "relp", "steps": 1, "exact": True, "note": None}}},
    }
    Path("about.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    cost = {"gpu_hours": 3.5, "tokens": 10**9, "hardware": "one GPU", "note": None}
    bases = {"my_transcoder": {"parameters": {"width": 1024, "l1": 1e-3}, "training_cost": cost}}
    Path("bases.json").write_text(json.dumps(bases), encoding="utf-8")
    files = ("--metadata", "about.yaml", "--basis-info", "bases.json")
    assert main(["submit", str(run), *files, "--name", "mine"]) == 0
    submission = read_submission("results/submissions/mine")
    assert submission.title == "In the file"
    assert submission.code.revision == "abc"
    assert submission.methods["relp"].parameters == about["methods"]["relp"]["parameters"]  # type: ignore[index]
    details = submission.bases["my_transcoder"]
    assert details.parameters == {"width": 1024, "l1": 1e-3}
    assert details.training_cost is not None
    assert details.training_cost.gpu_hours == 3.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "name: missing; give --name NAME"),
        (("--name", "mine", "--licence", "MIT"), "authors: missing; give --author NAME"),
        (("--name", "mine", "--author", "A"), "licence: missing; give --licence SPDX-ID"),
        ((*COMMON, "--licence", "free"), "licence: 'free' is no SPDX licence"),
        ((*COMMON, "--name", "../mine"), "--out results/submissions/../mine: expected a folder with the submission's"),
        ((*COMMON, "--name", "Mine"), "name: string should match pattern"),
        ((*COMMON, "--link", "javascript:alert(1)"), "link: string should match pattern"),
        ((*COMMON, "--link", 'https://a.org/"onclick=x'), "link: string should match pattern"),
        ((*COMMON, "--title", "a\x1b[2Jb"), "title: expected printable text on one line"),
        ((*COMMON, "--repository", "https://a.org/b"), "code.revision: field required; correct --revision REVISION"),
        ((*COMMON, "--out", "elsewhere"), "--out elsewhere: expected a folder with the submission's name, 'mine'"),
        ((*COMMON, "--metadata", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    run: Path, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(run), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.isprintable()
    assert expected in line
    assert [path for path in Path("results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("- a", "expected a mapping of names to values, found list"),
        ("a: [", "not YAML"),
        ("surprise: 1", "surprise: no such field; expected name, title"),
        ("authors: Ada", "authors: input should be a valid array"),
        ("authors: []", "authors: missing"),
        ("bases: [1]", "bases: expected a mapping"),
        ("bases: {mlp_act: {colour: red}}", "bases.mlp_act.colour: extra inputs are not permitted"),
        (
            "bases: {mlp_act: {training_cost: {gpu_hours: -1}}}",
            "bases.mlp_act.training_cost.gpu_hours: input should be",
        ),
        ("bases: {mlp_act: {parameters: {a: [1]}}}", "bases.mlp_act.parameters.a"),
        ("bases: {mlp_act: {parameters: {a: .nan}}}", "bases.mlp_act.parameters.a"),
        ("bases: {sae: {}}", "bases: 'sae' is named, but no record has it"),
        ("title: 2026-01-01", "metadata: Object of type date is not JSON serializable"),
        pytest.param("a: " + "[" * 3000, "not YAML", marks=pytest.mark.slow),
    ],
)
def test_a_bad_metadata_file_is_one_line(
    run: Path, content: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("about.yaml").write_text(content, encoding="utf-8")
    arguments = [word for word in COMMON if word not in ("--author", "Ada Lovelace")] if "author" in content else COMMON
    assert main(["submit", str(run), *arguments, "--metadata", "about.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not Path("results/submissions/mine").exists()


def test_an_invalid_record_stops_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(iter(sorted(Store(run).records.iterdir())))
    edit_json(path, lambda content: content["cost"]["seconds"].update(curve=0))
    assert main(["submit", str(run), *COMMON]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"basisbench: error: {path}: cost.seconds.curve: found 0, but no machine")
    assert not Path("results").exists()


def test_a_taken_name_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(run), *COMMON]) == 0
    before = sorted(path.stat().st_mtime_ns for path in Path("results").rglob("*"))
    capsys.readouterr()
    assert main(["submit", str(run), *COMMON]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the name 'mine' is taken; choose another --name" in line
    assert sorted(path.stat().st_mtime_ns for path in Path("results").rglob("*")) == before


def test_a_new_basis_has_details(tmp_path: Path) -> None:
    new = with_basis(synthetic_record("ioi", "transcoder", examples=6), "my_transcoder")
    with pytest.raises(RecordError, match=r"bases\.my_transcoder\.parameters: is empty.*--basis-info FILE"):
        make_submission(tmp_path, [new])
    some = {"my_transcoder": {"parameters": {"width": 3}}}
    with pytest.raises(RecordError, match=r"bases\.my_transcoder\.training_cost: is null"):
        make_submission(tmp_path, [new], bases=some)
    some["my_transcoder"]["training_cost"] = {"gpu_hours": 1.0}  # type: ignore[assignment]
    folder = make_submission(tmp_path, [new], bases=some)
    assert validate([folder]).problems == {}


@pytest.mark.parametrize(
    ("name", "sources", "new"),
    [
        ("transcoder", {}, False),
        ("sae:published-release", {"org/name": "0" * 40}, False),
        ("sae:/home/me/folder", {}, True),
        ("mine", {"org/name": "0" * 40}, True),
    ],
)
def test_which_bases_are_new(name: str, sources: dict[str, str], new: bool) -> None:
    from basisbench.submissions.folder import new_bases

    record = with_basis(synthetic_record("ioi", "transcoder", examples=6), name)
    assert new_bases([record.model_copy(update={"sources": sources})]) == ({name} if new else set())


def test_a_killed_submission_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            make_submission(tmp_path)
    assert list((tmp_path / "results" / "submissions").iterdir()) == []
    assert validate([make_submission(tmp_path)]).problems == {}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything may be written here")
def test_a_folder_that_cannot_be_written_is_told(run: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(BasisBenchError, match="cannot be written"):
        submit(SubmissionRequest([run], closed / "mine", {"name": "mine", "authors": ["A"], "licence": "MIT"}))


def test_a_submission_that_leaves_the_reference_is_not_written(tmp_path: Path) -> None:
    reference = tmp_path / "results" / "pocket"
    write_suite(reference, [synthetic_record(examples=6, gap=5.0)])
    with pytest.raises(RecordError, match=r"submissions/mine/records/.*endpoints.full\[0\]: found .* as in .*pocket"):
        make_submission(tmp_path)
    assert list((tmp_path / "results" / "submissions").iterdir()) == []


def test_own_folders_of_submissions_are_not_submitted_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", str(run), *COMMON]) == 0
    assert main(["submit", "results", *COMMON, "--name", "again"]) == 2
    assert "no records of your own" in capsys.readouterr().err


def test_every_field_of_the_metadata_says_what_it_is() -> None:
    assert [name for name, field in Submission.model_fields.items() if not field.description] == []


def test_the_digest_of_the_records_follows_names_and_bytes(tmp_path: Path) -> None:
    folder = make_submission(tmp_path)
    digest = records_digest(folder)
    assert len(digest) == 64
    path = sorted((folder / "records").iterdir())[0]
    edit_json(folder / SUBMISSION_FILE, lambda content: content.update(title="other"))
    assert records_digest(folder) == digest, "the metadata is no part of it"
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    assert records_digest(folder) != digest
    path.write_bytes(data)
    assert records_digest(folder) == digest
    other = path.rename(path.with_name("0" * 24 + ".json"))
    assert records_digest(folder) != digest
    other.rename(path)
    write_record(synthetic_record("user_age", examples=6), folder / "records" / ("1" * 24 + ".json"))
    assert records_digest(folder) != digest
    with pytest.raises(RecordError, match="cannot be read"):
        records_digest(tmp_path)
