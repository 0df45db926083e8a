"""Plug-ins of a submission: each is checked and its report kept; without a good one nothing is submitted or valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basisbench.checks.finding import Property
from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.store import SUBMISSION_FILE
from basisbench.submissions.checked import check_plug_ins, plug_ins
from basisbench.submissions.submission import Checked, read_submission
from basisbench.submissions.validate import validate
from helpers.altered_records import with_cell
from helpers.submissions import edit_json, make_submission, only_line, passed
from helpers.synthetic_records import changed, synthetic_record, write_suite

CODE = "0123456789abcdef"
PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    name: str = "mine"
    summary: str = "of a stranger"

    def score(self, context, basis):
        raise NotImplementedError

PROVIDES = (Mine(),)
"""


def of_a_plug_in(**code: str) -> Any:
    record = with_cell(synthetic_record(examples=6), method="mine")
    return changed(record, identities={"code": code}) if code else record


def test_only_what_does_not_come_with_basisbench_is_a_plug_in() -> None:
    records = [of_a_plug_in(), with_cell(synthetic_record(examples=6), basis="sae:a/b", task="theirs")]
    assert plug_ins([*records, synthetic_record(examples=6)]).keys() == {("method", "mine"), ("task", "theirs")}


def test_a_scheme_names_things_of_its_own_kind_alone() -> None:
    def found(**names: str) -> set[tuple[str, str]]:
        return set(plug_ins([with_cell(synthetic_record(examples=6), **names)]))

    assert not found(method="scores:peer.safetensors")
    assert found(method="sae:a/b") == {("method", "sae:a/b")}
    assert found(basis="scores:a/b") == {("basis", "scores:a/b")}


def test_the_report_is_kept_and_validate_wants_it(tmp_path: Path) -> None:
    folder = make_submission(tmp_path, [of_a_plug_in(method=CODE)], checker_code=CODE)
    (report,) = read_submission(folder).checks
    assert (report.kind, report.name, report.model) == ("method", "mine", "pocket-llama")
    assert validate([folder]).problems == {}
    edit_json(folder / SUBMISSION_FILE, lambda content: content["checks"][0].update(code="f" * 16))
    assert f"made by code {CODE}, but {'f' * 16} was checked" in only_line(folder)
    edit_json(folder / SUBMISSION_FILE, lambda content: content["checks"][0].update(properties=["FAILED  a: b"]))
    assert "method 'mine' fails basisbench check: a: b" in only_line(folder)
    edit_json(folder / SUBMISSION_FILE, lambda content: content.update(checks=[]))
    assert "checks: lacks the report of method 'mine'" in only_line(folder)


def test_what_fails_or_is_other_code_is_not_submitted() -> None:
    def failed(*named: Any) -> Checked:
        return passed(*named).model_copy(update={"properties": ("ok      a: b", "FAILED  c: d", "FAILED  e: f")})

    with pytest.raises(RecordError, match="method 'mine' fails basisbench check: c: d, and 1 more; nothing is submi"):
        check_plug_ins([of_a_plug_in()], failed)
    with pytest.raises(RecordError, match=f"records were made by code {CODE}, but code without source was checked"):
        check_plug_ins([of_a_plug_in(method=CODE)], passed)
    with pytest.raises(RecordError, match="nothing to check it with"):
        check_plug_ins([of_a_plug_in()], None)


@pytest.mark.parametrize(("outcome", "code"), [("ok", 0), ("FAILED", 2)])
def test_the_command_runs_the_contract_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: Any, code: int
) -> None:
    """They are stood in for here: tests/checks has what they find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("basisbench.models.load.load_model", lambda spec: spec.name)
    monkeypatch.setattr(
        "basisbench.checks.check.iterate",
        lambda thing, model: [Property("0", "0", outcome, f"method {thing.name}", "decode", f"on {model}")],
    )
    Path("plug.py").write_text(PLUGIN, encoding="utf-8")
    write_suite(tmp_path / "run", [of_a_plug_in()])
    command = ["submit", "run", "--name", "a", "--author", "A", "--licence", "MIT", "--out", "a"]
    assert main(command) == 2
    assert "no method named 'mine'" in capsys.readouterr().err
    assert main([*command, "--plugin", "plug.py"]) == code
    captured = capsys.readouterr()
    assert "checking method mine on pocket-llama" in captured.err
    assert Path("a").exists() == (code == 0)
    assert ("method mine: passes basisbench check on pocket-llama" in captured.out) == (code == 0)
