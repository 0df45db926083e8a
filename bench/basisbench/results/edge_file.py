"""The best edges between the nodes of a circuit, as a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from basisbench.results.record import CellConfig, Identities
from basisbench.results.record_fields import TopNode
from basisbench.results.schema import Count, Frozen, Name, Positive, Rounded, Text, VersionOne

End = Annotated[str, Field(pattern=r"^(token:\d{1,9}|node:\d{1,9}|logits)$")]
"""An end of an edge: a token by its position, a node by its place in the group's `nodes`, or the logits."""


class Edge(Frozen):
    """The effect of one node, or token, on one later node, or on the logits."""

    source: End = Field(description='where it starts: "token:POSITION" or "node:PLACE"')
    target: End = Field(description='where it ends: "node:PLACE" or "logits"')
    score: Rounded = Field(
        description="effect on the metric of moving the source off its clean value for this target alone, in logits"
    )
    weight: Rounded | None = Field(
        description="what that move does to the target's coordinate directly, to first order and in the coordinate's "
        "own units; null where the method does not tell it"
    )

    @classmethod
    def between(cls, source: int, target: int, *, tokens: int, nodes: int, score: float, weight: float | None) -> Edge:
        """Return an edge by its place in a table: rows are tokens, then nodes; columns nodes, then the logits.

        Args:
            source: the row.
            target: the column.
            tokens: how many rows are tokens.
            nodes: how many nodes there are.
            score: its score.
            weight: its weight.
        """
        start = f"token:{source}" if source < tokens else f"node:{source - tokens}"
        return cls(source=start, target="logits" if target == nodes else f"node:{target}", score=score, weight=weight)


class GroupEdgeList(Frozen):
    """The edges of one aligned group."""

    group: Name = Field(description="key of the aligned group")
    roles: tuple[Text, ...] = Field(description="role of each position")
    nodes: tuple[TopNode, ...] = Field(description="the nodes that edges run between, best first")
    possible: Count = Field(description="edges that there can be: from an earlier site, and from no later position")
    scored: Count = Field(description="those of them with a score other than zero")
    edges: tuple[Edge, ...] = Field(description="the edges of the largest |score|, best first")


class EdgeList(Frozen):
    """The k edges of the largest |score| of each aligned group."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    cell: CellConfig = Field(description="the question that the nodes belong to")
    identities: Identities = Field(description="digests of the model, the dictionary and the pairs")
    method: Name = Field(description="how edges are scored")
    k: Positive = Field(description="edges per aligned group; a group that has fewer has all of its edges")
    groups: tuple[GroupEdgeList, ...] = Field(description="the aligned groups")
