"""Old records stay readable and keep their ids; a later schema is refused with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.record import Record, read_record
from basisbench.submissions.validate import validate
from helpers.rich_records import rich_record

DATA = Path(__file__).parents[1] / "data"
OLD = sorted(DATA.glob("*/*.json"))


@pytest.mark.parametrize("path", OLD, ids=[f"{path.parent.name}-{path.stem[:6]}" for path in OLD])
def test_records_of_earlier_versions_read_as_they_were(path: Path) -> None:
    """Real records of BasisBench 0.1.0 and 0.2.0, from before `layers`, `empty_at` and `sources`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "layers" not in content["cell"]
    assert "empty_at" not in content["endpoints"]
    assert "sources" not in content
    record = read_record(path)
    assert record.basisbench == path.parent.name
    assert record.id == path.stem, "its id is what it was"
    assert (record.cell.layers, record.endpoints.empty_at, record.sources) == (None, None, {})
    assert json.loads(record.model_dump_json())["curve"] == content["curve"]


def test_there_are_old_records() -> None:
    assert {path.parent.name for path in OLD} == {"0.1.0", "0.2.0"}


def test_old_records_are_valid_beside_new_ones(tmp_path: Path) -> None:
    for path in OLD:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    report = validate([tmp_path])
    assert (report.valid, report.problems) == (len(OLD), {})


# --- other schemas ---


def content_of(record: Record) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(record.model_dump_json())
    return content


def test_an_unknown_earlier_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    for version in (0, -1):
        path.write_text(json.dumps({**content_of(rich_record()), "schema_version": version}), encoding="utf-8")
        with pytest.raises(RecordError, match=f"schema_version: input should be 1, found {version}"):
            read_record(path)


@pytest.mark.parametrize("version", [2, 17, 10**12, 10**400])
def test_a_later_schema_is_refused_with_advice(
    version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "later.json"
    for content in ({"schema_version": version, "new": True}, {**content_of(rich_record()), "schema_version": version}):
        path.write_text(json.dumps(content), encoding="utf-8")
        for command in ("compare", "validate"):
            assert main([command, str(path)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            found = version if version < 10**9 else "a huge number"
            assert f"{path}: schema_version: found {found}, but BasisBench " in line
            assert "knows versions up to 1; upgrade BasisBench to read it" in line
