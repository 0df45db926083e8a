"""Results as a dataset of Hugging Face's library: the frame's rows, typed, with their provenance, there and back."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, load_from_disk
from pandas.testing import assert_frame_equal

import basisbench
from basisbench.errors import BasisBenchError, RecordError
from basisbench.results.dataset import to_dataset
from basisbench.results.frame import frame_of, load_results
from basisbench.results.record import SCHEMA_VERSION, Record
from helpers.synthetic_records import changed, synthetic_record, write_suite


def not_defined(record: Record) -> Record:
    return changed(record, endpoints={"empty": record.endpoints.full})


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Cells of every kind: restricted, long-named, not defined."""
    return [
        synthetic_record(),
        synthetic_record(basis="transcoder", ceiling=0.5),
        not_defined(synthetic_record("sva_rc")),
        synthetic_record(basis="sae_resid", name="sae:/home/x/folder", layers=(0, 1, 3)),
    ]


def check_rows(dataset: Dataset, frame: pd.DataFrame) -> None:
    assert_frame_equal(dataset.to_pandas(), frame.reset_index(drop=True), check_dtype=False, check_exact=True)


def test_the_dataset_is_the_frame_there_and_back(records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path / "results", records)
    frame = load_results(tmp_path / "results")
    dataset = basisbench.to_dataset(tmp_path / "results")
    check_rows(dataset, frame)
    dataset.save_to_disk(tmp_path / "saved")
    again = load_from_disk(tmp_path / "saved")
    check_rows(again, frame)
    assert again.features == dataset.features
    assert again.info.description == dataset.info.description
    assert again.info.version == dataset.info.version


def test_paths_records_and_rows_give_the_same(records: list[Record], tmp_path: Path) -> None:
    write_suite(tmp_path, records)
    frame = load_results(tmp_path)
    check_rows(to_dataset([tmp_path]), frame)
    check_rows(to_dataset(frame), frame)
    check_rows(to_dataset(records), frame_of(records))
    # A selection has gaps in its index, which do not become a column.
    some = frame[frame["size"] % 2 == 1]
    check_rows(to_dataset(some), some)


def test_columns_are_typed_whatever_the_rows(records: list[Record]) -> None:
    frame = frame_of(records)
    features = {name: feature.dtype for name, feature in to_dataset(frame).features.items()}
    assert list(features) == list(frame.columns)
    assert {features[name] for name in ("model", "basis", "layers", "task_version", "cell_id")} == {"string"}
    assert {features[name] for name in ("size", "seed", "examples", "total_nodes")} == {"int64"}
    assert {features[name] for name in ("faithfulness", "bits", "kl", "full_mean")} == {"float64"}
    assert features["degenerate"] == "bool"
    for part in (frame.head(1), frame[frame["degenerate"]]):
        assert {name: feature.dtype for name, feature in to_dataset(part).features.items()} == features


def test_what_is_not_defined_is_null(records: list[Record]) -> None:
    rows = [row for row in to_dataset(records) if row["degenerate"]]
    assert rows
    assert all(row["faithfulness"] is None for row in rows)
    assert all(row["kl"] is None for row in rows)
    assert all(math.isfinite(row["metric_mean"]) for row in rows)


def test_the_info_says_where_the_rows_come_from(records: list[Record]) -> None:
    info = to_dataset(records).info
    frame = frame_of(records)
    assert str(info.version) == f"{SCHEMA_VERSION}.0.0"
    assert info.dataset_name == "basisbench_results"
    for text in (
        f"{len(frame)} rows of 4 cells",
        f"pocket-llama ({records[0].identities.model[:12]})",
        "ioi version 1, sva_rc version 1",
        f"Made with BasisBench {records[0].basisbench}",
        f"Record schema: {SCHEMA_VERSION}",
    ):
        assert text in info.description
    notes = info.description.split("Columns:")[1]
    for name in frame.columns:
        bare = name.removesuffix("_low").removesuffix("_high")
        assert f"`{bare}`" in notes or f"`{name}`" in notes


def test_nothing_is_refused_in_one_line(records: list[Record], tmp_path: Path) -> None:
    frame = frame_of(records)
    with pytest.raises(BasisBenchError, match="no rows"):
        to_dataset(frame[frame["task"] == "other"])
    with pytest.raises(RecordError, match="no such file"):
        to_dataset(tmp_path / "missing")


@pytest.mark.slow
def test_the_library_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, basisbench; basisbench.to_dataset; assert 'datasets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
