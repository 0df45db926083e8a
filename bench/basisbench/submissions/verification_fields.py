"""The fields of a verification: tolerances, the draw, and what was found in each cell.

`submissions.verification` puts them together. A cell that claims to have passed while something in it says otherwise is
refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from basisbench.results.schema import Count, Frozen, Name, NotNegative, Positive

Problem = Annotated[str, Field(min_length=1, max_length=1000)]


class Tolerance(Frozen):
    """How far a re-run may lie from a record. Values and means are in units of the gap F(M) - F(0), of 0.1 to 1 logits.

    Two things change with rounding on another machine. A unit at its very threshold switches: one example moves, at any
    number of sizes. And two nodes of nearly one score change places: an aligned group moves, at the size between them.
    """

    value: NotNegative = Field(description="a metric value of one example agrees within this")
    share: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the values at one size that may lie further off, one at least: switched units; none of "
        "F(M) and F(0)"
    )
    mean: NotNegative = Field(description="the mean over examples agrees within this at one size")
    most: NotNegative = Field(description="no value lies further off than this, in logits")
    tied_mean: NotNegative = Field(description="the same as mean, at a size between nodes that changed places")
    tied_sizes: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the sizes of a cell that may be such sizes, one at least"
    )
    score: NotNegative = Field(description="scores of top nodes agree within this, as a share of the largest of them")
    fit: NotNegative = Field(description="numbers of the dictionary's fit agree within this, relatively")
    summary: NotNegative = Field(description="what tables show of the curve agrees within this, relatively")


class Sampling(Frozen):
    """How cells and sizes were drawn (`basisbench.submissions.sampling`); the same seed draws the same ones."""

    seed: Count = Field(description="seed of the draw")
    cells: Positive | Literal["all"] = Field(description="cells asked for")
    points: Positive | Literal["all"] = Field(description="sizes asked for in each cell, besides 0 and all nodes")


class Deviation(Frozen):
    """How far one kind of value lay from the record, in units of the gap F(M) - F(0), of 0.1 to 1 logits."""

    values: Positive = Field(description="values compared: examples, at every compared size")
    outside: Count = Field(description="values among them further off than the tolerance of a value")
    tied: tuple[Count, ...] = Field(
        description="sizes that agree only if two nodes of nearly one score changed places there"
    )
    largest: NotNegative = Field(description="largest deviation of a value")
    size: Count | None = Field(description="circuit size at which it was found; null for F(M) and F(0)")
    example: Count = Field(description="example at which it was found, from 0")
    mean: NotNegative = Field(description="largest deviation of a mean over examples")


class RankingAgreement(Frozen):
    """How far the top nodes of the re-run are those of the record."""

    compared: Count = Field(description="top nodes in the record")
    missing: Count = Field(description="those that are not among the re-run's and are no near tie with its last one")
    score: NotNegative = Field(description="largest deviation of a score, as a share of the record's largest score")


class VerifiedCell(Frozen):
    """One cell that was run again."""

    cell_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] = Field(description="id of the cell: its file's name")
    model: Name = Field(description="as in the record")
    task: Name = Field(description="as in the record")
    basis: Name = Field(description="as in the record")
    method: Name = Field(description="as in the record")
    basisbench: Name = Field(description="version of BasisBench that made the record")
    dtype: Name = Field(description="dtype of the model's weights in the re-run")
    same_model: bool = Field(description="the model's weights are those of the record")
    same_dictionary: bool = Field(description="the basis' trained weights are those of the record")
    same_data: bool = Field(description="the tokenised pairs are those of the record")
    sizes: tuple[Count, ...] = Field(description="circuit sizes compared; empty where an identity differs: not re-run")
    full: Deviation | None = Field(description="F(M); null where the cell was not re-run, as below")
    empty: Deviation | None = Field(description="F(0)")
    circuit: Deviation | None = Field(description="metric of the circuit at the sizes")
    complement: Deviation | None = Field(description="metric of everything but the circuit at the sizes")
    ranking: RankingAgreement | None = Field(description="top nodes")
    problems: Annotated[tuple[Problem, ...], Field(max_length=50)] = Field(description="everything that disagrees")
    passed: bool = Field(description="whether the record is what the re-run gives, within tolerance")

    @field_validator("passed")
    @classmethod
    def _follows(cls, value: bool, info: ValidationInfo) -> bool:
        fields = ("same_model", "same_dictionary", "same_data", "full", "empty", "circuit", "complement", "ranking")
        if value and not all(info.data.get(name) for name in fields):
            raise ValueError("true, but an identity differs or something was not compared")
        if value and not info.data.get("sizes"):
            raise ValueError("true, but no size was compared")
        if "problems" in info.data and value == bool(info.data["problems"]):
            raise ValueError(f"{str(value).lower()}, but {len(info.data['problems'])} problems are listed")
        return value

    @property
    def largest(self) -> float:
        """The largest deviation of any value; 0 where nothing was compared."""
        parts = (self.full, self.empty, self.circuit, self.complement)
        return max((part.largest for part in parts if part is not None), default=0.0)
