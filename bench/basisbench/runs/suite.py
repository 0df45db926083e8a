"""A suite: the YAML file that names the cells of a run.

1. Read the file and check every field; a wrong one is named together with the file.
2. Apply what the command line changes.

Its cells are `basisbench.runs.cells`' work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from basisbench.errors import BasisBenchError, RecordError, first_line, unknown_name
from basisbench.results.safe_files import YAML_ERRORS, read_bounded
from basisbench.results.schema import LARGEST, Count, Frozen, Positive, describe_problem
from basisbench.types import Ablation, Bos, ErrorPolicy, Granularity, Metric, ScoreReference, ScoreSplit

SUITE_SUFFIXES = (".yaml", ".yml")


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value given twice: its cells would run twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"'{value}' is given twice")
        seen.add(value)
    return values


MOST_VALUES = 1000
"""Values of one list of a suite."""

MOST_BYTES = 1024 * 1024
"""Bytes of a suite file, and what its aliases may make of it in values."""

_Item = TypeVar("_Item")
Several = Annotated[tuple[_Item, ...], Field(min_length=1, max_length=MOST_VALUES), AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Names = Several[Annotated[str, Field(min_length=1, max_length=200)]]


def _layers(value: object) -> object:
    """Read `10-20` or `0-3, 7` as a list of layers; anything else is looked at later."""
    if not isinstance(value, str):
        return sorted(value) if isinstance(value, list | tuple) and all(isinstance(x, int) for x in value) else value
    return sorted(layers_in(value))


def layers_in(text: str) -> list[int]:
    """Return the layers that a text such as `10-20` or `0-3, 7` names, in its order.

    Raises:
        ValueError: it is no such text.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"expected layers such as 10-20 or 0-3,7, found '{part:.60}'")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


Layers = Annotated[Several[Count], BeforeValidator(_layers)]


