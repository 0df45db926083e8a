"""What swapping nodes did: how far the answer goes to that of the other prompt, beside nodes that are like them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import Field

from basisbench.results.circuit_nodes import place_name
from basisbench.results.gates import LEAST_ACCURACY
from basisbench.results.interval import Interval
from basisbench.results.record import CellConfig, Identities
from basisbench.results.schema import Count, Frozen, Name, NotNegative, Positive, Rounded, Text, VersionOne
from basisbench.results.steering import LEAST_DRAWS
from basisbench.results.tables import Entry, Table


class Answers(Frozen):
    """What the model answers, over all evaluation pairs."""

    metric: Rounded = Field(description="logit of the clean prompt's answer less that of the other's, mean over pairs")
    own: NotNegative = Field(description="share of pairs whose likeliest candidate is the clean prompt's answer")
    other: NotNegative = Field(description="share of pairs whose likeliest candidate is the other prompt's answer")
    alike: NotNegative | None = Field(
        default=None,
        description="how far apart the nodes' values are on two clean prompts of one answer, over how far on two of "
        "different answers; 1 where they tell the prompts apart and not the answers; null where no two prompts share "
        "an answer",
    )


class SwappedNode(Frozen):
    """A node that was swapped."""

    layer: Count = Field(description="layer, from 0")
    unit: Count | Literal["error"] = Field(description='index of the unit in its layer, or "error"')
    coordinate: Count | None = Field(default=None, description="of an error node, which coordinate of the write site")
    role: Text = Field(description="where it is on the task's prompts, by role")
    token: Text = Field(default="", description="which token of the role, for example 2/3; empty where it has one")


class SwapSize(Frozen):
    """What so many nodes do."""

    nodes: Positive = Field(description="how many of the best nodes, by role")
    swapped: Answers = Field(description="with these nodes at their values on the other prompt")
    way: Interval | None = Field(
        description="how far the metric goes of the way to its value on the other prompt itself: 0 where nothing "
        "changes, 1 where it does what the whole other prompt does; null where the interval of that way holds 0"
    )
    other: Interval = Field(description="`swapped.other` with its interval")
    controls: tuple[Answers, ...] = Field(
        description="of each draw of other nodes of the same layers and roles and of like change, swapped likewise; "
        "none of all nodes together"
    )
    baselines: dict[Name, Answers] = Field(description="of as many nodes, the best under other methods")

    def interval(self) -> tuple[float, float] | None:
        """Return the smallest and the largest metric of the controls: from 39 draws on a 95% interval."""
        metrics = [each.metric for each in self.controls]
        return (min(metrics), max(metrics)) if metrics else None

    @property
    def outside(self) -> bool:
        """Whether the metric lies below the controls' interval, and this is one of 95%."""
        return len(self.controls) >= LEAST_DRAWS and self.swapped.metric < min(each.metric for each in self.controls)


