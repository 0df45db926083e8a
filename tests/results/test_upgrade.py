"""Old records stay readable and keep their ids; a later schema is refused with advice; upgrades form a chain."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.record import (
    SCHEMA_VERSION,
    UPGRADES,
    Content,
    Record,
    parse_record,
    read_record,
    upgraded,
    write_record,
)
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


# --- a chain of upgrades ---


def content_of(record: Record) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(record.model_dump_json())
    return content


def from_zero(content: Content) -> Content:
    """A made-up version 0 called `endpoints` `ends` and counted bytes in kibibytes."""
    new = {key: value for key, value in content.items() if key != "ends"}
    cost = {**content["cost"], "peak_memory_bytes": content["cost"]["peak_memory_bytes"] * 1024}
    return {**new, "endpoints": content["ends"], "cost": cost}


def to_zero(content: dict[str, Any]) -> dict[str, Any]:
    """Write a record as that made-up version would have."""
    old = copy.deepcopy(content)
    old["schema_version"] = 0
    old["ends"] = old.pop("endpoints")
    old["cost"]["peak_memory_bytes"] //= 1024
    return old


def test_a_record_of_an_earlier_schema_is_upgraded_on_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = rich_record()
    whole = base.cost.model_copy(update={"peak_memory_bytes": 2**30})
    record = base.model_copy(update={"cost": whole})
    path = tmp_path / f"{record.id}.json"
    old = json.dumps(to_zero(content_of(record)))
    path.write_text(old, encoding="utf-8")
    with pytest.raises(RecordError, match="schema_version: input should be 1, found 0"):
        read_record(path)
    monkeypatch.setitem(UPGRADES, 0, from_zero)
    assert read_record(path) == record
    assert read_record(path).id == record.id == path.stem, "an upgrade leaves the id alone"
    assert validate([path]).problems == {}
    assert path.read_text(encoding="utf-8") == old, "the file stays as it is"
    write_record(read_record(path), path)
    assert content_of(read_record(path))["schema_version"] == SCHEMA_VERSION


def test_upgrades_are_applied_one_after_the_other_and_are_pure() -> None:
    def first(content: Content) -> Content:
        return {**content, "trace": [*content["trace"], "0 to 1"]}

    def second(content: Content) -> Content:
        return {**content, "trace": [*content["trace"], "1 to 2"]}

    chain = {0: first, 1: second}
    content = {"schema_version": 0, "trace": []}
    before = copy.deepcopy(content)
    assert upgraded(content, 2, chain) == {"schema_version": 2, "trace": ["0 to 1", "1 to 2"]}
    assert content == before
    assert upgraded({"schema_version": 1, "trace": []}, 2, chain)["trace"] == ["1 to 2"]
    present = {"schema_version": 2, "trace": []}
    assert upgraded(present, 2, chain) is present
    unknown = {"schema_version": -1}
    assert upgraded(unknown, 2, chain) is unknown, "no function begins there; the schema says the rest"


def test_every_earlier_schema_has_its_upgrade() -> None:
    """Whoever raises SCHEMA_VERSION adds the function that leads to it."""
    assert sorted(UPGRADES) == list(range(1, SCHEMA_VERSION))


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


def test_an_old_file_that_is_damaged_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPGRADES, 0, from_zero)
    old = to_zero(content_of(rich_record()))
    changes: list[Mapping[str, Any]] = [{"cost": 3}, {"cost": {}}, {"cost": {"peak_memory_bytes": {}}}]
    for change in changes:
        with pytest.raises(RecordError, match="schema_version: is 0, but the file is not what that version calls for"):
            parse_record(json.dumps({**old, **change}).encode())
    with pytest.raises(RecordError, match=r"endpoints\.accuracy: "):
        parse_record(json.dumps({**old, "ends": {**old["ends"], "accuracy": 0.5}}).encode())
