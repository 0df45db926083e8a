"""A circuit's graph in the files that other programs read: as published, and what their viewers do with it."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import networkx as nx
import pytest

from basisbench.results.circuit_graph import CircuitGraph, circuit_tracer_layout, graphml, node_ids
from helpers.graph_schema import SCHEMA
from helpers.graphs import synthetic_graph
from helpers.report_pages import HOSTILE

PAGE = "https://www.neuronpedia.org/gpt2-small/{layer}-tres-dc/{unit}"


@pytest.fixture(scope="module")
def graph() -> CircuitGraph:
    """Units with pages, coordinates of errors, tokens, logits."""
    return synthetic_graph(page=PAGE)


@pytest.fixture(scope="module")
def layout(graph: CircuitGraph) -> dict[str, Any]:
    """The same as a viewer reads it."""
    found: dict[str, Any] = json.loads(json.dumps(circuit_tracer_layout(graph), allow_nan=False))
    return found


def kinds(layout: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [node for node in layout["nodes"] if node["feature_type"] == kind]


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_the_layout_is_as_published(hostile: str) -> None:
    jsonschema.validate(circuit_tracer_layout(synthetic_graph(hostile=hostile)), SCHEMA)


@pytest.mark.parametrize("change", [
    lambda layout: layout["nodes"][0].update(feature=None),
    lambda layout: layout["nodes"][0].pop("clerp"),
    lambda layout: layout["qParams"].update(supernodes=["a group"]),
    lambda layout: layout["metadata"].update(node_threshold=None),
    lambda layout: layout["links"][0].update(weight="1"),
])  # fmt: skip
def test_the_schema_refuses_what_a_reader_would(layout: dict[str, Any], change: Any) -> None:
    other = json.loads(json.dumps(layout))
    change(other)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(other, SCHEMA)


def test_ids_are_unique_and_links_run_between_them(layout: dict[str, Any], graph: CircuitGraph) -> None:
    ids = [node["node_id"] for node in layout["nodes"]]
    assert len({*ids}) == len(ids) == len(graph.nodes.roles) + len(graph.nodes.nodes) + 1
    # The viewers call a feature by layer, feature and position, and a node by `jsNodeId`.
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in layout["nodes"]}) == len(ids)
    assert len({node["jsNodeId"] for node in layout["nodes"]}) == len(ids)
    assert {end for link in layout["links"] for end in (link["source"], link["target"])} <= {*ids}
    assert len({(link["source"], link["target"]) for link in layout["links"]}) == len(graph.edges)


def test_units_are_found_again_by_the_number_that_packs_them(layout: dict[str, Any], graph: CircuitGraph) -> None:
    units = [node for node in graph.nodes.nodes if node.unit != "error"]
    for node, shown in zip(units, kinds(layout, "cross layer transcoder"), strict=True):
        diagonal = (math.isqrt(8 * shown["feature"] + 1) - 1) // 2
        unit = shown["feature"] - diagonal * (diagonal + 1) // 2
        assert (diagonal - unit, unit) == (node.layer, node.unit)
        assert shown["vis_link"] == node.address
        assert shown["activation"] == node.clean
        assert layout["metadata"]["prompt_tokens"][shown["ctx_idx"]].split(" ")[0] == node.role


def test_errors_tokens_and_logits_are_what_viewers_take_them_for(layout: dict[str, Any], graph: CircuitGraph) -> None:
    errors = kinds(layout, "mlp reconstruction error")
    assert [-1 - node["feature"] for node in errors] == [
        node.coordinate for node in graph.nodes.nodes if node.unit == "error"
    ]
    assert [node["layer"] for node in kinds(layout, "embedding")] == ["E"] * len(graph.nodes.roles)
    (logits,) = kinds(layout, "logit")
    assert float(logits["clerp"].split("(p=")[1].split(")")[0]) == graph.probability  # as both viewers read it
    assert int(logits["layer"]) == len(graph.nodes.layers) + 1


def test_a_link_is_positive_where_the_answer_needs_it(layout: dict[str, Any], graph: CircuitGraph) -> None:
    assert [link["weight"] for link in layout["links"]] == [-edge.score for edge in graph.edges]


def test_the_slider_of_nodes_keeps_the_best(layout: dict[str, Any], graph: CircuitGraph) -> None:
    shares = [node["influence"] for node in layout["nodes"] if "influence" in node]
    scores = [abs(node.score) for node in graph.nodes.nodes]
    assert shares[-1] == pytest.approx(1)
    assert shares == pytest.approx([sum(scores[: at + 1]) / sum(scores) for at in range(len(scores))])


def test_neuronpedia_is_told_its_own_names_where_all_pages_are_of_one_source(layout: dict[str, Any]) -> None:
    assert layout["metadata"]["scan"] == "gpt2-small"
    assert layout["metadata"]["feature_details"] == {"neuronpedia_source_set": "tres-dc"}
    for page in ("", "https://www.neuronpedia.org/gpt2-small/{layer}-set{unit}/{unit}", "https://example.org/{unit}"):
        other: Any = circuit_tracer_layout(synthetic_graph(page=page))
        assert other["metadata"]["scan"] == "some-model"
        assert "feature_details" not in other["metadata"]


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_graphml_comes_back_as_it_was(hostile: str) -> None:
    graph = synthetic_graph(page=PAGE, hostile=hostile)
    back = nx.parse_graphml(graphml(graph))
    ids = node_ids(graph)
    assert isinstance(back, nx.DiGraph)
    assert list(back.nodes) == list(ids.values())
    assert back.graph["task"] == graph.nodes.cell.task
    for at, node in enumerate(graph.nodes.nodes):
        values = back.nodes[ids[f"node:{at}"]]
        names = ("layer", "coordinate", "score", "low", "high", "clean", "counterfactual", "direct", "address")
        assert {name: values.get(name) for name in names} == {name: getattr(node, name) for name in names}
        assert values.get("unit", "error") == node.unit
        assert values["role"].split(" ")[0] == node.role.split(" ")[0]
        assert graph.nodes.roles[values["position"]] == values["role"]
    assert {
        (ids[edge.source], ids[edge.target]): (edge.score, abs(edge.score), edge.weight) for edge in graph.edges
    } == {(a, b): (values["score"], values["weight"], values["effect"]) for a, b, values in back.edges(data=True)}
