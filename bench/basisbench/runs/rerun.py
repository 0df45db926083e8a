"""Re-runs records that were drawn for verification, model by model.

1. For each model, then each task: load once, and compare identities. A record that was made on other weights,
   another dictionary or other pairs is not verified, and not re-run.
2. Re-run what is left with the record's own settings: scores and ranking from nothing, circuits at the drawn sizes
   only. Compare within tolerances (`basisbench.submissions.rerun_agreement`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import ValidationError

from basisbench.errors import BasisBenchError, RecordError
from basisbench.registry import Registry
from basisbench.results.record import CellConfig, Record
from basisbench.results.schema import describe_problem
from basisbench.runs.model_names import find_models
from basisbench.submissions.rerun_agreement import compare_identities, compare_records, refused, tolerance_for
from basisbench.submissions.verification_fields import VerifiedCell
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.protocols import BasisSpec, Method, Task
    from basisbench.results.record import Environment
    from basisbench.runs.session import Session

_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Drawn:
    """A record that was drawn, and the sizes at which it is compared besides 0 and all nodes."""

    record: Record
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """What a cell's names stand for here."""

    task: Task
    basis: BasisSpec
    method: Method


def look_up(record: Record, registry: Registry) -> Parts:
    """Return what a record's names stand for.

    Raises:
        BasisBenchError: a name is unknown here, or its task has another version.
    """
    cell = record.cell
    try:
        find_models([cell.model], registry, _commits(record))
        parts = Parts(
            registry.get("task", cell.task), registry.get("basis", cell.basis), registry.get("method", cell.method)
        )
    except BasisBenchError as error:
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: {error}; give the file that provides it with --plugin FILE, or "
            "install its package"
        ) from error
    if parts.task.version != cell.task_version:
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: it has version {cell.task_version} of task '{cell.task}', here is "
            f"version {parts.task.version}; install the package, or give the --plugin FILE, that has that version"
        )
    return parts


def _commits(record: Record) -> dict[str, str]:
    """Return the commits that a record's weights came from."""
    for repository, commit in record.sources.items():
        if not _COMMIT.fullmatch(commit):
            raise RecordError(f"sources: expected a commit of {repository}, found '{commit:.60}'")
    return dict(record.sources)


def by_model(drawn: Sequence[Drawn]) -> Iterator[list[Drawn]]:
    """Yield the records of each model: the same name, commits and type of weights."""
    return _grouped(drawn, lambda record: (record.cell.model, sorted(record.sources.items()), record.environment.dtype))


def rerun_model(
    members: Sequence[Drawn],
    parts: Mapping[str, Parts],
    registry: Registry,
    *,
    device: str,
    dtype: str | None,
    on_cell: Callable[[VerifiedCell], None],
) -> tuple[list[VerifiedCell], Environment, str]:
    """Re-run records of one model, and compare.

    Args:
        members: the records.
        parts: id of a cell to what its names stand for.
        registry: where the model is looked up.
        device: device of the model.
        dtype: type of its weights; the records' when None.
        on_cell: called with each cell as it is done.

    Returns:
        What was found, where it ran, and the device.

    Raises:
        BasisBenchError: the model, its pairs or a dictionary cannot be had, or a cell does not fit into memory.
    """
    from basisbench.runs.environment import describe_environment

    weights, model = _load(members[0].record, registry, device, dtype)
    done = []
    for same_task in _grouped(members, _task_key):
        session = _open(model, same_task[0].record.cell, parts[same_task[0].record.id].task)
        for drawn in same_task:
            done.append(_verify_cell(session, drawn, parts[drawn.record.id], weights))
            on_cell(done[-1])
    return done, describe_environment(model), str(model.device)


def _task_key(record: Record) -> tuple[object, ...]:
    cell = record.cell
    return cell.task, cell.seed, cell.attribution_pairs, cell.evaluation_pairs


def _grouped(drawn: Sequence[Drawn], key: Callable[[Record], tuple[object, ...]]) -> Iterator[list[Drawn]]:
    """Yield records that share a key; those of one basis are neighbours, which share its dictionaries."""
    ordered = sorted(drawn, key=lambda item: (repr(key(item.record)), item.record.cell.basis, item.record.id))
    for _, members in groupby(ordered, key=lambda item: key(item.record)):
        yield list(members)


def _load(record: Record, registry: Registry, device: str, dtype: str | None) -> tuple[str, Model]:
    """Load a record's model; return the digest of its weights in the record's dtype, and the model in another."""
    from basisbench.models.load import load_model

    own = record.environment.dtype
    (spec,) = find_models([record.cell.model], registry, _commits(record))
    model = load_model(spec, device=device, dtype=own)
    weights = model.weights_hash
    if dtype not in (None, own):
        del model
        model = load_model(spec, device=device, dtype=dtype)
    return weights, model


def _open(model: Model, cell: CellConfig, task: Task) -> Session:
    from basisbench.runs.session import open_session

    return open_session(
        model,
        task,
        attribution_pairs=cell.attribution_pairs,
        evaluation_pairs=cell.evaluation_pairs,
        seed=cell.seed,
    )


def _verify_cell(session: Session, drawn: Drawn, parts: Parts, weights: str) -> VerifiedCell:
    """Compare the identities of one cell, and if they are the record's, re-run it."""
    recorded, dtype = drawn.record, str(session.model.dtype).removeprefix("torch.")
    try:
        here = session.identity(parts.basis).model_copy(update={"model": weights})
        problems = [*compare_identities(recorded, here)]
        if parts.basis.family != recorded.cell.family:
            problems.append(f"cell.family: {recorded.cell.family}, the basis is of {parts.basis.family}: not re-run")
        if problems:
            return refused(recorded, here, dtype, problems)
        try:
            found = session.run(recorded.cell, parts.basis, parts.method, at=drawn.sizes)
        except ValidationError as error:  # for example, a value that is not finite
            return refused(recorded, here, dtype, [f"the re-run gives no record: {describe_problem(error)}"[:1000]])
    except BasisBenchError as error:
        raise BasisBenchError(f"cell {recorded.id} cannot be re-run: {error}; nothing was written") from error
    # A re-run in another dtype is compared in the coarser one.
    tolerance = max(tolerance_for(dtype), tolerance_for(recorded.environment.dtype), key=lambda given: given.value)
    cell = compare_records(recorded, found, here, tolerance)
    if cell.problems and recorded.basisbench != __version__:
        note = f"made by BasisBench {recorded.basisbench}, re-run by {__version__}: numbers may have changed"
        return cell.model_copy(update={"problems": (*cell.problems, note)})
    return cell
