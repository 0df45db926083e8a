"""The page of results, what can be told without a browser: sources, labels, what stands beside what, prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from basisbench.errors import RecordError
from basisbench.plots.style import COLOURS, basis_styles
from basisbench.registry import Registry, load_registry
from basisbench.report import write, write_report
from basisbench.report.detail import field_descriptions
from basisbench.report.layout import Layout, lay_out
from basisbench.report.prompts import example_prompts, prompts_key
from basisbench.report.sources import Cell, Source, read_sources
from basisbench.results.compare import compare_table
from basisbench.results.frame import summarise
from basisbench.results.medians import median_table
from helpers.altered_records import scored_to, with_cell, without_effect
from helpers.report_pages import TASKS, reference_records
from helpers.synthetic_records import synthetic_record, write_suite


def laid_out(*records: Any, **more: Any) -> Layout:
    sources = [
        Source("run", Path("run"), "verified", None, tuple(Cell(r, Path(f"run/records/{r.id}.json")) for r in records))
    ]
    sources += [
        Source(
            name, Path(name), "self-reported", None, tuple(Cell(r, Path(f"{name}/records/{r.id}.json")) for r in own)
        )
        for name, own in more.items()
    ]
    return lay_out(sources, load_registry().display())


def column(layout: Layout, name: str, of: str = "columns") -> list[Any]:
    values: Any = layout.catalogue[of][name]  # type: ignore[index]
    return values if isinstance(values, list) else [values["texts"][code] for code in values["codes"]]


def test_a_tree_is_read_folder_by_folder(page_tree: Path) -> None:
    reference, rotor = read_sources(page_tree)
    assert (reference.name, reference.status, len(reference.cells)) == (
        "reference",
        "self-reported",
        len(reference_records()),
    )
    assert (rotor.name, rotor.status, len(rotor.cells)) == ("rotor", "self-reported", 2)
    assert rotor.card is not None
    assert rotor.card.code is not None
    assert rotor.card.code.revision == "0123abc"


def test_standing_is_asked_of_the_verification(page_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basisbench.report import sources

    def standing(folder: Path) -> str:
        return "verified" if folder.name == "rotor" else "self-reported"

    monkeypatch.setattr(sources, "standing", standing)
    assert [(source.name, source.status) for source in read_sources(page_tree)] == [
        ("reference", "self-reported"),
        ("rotor", "verified"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "invalid JSON"),
        ('{"title": "no name"}', "name: field required"),
        ('{"name": 3}', "name: input should be"),
        ('{"name": "a", "title": "b", "authors": ["c"], "link": "javascript:alert(1)"}', "link: string should match"),
    ],
)
def test_a_damaged_card_is_named(tmp_path: Path, content: str, told: str) -> None:
    write_suite(tmp_path, [synthetic_record()])
    (tmp_path / "submission.json").write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match=f"submission.json: {told}"):
        read_sources(tmp_path)


def settings_of(layout: Layout) -> list[Any]:
    found: Any = layout.catalogue["settings"]
    return list(found)


def test_a_basis_of_two_folders_is_named_after_the_second() -> None:
    record = synthetic_record(examples=10)
    own = record.model_copy(update={"identities": record.identities.model_copy(update={"code": {"basis": "ab" * 32}})})
    layout = laid_out(record, rotor=[own])
    assert column(layout, "basis") == ["mlp_act", "mlp_act [rotor]"]
    assert column(layout, "cell_id") == [record.id, own.id]
    assert list(layout.details[0]) == list(layout.curves[0]) == column(layout, "cell_id")
    assert column(layout, "source", "medians") == ["run", "rotor"]


def test_a_basis_of_another_model_keeps_its_name_in_whatever_folder() -> None:
    record = synthetic_record(examples=10)
    other = record.model_copy(
        update={
            "cell": record.cell.model_copy(update={"model": "another"}),
            "identities": record.identities.model_copy(update={"model": "cd" * 32}),
        }
    )
    layout = laid_out(record, another=[other])
    assert column(layout, "basis") == ["mlp_act", "mlp_act"]
    assert sorted(column(layout, "source", "medians")) == ["another", "run"]


def test_the_same_cell_in_two_folders_is_refused(tmp_path: Path) -> None:
    record = synthetic_record(examples=10)
    for name in ("one", "two"):
        write_suite(tmp_path / name, [record])
    with pytest.raises(RecordError, match="holds a record of the same cell as"):
        write_report(tmp_path, tmp_path / "page")


@pytest.mark.slow
def test_every_basis_looks_as_its_legend_says_however_many_there_are() -> None:
    """Each line style and marker that pictures may use has a dash and a symbol on the page."""
    layout = laid_out(*(synthetic_record(examples=4, name=f"basis_{index}") for index in range(40)))
    looks: Any = layout.catalogue["bases"]
    charts = (Path(write.__file__).parent / "page" / "charts.js").read_text(encoding="utf-8")
    assert len({(look["colour"], look["symbol"], look["dash"]) for look in looks}) == 40, "a look each"
    pictures = basis_styles([look["name"] for look in looks], load_registry().display())
    assert {look["name"]: look["colour"] for look in looks} == {
        name: COLOURS[style.colour] for name, style in pictures.items()
    }
    for symbol in {look["symbol"] for look in looks}:
        assert re.search(rf"^ +\"?{symbol}\"?: \"M", charts, re.MULTILINE), symbol


def test_settings_versions_data_and_layers_are_told_apart() -> None:
    plain = synthetic_record(basis="transcoder", examples=10, error_policy="coordinates")
    other_data = plain.model_copy(update={"identities": plain.identities.model_copy(update={"data": "ab" * 32})})
    records = [
        plain,
        synthetic_record(basis="transcoder", examples=10, error_policy="keep"),
        with_cell(plain, task_version="2"),
        other_data,
        with_cell(plain, layers=(0, 1)),
    ]
    layout = laid_out(*records)
    labels = dict(zip(column(layout, "cell_id"), column(layout, "task_label"), strict=True))
    assert labels[records[2].id] == "ioi v2"
    assert labels[other_data.id] == "ioi v1 (data abababab)"
    assert labels[records[1].id] == labels[plain.id] == f"ioi v1 (data {plain.identities.data[:8]})"
    settings = settings_of(layout)
    assert [len(own["rows"]) for own in settings] == [3, 1, 1]
    assert [own["short"] for own in settings] == [
        "error policy coordinates, layers all",
        "error policy coordinates, layers 0-1",
        "error policy keep, layers all",
    ]
    assert "layers 0-1 only" in settings[1]["title"]


def test_neurons_stand_in_the_setting_of_every_error_policy() -> None:
    neurons = synthetic_record(basis="mlp_act", examples=10, error_policy="coordinates")
    dictionaries = [
        synthetic_record(basis="transcoder", examples=10, error_policy=policy)
        for policy in ("coordinates", "node", "ablate")
    ]
    layout = laid_out(neurons, *dictionaries)
    keys = column(layout, "cell_id")
    in_settings = [{keys[row] for row in own["rows"]} for own in settings_of(layout)]
    assert in_settings == [{neurons.id, dictionary.id} for dictionary in dictionaries]
    under_node = next(iter(settings_of(layout)))["nodes_to_80_node"]
    nodes = dict(zip(keys, column(layout, "nodes_to_80"), strict=True))
    assert under_node == [nodes[neurons.id], nodes[dictionaries[1].id]]


def test_cells_that_differ_in_one_thing_stand_beside_each_other_and_nowhere_else() -> None:
    usual = synthetic_record(basis="transcoder", examples=10, error_policy="coordinates")
    held_in = with_cell(usual, score_split="evaluation")
    both = with_cell(held_in, score_reference="counterfactual")
    node = synthetic_record(basis="transcoder", examples=10, error_policy="node")
    other_task = with_cell(node, task="sva_rc")
    layout = laid_out(usual, held_in, both, node, other_task)
    keys = column(layout, "cell_id")
    beside: Any = layout.catalogue["beside"]
    found = {keys[row]: {(text, keys[other]) for _, text, other in entries} for row, entries in beside.items()}
    assert found == {
        usual.id: {("held in", held_in.id), ("errors as one node each", node.id)},
        held_in.id: {("held out", usual.id), ("scores for the counterfactual value", both.id)},
        both.id: {("scores for the ablation value", held_in.id)},
        node.id: {("error policy coordinates", usual.id)},
    }
    for own in settings_of(layout):
        assert not {usual.id, held_in.id} <= {keys[row] for row in own["rows"]}
        assert not {held_in.id, both.id} <= {keys[row] for row in own["rows"]}


@pytest.mark.slow
def test_marks_and_medians_are_those_of_the_tables() -> None:
    """Recomputed here with `compare_table` and `median_table` on the same records, label by label."""
    records = reference_records()
    layout = laid_out(*records)
    table = compare_table(summarise(records))
    shown: Any = layout.catalogue["shown"]
    keys = column(layout, "cell_id")
    count = 0
    for own in settings_of(layout):
        for row, bits in zip(own["rows"], own["best"], strict=True):
            (cell,) = [
                cell
                for _, cell in table[table["cell_id"] == keys[row]].iterrows()
                if f"error policy {cell['error_policy']}" in own["title"]
            ]
            assert [bool(bits & 1 << bit) for bit in range(len(shown))] == [cell[f"{name}_best"] for name in shown]
            count += bits > 0
    assert count > 20
    medians = median_table(summarise(records))
    names = ["error_policy", "score_split", "score_reference", "family", "method", "basis"]
    wanted = {tuple(row[names]): row for _, row in medians.iterrows()}
    found = list(zip(*(column(layout, name, "medians") for name in names), strict=True))
    assert sorted(found) == sorted(wanted)
    for place, key in enumerate(found):
        for name in ("nodes_to_80", "bits_to_80_low", "area_faithfulness_high", "seconds"):
            value = column(layout, name, "medians")[place]
            assert value == pytest.approx(wanted[key][name], rel=1e-5, nan_ok=True)
        of_suite = settings_of(layout)[column(layout, "setting", "medians")[place]]
        assert f"error policy {key[0]}" in of_suite["title"]
    attention = [place for place, key in enumerate(found) if key[3] == "attn" and key[0] == "coordinates"]
    assert {column(layout, "tasks", "medians")[place] for place in attention} == {len(TASKS) - 1}
    assert {column(layout, "tasks_asked", "medians")[place] for place in attention} == {len(TASKS)}


def test_where_scores_end_and_what_is_below_a_gate_reaches_the_page() -> None:
    record = scored_to(synthetic_record(examples=30), 700)
    layout = laid_out(record, without_effect(synthetic_record("sva_rc", examples=30)))
    assert column(layout, "scored_nodes")[0] == 700
    assert column(layout, "gate")[0] == ""
    assert "gap 0% of F(M)" in column(layout, "gate")[1]


def test_details_hold_every_field_but_values_per_example() -> None:
    record = reference_records()[0]
    detail: Any = laid_out(record).details[0][record.id]
    whole = record.model_dump(mode="json")
    assert detail["file"] == f"run/records/{record.id}.json"
    assert detail["record"].keys() == whole.keys()
    assert detail["record"]["clusters"] == {
        factor: f"{len(set(levels))} levels" for factor, levels in record.clusters.items()
    }
    for name in (
        "cell",
        "identities",
        "environment",
        "sources",
        "cost",
        "guard",
        "counts",
        "dropped",
        "groups",
        "top_nodes",
    ):
        assert detail["record"][name] == whole[name]
    assert detail["means"]["full"] == pytest.approx(sum(record.endpoints.full) / len(record.endpoints.full))
    assert detail["means"]["circuit"][3] == pytest.approx(sum(record.curve.circuit[3]) / len(record.curve.circuit[3]))


def test_every_field_is_described() -> None:
    described = field_descriptions()
    for path in (
        "created",
        "cell.layers",
        "identities.dictionary",
        "cost.seconds.curve",
        "guard.fvu",
        "top_nodes.score",
    ):
        assert described[path]


def test_prompts_are_of_the_nodes_task_and_template() -> None:
    record = synthetic_record("ioi")
    prompts: Any = example_prompts([record], load_registry())[prompts_key(record)]
    pairs = prompts["templates"]["then_gave/abba"]
    assert prompts["problem"] is None
    assert len(pairs) == 3
    for pair in pairs:
        roles = dict(pair["clean"])
        assert pair["answers"] == [roles["first"]]
        assert roles["giver"] == roles["second"] == pair["foils"][0]
    wanted = [
        pair.clean_text
        for pair in load_registry().get("task", "ioi").candidates("attribution", 0)
        if pair.template == "then_gave/abba"
    ]
    assert ["".join(text for _, text in pair["clean"]) for pair in pairs] == wanted[:3]


@dataclass(frozen=True)
class Broken:
    """A task that fails when it is asked."""

    name: str = "broken"
    version: str = "1"
    summary: str = ""

    def candidates(self, split: str, seed: int) -> Any:
        raise RuntimeError(f"{split} {seed}")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (with_cell(synthetic_record(), task="nobody's"), "no task named nobody's was registered"),
        (synthetic_record(task_version="7"), "version 7 of this task, and version 1 was registered"),
        (with_cell(synthetic_record(), task="broken"), r"failed when it was asked for them \(RuntimeError\)"),
    ],
)
def test_where_prompts_would_be_wrong_the_page_says_why_there_are_none(record: Any, told: str) -> None:
    registry: Registry = load_registry().adding((Broken(),), "test")
    prompts: Any = example_prompts([record], registry)[prompts_key(record)]
    assert prompts["templates"] == {}
    assert re.search(told, prompts["problem"])
