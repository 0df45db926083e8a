"""A circuit as a graph: its nodes by role, the edges between them, and the files that other programs read.

`circuit_tracer_layout` gives the JSON that circuit-tracer's viewer and Neuronpedia show, `graphml` what Gephi,
Cytoscape, yEd and networkx read (docs/circuits.md).
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import TypeAlias

from pydantic import Field

from basisbench.results.circuit_nodes import CONDITIONS, CircuitNode, CircuitNodes, place_name, unit_name
from basisbench.results.edge_file import Edge
from basisbench.results.schema import Count, Frozen, Name, NotNegative, Text, VersionOne
from basisbench.version import __version__

Json: TypeAlias = "dict[str, object]"

_PAGE = re.compile(r"https://(?:www\.)?neuronpedia\.org/(?P<model>[^/]+)/\d+-(?P<source>[^/]+)/\d+")
"""Address of a unit on Neuronpedia: model, layer and source set, unit."""


class CircuitGraph(Frozen):
    """The nodes of a circuit, merged over aligned groups by role, and the best edges between them."""

    schema_version: VersionOne = Field(description="version of this schema; superseded, never edited")
    nodes: CircuitNodes = Field(description="the nodes, best first; a token is named by its place in `roles`")
    method: Name = Field(description="how edges are scored")
    possible: Count = Field(description="edges that there can be, in some aligned group")
    scored: Count = Field(description="those of them with a score other than zero")
    edges: tuple[Edge, ...] = Field(
        description="the edges of the largest |score|, best first; means over the pairs of groups that have both ends"
    )
    tokens: tuple[Text, ...] = Field(description="a token at each place, as an example")
    prompt: Text = Field(description="the clean prompt that they are of, as far as it has the places")
    answer: Text = Field(default="", description="what it calls for, and")
    foil: Text = Field(default="", description="what it is compared with")
    probability: NotNegative = Field(
        description="mean over the evaluation pairs of the answer's probability, given that it is answer or foil"
    )


def node_ids(graph: CircuitGraph) -> dict[str, str]:
    """Return the id of every node in files, by its name in edges: tokens, nodes, then the logits.

    As in circuit-tracer: LAYER_UNIT_POSITION, with `E` for the embeddings and a layer of its own for the logits.
    Coordinate j of an error is unit `ej`.
    """
    found = graph.nodes
    ids = {f"token:{place}": f"E_{place}_{place}" for place in range(len(found.roles))}
    for index, node in enumerate(found.nodes):
        unit = node.unit if node.coordinate is None else f"e{node.coordinate}"
        ids[f"node:{index}"] = f"{node.layer}_{unit}_{place_of(found, node)}"
    ids["logits"] = f"{max(found.layers) + 2}_0_{len(found.roles) - 1}"
    return ids


def place_of(found: CircuitNodes, node: CircuitNode) -> int:
    """Return where a node is in `roles`."""
    return found.roles.index(place_name(node.role, node.token))


def label_of(node: CircuitNode) -> str:
    """Return a node's name in a graph: its unit, and the words that it raises and lowers where there are any."""
    words = [
        f"{verb} {' '.join(word.strip() for word in some[:3])}"
        for verb, some in (("raises", node.raised), ("lowers", node.lowered))
        if some
    ]
    return ": ".join(part for part in (unit_name(node), ", ".join(words)) if part)


