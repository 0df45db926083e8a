"""Re-runs a random sample of a folder's cells and compares them with its records.

1. Draw cells and sizes (`basisbench.sampling`) and read their records; look every name up before anything is loaded.
2. For each model, then each task: load once, and compare identities. A record that was made on other weights,
   another dictionary or other pairs is not verified, and not re-run.
3. Re-run what is left with the record's own settings: scores and ranking from nothing, circuits at the drawn sizes
   only. Compare within tolerances (`basisbench.agreement`).
4. Write `verification.json`, whole, whether or not the sample passed.

What cannot be re-run at all (an unknown name, weights that cannot be had, too little memory) proves nothing for or
against the records: it is raised, and nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from basisbench.agreement import compare_identities, compare_records, refused, tolerance_for
from basisbench.errors import BasisBenchError, RecordError
from basisbench.model_names import find_models
from basisbench.plan import Settings
from basisbench.record import Record, read_record, write_whole
from basisbench.registry import Registry
from basisbench.sampling import draw_seed, sample_cells, sample_sizes
from basisbench.schema import describe_problem
from basisbench.verification import (
    VERIFICATION_FILE,
    Sampling,
    Verification,
    VerifiedCell,
    record_files,
    records_digest,
)
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.execute import Session
    from basisbench.model import Model
    from basisbench.protocols import BasisSpec, Method, Task

_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Drawn:
    """A record that was drawn, and the sizes at which it is compared besides 0 and all nodes."""

    record: Record
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """What was drawn from a folder.

    Attributes:
        folder: the results or submission folder.
        digest: digest of its records when they were drawn.
        cells_in_folder: how many there are.
        sampling: how they were drawn.
        drawn: the drawn records, in order of their id.
    """

    folder: Path
    digest: str
    cells_in_folder: int
    sampling: Sampling
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True)
class _Parts:
    """What a cell's names stand for here."""

    task: Task
    basis: BasisSpec
    method: Method


def draw_sample(
    folder: str | os.PathLike[str], *, cells: int | Literal["all"], points: int, seed: int | None = None
) -> Sample:
    """Draw cells of a folder, and sizes of each.

    Args:
        folder: a results or submission folder.
        cells: how many cells.
        points: how many sizes of each.
        seed: seed of the draw; one that nobody can foresee when None.

    Raises:
        RecordError: the folder holds no records, or one that was drawn is malformed or not named by its cell.
    """
    folder = Path(folder)
    digest = records_digest(folder)
    files = {path.stem: path for path in record_files(folder)}
    sampling = Sampling(seed=draw_seed() if seed is None else seed, cells=cells, points=points)
    drawn = []
    for name in sample_cells(files, cells, sampling.seed):
        record = read_record(files[name])
        if record.id != name:
            raise RecordError(
                f"{files[name]}: expected the name {record.id}.json; run basisbench validate, which tells more"
            )
        drawn.append(Drawn(record, sample_sizes(record, points, sampling.seed)))
    return Sample(folder, digest, len(files), sampling, tuple(drawn))


def verify(
    sample: Sample,
    *,
    by: str,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    plugins: Sequence[Path] = (),
    task_files: Sequence[Path] = (),
    on_cell: Callable[[VerifiedCell], None] = lambda _cell: None,
) -> tuple[Verification, Path]:
    """Re-run a sample, compare, and write what was found.

    Args:
        sample: what was drawn.
        by: who does it.
        out: file to write; `verification.json` in the folder when None.
        device: device of the models.
        dtype: type of the weights in the re-run; each record's own when None. Identities are compared in the record's.
        plugins: plug-in files that provide what the records name.
        task_files: files of pairs, each a task.
        on_cell: called with each cell as it is done.

    Returns:
        What was found, and the file that holds it.

    Raises:
        BasisBenchError: a cell cannot be re-run here, the file cannot be written, or the records changed meanwhile.
            Nothing is written then.
    """
    from basisbench.environment import describe_environment

    path = Path(out) if out is not None else sample.folder / VERIFICATION_FILE
    _check_writable(path)
    registry = Settings(path, plugins=tuple(plugins), task_files=tuple(task_files)).registry()
    parts = {drawn.record.id: _look_up(drawn.record, registry) for drawn in sample.drawn}
    cells: list[VerifiedCell] = []
    environment = None
    for (_, own), members in _grouped(sample.drawn, lambda record: (_model_key(record), record.environment.dtype)):
        first = members[0].record
        weights, model = _load(first, registry, device, own, dtype or own)
        for _, same_task in _grouped(members, _task_key):
            session = _open(model, same_task[0].record, parts)
            for drawn in same_task:
                cell = _verify_cell(session, drawn, parts[drawn.record.id], weights)
                cells.append(cell)
                on_cell(cell)
        environment = describe_environment(model)
        device_used = str(model.device)
    if environment is None:
        raise AssertionError("a sample holds at least one cell")
    if records_digest(sample.folder) != sample.digest:
        raise RecordError(f"{sample.folder}: its records changed while they were verified; run basisbench verify again")
    try:
        verification = Verification(
            schema_version=1,
            by=by,
            environment=environment,
            device=device_used,
            records_digest=sample.digest,
            cells_in_folder=sample.cells_in_folder,
            sampling=sample.sampling,
            tolerances={cell.dtype: tolerance_for(cell.dtype) for cell in cells},
            cells=tuple(sorted(cells, key=lambda cell: cell.cell_id)),
            largest=max(cell.largest for cell in cells),
            passed=all(cell.passed for cell in cells),
        )
    except ValidationError as error:
        raise RecordError(f"{path}: would be malformed: {describe_problem(error)}") from error
    write_whole(path, f"{verification.model_dump_json(indent=1)}\n")
    return verification, path


