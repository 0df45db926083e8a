"""The record: one JSON file that holds everything measured in one cell, and explains itself.

1. `CellConfig` says what was asked, `Identities` what it was run on; `cell_id` hashes both.
2. Raw values are stored (metric values per example); faithfulness and summaries are computed on reading.
3. A record is checked when it is made and again when it is read: a number that contradicts another is refused.

Every float is stored with five significant digits. Examples are ordered by group: the first group's
`evaluation_pairs` examples, then the second group's, and so on. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError, ValidationInfo, field_validator

from basisbench.errors import RecordError
from basisbench.results.record_fields import (
    Cost,
    Counts,
    Curve,
    Dropped,
    Endpoints,
    Environment,
    Group,
    Guard,
    Seconds,
    SubsetCheck,
    TopNode,
    expect_length,
)
from basisbench.results.safe_files import READ_BYTES, read_bounded
from basisbench.results.schema import LARGEST, Count, Frozen, Name, Positive, VersionOne, describe_problem
from basisbench.types import Ablation, ErrorPolicy, Family, Granularity
from basisbench.version import __version__

SCHEMA_VERSION: Literal[1] = 1
_ID_SCHEME = 1
"""Part of what an id hashes. It stays when the schema gets a new version, so that older records keep theirs."""

TEMPORARY_SUFFIX = ".partial"

__all__ = [
    "SCHEMA_VERSION",
    "CellConfig",
    "Cost",
    "Counts",
    "Curve",
    "Dropped",
    "Endpoints",
    "Environment",
    "Group",
    "Guard",
    "Identities",
    "Record",
    "Seconds",
    "SubsetCheck",
    "TopNode",
    "cell_id",
    "parse_record",
    "read_record",
    "write_record",
    "write_whole",
]

PlugIn = Literal["task", "basis", "method"]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class CellConfig(Frozen):
    """What was asked: the coordinates of one cell of the comparison."""

    model: Name = Field(description="name of the model, as registered")
    task: Name = Field(description="name of the task, as registered")
    task_version: Name = Field(description="version of the task's pairs; results of two versions are never mixed")
    basis: Name = Field(description="name of the basis, as registered")
    family: Family = Field(description="site family of the basis; bases are compared only inside a family")
    method: Name = Field(description="name of the attribution method, as registered")
    ablation: Ablation = Field(default="mean", description="reference value of a node outside the circuit")
    error_policy: ErrorPolicy = Field(default="node", description="what happens to what the basis does not reconstruct")
    granularity: Granularity = Field(
        default="position", description="position: a node is (layer, position, unit); unit: all positions together"
    )
    seed: int = Field(
        default=0, ge=-LARGEST, le=LARGEST, description="seed of the pairs, of random scores and of random bases"
    )
    attribution_pairs: Positive = Field(description="pairs asked for in the attribution split; `groups` has those used")
    evaluation_pairs: Positive = Field(description="pairs asked for in the evaluation split; `groups` has those used")
    ranking: Literal["absolute"] = Field(default="absolute", description="nodes are ranked by |score|, largest first")
    sizes: Name = Field(default="1-2-5", description="name of the grid of circuit sizes: 0, 1, 2, 5, 10, ... and all")
    kl: bool = Field(default=False, description="whether the divergence from the full model is measured at each size")
    subset_sizes: tuple[Positive, ...] = Field(
        default=(), description="circuit sizes at which random halves of the complement are ablated"
    )
    subset_draws: Count = Field(default=0, description="random halves at each of these sizes")
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="layers that the family is restricted to, because some basis of the run covers no others; null for "
        "all of the model's",
    )


class Identities(Frozen):
    """What the cell was run on, as SHA-256 digests in hexadecimal."""

    model: Hash = Field(description="digest of the model's weights and configuration")
    dictionary: Hash | None = Field(
        description="digest of the basis's trained or fitted weights; null when it has none"
    )
    data: Hash = Field(description="digest of the tokenised pairs of both splits")
    code: Annotated[Mapping[PlugIn, Hash], Field(min_length=1)] | None = Field(
        default=None,
        description="digests of the source of the modules that define the cell's task, basis and method; null in "
        "records of versions before 0.5",
    )


class Record(Frozen):
    """Everything measured in one cell."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    basisbench: Name = Field(default=__version__, description="version of BasisBench that made the record")
    created: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC).replace(microsecond=0), description="when it was made, UTC, ISO 8601"
    )
    cell: CellConfig = Field(description="what was asked")
    identities: Identities = Field(description="what it was run on")
    groups: tuple[Group, ...] = Field(min_length=1, description="the aligned groups, in the order of the examples")
    counts: Counts = Field(description="how large the space of nodes is")
    dropped: Dropped = Field(description="candidate pairs left out")
    endpoints: Endpoints = Field(description="the two ends that normalise the curve")
    curve: Curve = Field(description="metric values at each circuit size")
    subset_checks: tuple[SubsetCheck, ...] = Field(
        default=(),
        validate_default=True,  # what is left out must agree with the cell too
        description="random halves of the complement ablated; empty when the suite does not ask for it",
    )
    guard: Guard | None = Field(description="fit of the dictionary on the task's prompts; null for neurons")
    top_nodes: tuple[TopNode, ...] = Field(max_length=20, description="up to 20 nodes of the largest |score|")
    cost: Cost = Field(description="what the cell took")
    environment: Environment = Field(description="where the cell ran")
    sources: Mapping[Name, Name] = Field(
        default_factory=dict,
        description="repositories of the Hugging Face hub that weights came from, each with its commit; empty for what "
        "ships with the package or lies in a folder",
    )

    @field_validator("groups")
    @classmethod
    def _distinct_keys(cls, value: tuple[Group, ...]) -> tuple[Group, ...]:
        keys = [group.key for group in value]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the key '{repeated[0]}' occurs more than once")
        return value

    @field_validator("counts")
    @classmethod
    def _counts_agree(cls, value: Counts, info: ValidationInfo) -> Counts:
        groups: tuple[Group, ...] | None = info.data.get("groups")
        if groups is not None:
            largest = max(group.nodes for group in groups)
            if value.nodes_max != largest:
                raise ValueError(f"nodes_max is {value.nodes_max}, but the largest of groups[].nodes is {largest}")
            pairs = sum(group.evaluation_pairs for group in groups)
            mean = sum(group.nodes * group.evaluation_pairs for group in groups) / pairs
            if not math.isclose(value.nodes_mean, mean, rel_tol=1e-4):
                weighted = "groups[].nodes, weighted by groups[].evaluation_pairs,"
                raise ValueError(f"nodes_mean is {value.nodes_mean:g}, but {weighted} give {mean:g}")
        return value

    @field_validator("endpoints")
    @classmethod
    def _examples_agree(cls, value: Endpoints, info: ValidationInfo) -> Endpoints:
        groups: tuple[Group, ...] | None = info.data.get("groups")
        if groups is not None:
            expect_length(
                value.full, sum(group.evaluation_pairs for group in groups), "the sum of groups[].evaluation_pairs"
            )
        return value

    @field_validator("curve")
    @classmethod
    def _curve_agrees(cls, value: Curve, info: ValidationInfo) -> Curve:
        counts: Counts | None = info.data.get("counts")
        if counts is not None and value.sizes[-1] != counts.nodes_max:
            raise ValueError(f"the last of sizes is {value.sizes[-1]}, but counts.nodes_max is {counts.nodes_max}")
        cell: CellConfig | None = info.data.get("cell")
        if cell is not None and cell.kl != (value.kl is not None):
            raise ValueError(f"kl is {'given' if value.kl else 'null'}, but cell.kl is {str(cell.kl).lower()}")
        endpoints: Endpoints | None = info.data.get("endpoints")
        if endpoints is not None:
            for name, rows in (("circuit", value.circuit), ("complement", value.complement)):
                for index, row in enumerate(rows):
                    if len(row) != len(endpoints.full):
                        raise ValueError(
                            f"{name}[{index}] has {len(row)} values, but endpoints.full has {len(endpoints.full)}"
                        )
        return value

    @field_validator("subset_checks")
    @classmethod
    def _checks_agree(cls, value: tuple[SubsetCheck, ...], info: ValidationInfo) -> tuple[SubsetCheck, ...]:
        cell: CellConfig | None = info.data.get("cell")
        if cell is not None:
            found = [(check.size, len(check.draws)) for check in value]
            wanted = [(size, cell.subset_draws) for size in cell.subset_sizes]
            if found != wanted:
                asked = "cell.subset_sizes and cell.subset_draws ask for"
                raise ValueError(f"size and number of draws are {found}, but {asked} {wanted}")
        return value

    @field_validator("guard")
    @classmethod
    def _guard_agrees(cls, value: Guard | None, info: ValidationInfo) -> Guard | None:
        counts: Counts | None = info.data.get("counts")
        if value is not None and counts is not None:
            for name, numbers in (("fvu", value.fvu), ("l0", value.l0)):
                if len(numbers) != counts.layers:
                    raise ValueError(f"{name} has {len(numbers)} values, but counts.layers is {counts.layers}")
        return value

    @property
    def id(self) -> str:
        """The cell's id, from what the record says; the name of its file plays no part."""
        return cell_id(self.cell, self.identities, version=self.basisbench)


