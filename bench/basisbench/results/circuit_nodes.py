"""A circuit to look at: its nodes merged over aligned groups by role, with what each of them reads and writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

from pydantic import Field

from basisbench.results.record import CellConfig, Identities, Record
from basisbench.results.record_fields import TopNode
from basisbench.results.schema import Count, Frozen, Name, Positive, Rounded, RoundedRow, Text, VersionOne
from basisbench.results.tables import Entry, Table


class NodePrompt(Frozen):
    """A prompt of the attribution split on which a unit is large."""

    group: Name = Field(description="key of its aligned group")
    side: Literal["clean", "counterfactual"] = Field(description="which prompt of the pair it is")
    tokens: tuple[Text, ...] = Field(description="its tokens as text")
    values: RoundedRow = Field(description="the unit's value at each token")


class CircuitNode(Frozen):
    """A unit of one layer at one role, over all aligned groups that have this role."""

    layer: Count = Field(description="layer, from 0")
    unit: Count | Literal["error"] = Field(description='index of the unit in its layer, or "error"')
    coordinate: Count | None = Field(
        description="of an error node, which coordinate of the write site; null as of a record"
    )
    role: Text = Field(description='role of the position, for example subject; "all" when the granularity is unit')
    token: Text = Field(
        default="", description="which token of the role it is, for example 2/3; empty where it has one"
    )
    groups: Count = Field(description="aligned groups that have this position")
    pairs: Count | None = Field(default=None, description="attribution pairs of these groups")
    score: Rounded = Field(
        description="effect on the metric of moving the node off its clean value, in logits; mean over these pairs, of "
        "a record's nodes over the groups that name it"
    )
    low: Rounded | None = Field(default=None, description="least score over attribution draws; null of one draw")
    high: Rounded | None = Field(default=None, description="largest score over attribution draws; null of one draw")
    in_draws: Count | None = Field(default=None, description="draws in which it is among the k nodes; null of one draw")
    clean: Rounded | None = Field(default=None, description="its value on the clean prompts, mean over the pairs")
    counterfactual: Rounded | None = Field(
        default=None, description="its value on the counterfactual prompts, likewise"
    )
    change: Rounded | None = Field(default=None, description="|clean - counterfactual| of a pair, mean over the pairs")
    direct: Rounded | None = Field(
        default=None,
        description="the part of the score that goes straight through the residual stream, norms' scales being those "
        "of the clean run, in logits; 0 at a position whose logits the metric does not read",
    )
    raised: tuple[Text, ...] = Field(
        default=(), description="words whose logits at its position rise most, straight, when its value rises"
    )
    lowered: tuple[Text, ...] = Field(default=(), description="words whose logits fall most")
    prompts: tuple[NodePrompt, ...] = Field(
        default=(), description="prompts on which it is largest, in the sign of `clean`"
    )
    address: Text | None = Field(default=None, description="public page of the unit; null where its release names none")


class CircuitNodes(Frozen):
    """The k nodes of the largest |score| of one cell, merged over aligned groups by role; best first."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    cell: CellConfig = Field(description="the question that the scores belong to")
    identities: Identities = Field(description="digests of the model, the dictionary and the pairs")
    draws: Positive = Field(description="attribution draws behind `low` and `high`")
    roles: tuple[Text, ...] = Field(description="all positions by role, in the order of the prompt, with `token`")
    layers: tuple[Count, ...] = Field(description="all layers of the basis")
    candidates: Positive | None = Field(
        description="nodes that were ranked; null for a record, which names its best only"
    )
    nodes: tuple[CircuitNode, ...] = Field(description="the nodes")


def place_name(role: str, token: str) -> str:
    """Return how a position is called: its role, and which token of it."""
    return f"{role} {token}" if token else role


def role_tokens(roles: Sequence[str]) -> list[tuple[str, str]]:
    """Return (role, token) of each position: which token of its role it is, "" where the role has one."""
    named: list[tuple[str, str]] = []
    for role, run in groupby(roles):
        count = len(list(run))
        named += [(role, f"{at + 1}/{count}" if count > 1 else "") for at in range(count)]
    return named


def token_of(group: str, position: int, positions: int) -> str:
    """Return which token of its role a position is, from the key of its aligned group, which counts them.

    Args:
        group: for example "plain:1,2,1".
        position: from 0, a beginning-of-sequence token included.
        positions: tokens per prompt, likewise.
    """
    counts = [int(part) for part in group.rpartition(":")[2].split(",") if part.isdigit()]
    start = positions - sum(counts)
    for count in counts:
        if start <= position < start + count:
            return f"{position - start + 1}/{count}" if count > 1 else ""
        start += count
    return ""


