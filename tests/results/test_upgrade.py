"""Old records stay readable and keep their ids; a later schema is refused with advice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basisbench.cli import main
from basisbench.errors import RecordError
from basisbench.results.conditions import split_conditions
from basisbench.results.frame import summarise
from basisbench.results.record import SIZES, CellConfig, Record, parse_record, read_record, write_record
from basisbench.submissions.validate import validate
from helpers.rich_records import rich_record

DATA = Path(__file__).parents[1] / "data"
OLD = sorted(DATA.glob("*/*.json"))


CONDITIONS = {
    "error_policy": "node",
    "score_reference": "counterfactual",
    "score_split": "attribution",
    "attribution_draw": 0,
    "bos": "always",
    "metric": "logit",
    "ties": "order",
    "sizes": "1-2-5",
    "layers": None,
}


@pytest.mark.parametrize("path", OLD, ids=[f"{path.parent.name}-{path.stem[:6]}" for path in OLD])
def test_records_of_earlier_versions_read_as_they_were(path: Path) -> None:
    """Real records; those of 0.1.0 and 0.2.0 are from before `layers`, `empty_at` and `sources`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    new = path.parent.name == "0.4.0"
    assert ("layers" in content["cell"], "empty_at" in content["endpoints"], "sources" in content) == (new, new, new)
    record = read_record(path)
    assert record.basisbench == path.parent.name
    assert record.id == path.stem, "its id is what it was"
    assert (record.cell.layers, record.endpoints.empty_at, record.sources) == (None, "output" if new else None, {})
    assert json.loads(record.model_dump_json())["curve"] == {**content["curve"], "all_units": None}


@pytest.mark.parametrize("path", OLD, ids=[f"{path.parent.name}-{path.stem[:6]}" for path in OLD])
def test_conditions_that_were_fixed_then_are_named(path: Path) -> None:
    cell = read_record(path).cell
    assert {name: getattr(cell, name) for name in CONDITIONS} == CONDITIONS


def test_a_condition_that_an_old_record_states_stays() -> None:
    content = json.loads(OLD[0].read_text(encoding="utf-8"))
    for policy in ("node", "keep", "ablate"):
        content["cell"]["error_policy"] = policy
        assert parse_record(json.dumps(content).encode()).cell.error_policy == policy
    for name in ("error_policy", "sizes"):
        del content["cell"][name]
    cell = parse_record(json.dumps(content).encode()).cell
    assert (cell.error_policy, cell.sizes) == ("node", "1-2-5"), "what they meant, not what is the default now"


def test_old_and_new_records_are_never_mixed() -> None:
    """Not even where they claim one version, and all that schema 1 knows of a cell is the same."""
    content = json.loads(OLD[0].read_text(encoding="utf-8"))
    old = parse_record(json.dumps({**content, "basisbench": "0.6.0"}).encode())
    cell = {**old.cell.model_dump(), **{name: CellConfig.model_fields[name].default for name in CONDITIONS}}
    for name in ("", *CONDITIONS):
        changed = {**cell, name: CONDITIONS[name]} if name else cell
        new = old.model_copy(update={"schema_version": 2, "cell": CellConfig.model_validate(changed)})
        assert new.id != old.id
        parts = split_conditions(summarise([old, new]))
        assert [sorted(part["cell_id"]) for _, part in parts] in ([[old.id], [new.id]], [[new.id], [old.id]])
        assert parts[0][0] != parts[1][0], "their titles tell them apart"


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("", "clusters", {}),
        ("", "control", False),
        ("", "error_share", 0.5),
        ("", "suite", None),
        ("cell", "score_reference", "ablation"),
        ("cell", "score_reference", "counterfactual"),
        ("cell", "score_split", "attribution"),
        ("cell", "attribution_draw", 0),
        ("cell", "bos", "always"),
        ("cell", "metric", "logit"),
        ("cell", "ties", "order"),
        ("cell", "subset_blocks", 0),
        ("groups", "scored_nodes", 5),
        ("groups", "tokens", []),
        ("counts", "area_end", 100),
        ("endpoints", "gate_empty", None),
        ("endpoints", "family_empty", 0.5),
        ("curve", "all_units", None),
        ("guard", "slope", None),
        ("guard", "loss_recovered", 0.9),
        ("top_nodes", "coordinate", None),
    ],
)
def test_a_record_of_schema_1_has_no_field_of_schema_2(part: str, field: str, value: Any) -> None:
    """Whatever it says, null included: a file is of one schema."""
    content = next(content for path in OLD if (content := json.loads(path.read_text("utf-8")))["guard"])
    assert content["schema_version"] == 1
    parse_record(json.dumps(content).encode())
    holder = content[part] if part else content
    index = 0 if isinstance(holder, list) else None
    (holder if index is None else holder[index])[field] = value
    place = f"{part}{'' if index is None else '[0]'}.{field}".lstrip(".")
    with pytest.raises(RecordError, match=rf"^{re.escape(place)}: schema 1 has no such field$"):
        parse_record(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: content["cell"].update(error_policy="coordinates"), "cell.error_policy: schema 1 has no 'coo"),
        (
            lambda content: content["cell"].update(error_policy="rotated"),
            "cell.error_policy: schema 1 has no 'rotated'",
        ),
        (lambda content: content["cell"].update(sizes=SIZES), "cell.sizes: schema 1 has no '1-2-5, bisected'"),
        (
            lambda content: content["curve"]["complement"].__setitem__(3, None),
            "curve.complement[3]: schema 1 has no null",
        ),
        (lambda content: content.update(schema_version=True), "schema_version: input should be 2, found True"),
        (lambda content: content.update(schema_version="1"), "schema_version: "),
        (lambda content: content.update(schema_version=1.0), "schema_version: "),
        (lambda content: content["cell"].update(surprise=1), "cell.surprise: extra inputs are not permitted"),
        (lambda content: content["cell"].update(seed=True), "cell.seed: input should be a valid integer"),
        (lambda content: content["cell"].update(seed=10**25), "cell.seed: "),
        (
            lambda content: content["curve"]["circuit"][2].__setitem__(1, float("nan")),
            "curve.circuit[2][1]: input shou",
        ),
        (lambda content: content.pop("created"), "created: field required"),
        (lambda content: content.pop("cell"), "cell: field required"),
    ],
)
def test_old_records_are_read_as_strictly_as_new_ones(change: Callable[[Any], object], expected: str) -> None:
    content = json.loads(OLD[0].read_text(encoding="utf-8"))
    change(content)
    with pytest.raises(RecordError, match="^" + re.escape(expected)):
        parse_record(json.dumps(content).encode())


def test_an_old_record_is_never_written(tmp_path: Path) -> None:
    """Its file is what it is: written anew it would be of neither schema."""
    record = read_record(OLD[0])
    with pytest.raises(RecordError, match="a record of schema 1 is kept as it is: copy its file"):
        write_record(record, tmp_path / OLD[0].name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordError, match="schema 1 has no such field"):
        parse_record(record.model_dump_json().encode())


def test_there_are_old_records() -> None:
    assert {path.parent.name for path in OLD} == {"0.1.0", "0.2.0", "0.4.0"}


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
        with pytest.raises(RecordError, match=f"schema_version: input should be 1 or 2, found {version}"):
            read_record(path)


@pytest.mark.parametrize("version", [3, 17, 10**12, 10**400])
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
            assert "knows versions up to 2; upgrade BasisBench to read it" in line
