"""A submission: `results/submissions/NAME/` with records, and `submission.json` that says whose they are.

1. `submission.json` names authors, code, licence, what the bases and methods are, and the SHA-256 of each record.
2. `records/<cell id>.json` are the records; nothing else belongs into the folder but what `FILES` names.

Nothing here imports torch, and nothing that a submission names is imported or fetched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError, field_validator

from basisbench.errors import RecordError
from basisbench.results.record import PlugIn
from basisbench.results.safe_files import METADATA_BYTES, SUBMISSION_RECORDS, read_bounded, repeated_key
from basisbench.results.schema import (
    LARGEST,
    PRINTABLE,
    Count,
    Frozen,
    Name,
    Text,
    VersionOne,
    describe_problem,
    printable,
)
from basisbench.results.store import SUBMISSION_FILE, VERIFICATION_FILE

FILES = (SUBMISSION_FILE, VERIFICATION_FILE, "README.md")
"""Files that a submission's folder may hold, beside the folder of its records."""

SubmissionName = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9](?:[a-z0-9_-]|\.[a-z0-9]){0,63}$")]
"""Name of a submission and of its folder: lower-case letters, digits, `-`, `_` and single dots between them."""

RecordFile = Annotated[str, Field(pattern=r"^[0-9a-f]{24}\.json$")]
CodeDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Link = Annotated[
    str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[!#$%&()*+,./:;=?@A-Za-z0-9_~-]*)?$", max_length=500)
]
"""An http or https address of plain characters: it can stand in a page or a table as it is."""

Scalar = (
    bool
    | Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[str, Field(max_length=2000, pattern=PRINTABLE)]
    | None
)


class Code(Frozen):
    """What the records were made with."""

    repository: Link | None = Field(default=None, description="where the code is; null where BasisBench itself is all")
    revision: Name = Field(description="commit, tag or version of that code")


class TrainingCost(Frozen):
    """What it took to train a basis, as its authors say; null for what is not known."""

    gpu_hours: Annotated[float, Field(ge=0)] | None = Field(default=None, description="hours of all devices together")
    tokens: Count | None = Field(default=None, description="tokens that it was trained on, repetitions counted")
    hardware: Text | None = Field(default=None, description="devices that it was trained on")
    note: Text | None = Field(default=None, description="what else there is to say, such as where it was published")


class MethodDetails(Frozen):
    """What an attribution method is."""

    parameters: Mapping[Name, Scalar] = Field(default_factory=dict, description="name to value, as far as they matter")


class BasisDetails(Frozen):
    """What a basis is, and what it took to train it."""

    parameters: Mapping[Name, Scalar] = Field(default_factory=dict, description="name to value, as far as they matter")
    training_cost: TrainingCost | None = Field(
        default=None, description="what its training took; null for a basis that was not trained, or of other people"
    )


class Checked(Frozen):
    """What `basisbench check` found of a plug-in."""

    kind: PlugIn = Field(description="task, basis or method")
    name: Name = Field(description="its name")
    model: Name = Field(description="model that it was tried on")
    basisbench: Name = Field(description="version of BasisBench that checked it")
    code: CodeDigest | None = Field(description="digest of its source, as in the records; null without source")
    properties: tuple[Text, ...] = Field(
        min_length=1, max_length=200, description="a line per property, as `basisbench check` prints it"
    )


class Submission(Frozen):
    """Whose records these are, and what made them."""

    schema_version: VersionOne = Field(default=1, description="version of this schema; superseded, never edited")
    basisbench: Name | None = Field(default=None, description="version of BasisBench that made this file, null by hand")
    name: SubmissionName = Field(description="name of the submission and of its folder")
    title: Name = Field(description="one line that says what is submitted")
    authors: tuple[Name, ...] = Field(min_length=1, max_length=200, description="names, in the order of a citation")
    link: Link | None = Field(default=None, description="paper, page or post about it")
    code: Code = Field(description="what the records were made with")
    licence: Name = Field(description="SPDX identifier or expression, for the records; for example CC-BY-4.0")
    bases: Mapping[Name, BasisDetails] = Field(description="details of every basis that a record names")
    methods: Mapping[Name, MethodDetails] = Field(description="details of every method that a record names")
    checks: tuple[Checked, ...] = Field(
        default=(), max_length=200, description="report of every task, basis and method that is a plug-in"
    )
    records: Mapping[RecordFile, Sha256] = Field(
        min_length=1, max_length=SUBMISSION_RECORDS, description="file in `records/` to the SHA-256 of its bytes"
    )
    created: AwareDatetime = Field(description="when it was made, UTC, ISO 8601")

    @field_validator("licence")
    @classmethod
    def _known_licence(cls, value: str) -> str:
        from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

        try:
            return str(canonicalize_license_expression(value))
        except InvalidLicenseExpression as error:
            raise ValueError(
                f"'{value}' is no SPDX licence: {error}; expected one such as CC-BY-4.0, CC0-1.0, MIT or Apache-2.0"
            ) from error


def read_submission(folder: str | os.PathLike[str]) -> Submission:
    """Read and check the metadata of a submission; its records are `basisbench.submissions.validate`'s work.

    Args:
        folder: the submission's folder.

    Raises:
        RecordError: `submission.json` cannot be read, is not JSON, or a field is wrong; the message names both.
    """
    path = Path(folder) / SUBMISSION_FILE
    try:
        data = read_bounded(path, METADATA_BYTES)
        try:
            submission = Submission.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise RecordError(describe_problem(error)) from error
        if (key := repeated_key(data)) is not None:
            raise RecordError(f"{printable(key)}: is given twice; expected each key once")
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return submission


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
