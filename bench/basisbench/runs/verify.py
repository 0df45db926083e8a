"""Re-runs a random sample of a folder's cells and compares them with its records.

1. Draw cells and sizes (`basisbench.submissions.sampling`) and read their records; look every name up before anything is loaded.
2. Re-run each cell and compare (`basisbench.runs.rerun`, `basisbench.submissions.rerun_agreement`).
3. Make sure that the records are still the same; write `verification.json`, whole, whether or not the sample passed.

What cannot be re-run at all (an unknown name, weights that cannot be had, too little memory) proves nothing for or
against the records: it is raised, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from basisbench.errors import RecordError
from basisbench.results.record import read_record, write_whole
from basisbench.results.schema import describe_problem
from basisbench.runs.rerun import Drawn, by_model, look_up, rerun_model
from basisbench.runs.runner import Settings
from basisbench.submissions.rerun_agreement import tolerance_for
from basisbench.submissions.sampling import draw_seed, sample_cells, sample_sizes
from basisbench.submissions.verification import (
    VERIFICATION_FILE,
    Sampling,
    Verification,
    VerifiedCell,
    record_files,
    records_digest,
)


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
    path = Path(out) if out is not None else sample.folder / VERIFICATION_FILE
    _check_writable(path)
    registry = Settings(path, plugins=tuple(plugins), task_files=tuple(task_files)).registry()
    parts = {drawn.record.id: look_up(drawn.record, registry) for drawn in sample.drawn}
    cells: list[VerifiedCell] = []
    for members in by_model(sample.drawn):
        done, environment, used = rerun_model(members, parts, registry, device=device, dtype=dtype, on_cell=on_cell)
        cells.extend(done)
    if records_digest(sample.folder) != sample.digest:
        raise RecordError(f"{sample.folder}: its records changed while they were verified; run basisbench verify again")
    try:
        verification = Verification(
            schema_version=1,
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
