"""The file that says who re-ran a sample of a folder's records, on what, and how far the numbers lay apart.

1. `Verification` is the content of `FOLDER/verification.json`; `basisbench.runs.verify` makes it.
2. It is bound to the records by `records_digest`: one edited, added or removed file, and it is of other records.
3. `standing` says what a leaderboard shows of a folder: `verified` only while a verification that passed is there and
   is of the records that are there.

There is no cryptography: the file says who ran it, and whoever may merge it vouches for that. Nothing here imports
torch, and nothing here trusts what a folder holds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError, ValidationInfo, field_validator

from basisbench.errors import RecordError
from basisbench.results.record_fields import Environment
from basisbench.results.safe_files import READ_BYTES, read_bounded
from basisbench.results.schema import Frozen, Name, NotNegative, Positive, VersionTwo, describe_problem
from basisbench.results.store import RECORDS_FOLDER, VERIFICATION_FILE
from basisbench.submissions.sampling import sample_cells
from basisbench.submissions.verification_fields import Sampling, Tolerance, VerifiedCell
from basisbench.version import __version__

MOST_BYTES = 16 * 2**20
"""A larger verification file is refused unread; one of 2,000 cells takes 3 MB."""

Standing = Literal["self-reported", "verified"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SupersededError(RecordError):
    """A verification of version 1, whose tolerances let alterations pass that moved what tables show."""


class Verification(Frozen):
    """Who re-ran what, on which hardware, and how far it lay from the records."""

    schema_version: VersionTwo = Field(description="version of this schema; superseded, never edited")
    created: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC).replace(microsecond=0), description="when it was made, UTC, ISO 8601"
    )
    by: Name = Field(description="who ran it")
    basisbench: Name = Field(default=__version__, description="version of BasisBench that re-ran the cells")
    environment: Environment = Field(description="where; dtype is that of the last model")
    device: Name = Field(description="device of the models, for example cpu or cuda:0")
    records_digest: Digest = Field(description="digest of the folder's record files (`records_digest`)")
    cells_in_folder: Positive = Field(description="record files in the folder")
    sampling: Sampling = Field(description="how the cells and sizes were drawn")
    tolerances: Mapping[str, Tolerance] = Field(description="dtype of the model's weights to what was applied")
    cells: tuple[VerifiedCell, ...] = Field(min_length=1, description="the cells that were drawn, in order of their id")
    largest: NotNegative = Field(description="largest deviation of a value in any cell")
    passed: bool = Field(description="whether every cell that was drawn passed")

    @field_validator("schema_version")
    @classmethod
    def _not_superseded(cls, value: int) -> int:
        if value == 1:
            raise ValueError("is superseded by 2")
        return value

    @field_validator("by")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable() or value != value.strip():
            raise ValueError("expected a name on one line, without spaces around it")
        return value

    @field_validator("cells")
    @classmethod
    def _each_once(cls, value: tuple[VerifiedCell, ...], info: ValidationInfo) -> tuple[VerifiedCell, ...]:
        if len({cell.cell_id for cell in value}) < len(value):
            raise ValueError("a cell occurs more than once")
        if len(value) > info.data.get("cells_in_folder", len(value)):
            raise ValueError(f"{len(value)} cells, but cells_in_folder is {info.data['cells_in_folder']}")
        for cell in value:
            if cell.dtype not in info.data.get("tolerances", {cell.dtype: None}):
                raise ValueError(f"cell {cell.cell_id} has dtype {cell.dtype}, for which tolerances has nothing")
        return value

    @field_validator("largest")
    @classmethod
    def _of_cells(cls, value: float, info: ValidationInfo) -> float:
        if "cells" in info.data and value != max(cell.largest for cell in info.data["cells"]):
            raise ValueError("is not the largest deviation of the cells")
        return value

    @field_validator("passed")
    @classmethod
    def _all_passed(cls, value: bool, info: ValidationInfo) -> bool:
        if "cells" in info.data and value != all(cell.passed for cell in info.data["cells"]):
            raise ValueError(f"{str(value).lower()}, but not as its cells say")
        return value


def list_records(folder: Path) -> tuple[Path, ...]:
    """Return the record files of a results or submission folder, by name.

    Args:
        folder: holds `records/`.

    Raises:
        RecordError: there are none, or one of them is a link, a pipe or a device, which could be anything tomorrow.
    """
    records = folder / RECORDS_FOLDER
    try:
        if records.is_symlink():
            raise RecordError(f"{records}: expected a folder, found a link; put the records there")
        names = sorted(name for name in os.listdir(records) if name.endswith(".json"))  # noqa: PTH208 -- names, sorted
    except OSError as error:
        raise RecordError(
            f"{records}: cannot be read: {error.strerror or error}; expected the records of a results or submission "
            "folder there"
        ) from error
    if not names:
        raise RecordError(f"{records}: holds no records; expected *.json files there, check the path")
    return tuple(records / name for name in names)


def records_digest(folder: Path) -> str:
    """Return one SHA-256 over the names and the contents of a folder's record files, sorted by name.

    Raises:
        RecordError: as `list_records`, or a file cannot be read.
    """
    whole = hashlib.sha256()
    for path in list_records(folder):
        content = hashlib.sha256(_read(path, READ_BYTES)).hexdigest()
        whole.update(f"{path.name} {content}\n".encode("utf-8", "replace"))
    return whole.hexdigest()


def read_verification(folder: str | os.PathLike[str]) -> Verification | None:
    """Read and check the verification of a folder.

    Args:
        folder: a results or submission folder.

    Returns:
        The verification; None where there is no such file.

    Raises:
        RecordError: the file cannot be read or is no verification; the message names file and field.
        SupersededError: it is of version 1, which counts for nothing any more.
    """
    path = Path(folder) / VERIFICATION_FILE
    if not os.path.lexists(path):
        return None
    content = _read(path, MOST_BYTES)
    try:
        return Verification.model_validate_json(content, strict=True)
    except ValidationError as error:
        if any(problem["loc"] == ("schema_version",) and "superseded" in problem["msg"] for problem in error.errors()):
            raise SupersededError(f"{path}: is of version 1, which counts for nothing: verify again") from error
        raise RecordError(f"{path}: {describe_problem(error)}") from error
    except OverflowError as error:
        raise RecordError(f"{path}: a number is too large: {error}") from error


def standing(folder: str | os.PathLike[str]) -> Standing:
    """Say what a leaderboard shows of a folder; whatever the folder holds, nothing is raised.

    Args:
        folder: a results or submission folder.

    Returns:
        "verified" where its verification passed and is of the records that are there now, else "self-reported".
    """
    return "verified" if not _doubts(Path(folder), stale=True) else "self-reported"


def check_verification(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return what is wrong with the verification file of a folder, a line each.

    A verification of other records, or one that did not pass, is no fault of the file: the folder is self-reported.

    Args:
        folder: a results or submission folder.

    Returns:
        Nothing where there is no such file, or it is what `basisbench verify` writes.
    """
    return _doubts(Path(folder), stale=False)


