"""From record files to tidy tables.

1. Find the record files of a path: a file, a folder of records, a results folder with `records/`, or a tree of those.
2. Read and check each; two records of one cell are an error.
3. Normalise its curve and resample its clusters (`basisbench.results.metrics`).
4. Lay its columns out (`basisbench.results.columns`): a row per cell and size (`load_results`), or a row per cell
   (`summarise`).

No torch here, so that results can be read on a machine that has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from basisbench.errors import RecordError
from basisbench.results.bisection import scored_nodes
from basisbench.results.bootstrap import interval_ends
from basisbench.results.columns import (
    Column,
    basis_labels,
    cost_columns,
    fit_columns,
    identity_columns,
    normalised,
    statistic_columns,
)
from basisbench.results.metrics import circuit_bits
from basisbench.results.record import Record, read_record
from basisbench.results.store import RECORDS_FOLDER, hint_of_local, is_local

PathLike: TypeAlias = "str | os.PathLike[str]"


def read_results(paths: PathLike | Sequence[PathLike]) -> list[Record]:
    """Read every record below the given paths, each cell once.

    Args:
        paths: one path or several; each a record file, a folder of records, a results folder that holds `records/`,
            or a tree with such folders somewhere below.

    Returns:
        Records in a stable order: by model, family, task, basis, method, all by name, then id. Where one basis name
        stands for different trained weights on one model, the weights' hash is added to the name in `basis_labels`.

    Raises:
        RecordError: a path holds no record, a record is malformed, or two files hold records of one cell; the message
            names file and field, or both files.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = [file for path in listed for file in record_files(Path(path))]
    return sorted(read_each(dict.fromkeys(file.resolve() for file in files)).values(), key=record_order)


def read_each(files: Iterable[Path]) -> dict[Path, Record]:
    """Read record files, each a cell of its own.

    Of two records of one cell none is right for its date: anybody can make one that is later than a verified one.

    Args:
        files: record files, each named once.

    Raises:
        RecordError: a record is malformed, or two files hold records of one cell; the message names them.
    """
    records: dict[Path, Record] = {}
    first: dict[str, Path] = {}
    for file in files:
        records[file] = record = read_record(file)
        if (other := first.setdefault(record.id, file)) != file:
            raise RecordError(f"{file}: holds a record of the same cell as {other}; remove one, or give one path only")
    return records


def records_of(results: PathLike | Sequence[PathLike] | Sequence[Record]) -> list[Record]:
    """Read what is a path, and keep what is a record already.

    Raises:
        RecordError: a path holds no record, or a record is malformed.
    """
    if isinstance(results, str | os.PathLike):
        return read_results(results)
    paths = [item for item in results if not isinstance(item, Record)]
    return [item for item in results if isinstance(item, Record)] + (read_results(paths) if paths else [])


