"""Re-runs a random sample of a folder's cells and compares them with its records.

1. Draw cells and sizes (`submissions.sampling`) and read their records; look every name up before anything is loaded.
2. Re-run each cell and compare (`submissions.rerun_agreement`).
3. Make sure that the records are still the same; write `verification.json`, whole, whether or not the sample passed.

What cannot be re-run at all (an unknown name, weights that cannot be had, too little memory) proves nothing for or
against the records: it is raised, and nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError

from basisbench.errors import BasisBenchError, RecordError
from basisbench.models.torch_settings import unchanged_settings
from basisbench.registry import Registry
from basisbench.results.record import SIZES, Record, read_record, write_whole
from basisbench.results.schema import describe_problem
from basisbench.results.store import VERIFICATION_FILE
from basisbench.runs.cells import pairs_key
from basisbench.runs.model_names import find_models
from basisbench.runs.plugin_failure import PlugIn, plugin_failures_as_errors
from basisbench.runs.runner import RunOptions
from basisbench.submissions.invariants import violations
from basisbench.submissions.invariants_of_sizes import GRID, violations_of_grid
from basisbench.submissions.rerun_agreement import compare_identities, compare_records, refused, tolerance_for
from basisbench.submissions.sampling import draw_seed, sample_cells, sample_sizes
from basisbench.submissions.verification import Verification, list_records, records_digest
from basisbench.submissions.verification_fields import Sampling, VerifiedCell
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.protocols import BasisSpec, Method, Task
    from basisbench.results.record_fields import Environment
    from basisbench.runs.session import Session

_COMMIT = re.compile(r"[0-9a-f]{7,64}")

_VIOLATIONS_SHOWN = 3
"""Invariants that a record breaks, by itself, of which so many are listed."""


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


class Items(NamedTuple):
    """What a cell's names stand for here."""

    task: Task
    basis: BasisSpec
    method: Method


def draw_sample(
    folder: str | os.PathLike[str],
    *,
    cells: int | Literal["all"],
    points: int | Literal["all"] = "all",
    seed: int | None = None,
) -> Sample:
    """Draw cells of a folder, and sizes of each.

    Args:
        folder: a results or submission folder.
        cells: how many cells.
        points: how many sizes of each; those that summaries hang on are taken whatever it says.
        seed: seed of the draw; one that nobody can foresee when None.

    Raises:
        RecordError: the folder holds no records, or one that was drawn is malformed or not named by its cell.
    """
    folder = Path(folder)
    digest = records_digest(folder)
    files = {path.stem: path for path in list_records(folder)}
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
    models: Sequence[str] = (),
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
        models: models of the records that are folders or files here, as `run` takes them, for example "mine=./model".
        plugins: plug-in files that provide what the records name.
        task_files: files of pairs, each a task.
        on_cell: called with each cell as it is done.

    Returns:
        What was found, and the file that holds it.

    Raises:
        BasisBenchError: a cell cannot be re-run here, the file cannot be written, or the records changed meanwhile.
            Nothing is written then.
    """
    path = Path(out) if out is not None else sample.folder / VERIFICATION_FILE
    _check_writable(path)
    options = RunOptions(path, plugins=tuple(plugins), task_files=tuple(task_files))
    registry = options.registry()
    if models:
        registry = replace(options, models=find_models(models, registry, {})).registry()
    items = {drawn.record.id: _look_up(drawn.record, registry) for drawn in sample.drawn}
    cells: list[VerifiedCell] = []
    for members in _by_model(sample.drawn):
        done, environment, used = _rerun_model(members, items, registry, device=device, dtype=dtype, on_cell=on_cell)
        cells.extend(done)
    if records_digest(sample.folder) != sample.digest:
        raise RecordError(f"{sample.folder}: its records changed while they were verified; run basisbench verify again")
    try:
        verification = Verification(
            schema_version=2,
            by=by,
            environment=environment,
            device=used,
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


def _look_up(record: Record, registry: Registry) -> Items:
    """Return what a record's names stand for.

    Raises:
        BasisBenchError: a name is unknown here, its task has another version, or this version ranks otherwise.
    """
    cell = record.cell
    if cell.ties != "random":
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: BasisBench {record.basisbench} ranked nodes of equal score by layer, "
            f"position and unit, {__version__} does so in a random order; verify it with that version"
        )
    try:
        find_models([cell.model], registry, _commits(record))
    except BasisBenchError as error:
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: {error}; --model {cell.model}=FOLDER says where it is, --plugin FILE "
            "what provides it"
        ) from error
    try:
        items = Items(
            registry.get("task", cell.task), registry.get("basis", cell.basis), registry.get("method", cell.method)
        )
    except BasisBenchError as error:
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: {error}; give the file that provides it with --plugin FILE, or "
            "install its package"
        ) from error
    if items.task.version != cell.task_version:
        raise BasisBenchError(
            f"cell {record.id} cannot be re-run: it has version {cell.task_version} of task '{cell.task}', here is "
            f"version {items.task.version}; install the package, or give the --plugin FILE, that has that version"
        )
    return items


def _commits(record: Record) -> dict[str, str]:
    """Return the commits that a record's weights came from."""
    for repository, commit in record.sources.items():
        if not _COMMIT.fullmatch(commit):
            raise RecordError(f"sources: expected a commit of {repository}, found '{commit:.60}'")
    return dict(record.sources)


