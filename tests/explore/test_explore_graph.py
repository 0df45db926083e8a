"""The graph of a circuit from Python and from the command line, on the pocket model."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import jsonschema
import networkx as nx
import pytest

import basisbench as bb
from basisbench.attribution.edge_scores import choose_nodes, edge_scores
from basisbench.cli import main
from basisbench.registry import load_registry
from basisbench.results.circuit_graph import CircuitGraph
from basisbench.results.circuit_nodes import CircuitNodes, place_name, role_tokens, unit_name
from basisbench.runs.session import Session
from basisbench.types import Ablation
from helpers.graph_schema import SCHEMA

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pairs() -> Session:
    """A few pairs on the pocket model, in several aligned groups."""
    return bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=24, evaluation=24)


def described(pairs: Session, basis: str, count: int = 12, ablation: Ablation = "mean") -> CircuitNodes:
    return bb.describe_nodes(pairs, bb.score(pairs, basis, "relp", ablation=ablation), count)


def of_some_groups(pairs: Session, basis: str) -> CircuitNodes:
    """Return nodes whose role some groups lack. An opening is the same in both prompts: only zero moves it."""
    found = described(pairs, basis, 200, "zero")
    return found.model_copy(
        update={"nodes": tuple(node for node in found.nodes if node.groups < len(pairs.groups))[:6]}
    )


def edges_by_name(found: CircuitNodes, pairs: Session) -> dict[tuple[str, str], tuple[float, float]]:
    """Score edges group by group, and average each over the pairs of the groups that have both ends."""
    basis = pairs.basis(load_registry().get("basis", found.cell.basis), found.cell.layers).basis
    sums: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    for group in pairs.groups:
        context = group.attribution
        context.start(found.cell.ablation, found.cell.score_reference, found.cell.error_policy, means=context)
        tokens = [place_name(*name) for name in role_tokens(context.pairs.roles)]
        here = [node for node in found.nodes if place_name(node.role, node.token) in tokens]
        chosen = [
            (
                [site.layer for site in basis.sites].index(node.layer),
                tokens.index(place_name(node.role, node.token)),
                node.unit if node.unit != "error" else -1 - (node.coordinate or 0),
            )
            for node in here
        ]
        if not here:
            continue
        scores = edge_scores(context, choose_nodes(context, basis, chosen), "relp")
        assert scores.weight is not None
        names = [f"{node.layer} {unit_name(node)} {place_name(node.role, node.token)}" for node in here]
        for row, source in enumerate([*tokens, *names]):
            for column, target in enumerate([*names, "logits"]):
                value = len(context.pairs), float(scores.score[row, column]), float(scores.weight[row, column])
                sums[source, target].append(value)
    return {
        ends: (sum(n * a for n, a, _ in parts) / sum(n for n, *_ in parts),
               sum(n * b for n, _, b in parts) / sum(n for n, *_ in parts))
        for ends, parts in sums.items()
    }  # fmt: skip


def check_edges(graph: CircuitGraph, pairs: Session) -> None:
    """Compare a graph with all of its edges with the slow twin."""
    found = graph.nodes
    ends = {f"token:{place}": name for place, name in enumerate(found.roles)} | {"logits": "logits"}
    ends |= {
        f"node:{at}": f"{node.layer} {unit_name(node)} {place_name(node.role, node.token)}"
        for at, node in enumerate(found.nodes)
    }
    expected = {name: value for name, value in edges_by_name(found, pairs).items() if value[0]}
    given = {(ends[edge.source], ends[edge.target]): (edge.score, edge.weight) for edge in graph.edges}
    assert given.keys() == expected.keys()
    assert graph.scored == len(expected) <= graph.possible
    for name, (score, weight) in expected.items():
        assert given[name] == pytest.approx((score, weight), rel=2e-4, abs=1e-9)
    sizes = [abs(edge.score) for edge in graph.edges]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("basis", ["mlp_act", "sae_mlp_out", "transcoder", "clt"])
def test_an_edge_is_the_mean_over_the_groups_that_have_both_ends(pairs: Session, basis: str) -> None:
    found = described(pairs, basis)
    if basis == "clt":
        some = of_some_groups(pairs, basis)
        found = some.model_copy(update={"nodes": (*some.nodes, *found.nodes[:6])})
        assert len(found.nodes) == 12
    graph = bb.graph(found, pairs, edges=10**6)
    check_edges(graph, pairs)
    few = bb.graph(found, pairs, edges=7)
    assert few.edges == graph.edges[:7]


def test_a_group_without_nodes_is_left_out(pairs: Session) -> None:
    found = of_some_groups(pairs, "mlp_act")
    graph = bb.graph(found.model_copy(update={"nodes": found.nodes[:1]}), pairs)
    check_edges(graph, pairs)
    assert {edge.target for edge in graph.edges} == {"node:0", "logits"}


def test_the_answer_is_as_likely_as_the_model_says(pairs: Session) -> None:
    graph = bb.graph(described(pairs, "mlp_act", 2), pairs)
    shares = []
    for group in pairs.groups:
        batch = group.evaluation.pairs
        rows = group.full_logits.double().softmax(-1)
        for row, answers, foils in zip(rows, batch.answers, batch.foils, strict=True):
            answer, foil = (float(row[int(ids[0])]) for ids in (answers, foils))
            shares.append(answer / (answer + foil))
    assert graph.probability == pytest.approx(sum(shares) / len(shares), rel=1e-4)


def test_what_does_not_fit_is_refused(pairs: Session) -> None:
    found = described(pairs, "mlp_act", 2)
    other = bb.load_pairs("sva_rc", pairs.model, attribution=24, evaluation=24, seed=1)
    with pytest.raises(bb.BasisBenchError, match="data differs"):
        bb.graph(found, other)
    with pytest.raises(bb.BasisBenchError, match="no edge method named 'eap'"):
        bb.graph(found, pairs, "eap")
    with pytest.raises(bb.BasisBenchError, match="nodes: expected a CircuitNodes"):
        bb.graph(pairs, pairs)  # type: ignore[arg-type]
    with pytest.raises(bb.BasisBenchError, match="edges: expected a whole number from 1, found 0"):
        bb.graph(found, pairs, edges=0)
    with pytest.raises(bb.BasisBenchError, match="no node has a score"):
        bb.graph(found.model_copy(update={"nodes": ()}), pairs)


def test_the_command_writes_three_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["graph", "sva_simple", "--basis", "mlp_act", "--examples", "8", "--nodes", "5", "-k", "9", "--draws", "1"]
    out, picture = tmp_path / "made" / "graph", tmp_path / "circuit.png"
    assert main([*words, "--out", str(out), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "5 nodes and 9 of " in capsys.readouterr().out
    layout = json.loads((out / "graph.json").read_text(encoding="utf-8"))
    jsonschema.validate(layout, SCHEMA)
    read = nx.read_graphml(out / "graph.graphml")
    assert {*read.nodes} == {node["node_id"] for node in layout["nodes"]}
    assert {*read.edges} == {(link["source"], link["target"]) for link in layout["links"]}
    assert layout["metadata"]["slug"] in (out / "graph.html").read_text(encoding="utf-8")
    assert len([*out.iterdir()]) == 3


def test_mistakes_are_told_before_a_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ["graph", "sva_simple", "--basis", "mlp_act", "--model", str(tmp_path / "no-model")]
    for out in ("file", "file/below"):
        assert main([*words, "--out", str(tmp_path / out)]) == 2
    assert main([*words, "--out", str(tmp_path / "new"), "--method", "relpp"]) == 2
    for name in ("circuit.gif", "nowhere/circuit.png"):
        assert main([*words, "--out", str(tmp_path / "new"), "--plot", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 5
    assert "circuit.gif: expected a name that ends in .png, .svg, .pdf" in told[3]
    assert "circuit.png: there is no folder" in told[4]
    assert all("is a file; --out names a folder for the graph" in line for line in told[:2])
    assert "did you mean relp?" in told[2]
    assert not (tmp_path / "new").exists()