def circuit_tracer_layout(graph: CircuitGraph, slug: str = "") -> Json:
    """Return a graph in circuit-tracer's layout (`frontend/graph_models.py`; Neuronpedia's `graph-schema.json` 1.0.0).

    Positive links support the answer there, so that weights are minus the scores; `influence` is the share of the
    summed |score| that nodes down to this one have, which the viewers' slider of nodes cuts at.

    Args:
        graph: the graph.
        slug: name of the graph among others; the task and the basis when "".
    """
    found, ids = graph.nodes, node_ids(graph)
    last = len(found.roles) - 1
    nodes: list[Json] = [
        _node(ids[f"token:{place}"], "E", place, place, "embedding", name, last)
        for place, name in enumerate(found.roles)
    ]
    sums = list(accumulate(abs(node.score) for node in found.nodes))
    for index, node in enumerate(found.nodes):
        nodes.append(
            _node(
                ids[f"node:{index}"],
                str(node.layer),
                # One number for layer and unit, as in `schema_version` 1; none of these is negative.
                _cantor(node.layer, int(node.unit)) if node.unit != "error" else -1 - (node.coordinate or 0),
                place_of(found, node),
                "cross layer transcoder" if node.unit != "error" else f"{found.cell.family} reconstruction error",
                label_of(node),
                last,
            )
            | {"influence": sums[index] / (sums[-1] or 1), "activation": node.clean}
            | ({"vis_link": node.address} if node.address else {})
        )
    # The viewers look for "(p=" in this text, and fail where it is missing.
    name = f'Output "answer - foil" (p={graph.probability:.3f})'
    layer = ids["logits"].partition("_")[0]
    nodes.append(
        _node(ids["logits"], layer, 0, last, "logit", name, last)
        | {"token_prob": graph.probability, "is_target_logit": True}
    )
    links = [
        {"source": ids[edge.source], "target": ids[edge.target], "weight": 0.0 - edge.score} for edge in graph.edges
    ]
    params = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": _metadata(graph, slug), "qParams": params, "nodes": nodes, "links": links}


def _node(name: str, layer: str, feature: int, place: int, kind: str, label: str, last: int) -> Json:
    return {
        "node_id": name,
        "feature": feature,
        "layer": layer,
        "ctx_idx": place,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": last - place,
        "jsNodeId": name,
        "clerp": label,
    }


def _cantor(layer: int, unit: int) -> int:
    return (layer + unit) * (layer + unit + 1) // 2 + unit


def _metadata(graph: CircuitGraph, slug: str) -> Json:
    found = graph.nodes
    cell = found.cell
    pages = [_PAGE.fullmatch(node.address) for node in found.nodes if node.address]
    sources = {(page["model"], page["source"]) for page in pages if page}
    (model, source) = sources.pop() if len(sources) == 1 else (cell.model, None)
    settings = {name: getattr(cell, name) for name in ("task", "basis", "method", *CONDITIONS)}
    return {
        "slug": slug or re.sub(r"[^a-z0-9]+", "-", f"{cell.task} {cell.basis}".lower()).strip("-"),
        "scan": model,
        "transcoder_list": [],
        "prompt_tokens": list(found.roles),
        "prompt": f"{cell.task}: {graph.prompt}",
        "schema_version": 1,
        "info": {
            "description": f"{len(found.nodes)} best nodes of {cell.basis} on {cell.task}; positions are roles",
            "generator": {"name": "BasisBench", "version": __version__},
        },
        "generation_settings": settings | {"model": cell.model, "edge_method": graph.method},
        **({"feature_details": {"neuronpedia_source_set": source}} if source else {}),
    }


def graphml(graph: CircuitGraph) -> str:
    """Return a graph as GraphML. `weight` is |score|, for layouts and paths take weights that are not negative."""
    import networkx as nx

    found, ids = graph.nodes, node_ids(graph)
    made = nx.DiGraph(task=found.cell.task, basis=found.cell.basis, model=found.cell.model, edge_method=graph.method)
    for place, name in enumerate(found.roles):
        made.add_node(ids[f"token:{place}"], kind="token", label=name, role=name, position=place)
    for index, node in enumerate(found.nodes):
        values = node.model_dump(include={"layer", "coordinate", "score", "low", "high", "in_draws"})
        values |= node.model_dump(include={"clean", "counterfactual", "change", "direct", "address"})
        if node.unit != "error":
            values["unit"] = node.unit
        values |= {"role": found.roles[place_of(found, node)], "position": place_of(found, node)}
        values |= {"kind": "error" if node.unit == "error" else "unit", "label": label_of(node)}
        made.add_node(ids[f"node:{index}"], **{name: value for name, value in values.items() if value is not None})
    made.add_node(ids["logits"], kind="logits", label="answer - foil", position=len(found.roles) - 1)
    for edge in graph.edges:
        effect = {} if edge.weight is None or not math.isfinite(edge.weight) else {"effect": edge.weight}
        made.add_edge(ids[edge.source], ids[edge.target], weight=abs(edge.score), score=edge.score, **effect)
    return "\n".join(nx.generate_graphml(made)) + "\n"
