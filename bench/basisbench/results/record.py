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
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

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
    SubsetCheck,
    SuiteTasks,
    TopNode,
    Training,
    Tuning,
    WeightsFile,
)
from basisbench.results.safe_files import READ_BYTES, read_bounded
from basisbench.results.schema import (
    LARGEST,
    Count,
    Frozen,
    Hash,
    Name,
    NotNegative,
    Positive,
    VersionTwo,
    describe_problem,
)
from basisbench.types import Ablation, Bos, ErrorPolicy, Family, Granularity, Metric, ScoreReference, ScoreSplit
from basisbench.version import __version__

SCHEMA_VERSION: Literal[2] = 2
_ID_SCHEME = 1
"""Part of what an id hashes. It stays when the schema gets a new version, so that older records keep theirs."""

SIZES = "1-2-5, bisected"
"""Name of the way in which circuit sizes are chosen; see `CellConfig.sizes`."""

TEMPORARY_SUFFIX = ".partial"

BEFORE: Mapping[str, object] = {
    "layers": None,
    "score_reference": "counterfactual",
    "score_split": "attribution",
    "attribution_draw": 0,
    "bos": "always",
    "metric": "logit",
    "ties": "order",
    "subset_blocks": 0,
}
"""What the fields of a cell that came later say of a record that is older than they are."""

_SCHEMA_1: Mapping[str, object] = {**BEFORE, "error_policy": "node", "sizes": "1-2-5"}
"""What a record of schema 1 means by a field of its cell that it leaves out."""

_SINCE_SCHEMA_2 = (
    ("", {"clusters", "control", "error_share", "suite", "training", "tuning", "weights_file"}),
    ("cell", BEFORE.keys() - {"layers"}),
    ("groups", {"tokens", "scored_nodes"}),
    ("counts", {"area_end"}),
    ("endpoints", {"gate_empty", "family_empty"}),
    ("curve", {"all_units"}),
    ("guard", {"slope", "loss_recovered"}),
    ("subset_checks", {"adversarial"}),
    ("top_nodes", {"coordinate"}),
)
"""Part of a record to its fields that schema 1 does not have."""

PlugIn = Literal["task", "basis", "method"]
Share = Annotated[NotNegative, Field(le=1)]


class CellConfig(Frozen):
    """What was asked: the coordinates of one cell of the comparison."""

    model: Name = Field(description="name of the model, as registered")
    task: Name = Field(description="name of the task, as registered")
    task_version: Name = Field(description="version of the task's pairs; results of two versions are never mixed")
    basis: Name = Field(description="name of the basis, as registered")
    family: Family = Field(description="site family of the basis; bases are compared only inside a family")
    method: Name = Field(description="name of the attribution method, as registered")
    ablation: Ablation = Field(default="mean", description="reference value of a node outside the circuit")
    error_policy: ErrorPolicy = Field(
        default="coordinates",
        description="what happens to what the basis does not reconstruct: each of its coordinates at the write site is "
        "a node (coordinates; rotated: in a seeded rotation of the site), all of it at a layer and position is one "
        "(node), it stays live (keep), it is at its reference (ablate)",
    )
    score_reference: ScoreReference = Field(
        default="ablation",
        description="what a node moves to when it is scored: its reference value (ablation), or its value in the "
        "counterfactual prompt whatever the ablation",
    )
    score_split: ScoreSplit = Field(
        default="attribution",
        description="pairs that scores are taken on: those of the attribution split, the evaluation pairs "
        "themselves (held in), or attribution pairs of the other half of the task's templates, by role "
        "(other_templates); reference values are those of the attribution split in any case",
    )
    granularity: Granularity = Field(
        default="position", description="position: a node is (layer, position, unit); unit: all positions together"
    )
    seed: int = Field(
        default=0, ge=-LARGEST, le=LARGEST, description="seed of the pairs, of random scores and of random bases"
    )
    attribution_pairs: Positive = Field(description="pairs asked for in the attribution split; `groups` has those used")
    evaluation_pairs: Positive = Field(description="pairs asked for in the evaluation split; `groups` has those used")
    attribution_draw: Count = Field(
        default=0, description="which draw of the attribution pairs from the task's candidates, the seed being the same"
    )
    bos: Bos = Field(
        default="auto",
        description="whether a beginning-of-sequence token stands in front of a prompt: where the tokenizer adds one "
        "(auto), always, never",
    )
    metric: Metric = Field(
        default="logit",
        description="what the answer is worth: its logit less the foil's at the last position (logit), or the summed "
        "log-probability of its tokens less that of the foil's, each after the tokens before it (logprob)",
    )
    ranking: Literal["absolute"] = Field(default="absolute", description="nodes are ranked by |score|, largest first")
    ties: Literal["random", "order"] = Field(
        default="random",
        description="order of nodes of equal |score|: random, fixed by the seed, or by layer, position and unit",
    )
    sizes: Name = Field(
        default=SIZES,
        description="how circuit sizes are chosen: 0, 1, 2, 5, 10, ..., the most scored nodes and all, then bisection "
        "of the brackets in which faithfulness first reaches 0.8 and 0.9",
    )
    kl: bool = Field(default=False, description="whether the divergence from the full model is measured at each size")
    subset_sizes: tuple[Positive, ...] = Field(
        default=(), description="circuit sizes at which random halves of the complement are ablated"
    )
    subset_draws: Count = Field(default=0, description="random halves at each of these sizes")
    subset_blocks: Count = Field(
        default=0,
        description="blocks of the complement over which its adversarial halves at each of these sizes are searched "
        "for; 0 where they are not",
    )
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

    def first_difference(self, other: Identities) -> str | None:
        """Return which of model, dictionary and data differs first; None where weights and pairs are the same."""
        names = ("model", "dictionary", "data")
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)