def _check_writable(path: Path) -> None:
    """Tell now, and not after the work, that the file cannot be written."""
    folder = path.parent
    if path.is_dir():
        raise RecordError(f"{path}: is a folder; give the name of a file with --out FILE")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RecordError(
            f"{folder}: cannot be written; write the file elsewhere with --out FILE, in a folder that exists"
        )


def _look_up(record: Record, registry: Registry) -> _Parts:
    """Return what a record's names stand for.

    Raises:
        BasisBenchError: a name is unknown here, or its task has another version.
    """
    cell = record.cell
    try:
        find_models([cell.model], registry, _commits(record))
        parts = _Parts(
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


def _model_key(record: Record) -> str:
    return f"{record.cell.model} {sorted(record.sources.items())}"


def _task_key(record: Record) -> tuple[str, int, int, int]:
    cell = record.cell
    return cell.task, cell.seed, cell.attribution_pairs, cell.evaluation_pairs


def _grouped(
    drawn: Sequence[Drawn], key: Callable[[Record], tuple[object, ...]]
) -> Iterator[tuple[tuple[object, ...], list[Drawn]]]:
    """Yield records that share a key; those of one basis are neighbours, which share its dictionaries."""
    ordered = sorted(drawn, key=lambda item: (repr(key(item.record)), item.record.cell.basis, item.record.id))
    for value, members in groupby(ordered, key=lambda item: key(item.record)):
        yield value, list(members)


def _load(record: Record, registry: Registry, device: str, own: object, dtype: object) -> tuple[str, Model]:
    """Load a record's model; return the digest of its weights in the record's dtype, and the model in another."""
    from basisbench.load import load_model

    (spec,) = find_models([record.cell.model], registry, _commits(record))
    model = load_model(spec, device=device, dtype=str(own))
    weights = model.weights_hash
    if dtype != own:
        del model
        model = load_model(spec, device=device, dtype=str(dtype))
    return weights, model


def _open(model: Model, record: Record, parts: dict[str, _Parts]) -> Session:
    from basisbench.execute import open_session

    cell = record.cell
    return open_session(
        model,
        parts[record.id].task,
        attribution_pairs=cell.attribution_pairs,
        evaluation_pairs=cell.evaluation_pairs,
        seed=cell.seed,
    )


def _verify_cell(session: Session, drawn: Drawn, parts: _Parts, weights: str) -> VerifiedCell:
    """Compare the identities of one cell, and if they are the record's, re-run it."""
    recorded, dtype = drawn.record, str(session.model.dtype).removeprefix("torch.")
    here = session.identity(parts.basis).model_copy(update={"model": weights})
    problems = [*compare_identities(recorded, here)]
    if parts.basis.family != recorded.cell.family:
        problems.append(f"cell.family: {recorded.cell.family}, the basis is of family {parts.basis.family}: not re-run")
    if problems:
        return refused(recorded, here, dtype, problems)
    try:
        found = session.run(recorded.cell, parts.basis, parts.method, at=drawn.sizes)
    except BasisBenchError as error:
        raise BasisBenchError(f"cell {recorded.id} cannot be re-run: {error}; nothing was written") from error
    # The weights that count for the cell are the record's; a re-run in another dtype is compared in the coarser one.
    tolerance = max(tolerance_for(dtype), tolerance_for(recorded.environment.dtype), key=lambda given: given.value)
    cell = compare_records(recorded, found, here, tolerance)
    if cell.problems and recorded.basisbench != __version__:
        note = (
            f"made by BasisBench {recorded.basisbench}, re-run by {__version__}: numbers may have changed between them"
        )
        return cell.model_copy(update={"problems": (*cell.problems, note)})
    return cell
