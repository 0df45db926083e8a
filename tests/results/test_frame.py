"""Records to frames: what is found, what each column holds, and how quick it is."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import basisbench
from basisbench.errors import RecordError
from basisbench.report.sources import read_sources
from basisbench.results.frame import frame_of, load_results, read_results, summarise
from basisbench.results.record import Record, write_record
from basisbench.results.record_fields import Group
from helpers.synthetic_records import changed, synthetic_record, synthetic_suite, write_suite


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(synthetic_suite(tasks=("ioi", "sva_rc"), bases=("mlp_act", "sae_mlp_out"), methods=("relp", "ig")))


def test_a_row_per_cell_and_size(records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path, records)
    frame = load_results(tmp_path)
    assert len(frame) == sum(len(record.curve.sizes) for record in records)
    assert frame["cell_id"].nunique() == len(records) == 8
    record = next(r for r in records if (r.cell.task, r.cell.basis, r.cell.method) == ("ioi", "sae_mlp_out", "ig"))
    rows = frame[frame["cell_id"] == record.id]
    assert tuple(rows["size"]) == record.curve.sizes
    full, empty = np.mean(record.endpoints.full), np.mean(record.endpoints.empty)
    circuit = np.mean(record.curve.circuit, axis=1)
    complement = np.array([np.nan if row is None else np.mean(row) for row in record.curve.complement])
    assert np.isnan(complement).any(), "sizes that bisection added have none"
    np.testing.assert_allclose(rows["metric_mean"], circuit)
    np.testing.assert_allclose(rows["faithfulness"], (circuit - empty) / (full - empty), atol=1e-14)
    np.testing.assert_allclose(rows["completeness"], (complement - empty) / (full - empty), atol=1e-14)
    for name in ("faithfulness", "completeness"):
        known = rows[rows[name].notna()]
        assert (known[f"{name}_low"] <= known[name] + 1e-12).all()
        assert (known[name] <= known[f"{name}_high"] + 1e-12).all()
    np.testing.assert_array_equal(rows["all_units"], record.curve.all_units)
    np.testing.assert_allclose(rows["share"], np.array(record.curve.sizes) / record.curve.sizes[-1], atol=1e-4)
    np.testing.assert_allclose(rows["feature_nodes"], record.curve.feature_nodes)
    np.testing.assert_allclose(rows["error_nodes"], record.curve.error_nodes)
    assert rows["error_nodes"].iloc[-1] > 0
    assert rows["bits"].iloc[1] == pytest.approx(math.log2(record.curve.sizes[-1]))
    assert set(rows["examples"]) == {100}
    assert rows["kl"].isna().all()


@pytest.mark.parametrize("function", [load_results, summarise])
def test_every_column_is_documented(function: object, records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path, records[:1])
    text = f"{function.__doc__} {load_results.__doc__}"
    for column in function(tmp_path).columns:  # type: ignore[operator]
        bare = column.removesuffix("_low").removesuffix("_high")
        assert f"`{column}`" in text or f"`{bare}`" in text, f"{column} is not documented"


def test_paths_of_every_kind(records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path / "one", records[:2])
    write_suite(tmp_path / "two", records[2:5])
    file = tmp_path / "one" / "records" / f"{records[0].id}.json"
    (tmp_path / "one" / "records" / ".half.json.x.partial").write_text("{")
    assert len(read_results(file)) == 1
    assert len(read_results(str(tmp_path / "one"))) == 2
    assert len(read_results(tmp_path / "one" / "records")) == 2
    assert len(read_results(tmp_path)) == 5
    assert len(read_results([tmp_path / "one", tmp_path / "two"])) == 5
    # The same file named twice is no repetition.
    assert len(read_results([file, tmp_path / "one"])) == 2


def test_a_file_s_name_carries_nothing(records: list[Record], tmp_path: Path) -> None:
    write_record(records[0], tmp_path / "whatever.json")
    assert load_results(tmp_path)["cell_id"].iloc[0] == records[0].id


def test_paths_without_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        load_results(tmp_path / "missing")
    with pytest.raises(RecordError, match="holds no records"):
        load_results(tmp_path)


def test_a_malformed_record_names_file_and_field(records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path, records[:1])
    (file,) = (tmp_path / "records").iterdir()
    content = json.loads(file.read_text())
    content["curve"]["sizes"][1] = -1
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"curve\.sizes.*") as caught:
        load_results(tmp_path)
    assert file.name in str(caught.value)


def test_sizes_without_1_are_refused_with_the_record_s_id() -> None:
    record = synthetic_record()
    curve = record.curve.model_dump()
    cut = {name: value[:1] + value[2:] if value is not None else None for name, value in curve.items()}
    broken = record.model_copy(update={"curve": type(record.curve).model_validate(cut)})
    with pytest.raises(RecordError, match=f"{broken.id}.*sizes must run 0, 1"):
        frame_of([broken])


@pytest.mark.parametrize("year", [2025, 2027])
def test_two_records_of_a_cell_are_an_error_that_names_both_files(tmp_path: Path, year: int) -> None:
    """Neither the later one nor the earlier is right for its date."""
    first = synthetic_record()
    other = first.model_copy(
        update={
            "created": first.created.replace(year=year),
            "cost": first.cost.model_copy(update={"peak_memory_bytes": 10**9}),
        }
    )
    one, two = tmp_path / "a" / "a.json", tmp_path / "b" / "b.json"
    write_record(first, one)
    write_record(other, two)
    expected = f"{two}: holds a record of the same cell as {one}; remove one, or give one path only"
    for read in (read_results, summarise, read_sources):
        with pytest.raises(RecordError, match=f"^{re.escape(expected)}$"):
            read([one, two])
    assert len(read_results([one, one.parent, tmp_path / "b" / ".." / "a"])) == 1, "one file, by three paths"


def test_one_name_for_two_dictionaries_is_told_apart() -> None:
    records = [synthetic_record(basis="sae_mlp_out", dictionary=letter * 64) for letter in "ab"]
    assert set(frame_of(records)["basis"]) == {"sae_mlp_out (aaaaaaaa)", "sae_mlp_out (bbbbbbbb)"}


def test_groups_of_different_size_share_one_axis() -> None:
    record = synthetic_record("ioi", "mlp_act")
    total = record.curve.sizes[-1]
    groups = tuple(
        Group(key=key, attribution_pairs=50, evaluation_pairs=50, positions=5, nodes=nodes, error_nodes=0)
        for key, nodes in (("long", total), ("short", total // 2))
    )
    mean = (total + total // 2) / 2
    kept = [(min(k, total) + min(k, total // 2)) / 2 for k in record.curve.sizes]
    changed = Record.model_validate(
        {
            **record.model_dump(),
            "groups": groups,
            "counts": {**record.counts.model_dump(), "nodes_mean": mean},
            "curve": {**record.curve.model_dump(), "feature_nodes": tuple(kept)},
        }
    )
    frame = frame_of([changed])
    assert frame["share"].iloc[-1] == pytest.approx(1)
    assert frame["share"].iloc[4] == pytest.approx(record.curve.sizes[4] / mean, rel=1e-3)
    assert frame["total_nodes"].iloc[0] == total


def test_a_summary_holds_what_the_record_says(records: list[Record]) -> None:
    summary = summarise(records)
    record = records[0]
    row = summary[summary["cell_id"] == record.id].iloc[0]
    seconds = record.cost.seconds
    assert row["seconds"] == pytest.approx(seconds.load + seconds.gradients + seconds.scoring + seconds.curve)
    assert row["forward_equivalents"] == record.cost.forward_equivalents
    assert row["accuracy"] == record.endpoints.accuracy
    assert math.isnan(row["fvu_mean"])
    dictionary = summary[summary["basis"] == "sae_mlp_out"].iloc[0]
    assert dictionary["fvu_mean"] == pytest.approx(0.035)
    assert dictionary["l0_mean"] == pytest.approx(26)
    assert dictionary["dictionary_bytes"] == 4_200_000
    for name in ("nodes_to_80", "bits_to_90", "settled_to_90", "area_distance"):
        assert (summary[f"{name}_low"] <= summary[name]).all()
        assert (summary[name] <= summary[f"{name}_high"]).all()


def test_the_curve_of_the_frame_and_the_summary_agree(records: list[Record]) -> None:
    frame, summary = frame_of(records), summarise(records)
    for _, row in summary.iterrows():
        rows = frame[frame["cell_id"] == row["cell_id"]]
        first = rows[rows["faithfulness"] >= 0.8].iloc[0]
        assert row["nodes_to_80"] == first["size"], "the smallest that was measured"
        assert row["units_to_80"] == first["all_units"]


def test_degenerate_and_censored_cells() -> None:
    record = synthetic_record("ioi")
    flat = changed(record, endpoints={"empty": record.endpoints.full, "gate_empty": None})
    low = synthetic_record("sva_rc", ceiling=0.5)
    summary = summarise([flat, low])
    assert list(summary["degenerate"]) == [True, False]
    assert math.isnan(summary["nodes_to_80"].iloc[0])
    assert math.isnan(summary["units_to_80"].iloc[0])
    assert summary["nodes_to_80"].iloc[1] == math.inf
    frame = frame_of([flat, low])
    assert frame.loc[frame["task"] == "ioi", "faithfulness"].isna().all()
    assert frame.loc[frame["task"] == "ioi", "metric_mean"].notna().all()


def test_sizes_of_random_order_are_told() -> None:
    record = synthetic_record()
    group = record.groups[0].model_copy(update={"scored_nodes": 60})
    cut = record.model_copy(update={"groups": (group,)})
    frame, row = frame_of([cut]), summarise([cut]).iloc[0]
    assert list(frame["scored"]) == [size <= 60 for size in record.curve.sizes]
    assert set(frame["scored_nodes"]) == {60}
    whole = summarise([record]).iloc[0]
    assert math.isinf(row["nodes_to_80"]) == (whole["nodes_to_80"] > 60)
    assert row["area_faithfulness"] < whole["area_faithfulness"]
    assert row["cpr"] == whole["cpr"], "MIB's area takes every size as it was measured"


def test_resamples_follow_the_clusters() -> None:
    record = synthetic_record()
    one = changed(record, record={"clusters": {"noun": tuple(index // 10 for index in range(100))}})
    none = changed(record, record={"clusters": {}})
    widths = [
        (row["area_faithfulness_high"] - row["area_faithfulness_low"], row["area_faithfulness"])
        for row in (summarise([item]).iloc[0] for item in (one, none))
    ]
    assert widths[0][1] == pytest.approx(widths[1][1])
    assert widths[0][0] != widths[1][0]


@pytest.mark.slow
def test_a_full_suite_loads(tmp_path: Path) -> None:
    records = list(synthetic_suite(examples=8))
    assert len(records) == 405
    write_suite(tmp_path, records)
    frame = load_results(tmp_path)
    assert frame["cell_id"].nunique() == 405
    assert isinstance(frame, pd.DataFrame)


def test_the_package_exports_them() -> None:
    assert basisbench.load_results is load_results
    assert basisbench.summarise is summarise