class Record(Frozen):
    """Everything measured in one cell."""

    schema_version: VersionTwo = Field(
        description="version of this schema; superseded, never edited. 1 stands in older files: they are read, their "
        "conditions named and what was not measured left out, and are never written"
    )
    basisbench: Name = Field(default=__version__, description="version of BasisBench that made the record")
    created: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC).replace(microsecond=0), description="when it was made, UTC, ISO 8601"
    )
    cell: CellConfig = Field(description="what was asked")
    identities: Identities = Field(description="what it was run on")
    groups: tuple[Group, ...] = Field(min_length=1, description="the aligned groups, in the order of the examples")
    counts: Counts = Field(description="how large the space of nodes is")
    dropped: Dropped = Field(description="candidate pairs left out")
    clusters: Mapping[Name, tuple[Count, ...]] = Field(
        default_factory=dict,
        max_length=8,  # more crossed factors would leave resamples without any example
        description="by factor (noun, name, cue, template, ...), the level of each evaluation example, numbered in the "
        "order in which levels occur; intervals resample levels. Empty in records of schema 1: examples are resampled",
    )
    endpoints: Endpoints = Field(description="the two ends that normalise the curve")
    curve: Curve = Field(description="metric values at each circuit size")
    subset_checks: tuple[SubsetCheck, ...] = Field(
        default=(),
        description="random halves of the complement ablated; empty when the suite does not ask for it",
    )
    guard: Guard | None = Field(description="fit of the dictionary on the task's prompts; null for neurons")
    error_share: Share | None = Field(
        default=None,
        description="share of attribution in errors: sum of |score| over error nodes, over that of all nodes; mean "
        "over groups weighted by evaluation pairs. Null where no errors are ranked or no node has a score, and in "
        "records from before it was measured",
    )
    control: bool = Field(
        default=False, description="the basis declares itself a control: it may fit badly, and gets no best mark"
    )
    suite: SuiteTasks | None = Field(
        default=None,
        description="the suite that the cell was run for, which fixes the tasks that medians are taken over; null "
        "where there was none",
    )
    top_nodes: tuple[TopNode, ...] = Field(max_length=20, description="up to 20 nodes of the largest |score|")
    cost: Cost = Field(description="what the cell took")
    environment: Environment = Field(description="where the cell ran")
    sources: Mapping[Name, Name] = Field(
        default_factory=dict,
        description="repositories of the Hugging Face hub that weights came from, each with its commit; empty for what "
        "ships with the package or lies in a folder",
    )
    training: Training | None = Field(
        default=None,
        description="how the dictionaries were trained; null where nothing is known of it, and for neurons",
    )
    tuning: Tuning | None = Field(
        default=None, description="how the model was tuned from another one; null where its checkpoint does not say"
    )
    weights_file: WeightsFile | None = Field(
        default=None, description="the GGUF file that the model was read from, dequantised; null for a checkpoint"
    )

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self

    @property
    def id(self) -> str:
        """The cell's id, from what the record says; the name of its file plays no part."""
        return cell_id(self.cell, self.identities, version=self.basisbench)