def merged_top_nodes(nodes: Sequence[TopNode], positions: Mapping[str, int]) -> tuple[CircuitNode, ...]:
    """Merge the nodes that a record names: the same unit in the same role of several aligned groups is one.

    Args:
        nodes: the record's.
        positions: tokens per prompt, by aligned group.
    """
    found: dict[tuple[object, ...], list[TopNode]] = {}
    for node in nodes:
        token = "" if node.position is None else token_of(node.group, node.position, positions[node.group])
        key = node.layer, node.unit, node.coordinate, node.role or "all", token
        found.setdefault(key, []).append(node)
    merged = [
        CircuitNode(
            layer=own[0].layer,
            unit=own[0].unit,
            coordinate=own[0].coordinate,
            role=str(key[3]),
            token=str(key[4]),
            groups=len(own),
            score=sum(node.score for node in own) / len(own),
        )
        for key, own in found.items()
    ]
    return tuple(sorted(merged, key=lambda node: -abs(node.score)))


def of_record(record: Record) -> CircuitNodes:
    """Return the nodes that a record names, up to 20 over all aligned groups."""
    nodes = merged_top_nodes(record.top_nodes, {group.key: group.positions for group in record.groups})
    named = dict.fromkeys(place_name(node.role, node.token) for node in nodes)
    layers = record.cell.layers or range(record.counts.layers)
    return CircuitNodes(
        schema_version=1,
        cell=record.cell,
        identities=record.identities,
        draws=1,
        roles=tuple(named),
        layers=tuple(sorted({*layers, *(node.layer for node in nodes)})),
        candidates=None,
        nodes=nodes,
    )


def unit_name(node: CircuitNode) -> str:
    """Return how tables name a unit, an error node by its coordinate."""
    return str(node.unit) if node.coordinate is None else f"error {node.coordinate}"


CONDITIONS = (
    *("ablation", "error_policy", "score_reference", "score_split", "granularity"),
    *("metric", "attribution_draw", "seed", "layers"),
)
"""Fields of a cell that titles name where they are not as usual."""


def _usual(name: str) -> object:
    return CellConfig.model_fields[name].default


def node_table(found: CircuitNodes) -> Table:
    """Return the nodes as a table."""
    cell, draws = found.cell, found.draws
    measured = any(node.clean is not None for node in found.nodes)
    header: tuple[str, ...] = ("layer", "unit", "role", f"score{' [range of draws]' if draws > 1 else ''}")
    header += ("clean", "counter-\nfactual", "change", "direct", "raises", "lowers") if measured else ("groups",)
    rows = [tuple(Entry(text) for text in _row(node, measured=measured)) for node in found.nodes]
    unusual = [f"{name} {getattr(cell, name)}" for name in CONDITIONS if getattr(cell, name) != _usual(name)]
    under = ", ".join([cell.method, *unusual])
    title = f"{cell.model}, {cell.task}: the {len(rows)} best nodes of {cell.basis} under {under}; scores in logits"
    notes = [f"{unit_name(node)} of layer {node.layer}: {node.address}" for node in found.nodes if node.address]
    return Table(title, header, tuple(rows), tuple(notes))


def _row(node: CircuitNode, *, measured: bool) -> Iterator[str]:
    yield from (str(node.layer), unit_name(node), place_name(node.role, node.token))
    ends = f" [{node.low:z.2f}, {node.high:z.2f}]" if node.low is not None and node.high is not None else ""
    yield f"{node.score:z.2f}{ends}"
    if not measured:
        yield str(node.groups)
        return
    numbers = node.clean, node.counterfactual, node.change, node.direct
    yield from ("-" if value is None else f"{value:z.2f}" for value in numbers)
    yield from (" ".join(word.strip() for word in words) for words in (node.raised, node.lowered))


_FLAT = ("model", "task", "basis", "method", "ablation", "error_policy")
"""Fields of the cell that each row of a CSV file has."""


def nodes_csv(found: Sequence[CircuitNodes]) -> str:
    """Return the nodes of some cells as CSV, a row per node; words and prompts in JSON."""
    from basisbench.results.compare import inert

    text = io.StringIO()
    fields = [name for name in CircuitNode.model_fields if name != "prompts"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FLAT, *fields])
    for each in found:
        cell = [getattr(each.cell, name) for name in _FLAT]
        for node in each.nodes:
            values = node.model_dump(exclude={"prompts"})
            values["raised"], values["lowered"] = (" | ".join(values[name]) for name in ("raised", "lowered"))
            writer.writerow([inert(value) for value in (*cell, *values.values())])
    return text.getvalue()
