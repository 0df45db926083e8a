"""Records: checked when made and when read, small, and told wrong by field."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from basisbench.errors import RecordError
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig, Identities, Record, cell_id, read_record, write_record
from basisbench.results.safe_files import RECORD_BYTES
from basisbench.results.schema import Frozen, round_significant
from helpers.synthetic_records import synthetic_record

MISSING = object()


def models_of(model: type[Frozen]) -> Iterator[type[Frozen]]:
    """Yield a schema and all schemas inside it."""
    yield model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Frozen):
                yield from models_of(part)


def leaf_paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every number, text and null of a JSON value; of long lists only both ends."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaf_paths(item, (*path, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from leaf_paths(value[index], (*path, index))
    else:
        yield path


def changed(content: Any, path: tuple[str | int, ...], value: object) -> Any:
    """Return a copy of a JSON value in which one place is replaced or, for MISSING, removed."""
    copy = json.loads(json.dumps(content))
    place = copy
    for step in path[:-1]:
        place = place[step]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def refuse(content: object, folder: Path) -> str:
    """Read a file with this content, which must fail; return the message after the file's name."""
    path = folder / "record.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        read_record(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_reading_gives_back_what_was_written(full_record: Record, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "record.json"
    write_record(full_record, path)
    assert read_record(path) == full_record
    assert read_record(path).id == full_record.id


def test_a_record_of_usual_size_stays_under_96_kb(full_record: Record, tmp_path: Path) -> None:
    """100 examples at 40 sizes, half of them added by bisection, every number as long as five digits can be."""
    grid = sizes_grid(10**6)
    sizes = sorted({*grid, *range(21, 21 + 40 - len(grid))})
    assert (len(grid), len(sizes), len(full_record.endpoints.full)) == (20, 40, 100)
    widest = [-1.2345e-05 - example * 1e-09 for example in range(100)]
    curve = {
        "sizes": sizes,
        "feature_nodes": [1234.5] * 40,
        "error_nodes": [12.345] * 40,
        "units": [1234.5] * 40,
        "all_units": sizes,
        "circuit": [widest] * 40,
        "complement": [widest if size in grid else None for size in sizes],
        "kl": [1.2345e-05] * 40,
    }
    group = full_record.groups[0].model_copy(update={"nodes": 10**6})
    counts = full_record.counts.model_copy(update={"nodes_max": 10**6, "nodes_mean": 1e6})
    changed = {"curve": curve, "groups": (group.model_dump(),), "counts": counts.model_dump()}
    path = tmp_path / "record.json"
    write_record(Record.model_validate({**full_record.model_dump(), **changed}), path)
    assert path.stat().st_size < RECORD_BYTES == 96 * 1024
    assert path.read_text(encoding="utf-8").count("\n") == 1, "compact JSON, one line"


