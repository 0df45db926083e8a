"""Whether pairs of a task are worth a run: what is kept and dropped, what there is to explain.

Each line is green, yellow (results will have a limit that the line names) or red (no result will count).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from basisbench.pairs.task_file import FileTask
from basisbench.pairs.tokens import REPEATED
from basisbench.results.bootstrap import LEAST_LEVELS
from basisbench.results.gates import LEAST_ACCURACY, judge
from basisbench.runs.cell_record import clusters_of_groups
from basisbench.types import FAMILIES

if TYPE_CHECKING:
    from basisbench.circuits.group import GroupPair
    from basisbench.protocols import Task
    from basisbench.types import PairSet

Colour = Literal["green", "yellow", "red"]
MANY_DROPPED = 0.5
"""Share of the candidates that are dropped, above which the rest may be no fair sample of them."""


FLIPPED = 1.5
"""Gap over |F(M)| beyond which F(0) lies half as far below zero as F(M) above it: all pairs change one way."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        colour: green, yellow or red.
        what: in a word or two.
        found: the numbers, and what to do where it is not green.
    """

    colour: Colour
    what: str
    found: str


def check_pairs(task: Task, splits: tuple[PairSet, PairSet], asked: int) -> Iterator[Finding]:
    """Yield what can be told from the pairs alone.

    Args:
        task: the task.
        splits: its pairs.
        asked: pairs asked for in each split.
    """
    for pairs in splits:
        split, kept = pairs[0].split, pairs.pair_count
        fewer = f"; a run has these alone, {asked} are asked for" if kept < asked else f" of {asked} asked for"
        yield Finding("yellow" if kept < asked else "green", f"{split} pairs", f"{kept}{fewer}, {_groups(pairs)}")
    for pairs in splits:
        dropped = {reason: count for reason, count in pairs.dropped.items() if reason != REPEATED and count}
        share = sum(dropped.values()) / (sum(dropped.values()) + pairs.pair_count)
        reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or "none"
        colour: Colour = "yellow" if share > MANY_DROPPED else "green"
        yield Finding(
            colour, f"{pairs[0].split} dropped", f"{sum(dropped.values())} ({reasons})" if dropped else reasons
        )
    repeated = [pairs.dropped.get(REPEATED, 0) for pairs in splits]
    more = task.repeated if isinstance(task, FileTask) else 0
    yield Finding(
        "yellow" if sum(repeated) + more > min(pairs.pair_count for pairs in splits) else "green",
        "duplicates",
        f"{more} pairs given twice, {sum(repeated)} whose clean prompt another pair has; each counts once",
    )
    if isinstance(task, FileTask) and not task.words_disjoint:
        yield Finding("yellow", "splits", "words in which prompts differ are in both; new words are not tested")
    factors = splits[1][0].clusters
    levels = {factor: len({level for pairs in splits[1] for level in pairs.clusters[factor]}) for factor in factors}
    few = [factor for factor, count in levels.items() if count < LEAST_LEVELS]
    named = ", ".join(f"{factor} {count}" for factor, count in levels.items())
    yield Finding(
        "yellow" if few else "green",
        "levels",
        f"{named}{f'; fewer than {LEAST_LEVELS} of {few[0]}, so intervals are not relied on' if few else ''}",
    )


def _groups(pairs: PairSet) -> str:
    sizes = [len(group) for group in pairs]
    return f"{len(sizes)} aligned group(s) of {min(sizes)} to {max(sizes)}"


def check_model(groups: tuple[GroupPair, ...]) -> Iterator[Finding]:
    """Yield how often the model is right, and what each site family has to explain under mean ablation.

    Args:
        groups: the task on the model.
    """
    import torch

    full = torch.cat([group.full for group in groups]).double().cpu()
    accuracy = float((full > 0).double().mean())
    right = (
        f"{accuracy:.0%} of {len(full)} evaluation pairs (gate: {LEAST_ACCURACY:.0%}); F(M) {float(full.mean()):.3f}"
    )
    yield Finding("green" if accuracy >= LEAST_ACCURACY else "red", "accuracy", right)
    clusters: Mapping[str, tuple[int, ...]] = clusters_of_groups(groups)
    for family in FAMILIES:
        empty = torch.cat([group.empty_everywhere(family, "mean") for group in groups]).double().cpu()
        gate = judge(full.numpy(), empty.numpy(), 1.0, clusters)
        share = (
            f" ({gate.share:.0%} of |F(M)|, {gate.gap / gate.standard_error:.1f} standard errors)" if gate.gap else ""
        )
        told = f"F(0) {float(empty.mean()):.3f}, gap F(M) - F(0) {gate.gap:.3f}{share}"
        flipped = gate.share > FLIPPED
        if flipped:
            told += "; with every node at its mean the model prefers the foil: give pairs the other way round too"
        told += f"; {gate.reason}" if gate.reason else ""
        yield Finding("red" if gate.reason else "yellow" if flipped else "green", f"gap {family}", told)


def verdict(findings: list[Finding]) -> Colour:
    """Return the colour of all: red where the model fails or no family has a gap, yellow where one is not green."""
    gaps = [finding.colour for finding in findings if finding.what.startswith("gap")]
    others = [finding.colour for finding in findings if not finding.what.startswith("gap")]
    if "red" in others or set(gaps) == {"red"}:
        return "red"
    return "yellow" if {"yellow", "red"} & {*others, *gaps} else "green"