def load_results(path: PathLike | Sequence[PathLike]) -> pd.DataFrame:
    """Read records into a tidy frame: a row per cell and circuit size.

    Args:
        path: a record file, a folder with or without `records/`, or several of those.

    Returns:
        A frame with these columns, intervals being 95% bootstrap intervals over the clusters of evaluation examples:

        - `cell_id`: identity of the cell, from its question, model, dictionary and data.
        - `model`: name of the model; `model_hash`: first 12 digits of its weights' digest.
        - `tuned_tokens`: tokens that the model was tuned on, where its checkpoint says so; else 0.
        - `basisbench`: version that made the record.
        - `task`, `task_version`: the task; results of two versions are never mixed.
        - `family`: site family (mlp, attn, resid); `basis`: name of the basis; `method`: how nodes were scored.
        - `ablation`: reference value of ablated nodes; `error_policy`: what became of reconstruction errors.
        - `exact`: the basis leaves no error, so its cell belongs to every error policy.
        - `granularity`: whether a node is (layer, position, unit) or (layer, unit).
        - `score_reference`: what a node moves to when it is scored: its reference (ablation) or counterfactual value.
        - `score_split`: pairs that scores are taken on; "evaluation" is held in.
        - `bos`: whether a beginning-of-sequence token stands in front (auto, always, never).
        - `metric`: what answers are worth, the logit of one token or the log-probability of several (logit, logprob).
        - `ranking`: by what nodes were ranked; `ties`: the order of equal scores; `size_grid`: how sizes were chosen.
        - `layers`: the layers that the family is restricted to because some basis of the run covers no others, for
          example "0-3, 7"; "all" where it is not restricted.
        - `seed`: seed of pairs, random scores and random bases; `attribution_draw`: draw of the attribution pairs.
        - `attribution_pairs`, `evaluation_pairs`: pairs asked for; `examples`: evaluation pairs used.
        - `groups`: aligned groups; a circuit of size k has k nodes in each.
        - `total_nodes`: nodes N of the largest aligned group; `scored_nodes`: how many of them scores put in order, the
          fewest of all groups.
        - `control`: the basis declares itself a control.
        - `full_mean`, `empty_mean`: mean metric of the model, F(M), and of the empty circuit, F(0), in logits.
        - `accuracy`: share of examples on which the model prefers the answer to the foil.
        - `gap`, `gap_error`: F(M) - F(0) at the family's outputs, in logits, and its standard error; `gap_share`: over
          |F(M)|; `family_gap_share`: over the gap of the family in all layers, NaN where layers are not restricted.
        - `gate`: why there is too little to explain (`basisbench.results.gates`); "" where there is enough.
        - `few_clusters`: the cluster factor that has too few levels for intervals to be relied on; "" where none has.
        - `no_mark`: why the cell gets no best mark, in a few words; `unfit`: why its basis gets none on any task.
        - `suite`: name of the suite that it was run for; `suite_tasks`: its tasks, separated by ", ".
        - `size`: circuit size k in nodes; `scored`: whether scores fix the order up to it.
        - `share`: kept nodes over all nodes, both averaged over groups; not comparable across widths.
        - `bits`: bits that name a circuit of this size (`metrics.circuit_bits`).
        - `feature_nodes`, `error_nodes`: unit and error nodes in the circuit, mean over groups.
        - `distinct_units`: distinct (layer, unit) in the circuit, mean over groups; `all_units`: in all groups
          together, NaN in records of schema 1.
        - `faithfulness`, `faithfulness_low`, `faithfulness_high`: of the circuit, ideal 1, and its interval.
        - `completeness`, `completeness_low`, `completeness_high`: of the complement, ideal 0, and its interval; NaN at
          sizes that bisection added.
        - `metric_mean`: mean metric of the circuit, in logits; `complement_mean`: of the complement, NaN as above.
        - `kl`: mean KL(full model || circuit) in nats; NaN where it was not asked for.
        - `degenerate`: F(M) equals F(0); faithfulness and completeness are then NaN.

    Raises:
        RecordError: no record is found, or one is malformed.
    """
    return frame_of(read_results(path))


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """Lay records out as `load_results` does."""
    labels = basis_labels(records)
    pieces: list[dict[str, Column | np.ndarray]] = []
    for record in records:
        cell = normalised(record)
        curve = record.curve
        sizes = np.array(curve.sizes)
        low_f, high_f = interval_ends(cell.faithfulness[1:])
        low_c, high_c = interval_ends(cell.completeness[1:])
        kept = np.array(curve.feature_nodes) + np.array(curve.error_nodes)
        pieces.append(
            {
                **identity_columns(record, labels),
                "size": sizes,
                "scored": sizes <= scored_nodes(record),
                "share": np.minimum(kept / record.counts.nodes_mean, 1.0),
                "bits": circuit_bits(cell.total, sizes.astype(np.float64)),
                "feature_nodes": np.array(curve.feature_nodes),
                "error_nodes": np.array(curve.error_nodes),
                "distinct_units": np.array(curve.units),
                "all_units": np.array(curve.all_units or [np.nan] * len(sizes), dtype=np.float64),
                "faithfulness": cell.faithfulness[0],
                "faithfulness_low": low_f,
                "faithfulness_high": high_f,
                "completeness": cell.completeness[0],
                "completeness_low": low_c,
                "completeness_high": high_c,
                "metric_mean": np.array(curve.circuit).mean(axis=1),
                "complement_mean": np.array([np.nan if row is None else np.mean(row) for row in curve.complement]),
                "kl": np.full(len(sizes), np.nan) if curve.kl is None else np.array(curve.kl),
                "degenerate": cell.degenerate,
            }
        )
    # One array per column: far quicker than hundreds of small frames joined.
    counts = [len(record.curve.sizes) for record in records]
    columns = {
        name: np.concatenate([_repeat(piece[name], count) for piece, count in zip(pieces, counts, strict=True)])
        for name in (pieces[0] if pieces else {})
    }
    return pd.DataFrame(columns)