def _by_model(drawn: Sequence[Drawn]) -> Iterator[list[Drawn]]:
    """Yield the records of each model: the same name, commits and type of weights."""
    return _grouped(drawn, lambda record: (record.cell.model, sorted(record.sources.items()), record.environment.dtype))


def _rerun_model(
    members: Sequence[Drawn],
    items: Mapping[str, Items],
    registry: Registry,
    *,
    device: str,
    dtype: str | None,
    on_cell: Callable[[VerifiedCell], None],
) -> tuple[list[VerifiedCell], Environment, str]:
    """Re-run records of one model, and compare.

    Args:
        members: the records.
        items: id of a cell to what its names stand for here.
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
    from basisbench.runs.session import session_of_cell

    weights, model = _load(members[0].record, registry, device, dtype)
    done = []
    for same_task in _grouped(members, lambda record: pairs_key(record.cell)):
        first = same_task[0].record
        with _rerunning(first, [items[first.id].task]):
            # It compares numbers, whatever they say of the dictionary.
            session = session_of_cell(first.cell, model, items[first.id].task, allow_poor_fit=True)
        for drawn in same_task:
            done.append(_verify_cell(session, drawn, items[drawn.record.id], weights))
            on_cell(done[-1])
    return done, describe_environment(model), str(model.device)


def _grouped(drawn: Sequence[Drawn], key: Callable[[Record], tuple[object, ...]]) -> Iterator[list[Drawn]]:
    """Yield records that share a key; those of one basis are neighbours, which share its dictionaries."""
    ordered = sorted(drawn, key=lambda item: (repr(key(item.record)), item.record.cell.basis, item.record.id))
    for _, members in groupby(ordered, key=lambda item: key(item.record)):
        yield list(members)


def _load(record: Record, registry: Registry, device: str, dtype: str | None) -> tuple[str, Model]:
    """Load a record's model; return the digest of its weights in the record's dtype, and the model in another."""
    from basisbench.models.load import load_model
    from basisbench.models.memory import give_memory_back

    give_memory_back()  # the model before this one and its bases hold each other
    own = record.environment.dtype
    (spec,) = find_models([record.cell.model], registry, _commits(record))
    model = load_model(spec, device=device, dtype=own)
    weights = model.weights_hash
    if dtype not in (None, own):
        del model
        model = load_model(spec, device=device, dtype=dtype)
    return weights, model


@contextmanager
def _rerunning(record: Record, parts: Sequence[PlugIn]) -> Iterator[None]:
    """Say in one line which cell cannot be re-run and why, failing plug-ins included."""
    try:
        with plugin_failures_as_errors(parts):
            yield
    except BasisBenchError as error:
        raise BasisBenchError(f"cell {record.id} cannot be re-run: {error}; nothing was written") from error


def _verify_cell(session: Session, drawn: Drawn, items: Items, weights: str) -> VerifiedCell:
    """Compare the identities of one cell, and if they are the record's, re-run it."""
    recorded, dtype = drawn.record, str(session.model.dtype).removeprefix("torch.")
    with _rerunning(recorded, items):
        found_here = session.identity(items.basis, items.method, recorded.cell.layers)
        here = found_here.model_copy(update={"model": weights})
        problems = [*compare_identities(recorded, here), *violations_of_grid(recorded)]
        if recorded.cell.sizes not in (GRID, SIZES):
            problems.append(f"cell.sizes: nobody knows how '{recorded.cell.sizes}' chooses sizes: not re-run")
        if items.basis.family != recorded.cell.family:
            problems.append(f"cell.family: {recorded.cell.family}, the basis is of {items.basis.family}: not re-run")
        if problems:
            return refused(recorded, here, dtype, problems)
        try:
            with unchanged_settings(f"method '{items.method.name}'"):
                found = session.run(recorded.cell, items.basis, items.method, at=drawn.sizes)
        except ValidationError as error:  # for example, a value that is not finite
            return refused(recorded, here, dtype, [f"the re-run gives no record: {describe_problem(error)}"[:1000]])
    # A re-run in another dtype is compared in the coarser one.
    tolerance = max(tolerance_for(dtype), tolerance_for(recorded.environment.dtype), key=lambda given: given.value)
    cell = compare_records(recorded, found, here, tolerance)
    if broken := tuple(islice(violations(recorded), _VIOLATIONS_SHOWN)):
        cell = cell.model_copy(update={"problems": (*broken, *cell.problems), "passed": False})
    if cell.problems and recorded.basisbench != __version__:
        note = f"made by BasisBench {recorded.basisbench}, re-run by {__version__}: numbers may have changed"
        return cell.model_copy(update={"problems": (*cell.problems, note)})
    return cell