def _doubts(folder: Path, *, stale: bool) -> tuple[str, ...]:
    """Return why a folder's verification does not count; `stale` adds what is no fault of its file."""
    path = folder / VERIFICATION_FILE
    try:
        verification = read_verification(folder)
        if verification is None:
            return (f"{path}: there is none",) if stale else ()
        files = list_records(folder)
        if records_digest(folder) != verification.records_digest:
            return (f"{path}: is of other records than {folder / RECORDS_FOLDER} holds",) if stale else ()
    except SupersededError as error:
        return (str(error),) if stale else ()
    except RecordError as error:
        return (str(error),)
    except (OSError, ValueError) as error:  # a name that no file can have
        return (f"{path}: cannot be read: {error}",)
    doubts = []
    if verification.cells_in_folder != len(files):
        doubts.append(f"{path}: cells_in_folder is {verification.cells_in_folder}, but there are {len(files)} records")
    asked = verification.sampling.cells
    drawn = sample_cells([file.stem for file in files], asked, verification.sampling.seed)
    if tuple(cell.cell_id for cell in verification.cells) != drawn:
        doubts.append(f"{path}: cells are not the {len(drawn)} that sampling.seed draws from the records")
    if stale and not verification.passed:
        doubts.append(f"{path}: did not pass")
    return tuple(doubts)


def _read(path: Path, limit: int) -> bytes:
    """Read an ordinary file; a link could be anything tomorrow."""
    try:
        return read_bounded(path, limit, links=False)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