def cell_id(config: CellConfig, identities: Identities, *, version: str = __version__) -> str:
    """Return the stable id of a cell: the same question about the same things, by the same code.

    Args:
        config: what is asked.
        identities: digests of what it is run on.
        version: version of BasisBench.

    Returns:
        24 hexadecimal digits of a SHA-256 digest.
    """
    content = {
        "schema_version": _ID_SCHEME,
        "basisbench": version,
        # A field that came later is left out at its default: older records keep their ids.
        "cell": config.model_dump(mode="json", exclude={"layers"} if config.layers is None else None),
        "identities": identities.model_dump(mode="json", exclude={"code"} if identities.code is None else None),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read and check one record.

    Args:
        path: a JSON file that `write_record` wrote.

    Raises:
        RecordError: the file cannot be read, is not JSON (at a line and column), or a field is wrong.
    """
    path = Path(path)
    try:
        return parse_record(read_bounded(path, READ_BYTES))
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def parse_record(data: bytes) -> Record:
    """Check the content of a record's file.

    Args:
        data: what the file holds.

    Raises:
        RecordError: it is not JSON, a field is wrong, or it is of a later schema. The message begins with the field.
    """
    try:
        record = Record.model_validate_json(data, strict=True)
    except ValidationError as error:
        _refuse_later_schema(data)  # a file of an earlier schema is brought into the present one here, and read again
        raise RecordError(describe_problem(error)) from error
    # Their defaults are for records that are made here and now.
    for name in ("basisbench", "created"):
        if name not in record.model_fields_set:
            raise RecordError(f"{name}: field required")
    return record


def write_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Write a record so that the file is either whole or absent, whenever the process is killed.

    Args:
        record: what to write.
        path: the file; its folder is made when it is missing.

    Raises:
        RecordError: the folder cannot be written.
    """
    write_whole(path, f"{record.model_dump_json()}\n")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file so that it is either whole or as it was before, whenever the process is killed.

    The text goes to a temporary file in the same folder, is flushed to disk, and then takes its name.

    Args:
        path: the file; its folder is made when it is missing.
        text: its content.

    Raises:
        RecordError: the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)  # mkstemp makes it private, but results are shared
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from error


def _refuse_later_schema(data: bytes) -> None:
    """Refuse a file of a later schema with advice; say nothing of a file that has other faults."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # the parser that reads records says better what is wrong
        return
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:  # true is an instance of int too
        found = str(version) if version < 10**9 else "a huge number"
        raise RecordError(
            f"schema_version: found {found}, but BasisBench {__version__} knows versions up to {SCHEMA_VERSION}; "
            "upgrade BasisBench to read it"
        )
