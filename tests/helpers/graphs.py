"""Graphs of circuits that no model made, for tests of what writes and draws them."""

from __future__ import annotations

import numpy as np

from basisbench.results.circuit_graph import CircuitGraph
from basisbench.results.circuit_nodes import CircuitNode, CircuitNodes, NodePrompt
from basisbench.results.edge_file import Edge
from basisbench.results.record import CellConfig, Identities

ROLES = ("bos", "opening 1/2", "opening 2/2", "subject", "complementizer", "article", "clause_subject", "clause_verb")
TOKENS = ("<s>", "At", " night", " the", " kid", " that", " boy", " sees")
WORDS = (" is", " are", " was", " were", " how")


def synthetic_graph(
    nodes: int = 12, edges: int = 40, *, layers: int = 4, hostile: str = "", page: str = ""
) -> CircuitGraph:
    """Return a graph of units and some coordinates of errors, whose edges run upward and to the right.

    Args:
        nodes: how many.
        edges: how many at most; ends are drawn at random.
        layers: of the model.
        hostile: what stands where names of strangers stand.
        page: addresses of the units, with `{layer}` and `{unit}`.
    """
    draw = np.random.default_rng(0)
    roles = (*ROLES[:-1], hostile or ROLES[-1])
    scores = np.sort(draw.exponential(size=nodes))[::-1] * draw.choice([-1, -1, 1], size=nodes)
    made = []
    for at, score in enumerate(scores.tolist()):
        layer, place = int(draw.integers(layers)), int(draw.choice(len(roles), p=(0, *[0.1] * 4, 0.1, 0.2, 0.3)))
        role, _, token = roles[place].partition(" ") if place in (1, 2) else (roles[place], "", "")
        error = at % 5 == 4
        made.append(
            CircuitNode(
                layer=layer, unit="error" if error else at, coordinate=at if error else None, role=role, token=token,
                groups=1, pairs=8, score=score, low=score - 0.1, high=score + 0.1, in_draws=3,
                clean=draw.normal(), counterfactual=draw.normal(), change=1.5, direct=score / 2,
                raised=(hostile or WORDS[0], *WORDS[2:]), lowered=WORDS[1:],
                prompts=tuple(
                    NodePrompt(group="g", side=side, tokens=TOKENS, values=tuple(draw.normal(size=len(TOKENS))))
                    for side in ("clean", "counterfactual")
                ),
                address=page.format(layer=layer, unit=at) if page and not error else None,
            )
        )  # fmt: skip
    cell = CellConfig(
        model="some-model", task=hostile or "sva_rc", task_version="1", basis="transcoder", family="mlp",
        method="relp", attribution_pairs=8, evaluation_pairs=8,
    )  # fmt: skip
    found = CircuitNodes(
        schema_version=1,
        cell=cell,
        identities=Identities(model="ab" * 32, dictionary="cd" * 32, data="ef" * 32),
        draws=3,
        roles=roles,
        layers=tuple(range(layers)),
        candidates=1000,
        nodes=tuple(made),
    )
    kept = _edges(draw, found, edges)
    return CircuitGraph(
        schema_version=1, nodes=found, method="relp", possible=10 * len(kept) + 1, scored=len(kept) + 3,
        edges=kept, tokens=TOKENS, prompt="At night the kid that the boy sees", probability=0.93,
    )  # fmt: skip


def _edges(draw: np.random.Generator, found: CircuitNodes, most: int) -> tuple[Edge, ...]:
    places = [found.roles.index(f"{node.role} {node.token}".strip()) for node in found.nodes]
    ends = {(f"node:{at}", "logits") for at, place in enumerate(places) if place == len(found.roles) - 1}
    for _ in range(40 * most):
        if len(ends) >= most:
            break
        a, b = (int(end) for end in draw.integers(len(places), size=2))
        if found.nodes[a].layer < found.nodes[b].layer and places[a] <= places[b]:
            ends.add((f"node:{a}", f"node:{b}"))
        ends.add((f"token:{places[b]}", f"node:{b}"))
    sizes = np.sort(draw.exponential(size=len(ends)) ** 2)[::-1] * draw.choice([-1, 1], size=len(ends))
    order = draw.permutation(len(ends))[:most]
    pairs = [sorted(ends)[place] for place in order]
    return tuple(
        Edge(source=a, target=b, score=float(size) / 10, weight=float(size))
        for (a, b), size in zip(pairs, sizes, strict=False)
    )
