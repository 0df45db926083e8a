"""Results as a Hugging Face dataset: a row per cell and circuit size, the columns of `load_results`.

The contrast pairs of a task are another thing: `basisbench.pairs.alignment.to_dataset` gives those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from basisbench.errors import BasisBenchError
from basisbench.results.frame import PathLike, frame_of, load_results, records_of
from basisbench.results.record import SCHEMA_VERSION, Record
from basisbench.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset


def to_dataset(results: PathLike | Sequence[PathLike] | Sequence[Record] | pd.DataFrame) -> Dataset:
    """Return results as a `datasets.Dataset` with a row per cell and circuit size.

    Nothing is sent anywhere; `save_to_disk`, `to_parquet` and `push_to_hub` are the dataset's own.

    Args:
        results: paths as `load_results` takes them, records already read, or rows of what `load_results` returned.

    Returns:
        A dataset with the frame's columns, in its order. Text is `string`, whole numbers are `int64`, others `float64`,
        truth values `bool`; what is not defined (NaN in the frame) is null. Its info says which models, tasks and
        versions the rows come from, what the columns mean, and the version of the record schema.

    Raises:
        RecordError: no record is found, or one is malformed.
        BasisBenchError: there are no rows.
    """
    from datasets import Dataset, DatasetInfo, Version

    frame = results if isinstance(results, pd.DataFrame) else frame_of(records_of(results))
    if frame.empty:
        raise BasisBenchError("no rows to make a dataset of; check the filters on task, basis and method")
    info = DatasetInfo(
        description=_description(frame),
        dataset_name="basisbench_results",
        version=Version(f"{SCHEMA_VERSION}.0.0", description="version of the record schema"),
        features=_features(frame),
    )
    return Dataset.from_pandas(frame, features=info.features, info=info, preserve_index=False)


def _features(frame: pd.DataFrame) -> dict[str, object]:
    """Return a type for every column; the same for every selection of rows."""
    from datasets import Features, Value

    kinds = {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}
    return Features({str(name): Value(kinds.get(kind.kind, "string")) for name, kind in frame.dtypes.items()})  # type: ignore[no-any-return]


def _description(frame: pd.DataFrame) -> str:
    """Return where the rows come from and what the columns mean."""
    models = frame[["model", "model_hash"]].drop_duplicates().itertuples(index=False)
    tasks = frame[["task", "task_version"]].drop_duplicates().itertuples(index=False)
    lines = [
        f"BasisBench results: {len(frame)} rows of {frame['cell_id'].nunique()} cells.",
        f"Models (weights): {', '.join(f'{name} ({digest})' for name, digest in models)}.",
        f"Tasks: {', '.join(f'{name} version {version}' for name, version in tasks)}.",
        f"Made with BasisBench {', '.join(sorted(set(frame['basisbench'])))}; read with BasisBench {__version__}.",
        f"Record schema: {SCHEMA_VERSION}.",
        "",
        "Columns:",
        "",
    ]
    return "\n".join(lines) + _column_notes()


def _column_notes() -> str:
    """Return the list of columns from the documentation of `load_results`, the one place that describes them."""
    text = load_results.__doc__ or ""
    _, _, columns = text.partition("- `cell_id`")
    columns, _, _ = ("- `cell_id`" + columns).partition("\n\n")
    return "\n".join(line.strip() for line in columns.splitlines())