def test_every_field_says_what_it_is() -> None:
    undescribed = [
        f"{model.__name__}.{name}"
        for model in models_of(Record)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert undescribed == []


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_five_significant_digits(value: float) -> None:
    rounded = round_significant(value)
    assert round_significant(rounded) == rounded
    assert abs(rounded - value) <= 0.5001e-4 * abs(value) + 1e-323
    assert float(f"{rounded:.4e}") == rounded or abs(value) > 1.7976e308


def test_records_cannot_be_changed(full_record: Record) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        full_record.cell.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("schema_version",), 3, "schema_version: found 3, but BasisBench"),
        (("cell", "seed"), "0", "cell.seed: input should be a valid integer, found '0'"),
        (("cell", "ablation"), "median", "cell.ablation: input should be 'mean', 'counterfactual' or 'zero'"),
        (("cell", "surprise"), 1, "cell.surprise: extra inputs are not permitted"),
        (("identities", "model"), "not a digest", "identities.model: string should match pattern"),
        (("identities", "data"), MISSING, "identities.data: field required"),
        (("groups",), [], "groups: tuple should have at least 1 item"),
        (("groups", 0, "error_nodes"), 10**9, "groups[0].error_nodes: 1000000000 error nodes among"),
        (("groups", 0, "evaluation_pairs"), 7, "endpoints: 100 values, but the sum of groups[].evaluation_pairs"),
        (("counts", "nodes_max"), 5, "counts: nodes_max is 5, but the largest of groups[].nodes is"),
        (("counts", "nodes_mean"), 5.0, "counts: nodes_mean is 5, but groups[].nodes, weighted by"),
        (("counts", "units_per_layer"), [1], "counts.units_per_layer: 1 values, but layers"),
        (("endpoints", "empty"), [0.5], "endpoints.empty: 1 values, but endpoints.full"),
        (("endpoints", "accuracy"), 0.123, "endpoints.accuracy: 0.123 given, but a share of"),
        (("curve", "sizes", 0), 1, "curve.sizes: the first size must be 0, found 1"),
        (("curve", "sizes", 3), 2, "curve.sizes: sizes must increase strictly, found 2 after 2"),
        (("curve", "circuit", 2, 9), None, "curve.circuit[2][9]: input should be a valid number, found None"),
        (("curve", "circuit", 2), [1.0], "curve: circuit[2] has 1 values, but endpoints.full has 100"),
        (("curve", "complement"), [[1.0]], "curve.complement: 1 values, but curve.sizes"),
        (("curve", "units", 0), -1.0, "curve.units[0]: input should be greater than or equal to 0, found -1.0"),
        (("guard", "fvu"), [0.1], "guard: fvu has 1 values, but counts.layers is 4"),
        (("top_nodes", 0, "unit"), "bias", "top_nodes[0].unit"),
        (("created",), "2026-01-22T00:00:00", "created: input should have timezone info"),
    ],
)
def test_a_wrong_field_is_named(
    full_record: Record, tmp_path: Path, path: tuple[str | int, ...], value: object, expected: str
) -> None:
    content = changed(json.loads(full_record.model_dump_json()), path, value)
    assert expected in refuse(content, tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(full_record: Record, tmp_path: Path, number: str) -> None:
    text = full_record.model_dump_json().replace('"accuracy":1.0', f'"accuracy":{number}')
    assert number in text
    assert refuse(text, tmp_path).startswith("endpoints.accuracy: ")


def test_broken_json_is_told_by_line_and_column(tmp_path: Path) -> None:
    assert "line 2 column 4" in refuse('{\n"a"; 1}', tmp_path)
    assert "line 1 column" in refuse("", tmp_path)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nothing\.json: cannot be read: No such file"):
        read_record(tmp_path / "nothing.json")


RECORD = json.loads(synthetic_record("ioi", "transcoder", "relp").model_dump_json())


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    path=st.sampled_from(list(leaf_paths(RECORD))),
    value=st.sampled_from([MISSING, [], {}, {"a": 1}, True, -(10**6), "\x00" * 300]),
)
def test_any_single_damage_is_refused_naming_its_place(
    tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    """Whatever is damaged, the message names the damaged field or the part of the record that it contradicts."""
    optional = {"ablation", "error_policy", "granularity", "seed", "ranking", "sizes", "kl"}
    optional |= {"subset_sizes", "subset_draws", "subset_blocks", "layers", "sources", "empty_at", "code"}
    optional |= {
        "score_reference",
        "score_split",
        "attribution_draw",
        "bos",
        "metric",
        "ties",
        "control",
        "suite",
        "training",
        "tuning",
        "weights_file",
        "error_share",
    }
    # Without them a record can be read; `validate` asks for them.
    optional |= {"gate_empty", "family_empty", "scored_nodes", "area_end", "all_units", "loss_recovered", "coordinate"}
    counted = {"attribution", "evaluation"}  # reasons to numbers, free in their names
    harmless = (
        (value is MISSING and (path[-1] in {*optional, "subset_checks"} or "packages" in path))
        or (value == [] and path[-1] in {"subset_checks", "subset_sizes", "top_nodes"})
        or (value in ({}, {"a": 1}) and path[-1] in counted)
        or (value == {} and path[-1] == "sources")
        or (value is True and path[-1] == "control")
        or (value == -(10**6) and path[:2] in {("guard", "slope"), ("guard", "loss_recovered")})
        or (value == -(10**6) and (path[-1] == "seed" or path[0] in {"endpoints", "curve"}))
        or (isinstance(value, str) and "environment" in path)
    )
    if harmless:
        return
    message = refuse(changed(RECORD, path, value), tmp_path)
    assert str(path[0]) in message


def test_ids_follow_every_field_of_question_and_things() -> None:
    base = synthetic_record()
    ids = {base.id, cell_id(base.cell, base.identities, version="9.9")}
    changes: dict[str, Any] = {
        "model": "other",
        "task": "other",
        "task_version": "other",
        "basis": "other",
        "family": "resid",
        "method": "other",
        "ablation": "zero",
        "error_policy": "keep",
        "granularity": "unit",
        "seed": 1,
        "attribution_pairs": 99,
        "evaluation_pairs": 99,
        "sizes": "other",
        "kl": True,
        "subset_sizes": (5,),
        "subset_draws": 3,
        "subset_blocks": 50,
        "layers": (0, 1),
        "score_reference": "counterfactual",
        "score_split": "evaluation",
        "attribution_draw": 1,
        "bos": "always",
        "metric": "logprob",
        "ties": "order",
    }
    assert {*changes, "ranking"} == set(CellConfig.model_fields), "a new field must be part of the id"
    for name, value in changes.items():
        ids.add(cell_id(CellConfig(**{**base.cell.model_dump(), name: value}), base.identities))
    for name in Identities.model_fields:
        value = {"method": "f" * 16} if name == "code" else "f" * 64
        ids.add(cell_id(base.cell, Identities(**{**base.identities.model_dump(), name: value})))
    assert len(ids) == 2 + len(changes) + len(Identities.model_fields)


@pytest.mark.slow
def test_ids_are_the_same_in_another_process() -> None:
    base = synthetic_record()
    code = (
        "import sys; from basisbench.results.record import *;"
        "print(cell_id(CellConfig.model_validate_json(sys.argv[1]), Identities.model_validate_json(sys.argv[2])))"
    )
    arguments = [base.cell.model_dump_json(), base.identities.model_dump_json()]
    output = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == base.id


@pytest.mark.slow
def test_reading_records_needs_no_torch() -> None:
    code = "import sys, basisbench.results.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
