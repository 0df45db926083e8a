"""How much of a response's shift runs through the nodes of a belief: shares with intervals, controls beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from basisbench.results.interval import Interval, two_digits
from basisbench.results.record import CellConfig, Identities
from basisbench.results.schema import Count, Frozen, Name, NotNegative, Positive, Rounded, RoundedRow, Text, VersionOne
from basisbench.results.tables import Entry, Table

SetName = Literal["belief", "response", "random", "alike"]
"""The best nodes of the belief; of the response itself; random ones; random ones of like change."""

SETS: dict[SetName, str] = {
    "belief": "the belief's nodes",
    "response": "the response's own nodes",
    "random": "random nodes",
    "alike": "random nodes of like change",
}
"""What sets are called in tables and pictures."""


class SwappedSet(Frozen):
    """What swapping a set of nodes does, as shares of the shift; of controls the mean over draws."""

    nodes: SetName = Field(description="which nodes")
    draws: Positive = Field(description="draws of the set: 1 but of controls")
    change: NotNegative = Field(
        description="mean |counterfactual value - clean value| of its nodes on the attribution pairs"
    )
    swapped: Interval = Field(description="share of the shift that comes when these nodes alone are swapped")
    rest: Interval = Field(
        description="share of the shift that comes when every other node at the places is swapped, these being kept"
    )
    swapped_draws: RoundedRow = Field(description="the first share of each draw")
    rest_draws: RoundedRow = Field(description="the second share of each draw")


class MediationSize(Frozen):
    """What sets of one size do."""

    nodes: Positive = Field(description="nodes of each set, per aligned group")
    sets: tuple[SwappedSet, ...] = Field(min_length=1, description="the belief's nodes first")
    beyond: dict[Name, Interval] = Field(
        description="the swapped share of the belief's nodes less that of each other set, over the same resamples"
    )

    def of(self, name: SetName) -> SwappedSet:
        """Return a set by its name."""
        return next(found for found in self.sets if found.nodes == name)


class CircuitOverlap(Frozen):
    """What the best nodes at the places have in common, from kind of cue to kind, task to task, draw to draw."""

    one: Text = Field(description="the one circuit")
    other: Text = Field(description="the other")
    level: Literal["nodes", "units"] = Field(
        description="what is compared: nodes (layer, position, unit), or distinct (layer, unit) where positions differ"
    )
    compared: Positive = Field(description="pairs of circuits behind the mean: of aligned groups, of draws")
    jaccard: Rounded = Field(description="common ones over all that either has, mean over these")
    low: Rounded = Field(description="the least over draws of attribution pairs")
    high: Rounded = Field(description="the largest")
    chance: Rounded = Field(description="expected of random sets of these sizes")


class Mediation(Frozen):
    """What part of a response's shift runs through the nodes of a belief."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    belief: CellConfig = Field(description="the question whose scores rank the belief's nodes")
    response: CellConfig = Field(description="the same of the response; its evaluation pairs are what is measured")
    identities: Identities = Field(description="digests of the model, the dictionary and the response's pairs")
    belief_data: Text = Field(description="digest of the belief's pairs")
    at: Literal["after", "cue", "header"] = Field(
        description="the places: the user's turn behind the cue, the turn from the cue on, or all behind the cue up to "
        "where the frames part"
    )
    roles: dict[Name, tuple[Text, ...]] = Field(description="role of each place, by aligned group")
    candidates: Count = Field(description="nodes at the places, of the group that has fewest")
    pairs: Positive = Field(description="evaluation pairs")
    follows: NotNegative = Field(description="share of them in which the response shifts the cue's way")
    clean: Interval = Field(description="metric of the response on the clean prompts, in logits")
    gap: Interval = Field(
        description="how far the response shifts with the cue: metric on the clean less that on the counterfactual "
        "prompt, in logits; shares are of this"
    )
    belief_gap: Interval = Field(description="the same of the belief's own frame")
    refused: Text = Field(default="", description="why there are no shares; empty where there are")
    whole: Interval | None = Field(
        description="share of the shift that comes when everything at the places is swapped: tokens and residual stream"
    )
    every: Interval | None = Field(
        description="share of the shift that comes when every node of the basis at the places is swapped"
    )
    sizes: tuple[MediationSize, ...] = Field(description="by size, ascending; none where shares are refused")
    overlaps: tuple[CircuitOverlap, ...] = Field(description="what circuits have in common, at the largest size")

    @property
    def claims(self) -> Iterator[str]:
        """What may be said of each size, and what may not."""
        if self.refused:
            yield self.refused
        for size in self.sizes:
            own = size.of("belief").swapped
            text = f"{size.nodes} nodes of the belief carry {own} of the shift"
            if not own.excludes_zero:
                text += ": not told from none"
            for name, beyond in size.beyond.items():
                which = SETS[name]  # type: ignore[index]
                told = "more than" if beyond.low > 0 else "less than" if beyond.high < 0 else "not told from"
                text += f"; {told} {which}, {beyond}"
            yield f"{text}."