def read_layers(value: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Return layers that are given as a suite gives them, ascending; None for None.

    Raises:
        BasisBenchError: tells what is wrong with them.
    """
    try:
        return TypeAdapter(Layers | None).validate_python(value)
    except ValidationError as error:
        raise BasisBenchError(f"layers: {describe_problem(error)}") from error


class Also(Frozen):
    """Further cells: those that the suite would have with these lists in place of its own."""

    tasks: Names | None = Field(default=None, description="some of the suite's tasks")
    bases: Names | None = Field(default=None, description="instead of the suite's: some of them, or others")
    methods: Names | None = Field(default=None, description="instead of the suite's")
    ablations: Several[Ablation] | None = Field(default=None, description="instead of the suite's")
    error_policies: Several[ErrorPolicy] | None = Field(default=None, description="instead of the suite's")
    score_references: Several[ScoreReference] | None = Field(default=None, description="instead of the suite's")
    score_splits: Several[ScoreSplit] | None = Field(default=None, description="instead of the suite's")
    granularities: Several[Granularity] | None = Field(default=None, description="instead of the suite's")
    seeds: Several[Seed] | None = Field(default=None, description="instead of the suite's")
    attribution_draws: Several[Count] | None = Field(default=None, description="instead of the suite's")
    attribution_pairs: Several[Positive] | None = Field(default=None, description="each instead of the suite's")

    @property
    def lists(self) -> dict[str, tuple[Any, ...]]:
        """The lists that are given, by field."""
        return self.model_dump(exclude_none=True)

    def within(self, suite: Suite, changed: Iterable[str]) -> Also | None:
        """Return what is left where fields of the suite were changed; None where nothing is.

        Of tasks, bases and methods that were changed those are left that the suite still has. Other fields that were
        changed are what somebody asked for instead of the suite's cells, and of these.
        """
        asked = [field for field in self.lists if field in changed]
        if not set(asked) <= {"tasks", "bases", "methods"}:
            return None
        left = {field: tuple(name for name in self.lists[field] if name in getattr(suite, field)) for field in asked}
        return self.model_copy(update=left) if all(left.values()) else None


_NUMBER = "attribution_pairs"
"""The field of `also` that is a list there and one number in the suite itself."""


class Expected(Frozen):
    """What a suite is expected to take; an estimate, unless a record says otherwise."""

    machine: str = Field(min_length=1, description="the machine that the figures are for")
    memory_gib: float = Field(
        gt=0, description="peak memory with the whole of a basis: of the device, or of the process on a CPU"
    )
    least_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="the same where layers of a basis that do not fit are loaded anew in every pass: slower",
    )
    disk_gib: float = Field(gt=0, description="downloads and records")
    hours: float = Field(gt=0, description="wall-clock hours of the whole suite")
    measured: bool = Field(default=False, description="true when measured; else computed by `run SUITE --dry-run`")


class Suite(Frozen):
    """What a run covers: the cross product of its lists, bases with every task and method, and what `also` adds."""

    name: str = Field(min_length=1, description="name of the suite")
    summary: str = Field(min_length=1, description="one line for listings")
    models: Names = Field(
        description="registered names, repositories (ORG/NAME, ORG/NAME@REVISION) or folders, each as NAME=... too"
    )
    tasks: Names = Field(description="names of registered tasks")
    bases: Names = Field(description="names of registered bases, of one or several families")
    methods: Names = Field(description="names of registered attribution methods")
    ablations: Several[Ablation] = Field(default=("mean",), description="reference values of nodes outside the circuit")
    error_policies: Several[ErrorPolicy] = Field(
        default=("coordinates",),
        description="what happens to reconstruction errors; bases without any stand under the default",
    )
    score_references: Several[ScoreReference] = Field(
        default=("ablation",), description="what a node moves to when it is scored"
    )
    score_splits: Several[ScoreSplit] = Field(
        default=("attribution",),
        description="pairs that scores are taken on; evaluation: held in; other_templates: template transfer",
    )
    granularities: Several[Granularity] = Field(default=("position",), description="whether a node has a position")
    seeds: Several[Seed] = Field(default=(0,), description="seeds of pairs, random scores and random bases")
    attribution_draws: Several[Count] = Field(
        default=(0,), description="which draws of attribution pairs from a task's candidates, for each seed"
    )
    layers: Layers | None = Field(
        default=None,
        description="layers that every family is restricted to, as a list or as `10-20` or `0-3, 7`; all that its "
        "bases cover when null",
    )
    also: tuple[Also, ...] = Field(
        default=(), description="further cells: lists of each entry in place of the suite's own, as told below"
    )
    bos: Bos = Field(default="auto", description="whether a beginning-of-sequence token stands in front of prompts")
    metric: Metric = Field(
        default="logit",
        description="what answers are worth: the logit of one token, or `logprob`, the log-probability of several",
    )
    attribution_pairs: Positive = Field(default=100, description="pairs that scores and reference values come from")
    evaluation_pairs: Positive = Field(default=100, description="pairs that curves come from")
    kl: bool = Field(default=False, description="measure KL(full model || circuit) at each size")
    subset_sizes: Annotated[tuple[Positive, ...], Field(max_length=MOST_VALUES), AfterValidator(_distinct)] = Field(
        default=(), description="circuit sizes at which random halves of the complement are ablated"
    )
    subset_draws: Annotated[Positive, Field(le=MOST_VALUES)] = Field(
        default=8, description="random halves at each of these sizes"
    )
    subset_blocks: Annotated[Count, Field(le=MOST_VALUES)] = Field(
        default=0, description="blocks over which adversarial halves at these sizes are searched for, 50 say; 0: none"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type of the weights; the checkpoint's own when null. Metrics are float32 in any case"
    )
    revisions: Mapping[str, str] = Field(
        default={}, description="repository to the commit, tag or branch that is used, of models and of dictionaries"
    )
    dictionary_units: Mapping[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="basis to units per layer, for --dry-run where dictionaries are not at hand"
    )
    expected: Expected | None = Field(default=None, description="what the suite is expected to take")

    @field_validator("kl")
    @classmethod
    def _at_one_position(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("metric") == "logprob":
            raise ValueError("it is of one position, and logprob has several: set kl to false, or metric to logit")
        return value

    @field_validator("subset_blocks")
    @classmethod
    def _of_some_sizes(cls, value: int, info: ValidationInfo) -> int:
        if value == 1:
            raise ValueError("a half is of two blocks at least, found 1; 0 for no search")
        if value and not info.data.get("subset_sizes", (1,)):
            raise ValueError(f"{value} blocks, but subset_sizes names no circuit sizes")
        return value

    @field_validator("also")
    @classmethod
    def _of_the_suite(cls, value: tuple[Also, ...], info: ValidationInfo) -> tuple[Also, ...]:
        for index, entry in enumerate(value):
            if not entry.lists:
                raise ValueError(f"entry {index + 1} changes nothing")
            for name in entry.tasks or ():
                if name not in info.data.get("tasks", (name,)):
                    raise ValueError(f"entry {index + 1} names '{name}', which is not among the suite's tasks")
        return value

    def changed(self, changes: Mapping[str, object]) -> Suite:
        """Return the suite with some fields replaced, and the entries of `also` that this leaves.

        Args:
            changes: new values by field name; None leaves a field as it is.

        Raises:
            RecordError: a new value is not allowed; the message names the field.
        """
        given = {field: value for field, value in changes.items() if value is not None}
        try:
            suite = Suite.model_validate({**self.model_dump(exclude={"also"}), **given})
        except ValidationError as error:
            raise RecordError(f"suite '{self.name}' as changed: {describe_problem(error)}") from error
        if "also" in given:
            return suite
        left = (entry.within(suite, given) for entry in self.also)
        return suite.model_copy(update={"also": tuple(entry for entry in left if entry is not None)})

    @property
    def all_bases(self) -> tuple[str, ...]:
        """The bases of all its cells: its own, then further ones of `also`."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.bases))

    @property
    def crossed(self) -> tuple[tuple[Any, ...], ...]:
        """The lists whose cross product its cells are."""
        return tuple(getattr(self, field) for field in ("models", *Also.model_fields) if field != _NUMBER)

    @property
    def parts(self) -> tuple[Suite, ...]:
        """Suites of one cross product each: this one's own lists, then those of each entry of `also`."""
        own = self.model_copy(update={"also": ()})
        lists = [(entry.lists, number) for entry in self.also for number in entry.attribution_pairs or (None,)]
        return (own, *(own.model_copy(update=each | ({_NUMBER: number} if number else {})) for each, number in lists))


def first_draws(count: int | None) -> tuple[int, ...] | None:
    """Return the first draws of attribution pairs, for `attribution_draws`; None where no number is given.

    Raises:
        BasisBenchError: there are more than a suite may have.
    """
    if count is not None and count > MOST_VALUES:
        raise BasisBenchError(f"draws: at most {MOST_VALUES}, found {count:.4g}; each draw runs every cell anew")
    return None if count is None else tuple(range(count))


def load_suite(name_or_path: str | Path) -> Suite:
    """Load a built-in suite by name, or a suite file by path.

    Args:
        name_or_path: for example "pocket", or "my-suite.yaml".

    Raises:
        BasisBenchError: no built-in suite has that name.
        RecordError: the file is missing or malformed; the message names the file and the field.
    """
    text = str(name_or_path)
    if text.endswith(SUITE_SUFFIXES):
        return _read(Path(text))
    known = {path.stem: path for path in _built_in()}
    if text not in known:
        raise unknown_name("suite", text, known)
    return _read(known[text])


def list_suites() -> tuple[Suite, ...]:
    """Return the built-in suites, by name."""
    return tuple(_read(path) for path in _built_in())


def _built_in() -> Sequence[Path]:
    """Return the suite files inside the package, by name."""
    folder = Path(str(files("basisbench.runs") / "suites"))
    return sorted(path for path in folder.iterdir() if path.suffix in SUITE_SUFFIXES)


def _read(path: Path) -> Suite:
    """Read and check one suite file."""
    try:
        content = yaml.safe_load(read_bounded(path, MOST_BYTES).decode("utf-8-sig"))
        _hold_size(content)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not YAML: {_yaml_problem(error)}") from error
    except RecursionError as error:
        raise RecordError(f"{path}: nested too deep for a suite") from error
    except YAML_ERRORS as error:  # a date, a number or a tag that the reader trips over
        raise RecordError(f"{path}: holds a value that YAML cannot read: {first_line(error)}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise RecordError(f"{path}: expected fields such as 'name:' and 'tasks:', found {found}")
    if unnamed := [key for key in content if not isinstance(key, str)]:
        raise RecordError(f"{path}: field names must be text, found {unnamed[0]!r}")
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise RecordError(f"{path}: {describe_problem(error)}") from error


def _hold_size(content: object) -> None:
    """Refuse aliases that make far more of a file than it holds, or that hold themselves."""
    waiting: list[object] = [content]
    count = 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MOST_BYTES:
            raise RecordError("its aliases (&name, *name) repeat each other beyond all bounds")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say in one line where YAML went wrong."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())
