"""`basisbench nodes`: of records and of a model, as a table, JSON, CSV and a picture; mistakes in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from basisbench.cli import main
from basisbench.plots.node_map import layers_and_roles, plot_node_map
from basisbench.results.circuit_nodes import CircuitNodes, of_record
from basisbench.results.record import Record
from basisbench.results.record_fields import TopNode
from basisbench.types import ModelSpec
from helpers.synthetic_records import synthetic_suite, write_suite


def top_nodes(record: Record) -> tuple[TopNode, ...]:
    """Return three nodes of a record."""
    places = [(0, 1, "subject", -2.0), (1, 1, "subject", 1.0), (1, 0, "opening", -0.5)]
    return tuple(
        TopNode(group=record.groups[0].key, layer=layer, position=position, role=role, unit=3, score=score)
        for layer, position, role, score in places
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six records."""
    folder = tmp_path_factory.mktemp("records")
    bases = ("mlp_act", "mlp_out", "resid")
    plain = synthetic_suite(tasks=("ioi", "sva_rc"), bases=bases, methods=("relp",), examples=6)
    write_suite(folder, [record.model_copy(update={"top_nodes": top_nodes(record)}) for record in plain])
    return folder


def test_records_give_a_table_a_file_and_a_picture(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"nodes.{name}" for name in ("json", "csv", "png")}
    words = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert main(["nodes", str(records), "--task", "ioi", *words]) == 0
    text = capsys.readouterr().out
    assert text.count("best nodes of") == 3
    assert text.count("\nmlp_act  mlp_out  places") == 1  # resid is another family
    found = [CircuitNodes.model_validate(each) for each in json.loads(files["json"].read_text(encoding="utf-8"))]
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text(encoding="utf-8"))))
    assert len(rows) == sum(len(each.nodes) for each in found)
    assert {row["task"] for row in rows} == {"ioi"}
    assert files["png"].stat().st_size > 1000


def test_a_model_gives_whole_nodes(tiny_llama: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["--task", "sva_simple", "--basis", "mlp_out", "--method", "ixg", "--method", "random"]
    limits = ["--examples", "16", "-k", "3", "--draws", "1", "--json", "-"]
    assert main(["nodes", "--model", f"tiny={tiny_llama.path}", *question, *limits]) == 0
    one, other = (CircuitNodes.model_validate(each) for each in json.loads(capsys.readouterr().out))
    assert (one.cell.method, other.cell.method) == ("ixg", "random")
    assert [len(each.nodes) for each in (one, other)] == [3, 3]
    assert one.candidates == 2 * 16 * len(one.roles)
    assert len(one.nodes[0].raised) == 5


@pytest.mark.slow
def test_two_models_are_compared(tiny_llama: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model", f"tiny={tiny_llama.path}", "--model", f"twin={tiny_llama.path}"]
    question = ["--task", "sva_simple", "--basis", "mlp_out", "--method", "ixg", "--examples", "16", "-k", "3"]
    assert main(["nodes", *models, *question, "--draws", "1"]) == 0
    table = capsys.readouterr().out.partition("Overlap of circuits")[2]
    assert "3 of 3, 3" in table
    assert "1.00" in table


@pytest.mark.parametrize(("words", "expected"), [
    ([], "nodes needs RESULTS, or --task NAME and --basis NAME to run a model"),
    (["RECORDS", "--model", "pocket-llama"], "nodes reads RESULTS or runs a --model, not both"),
    (["RECORDS", "--task", "ioi", "--basis", "clt"], "no record of task ioi, basis clt in "),
    (["RECORDS", "--plot", "nodes.gif"], "nodes.gif: expected a name that ends in .png, .svg, .pdf"),
    (["nowhere"], "nowhere"),
    (["--task", "ioi", "--basis", "mlp_atc"], "no basis named 'mlp_atc'; did you mean mlp_act"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(
    words: list[str], expected: str, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodes", *(str(records) if word == "RECORDS" else word for word in words)]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert expected in found.err
    assert found.err.count("\n") == 1


def test_a_picture_sums_scores_by_layer_and_role(records: Path) -> None:
    from basisbench.errors import BasisBenchError
    from basisbench.results.frame import read_results

    found = [of_record(record) for record in read_results([records])]
    table = layers_and_roles(found[0])
    assert table.shape == (len(found[0].layers), len(found[0].roles))
    assert table.sum() == pytest.approx(sum(abs(node.score) for node in found[0].nodes))
    figure = plot_node_map(found[:4])
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.array_equal(np.asarray(drawn[0]), table)
    assert len(drawn) == 4
    with pytest.raises(BasisBenchError, match="1 to 12 circuits that name nodes, found 18"):
        plot_node_map(found * 3)