class Swap(Frozen):
    """Nodes of one prompt set to what they are on another, with controls."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    cell: CellConfig = Field(description="the question; its method is that which ranked the nodes")
    identities: Identities = Field(description="digests of the model, the dictionary and the pairs")
    roles: tuple[Text, ...] = Field(min_length=1, description="where nodes are swapped, by role")
    pairs: Positive = Field(description="evaluation pairs")
    candidates: tuple[Text, ...] = Field(description="the words that are answers of some pair, or foils")
    full: Answers = Field(description="the unhooked model on the clean prompts")
    right: NotNegative = Field(description="share of pairs for which its answer is likelier than the foil")
    counterfactual: Answers = Field(description="the unhooked model on the other prompts")
    draws: Positive = Field(description="draws of controls")
    nodes: tuple[SwappedNode, ...] = Field(description="the nodes of the largest size but one, best first")
    sizes: tuple[SwapSize, ...] = Field(min_length=1, description="ascending; last, all nodes that have a score there")

    @property
    def claim(self) -> str:
        """What may be said: that these nodes carry what the answer hangs on, only where others like them do less."""
        tested = [size for size in self.sizes if size.controls]
        if self.draws < LEAST_DRAWS:
            return (
                f"{self.draws} draws of controls give no 95% interval ({LEAST_DRAWS} do): whether these nodes carry "
                "it, and not any like them, is not said."
            )
        beyond = [str(size.nodes) for size in tested if size.outside]
        like = f"95% interval of {self.draws} draws of random nodes of the same layers and roles and of like change"
        if not beyond:
            return f"At no size does the answer go further than the {like}: that these nodes carry it is not shown."
        rest = "" if len(beyond) == len(tested) else "; at the others it does not"
        return f"At size{'s' * (len(beyond) > 1)} {', '.join(beyond)} the answer goes further than the {like}{rest}."


def swap_tables(found: Swap) -> list[Table]:
    """Return what was found as tables: where the nodes are, and what swapping them does."""
    return [_places(found.nodes), _sizes(found)]


def _places(nodes: Sequence[SwappedNode]) -> Table:
    """Count the nodes by role."""
    layers: dict[str, list[int]] = {}
    for node in nodes:
        layers.setdefault(place_name(node.role, node.token), []).append(node.layer)
    rows = tuple(
        (Entry(role), Entry(str(count)), Entry(f"{min(layers[role])} to {max(layers[role])}"),
         Entry(f"{median(layers[role]):g}"))
        for role, count in Counter(place_name(node.role, node.token) for node in nodes).most_common()
    )  # fmt: skip
    return Table(f"where the {len(nodes)} best are", ("role", "nodes", "layers", "median"), rows)


def _sizes(found: Swap) -> Table:
    cell = found.cell
    names = list(found.sizes[0].baselines)
    header = ("swapped", "metric", f"{found.draws} controls", *names, "way [95%]", "own\nanswer", "other's [95%]")
    header = (*header, "of\ncontrols", "alike", "of\ncontrols")
    blank = [""] * len(names)
    rows = [_row("nothing", found.full, ["", *blank], "0")]
    for size in found.sizes:
        low_high = size.interval()
        way = "" if size.way is None else f"{size.way.value:.2f} [{size.way.low:.2f}, {size.way.high:.2f}]"
        middle = ["" if low_high is None else f"{low_high[0]:.2f} to {low_high[1]:.2f}"]
        middle += [f"{size.baselines[name].metric:.2f}" if name in size.baselines else "" for name in names]
        what = f"{size.nodes} node{'s' * (size.nodes > 1)}" if size.controls else f"all {size.nodes}"
        rows.append(_row(what, size.swapped, middle, way, size))
    rows.append(_row("the prompt", found.counterfactual, ["", *blank], "1"))
    notes = [f"candidates: {len(found.candidates)} words; swapped at {', '.join(found.roles)}"]
    if any(size.outside for size in found.sizes):
        notes.append("* below the controls' 95% interval")
    if found.right < LEAST_ACCURACY:
        notes.append(f"the model is right in {found.right:.2f} < {LEAST_ACCURACY:g}: too little to be explained")
    title = (
        f"{cell.model}, {cell.task}, {cell.basis}: the best nodes under {cell.method}, set to their values on the "
        f"other prompt, {found.pairs} pairs"
    )
    return Table(title, header, tuple(rows), (*notes, found.claim))


def _row(
    what: str, answers: Answers, middle: Sequence[str], way: str, size: SwapSize | None = None
) -> tuple[Entry, ...]:
    other, likewise, alike = f"{answers.other:.2f}", "", ""
    if size is not None:
        other += f" [{size.other.low:.2f}, {size.other.high:.2f}]"
        if size.controls:
            likewise = _span([each.other for each in size.controls])
            alike = _span([each.alike for each in size.controls if each.alike is not None])
    own = "" if answers.alike is None else f"{answers.alike:.2f}"
    metric = Entry(f"{answers.metric:.2f}", best=size is not None and size.outside)
    texts = [*middle, way, f"{answers.own:.2f}", other, likewise, own, alike]
    return (Entry(what), metric, *map(Entry, texts))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""
