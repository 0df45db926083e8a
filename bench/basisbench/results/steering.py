"""What steering did: the metric and the next token at each dose, of the chosen nodes and of their controls."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from basisbench.results.circuit_nodes import place_name
from basisbench.results.record import CellConfig, Identities
from basisbench.results.schema import Count, Frozen, Name, NotNegative, Positive, Rounded, RoundedRow, Text, VersionOne
from basisbench.results.tables import Entry, Table

LEAST_DRAWS = 39
"""Draws of controls whose smallest and largest are a 95% interval: one more falls outside with probability 2/40."""


class Steered(Frozen):
    """A node that was steered."""

    layer: Count = Field(description="layer, from 0")
    unit: Count | Literal["error"] = Field(description='index of the unit in its layer, or "error"')
    coordinate: Count | None = Field(default=None, description="of an error node, which coordinate of the write site")
    role: Text = Field(description="where it was steered on the task's prompts, by role")
    token: Text = Field(default="", description="which token of the role, for example 2/3; empty for all it has")
    size: NotNegative = Field(description="its mean |value| there on the clean attribution prompts")
    control_size: NotNegative = Field(
        description="the same of its controls, mean over the draws; they are moved by as much as the node itself"
    )

    @property
    def name(self) -> str:
        """Its name as an option of the command takes it."""
        unit = f"error {self.coordinate}" if self.unit == "error" else str(self.unit)
        return f"{self.layer}:{place_name(self.role, self.token)}:{unit}"


class Outcome(Frozen):
    """What was measured on the task's evaluation pairs, means over the pairs."""

    metric: Rounded = Field(description="answer logit less foil logit")
    right: NotNegative = Field(description="share of pairs whose answer is the likelier one")
    kl: NotNegative = Field(description="KL(unhooked model || steered) of the next token, in nats")


class Dose(Frozen):
    """One dose."""

    dose: Rounded = Field(description="what the nodes were moved by (see `operation`)")
    chosen: Outcome = Field(description="of the chosen nodes")
    low: Rounded = Field(description="lower end of the metric's 95% bootstrap interval over what the pairs share")
    high: Rounded = Field(description="upper end")
    controls: RoundedRow = Field(description="metric of each draw of controls")
    controls_kl: RoundedRow = Field(description="KL of each draw of controls")
    baselines: dict[Name, Outcome] = Field(description="of as many nodes, the best under other methods")
    others: dict[Name, Outcome] = Field(description="of the chosen nodes on other tasks")
    text_kl: NotNegative | None = Field(description="KL in nats per token of the text; null without one")
    text_controls_kl: RoundedRow = Field(description="the same of a few draws of controls")


class NextToken(Frozen):
    """What may come behind a prompt."""

    dose: Rounded | None = Field(description="null for the unhooked model")
    tokens: tuple[Text, ...] = Field(description="the likeliest tokens")
    probabilities: RoundedRow = Field(description="their probabilities")
    kl: NotNegative = Field(description="KL(unhooked model || steered), in nats")


class SteeredPrompt(Frozen):
    """A prompt of the user."""

    prompt: Text
    next: tuple[NextToken, ...] = Field(description="the unhooked model first, then a row per dose")


class Steering(Frozen):
    """A dose-response of chosen nodes, with controls, and what else changes."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    cell: CellConfig = Field(
        description='the question; its method is that which ranked the nodes, "named" where they were given by name'
    )
    identities: Identities = Field(description="digests of the model, the dictionary and the pairs")
    operation: Literal["scale", "set", "add", "ablate"] = Field(
        description="what a dose d makes of a value f: d f; d; f + d; f + d (reference - f)"
    )
    at: Literal["all", "last"] = Field(
        description="where units are moved on other tasks, text and prompts of users: at all positions, or the last"
    )
    nodes: tuple[Steered, ...] = Field(description="the chosen nodes")
    pairs: Positive = Field(description="evaluation pairs")
    full: Outcome = Field(description="the unhooked model on the task")
    others_full: dict[Name, Outcome] = Field(description="the unhooked model on other tasks")
    draws: Positive = Field(description="draws of controls")
    text: Text = Field(description="what the text is; empty without one")
    text_tokens: Count = Field(description="tokens of it")
    unchanged: Rounded | None = Field(description="the dose that changes nothing; null where there is none")
    doses: tuple[Dose, ...] = Field(min_length=1, description="the doses, ascending")
    prompts: tuple[SteeredPrompt, ...] = Field(default=(), description="prompts of the user")

    def interval(self, dose: Dose) -> tuple[float, float]:
        """Return the smallest and the largest metric of the controls at a dose: from 39 draws on a 95% interval."""
        return min(dose.controls), max(dose.controls)

    def outside(self, dose: Dose) -> bool:
        """Return whether the chosen nodes' metric lies outside the controls' interval, and this is one of 95%."""
        low, high = self.interval(dose)
        tested = dose.dose != self.unchanged and self.draws >= LEAST_DRAWS
        return tested and not low <= dose.chosen.metric <= high

    @property
    def claim(self) -> str:
        """What may be said: that these nodes cause it, only where controls that are like them do less."""
        if self.draws < LEAST_DRAWS:
            return (
                f"{self.draws} draws of controls give no 95% interval ({LEAST_DRAWS} do): whether these nodes cause "
                "it, and not any like them, is not said."
            )
        tested = [dose for dose in self.doses if dose.dose != self.unchanged]
        beyond = [f"{dose.dose:g}" for dose in tested if self.outside(dose)]
        like = (
            f"95% interval of {self.draws} draws of random nodes of the same layers and roles and of like activation, "
            "moved by as much"
        )
        if not beyond:
            return (
                f"At no dose does the metric lie outside the {like}: that these nodes cause it, and not any "
                "like them, is not shown."
            )
        at = f"At dose{'s' if len(beyond) > 1 else ''} {', '.join(beyond)}"
        rest = "" if len(beyond) == len(tested) else "; at the others it lies within"
        return f"{at} these nodes cause it: the metric lies outside the {like}{rest}."


def _number(value: float) -> str:
    """Write a measurement in three digits or so."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