def _contradictions(record: Record) -> Iterator[str]:
    """Yield every field that contradicts another: the field, a colon, what it says and what the other says."""
    cell, groups, counts, curve = record.cell, record.groups, record.counts, record.curve
    keys = [group.key for group in groups]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        yield f"groups: the key '{repeated[0]}' occurs more than once"
    largest = max(group.nodes for group in groups)
    if counts.nodes_max != largest:
        yield f"counts: nodes_max is {counts.nodes_max}, but the largest of groups[].nodes is {largest}"
    examples = sum(group.evaluation_pairs for group in groups)
    mean = sum(group.nodes * group.evaluation_pairs for group in groups) / examples
    if not math.isclose(counts.nodes_mean, mean, rel_tol=1e-4):
        weighted = "groups[].nodes, weighted by groups[].evaluation_pairs,"
        yield f"counts: nodes_mean is {counts.nodes_mean:g}, but {weighted} give {mean:g}"
    found = len(record.endpoints.full)
    if found != examples:
        yield f"endpoints: {found} values, but the sum of groups[].evaluation_pairs has or counts {examples}"
    for factor, levels in record.clusters.items():
        if len(levels) != found:
            yield f"clusters.{factor}: {len(levels)} values, but endpoints.full has {found}"
    if curve.sizes[-1] != counts.nodes_max:
        yield f"curve: the last of sizes is {curve.sizes[-1]}, but counts.nodes_max is {counts.nodes_max}"
    if cell.kl != (curve.kl is not None):
        yield f"curve: kl is {'given' if curve.kl else 'null'}, but cell.kl is {str(cell.kl).lower()}"
    for name, rows in (("circuit", curve.circuit), ("complement", curve.complement)):
        for index, row in enumerate(rows):
            if row is not None and len(row) != found:
                yield f"curve: {name}[{index}] has {len(row)} values, but endpoints.full has {found}"
    for index, check in enumerate(record.subset_checks):
        if (check.adversarial is None) != (cell.subset_blocks == 0):
            given = "null" if check.adversarial is None else "given"
            yield f"subset_checks[{index}]: adversarial is {given}, but cell.subset_blocks is {cell.subset_blocks}"
    draws = [(check.size, len(check.draws)) for check in record.subset_checks]
    wanted = [(size, cell.subset_draws) for size in cell.subset_sizes]
    if draws != wanted:
        asked = "cell.subset_sizes and cell.subset_draws ask for"
        yield f"subset_checks: size and number of draws are {draws}, but {asked} {wanted}"
    if record.error_share is not None and not any(group.error_nodes for group in groups):
        yield f"error_share: {record.error_share:g} given, but none of groups[] has error_nodes"
    if record.guard is not None:
        for name in ("fvu", "l0", "slope"):
            numbers = getattr(record.guard, name)
            if numbers is not None and len(numbers) != counts.layers:
                yield f"guard: {name} has {len(numbers)} values, but counts.layers is {counts.layers}"


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
        # A field that came later is left out where it says what was so before it: older records keep their ids.
        "cell": config.model_dump(
            mode="json", exclude={name for name, value in BEFORE.items() if getattr(config, name) == value}
        ),
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
        raise RecordError(describe_problem(error)) from error
    # Their defaults are for records that are made here and now.
    for name in ("basisbench", "created"):
        if name not in record.model_fields_set:
            raise RecordError(f"{name}: field required")
    return _upgraded(record) if record.schema_version == 1 else record


def _upgraded(record: Record) -> Record:
    """Return a record of schema 1 with its conditions named: the defaults of this schema are not those that it means.

    Raises:
        RecordError: it holds what schema 1 does not have; the message begins with the field.
    """
    for part, fields in _SINCE_SCHEMA_2:
        found = getattr(record, part) if part else record
        for index, item in enumerate(found) if isinstance(found, tuple) else ((None, found),):
            if item is not None and (more := sorted(fields & item.model_fields_set)):
                place = f"{part}." if index is None else f"{part}[{index}]."
                raise RecordError(f"{place.lstrip('.')}{more[0]}: schema 1 has no such field")
    cell = record.cell
    for name, later in (("error_policy", ("coordinates", "rotated")), ("sizes", (SIZES,))):
        if name in cell.model_fields_set and getattr(cell, name) in later:
            raise RecordError(f"cell.{name}: schema 1 has no '{getattr(cell, name)}'")
    if None in record.curve.complement:
        raise RecordError(f"curve.complement[{record.curve.complement.index(None)}]: schema 1 has no null")
    named = {name: value for name, value in _SCHEMA_1.items() if name not in cell.model_fields_set}
    return record.model_copy(update={"cell": cell.model_copy(update=named)})


def write_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Write a record so that the file is either whole or absent, whenever the process is killed.

    Args:
        record: what to write, of this schema.
        path: the file; its folder is made when it is missing.

    Raises:
        RecordError: the folder cannot be written, or the record is of an older schema.
    """
    if record.schema_version != SCHEMA_VERSION:
        raise RecordError(f"{path}: a record of schema {record.schema_version} is kept as it is: copy its file")
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
