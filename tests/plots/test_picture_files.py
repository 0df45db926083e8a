"""Pictures of cost, and all the pictures of a results folder: their files, formats, folders and names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from basisbench.errors import BasisBenchError
from basisbench.plots.cost import plot_cost
from basisbench.plots.curves import plot_curves
from basisbench.plots.pictures import MOST_LINES, _basis_parts, _parts, plot_results
from basisbench.plots.style import basis_styles
from basisbench.results.frame import frame_of, read_results, summarise
from basisbench.results.record_fields import SuiteTasks
from helpers.drawn_figures import DISPLAY, drawn, title_of
from helpers.synthetic_records import TASKS, synthetic_record, synthetic_suite, write_suite

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]


# --- cost ---


def test_cost_against_sparsity() -> None:
    records = list(synthetic_suite(tasks=TASKS[:3], methods=("relp",), examples=24))
    records += [synthetic_record(t, "transcoder", name="never", ceiling=0.7, examples=24) for t in TASKS[:3]]
    summary = summarise(records)
    figure = plot_cost(summary, basis_styles(list(summary["basis"].unique()), DISPLAY), DISPLAY)
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes] == ["family mlp", "family attn", "family resid"]
    own = summary[(summary["basis"] == "mlp_act") & (summary["method"] == "relp")]
    points = [item for item in axes[0].get_lines() if item.get_marker() == DISPLAY.basis_styles["mlp_act"].marker]
    values = [(float(item.get_xdata()[0]), float(item.get_ydata()[0])) for item in points]
    assert (own["nodes_to_80"].median(), own["seconds"].median()) in [
        (pytest.approx(x), pytest.approx(y)) for x, y in values
    ]
    # A basis that never reaches 80%: hollow, right of all points that do.
    hollow = [item for item in axes[0].get_lines() if item.get_markerfacecolor() == "none"]
    assert len(hollow) == 1
    most = max(
        float(item.get_xdata()[0]) for item in axes[0].get_lines() if item not in hollow and item.get_marker() != "None"
    )
    assert float(hollow[0].get_xdata()[0]) > most
    assert "seconds" in axes[0].get_ylabel()
    assert "nodes per aligned group to 80%" in axes[0].get_xlabel()
    assert "3 tasks" in title_of(figure)


def test_cost_leaves_out_what_is_below_a_gate_and_who_lacks_a_task() -> None:
    records = [synthetic_record(task, basis) for task in TASKS[:3] for basis in ("mlp_act", "mlp_out", "resid")]
    records = [record for record in records if (record.cell.task, record.cell.basis) != (TASKS[1], "mlp_out")]
    gate = synthetic_record(TASKS[0], "resid", gap=0.2)
    records = [gate if record.id == gate.id else record for record in records]
    summary = summarise(records)
    figure = plot_cost(summary, basis_styles(list(summary["basis"].unique()), DISPLAY), DISPLAY)
    mlp, resid = drawn(figure)
    assert [mlp.get_title(), resid.get_title()] == ["family mlp", "family resid (2/3 tasks)"]
    assert "medians over 3 tasks but those below a gate" in title_of(figure)
    assert [text.get_text() for text in mlp.get_legend().get_texts()] == ["mlp_act", "mlp_out (2/3 tasks)"]
    for axes, basis in ((mlp, "mlp_act"), (resid, "resid")):
        cells = summary[(summary["basis"] == basis) & (summary["gate"] == "")]
        (point,) = [item for item in axes.get_lines() if item.get_marker() == "o"]
        assert list(point.get_xdata()) == [pytest.approx(cells["nodes_to_80"].median())]


def test_no_cost_is_drawn_where_nobody_has_all_tasks(tmp_path: Path) -> None:
    suite = SuiteTasks(name="demo", tasks=(TASKS[0], TASKS[1]))
    records = [
        synthetic_record(TASKS[0], basis).model_copy(update={"suite": suite}) for basis in ("mlp_act", "mlp_out")
    ]
    written = {path.stem for path in plot_results(records, tmp_path)}
    assert "faithfulness_mlp" in written
    assert "cost" not in written
    summary = summarise(records)
    with pytest.raises(BasisBenchError, match="nothing to draw: no basis has all tasks of the suite"):
        plot_cost(summary, basis_styles(list(summary["basis"].unique()), DISPLAY), DISPLAY)


# --- files ---


def test_records_at_hand_give_the_same_pictures_in_folders_of_their_conditions(tmp_path: Path) -> None:
    records = [synthetic_record(), synthetic_record(basis="transcoder", ablation="zero")]
    write_suite(tmp_path, records)
    read = read_results(tmp_path)
    written = plot_results(tmp_path, tmp_path / "paths")
    assert {path.parent.name for path in written} == {
        "conditions-1-pocket-llama-mean-coordinates-position-0",
        "conditions-2-pocket-llama-zero-coordinates-position-0",
    }
    plot_results(read, tmp_path / "read", summary=summarise(read))
    files = [sorted((tmp_path / name).rglob("*.png")) for name in ("paths", "read")]
    assert sorted(written) == files[0]
    for left, right in zip(*files, strict=True):
        assert left.relative_to(tmp_path / "paths") == right.relative_to(tmp_path / "read")
        assert left.read_bytes() == right.read_bytes()


def test_all_pictures_of_a_suite(tmp_path: Path) -> None:
    records = list(
        synthetic_suite(tasks=("ioi", "sva_rc"), bases=("mlp_act", "mlp_out", "resid"), methods=("relp", "ig"))
    )
    write_suite(tmp_path, records)
    seen: list[Path] = []
    written = plot_results(tmp_path, tmp_path / "pictures", progress=seen.append)
    assert seen == written
    assert {path.name for path in written} == {
        "faithfulness_mlp.png",
        "completeness_mlp.png",
        "faithfulness_bits_mlp.png",
        "faithfulness_units_mlp.png",
        "faithfulness_resid.png",
        "completeness_resid.png",
        "methods_mlp_act.png",
        "methods_mlp_out.png",
        "methods_resid.png",
        "cross_bases_methods.png",
        "cost.png",
    }
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 500
        assert path.stat().st_size < 300_000


@pytest.mark.parametrize("count", [1, 6, 7, 11, 12])
def test_names_are_shared_out_evenly_and_the_first_is_in_every_part(count: int) -> None:
    names = [f"method {number}" for number in range(count)]
    parts = _parts(names)
    assert {name for _, part in parts for name in part} == set(names)
    assert len({suffix for suffix, _ in parts}) == len(parts)
    sizes = [len(part) for _, part in parts]
    assert max(sizes) <= MOST_LINES
    assert max(sizes) - min(sizes) <= 1
    assert all(part[0] == names[0] for _, part in parts)


def test_controls_stand_with_what_they_control_where_lines_are_many() -> None:
    names = ["neurons", "outputs", "rotated", "sae", "permuted:sae", "random:sae", "transcoder", "permuted:transcoder"]
    controls = {name: name.partition(":")[2] for name in names if ":" in name}
    assert _basis_parts(names, controls) == [
        ("", ["neurons", "outputs", "rotated", "sae", "transcoder"]),
        ("_controls", ["neurons", "sae", "permuted:sae", "random:sae", "transcoder", "permuted:transcoder"]),
    ]
    more = [*names, "clt", "permuted:clt", "permuted:gone", "rotated:neurons"]
    controls = {name: name.partition(":")[2] for name in more if ":" in name}
    parts = _basis_parts(more, controls)
    assert parts[2] == ("_controls_2", ["neurons", "clt", "permuted:clt", "permuted:gone", "rotated:neurons"])
    assert {name for _, part in parts for name in part} == set(more)
    assert max(len(part) for _, part in parts) <= MOST_LINES
    assert _basis_parts(names[:5], {"permuted:sae": "sae"}) == [("", names[:5])]  # few enough for one picture
    assert _basis_parts(names, {}) == _parts(names)


def test_other_formats_and_small_results(tmp_path: Path) -> None:
    write_suite(tmp_path, [synthetic_record()])
    written = plot_results(tmp_path, tmp_path / "out", formats=("svg", "pdf"))
    assert {path.name for path in written} == {
        f"{stem}.{suffix}"
        for stem in ("faithfulness_mlp", "completeness_mlp", "faithfulness_bits_mlp", "faithfulness_units_mlp", "cost")
        for suffix in ("svg", "pdf")
    }
    assert (tmp_path / "out" / "cost.pdf").read_bytes().startswith(b"%PDF")


def test_layers_are_named_and_never_mixed(tmp_path: Path) -> None:
    records = [synthetic_record(basis=basis) for basis in ("mlp_act", "resid", "sae_resid")]
    restricted = [synthetic_record(basis=basis, layers=(0, 2)) for basis in ("resid", "sae_resid")]
    frame = frame_of([records[0], *restricted])
    assert "resid on layers 0, 2 only" in title_of(plot_curves(frame))
    with pytest.raises(BasisBenchError, match=r"2 sets of conditions.*all layers; .*resid on layers 0, 2 only"):
        plot_curves(frame_of([*records, *restricted]))
    written = plot_results([*records, *restricted], tmp_path)
    folders = {path.parent.name for path in written if path.stem == "faithfulness_resid"}
    assert len(folders) == 2
    assert {path.parent.name for path in written if path.stem == "faithfulness_mlp"} < folders


def test_at_most_six_lines_a_panel(tmp_path: Path) -> None:
    names = [f"plug_in_{letter}" for letter in "abcdefg"]
    records = [synthetic_record()]
    for name in names:
        other = synthetic_record(basis="mlp_out")
        records.append(other.model_copy(update={"cell": other.cell.model_copy(update={"basis": name})}))
    write_suite(tmp_path, records)
    written = {path.name for path in plot_results(tmp_path, tmp_path / "out")}
    assert {"faithfulness_mlp_1.png", "faithfulness_mlp_2.png"} <= written
    assert "faithfulness_mlp.png" not in written


@pytest.mark.parametrize("style", ["ordinary", "paper"])
def test_a_name_with_dollar_signs_is_no_mathematics(tmp_path: Path, style: str) -> None:
    """Matplotlib would refuse to draw what it cannot read as mathematics."""
    from typing import cast

    from basisbench.plots.look import StyleName

    name = r"$\bad$ x"
    records = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"basis": basis, "task": "a $\\b$ task"})})
        for basis in (name, "mlp_act")
        for record in [synthetic_record("ioi", "mlp_act", "relp")]
    ]
    paths = plot_results(records, tmp_path, style=cast("StyleName", style), formats=("svg",))
    assert any(path.suffix == ".svg" for path in paths)


@pytest.mark.slow
def test_neither_pyplot_nor_torch_is_loaded(tmp_path: Path) -> None:
    write_suite(tmp_path, [synthetic_record()])
    code = (
        "import sys, basisbench\n"
        f"frame = basisbench.load_results({str(tmp_path)!r})\n"
        f"basisbench.plot_curves(frame).savefig({str(tmp_path / 'x.png')!r})\n"
        "loaded = {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