_VERBS = {"scale": "scaled", "set": "set", "add": "added to", "ablate": "moved to their reference"}


def steering_tables(found: Steering) -> list[Table]:
    """Return what was found as tables: the nodes, the dose-response, what else changes, and the user's prompts."""
    return [_nodes(found), _response(found), *_harm(found), *map(_prompt, found.prompts)]


def steering_title(found: Steering) -> str:
    """Return what was steered, on which task and model."""
    cell, count = found.cell, len(found.nodes)
    best = f"the best under {cell.method}" if count == 1 else f"the {count} best under {cell.method}"
    named = found.nodes[0].name if count == 1 else f"{count} nodes given by name"
    which = named if cell.method == "named" else f"{best}, {named}" if count == 1 else best
    return f"{cell.model}, {cell.task}, {cell.basis}: {which}, {_VERBS[found.operation]}"


_SHOWN = 10
"""Nodes that the terminal's table names."""


def _nodes(found: Steering) -> Table:
    rows = [
        (Entry(node.name), Entry(_number(node.size)), Entry(_number(node.control_size)))
        for node in found.nodes[:_SHOWN]
    ]
    notes = (f"and {len(found.nodes) - _SHOWN} more",) if len(found.nodes) > _SHOWN else ()
    return Table(steering_title(found), ("layer:role:unit", "|value|", "of its\ncontrols"), tuple(rows), notes)


def _response(found: Steering) -> Table:
    full = found.full
    title = f"metric over {found.pairs} pairs; of the unhooked model {_number(full.metric)}, right in {full.right:.2f}"
    names = list(found.doses[0].baselines)
    header = ("dose", "metric [95%]", f"{found.draws} controls", *names, "right", "KL", "KL of\ncontrols")
    rows = []
    for dose in found.doses:
        low, high = found.interval(dose)
        texts = [
            f"{dose.dose:g}",
            f"{_number(dose.chosen.metric)} [{_number(dose.low)}, {_number(dose.high)}]",
            f"{_number(low)} to {_number(high)}",
            *(_number(dose.baselines[name].metric) for name in names),
            f"{dose.chosen.right:.2f}",
            _number(dose.chosen.kl),
            f"{_number(min(dose.controls_kl))} to {_number(max(dose.controls_kl))}",
        ]
        rows.append(tuple(Entry(text, best=at == 1 and found.outside(dose)) for at, text in enumerate(texts)))
    notes = [*(("* outside the controls' 95% interval",) if any(map(found.outside, found.doses)) else ()), found.claim]
    return Table(title, header, tuple(rows), tuple(notes))


def _harm(found: Steering) -> Iterator[Table]:
    if not (found.others_full or found.text):
        return
    where = "every position" if found.at == "all" else "the last position"
    header: list[str] = ["dose"]
    if found.text:
        header += ["KL per token\nof text", "of controls"]
    header += [f"{task}\n{_number(full.metric)}, right {full.right:.2f}" for task, full in found.others_full.items()]
    rows = []
    for dose in found.doses:
        texts = [f"{dose.dose:g}"]
        if found.text:
            texts += [_number(dose.text_kl or 0), " to ".join(_number(end) for end in _ends(dose.text_controls_kl))]
        texts += [f"{_number(other.metric)}, {other.right:.2f}" for other in dose.others.values()]
        rows.append(tuple(map(Entry, texts)))
    notes = (f"text: {found.text}, {found.text_tokens} tokens",) if found.text else ()
    yield Table(f"elsewhere, steered at {where}: metric, share right", tuple(header), tuple(rows), notes)


def _ends(values: Sequence[float]) -> tuple[float, ...]:
    return (min(values), max(values)) if values else ()


def _prompt(prompt: SteeredPrompt) -> Table:
    rows = []
    for row in prompt.next:
        words = (f"{token!r} {share:.2f}" for token, share in zip(row.tokens, row.probabilities, strict=True))
        dose = "unhooked" if row.dose is None else f"{row.dose:g}"
        rows.append((Entry(dose), Entry(_number(row.kl)), Entry("  ".join(words))))
    return Table(f"next token of {prompt.prompt!r}", ("dose", "KL", "likeliest"), tuple(rows))


def steering_csv(found: Steering) -> str:
    """Return a row per dose and set of nodes: chosen ones, each draw of controls, each baseline; and other tasks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dose", "nodes", "on", "metric", "metric_low", "metric_high", "right", "kl"])
    task = found.cell.task
    for dose in found.doses:
        chosen = dose.chosen
        writer.writerow([dose.dose, "chosen", task, chosen.metric, dose.low, dose.high, chosen.right, chosen.kl])
        for draw, (metric, kl) in enumerate(zip(dose.controls, dose.controls_kl, strict=True)):
            writer.writerow([dose.dose, f"control {draw}", task, metric, "", "", "", kl])
        for name, each in dose.baselines.items():
            writer.writerow([dose.dose, name, task, each.metric, "", "", each.right, each.kl])
        for other, each in dose.others.items():
            writer.writerow([dose.dose, "chosen", other, each.metric, "", "", each.right, each.kl])
        if dose.text_kl is not None:
            writer.writerow([dose.dose, "chosen", "text, per token", "", "", "", "", dose.text_kl])
        for draw, kl in enumerate(dose.text_controls_kl):
            writer.writerow([dose.dose, f"control {draw}", "text, per token", "", "", "", "", kl])
    return text.getvalue()