def summarise(results: PathLike | Sequence[PathLike] | Sequence[Record]) -> pd.DataFrame:
    """Sum every cell up in one row.

    Args:
        results: paths as `load_results` takes them, or records already read.

    Returns:
        A frame with the columns of `load_results` from `cell_id` to `suite_tasks`, and:

        - each statistic of `metrics.STATISTICS` with `_low` and `_high`, the ends of its 95% bootstrap interval:
          `nodes_to_80`, `nodes_to_90`, `bits_to_80`, `bits_to_90`, `settled_to_80`, `settled_to_90`,
          `area_faithfulness`, `area_distance`, `area_completeness`, `cpr`, `cmd`; infinite where the target is not
          reached by nodes that have a score.
        - `units_to_80`: distinct (layer, unit) of all groups together in the circuit of `nodes_to_80`; NaN where that
          is not reached, and in records of schema 1.
        - `faithfulness_all`: faithfulness of the circuit of all nodes, 1 but where errors are always ablated.
        - `halves_size`, `halves_draws`, `halves_median`, `halves_worst`, `halves_lowest`, `halves_highest`: what halves
          of the complement do to the circuit, random ones and adversarial ones (`halves.halves_columns`).
        - `degenerate`: F(M) equals F(0), and every statistic is NaN.
        - `draws`: the statistics in every resample (`columns.Draws`), for best marks and medians; not written to files.
        - `seconds_load`, `seconds_gradients`, `seconds_scoring`, `seconds_curve`, and their sum `seconds`. Work that
          cells share counts in each of them.
        - `forward_equivalents`: passes over one pair that scoring needed.
        - `dictionary_bytes`: weights of the basis; `peak_memory_bytes`: of the process, or of the device.
        - `device`, `threads`: where it ran.
        - `fvu_mean`, `fvu_max`, `l0_mean`, `slope_min`, `loss_recovered`: fit of the dictionary on the task's prompts:
          fraction of variance unexplained (mean and largest over layers), active units per position, smallest
          calibration slope of a layer, loss recovered; NaN for neurons, and where it was not measured.
        - `error_share`: share of attribution in errors; NaN where no errors are ranked, and where it was not measured.

    Raises:
        RecordError: no record is found, or one is malformed.
    """
    records = records_of(results)
    labels = basis_labels(records)
    return pd.DataFrame(
        [
            {
                **identity_columns(record, labels),
                **statistic_columns(record),
                **cost_columns(record),
                **fit_columns(record),
            }
            for record in records
        ]
    )


def record_files(path: Path) -> list[Path]:
    """Return the record files of one path, sorted.

    Args:
        path: a record file, a folder of records, a results folder, or a tree with such folders somewhere below; the
            user's own runs in a tree (`store.is_local`) are left out.

    Raises:
        RecordError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RecordError(f"{path}: no such file or folder; expected records or a results folder")
    folders = [path / RECORDS_FOLDER] if (path / RECORDS_FOLDER).is_dir() else [path]
    files = sorted(file for folder in folders for file in folder.glob("*.json"))
    if not files:
        below = path.glob(f"**/{RECORDS_FOLDER}/*.json")
        files = sorted(file for file in below if not is_local(path / file.relative_to(path).parts[0], path))
    if not files:
        problem = f"{path}: holds no records; expected *.json there or in a folder named records"
        raise RecordError(problem + hint_of_local(path))
    return files


def record_order(record: Record) -> tuple[object, ...]:
    """Return the sort key of a record: model, family, task, basis, method, all by name, then id."""
    cell = record.cell
    return (cell.model, cell.family, cell.task, cell.task_version, cell.basis, cell.method, record.id)


def _repeat(value: Column | np.ndarray, count: int) -> np.ndarray:
    """Return a column of a cell's rows: an array as it is, anything else repeated."""
    if isinstance(value, np.ndarray):
        return value
    return np.full(count, value, dtype=object if isinstance(value, str) else None)