def mediation_title(found: Mediation) -> str:
    """Return what was asked of which model."""
    belief = found.belief
    return (
        f"{belief.model}, {belief.basis}, {belief.method}: how much of the shift of {found.response.task} runs through "
        f"the nodes of {belief.task}"
    )


PLACES: dict[str, str] = {
    "after": "of the user's turn behind the cue",
    "cue": "of the user's turn from the cue on",
    "header": "behind the cue, up to where the frames part",
}
"""Where places are, in words."""


def mediation_tables(found: Mediation) -> list[Table]:
    """Return what was found as tables: the shift, the shares by size, and what circuits have in common."""
    tables = [_shift(found)]
    if found.sizes:
        tables.append(_shares(found))
    if found.overlaps:
        tables.append(_overlaps(found))
    return tables


def _shift(found: Mediation) -> Table:
    rows = [
        ("shift of the belief's own frame, logits", str(found.belief_gap)),
        ("shift of the response (the gap), logits", str(found.gap)),
        ("share of users whose response shifts the cue's way", f"{found.follows:.2f}"),
    ]
    if found.whole is not None:
        rows.append(("share of the gap: everything at the places", str(found.whole)))
    if found.every is not None:
        rows.append((f"share of the gap: all {found.candidates} nodes there", str(found.every)))
    places = "; ".join(f"{key}: {', '.join(roles)}" for key, roles in found.roles.items())
    notes = (f"places, {PLACES[found.at]}: {places}", *((found.refused,) if found.refused else ()))
    entries = tuple((Entry(name), Entry(value)) for name, value in rows)
    return Table(mediation_title(found), ("", "value [95%]"), entries, notes)


def _shares(found: Mediation) -> Table:
    rows = []
    for size in found.sizes:
        for own in size.sets:
            drawn = (
                f"{two_digits(min(own.swapped_draws))} to {two_digits(max(own.swapped_draws))}" if own.draws > 1 else ""
            )
            beyond = size.beyond.get(own.nodes)
            texts = (
                str(size.nodes),
                SETS[own.nodes] + (f" ({own.draws} draws)" if own.draws > 1 else ""),
                str(own.swapped),
                drawn,
                str(own.rest),
                "" if beyond is None else str(beyond),
                f"{own.change:.2g}",
            )
            rows.append(tuple(map(Entry, texts)))
    header = (
        "nodes",
        "set",
        "swapped in\n[95%]",
        "draws",
        "all others\nswapped",
        "belief's less\nthis set's",
        "|change|\nof a node",
    )
    return Table(f"shares of the shift, {found.pairs} pairs", header, tuple(rows), tuple(found.claims))


def _overlaps(found: Mediation) -> Table:
    rows = [
        tuple(
            map(
                Entry,
                (
                    own.one,
                    own.other,
                    own.level,
                    f"{own.jaccard:.2f} [{own.low:.2f}, {own.high:.2f}]",
                    f"{own.chance:.3f}",
                    str(own.compared),
                ),
            )
        )
        for own in found.overlaps
    ]
    header = ("one", "other", "compared", "Jaccard\n[range over draws]", "by chance", "pairs of\ncircuits")
    return Table(f"the {found.sizes[-1].nodes if found.sizes else ''} best at the places", header, tuple(rows))


def mediation_csv(found: Mediation) -> str:
    """Return a row per size, set and draw; the mean over draws and its interval stand in a row without a draw."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["nodes", "set", "draw", "swapped", "swapped_low", "swapped_high", "rest", "rest_low", "rest_high"])
    for size in found.sizes:
        for own in size.sets:
            ends = [value for each in (own.swapped, own.rest) for value in (each.value, each.low, each.high)]
            writer.writerow([size.nodes, own.nodes, "", *ends])
            if own.draws > 1:
                for draw, (swapped, rest) in enumerate(zip(own.swapped_draws, own.rest_draws, strict=True)):
                    writer.writerow([size.nodes, own.nodes, draw, swapped, "", "", rest, "", ""])
    return text.getvalue()
