"""Pictures: they hold what they claim, nothing leaves the figure, nothing is clipped silently."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from basisbench.errors import BasisBenchError
from basisbench.frame import frame_of, read_results, summarise
from basisbench.plot import plot_curves, plot_results
from basisbench.plot_cost import plot_cost
from basisbench.plot_style import (
    BASIS_STYLES,
    METHOD_STYLES,
    basis_styles,
    method_styles,
)
from basisbench.record import Record
from synthetic_records import TASKS, synthetic_record, synthetic_suite, write_suite


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return frame_of(list(synthetic_suite()))


def drawn(figure: Figure) -> list[Axes]:
    """Draw the figure and return the axes in use; no visible text may stick out of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    bounds = figure.bbox
    for artist in figure.findobj(Text):
        assert isinstance(artist, Text)
        if not artist.get_visible() or not artist.get_text().strip():
            continue
        box = artist.get_window_extent(renderer)
        if box.width == 0 or not is_shown(figure, artist):
            continue
        assert box.x0 >= bounds.x0 - 1, artist.get_text()
        assert box.x1 <= bounds.x1 + 1, artist.get_text()
        assert box.y0 >= bounds.y0 - 1, artist.get_text()
        assert box.y1 <= bounds.y1 + 1, artist.get_text()
    return [axes for axes in figure.axes if axes.axison]


def is_shown(figure: Figure, artist: Text) -> bool:
    """Tick labels outside the axis limits and those of unused axes exist but are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if artist in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return axes.axison and low <= tick.get_loc() <= high
    return True


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title_of(figure: Figure) -> str:
    title = figure.get_suptitle()
    return title.replace("\n", " ")


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [item for item in axes.get_lines() if item.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


# --- curves ---


def test_a_grid_of_all_tasks(frame: pd.DataFrame) -> None:
    figure = plot_curves(frame[frame["family"] == "mlp"], quantity="faithfulness")
    axes = drawn(figure)
    assert len(axes) == 9
    assert [ax.get_title() for ax in axes] == [f"{task} (version 1)" for task in sorted(TASKS)]
    assert legend_labels(figure) == [
        "mlp_act",
        "mlp_out",
        "mlp_act_rotated",
        "sae_mlp_out",
        "transcoder",
        "ideal",
    ]
    for part in ("method relp", "pocket-llama", "mean ablation", "error policy node", "granularity position", "seed 0"):
        assert part in title_of(figure)
    assert "n = 100" in title_of(figure)
    assert axes[-1].get_xlabel() == "circuit size k (nodes)"
    assert "faithfulness" in figure.get_supylabel()
    for ax in axes:
        assert ax.get_xscale() == "symlog"
        assert ax.get_ylim() == (-0.25, 1.5)
        labels = [label.get_text() for label in axes[-1].get_xticklabels()]
        assert labels[:3] == ["0", "1", "10"]


def test_lines_and_bands_are_the_frame_s_numbers(frame: pd.DataFrame) -> None:
    rows = frame[(frame["family"] == "attn") & (frame["task"] == "ioi")]
    (left, right) = drawn(plot_curves(rows, method="ig"))
    own = rows[(rows["basis"] == "attn_out") & (rows["method"] == "ig")]
    for axes, quantity in ((left, "faithfulness"), (right, "completeness")):
        x, y = line(axes, "attn_out")
        np.testing.assert_array_equal(x, own["size"])
        np.testing.assert_array_equal(y, own[quantity])
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(own[f"{quantity}_low"].min())
        assert band[:, 1].max() == pytest.approx(own[f"{quantity}_high"].max())
        assert axes.get_ylabel() == quantity


def test_size_0_has_a_place_on_the_axis(frame: pd.DataFrame) -> None:
    (axes,) = drawn(
        plot_curves(frame[(frame["family"] == "resid") & (frame["task"] == "ioi")], quantity="faithfulness")
    )
    at = [axes.transData.transform((x, 0))[0] for x in (0, 1, 10)]
    left = axes.get_window_extent().x0
    assert left < at[0] < at[1] < at[2]


def test_values_outside_the_window_are_marked_and_told(frame: pd.DataFrame) -> None:
    rows = frame[(frame["task"] == "user_age") & (frame["family"] == "mlp")]
    worst = rows[(rows["basis"] == "sae_mlp_out") & (rows["method"] == "relp")]["faithfulness"].max()
    assert worst > 1.5
    figure = plot_curves(rows, quantity="faithfulness")
    (axes,) = drawn(figure)
    triangles = [item for item in axes.get_lines() if item.get_marker() == "^" and item.get_linestyle() == "None"]
    assert len(triangles) == 1
    ydata = np.asarray(triangles[0].get_ydata())
    assert ((ydata < 1.5) & (ydata > 1.4)).all()
    assert f"outside: {worst:.2g}" in [text.get_text() for text in axes.texts]
    assert "Triangles" in figure.legends[0].get_title().get_text()
    calm = plot_curves(rows[rows["basis"] == "mlp_act"], quantity="faithfulness")
    assert "Triangles" not in calm.legends[0].get_title().get_text()


def test_curves_that_are_not_defined_are_named() -> None:
    records = [synthetic_record(basis="mlp_act"), synthetic_record(basis="mlp_out", gap=0.0)]
    (axes,) = drawn(plot_curves(frame_of(records), quantity="faithfulness"))
    assert any("not defined" in text.get_text() and "mlp_out" in text.get_text() for text in axes.texts)
    with pytest.raises(ValueError, match="unpack"):
        line(axes, "mlp_out")


def test_bits_on_the_axis(frame: pd.DataFrame) -> None:
    rows = frame[(frame["family"] == "mlp") & (frame["task"] == "ioi") & (frame["method"] == "relp")]
    (axes,) = drawn(plot_curves(rows, quantity="faithfulness", x="bits"))
    x, _ = line(axes, "transcoder")
    np.testing.assert_array_equal(x, rows[rows["basis"] == "transcoder"]["bits"])
    assert "bits" in axes.get_xlabel()


def test_a_line_per_method(frame: pd.DataFrame) -> None:
    figure = plot_curves(frame[frame["basis"] == "mlp_out"], quantity="faithfulness", lines="method")
    assert len(drawn(figure)) == 9
    assert legend_labels(figure) == ["relp", "ig", "ixg", "magnitude", "random", "ideal"]
    with pytest.raises(BasisBenchError, match="rows of one basis"):
        plot_curves(frame, lines="method")


def test_the_cross_of_neurons_and_methods(frame: pd.DataFrame) -> None:
    rows = frame[frame["basis"].isin(["mlp_act", "mlp_out"]) & frame["method"].isin(["ig", "relp"])]
    figure = plot_curves(rows, quantity="faithfulness", lines="basis and method")
    assert legend_labels(figure)[:4] == ["mlp_act, relp", "mlp_act, ig", "mlp_out, relp", "mlp_out, ig"]
    lines = [item for item in drawn(figure)[0].get_lines() if "," in str(item.get_label())]
    # Colour tells the basis, line style the method.
    assert len({to_hex(item.get_color()) for item in lines}) == 2
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_several_families_in_one_picture(frame: pd.DataFrame) -> None:
    figure = plot_curves(frame[frame["task"] == "ioi"])
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes[::2]] == [f"ioi (version 1), {family}" for family in ("mlp", "attn", "resid")]


def test_what_cannot_be_drawn_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(BasisBenchError, match="nothing to draw"):
        plot_curves(frame[frame["task"] == "no such task"])
    with pytest.raises(BasisBenchError, match="no results for method patching"):
        plot_curves(frame, method="patching")
    with pytest.raises(BasisBenchError, match="need the columns of `load_results`; missing: size, bits"):
        plot_curves(summarise([synthetic_record()]))
    mixed = frame_of([synthetic_record(), synthetic_record(basis="mlp_out", ablation="zero")])
    with pytest.raises(BasisBenchError, match=r"2 settings.*mean ablation.*zero ablation"):
        plot_curves(mixed)


# --- long names ---

LONG = [f"sae:gemma-scope-2-270m-pt-res-all:layer_*_width_{width}_l0_small" for width in ("16k", "65k", "262k")]


@pytest.fixture(scope="module")
def long_names() -> list[Record]:
    names = [*LONG, "sae:/home/x/folder", "clt:mntss/clt-gemma-2-2b-426k"]
    records = [synthetic_record("ioi", "sae_resid", method, name=name) for name in names for method in ("relp", "ig")]
    return [*records, synthetic_record("ioi", "resid"), synthetic_record("ioi", "resid", "ig")]


def test_long_names_are_short_in_the_legend_and_full_below(long_names: list[Record]) -> None:
    figure = plot_curves(frame_of(long_names), quantity="faithfulness")
    drawn(figure)
    labels = {"sae:16k", "sae:65k", "sae:262k", "sae:folder", "clt:clt-gemma-2-2b-426k"}
    assert set(legend_labels(figure)) == {"resid", "ideal", *labels}
    below = figure.legends[0].get_title().get_text()
    for label, name in zip(("sae:16k", "sae:65k", "sae:262k"), LONG, strict=True):
        assert f"{label} = {name}" in below.splitlines()
    assert "resid =" not in below
    methods = plot_curves(frame_of(long_names[:2]), quantity="faithfulness", lines="method")
    assert " = " not in methods.legends[0].get_title().get_text(), "no basis is named in a legend of methods"
    summary = summarise(long_names)
    cost = plot_cost(summary, basis_styles(list(summary["basis"].unique())))
    (axes,) = drawn(cost)
    assert labels < {text.get_text() for text in axes.get_legend().get_texts()}
    assert f"sae:16k = {LONG[0]}" in cost.legends[0].get_title().get_text().splitlines()


def test_a_line_of_a_long_name_holds_its_own_numbers(long_names: list[Record]) -> None:
    frame = frame_of(long_names)
    (axes,) = drawn(plot_curves(frame, quantity="faithfulness", method="ig"))
    for label, name in zip(("sae:16k", "sae:65k", "sae:262k"), LONG, strict=True):
        own = frame[(frame["basis"] == name) & (frame["method"] == "ig")]
        np.testing.assert_array_equal(line(axes, label)[1], own["faithfulness"])


def test_names_that_look_alike_in_a_file_name_keep_their_pictures(tmp_path: Path) -> None:
    names = ("my:basis", "my_basis", "my/basis", "x" * 200)
    records = [synthetic_record("ioi", "mlp_out", method, name=name) for name in names for method in ("relp", "ig")]
    written = plot_results(records, tmp_path)
    assert len(set(written)) == len(written)
    assert len([path for path in written if path.name.startswith("methods_")]) == len(names)


# --- styles ---


def test_styles_are_fixed_and_distinct() -> None:
    for table in (BASIS_STYLES, METHOD_STYLES):
        assert len(set(table.values())) == len(table)
    few, many = basis_styles(["transcoder", "mine"]), basis_styles(["mlp_act", "mine", "transcoder", "yours"])
    assert few["transcoder"] == many["transcoder"] == BASIS_STYLES["transcoder"]
    assert len(set(many.values())) == 4
    assert method_styles(["new"])["new"] not in METHOD_STYLES.values()
    family = [BASIS_STYLES[name] for name in ("mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder")]
    for attribute in ("colour", "line", "marker"):
        assert len({getattr(style, attribute) for style in family}) == 5


# --- cost ---


def test_cost_against_sparsity() -> None:
    records = list(synthetic_suite(tasks=TASKS[:3]))
    summary = summarise(records)
    figure = plot_cost(summary, basis_styles(list(summary["basis"].unique())))
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes] == ["family mlp", "family attn", "family resid"]
    own = summary[(summary["basis"] == "mlp_act") & (summary["method"] == "relp")]
    points = [item for item in axes[0].get_lines() if item.get_marker() == "o"]
    values = [(float(item.get_xdata()[0]), float(item.get_ydata()[0])) for item in points]
    assert (own["seconds"].median(), own["nodes_to_80"].median()) in [
        (pytest.approx(x), pytest.approx(y)) for x, y in values
    ]
    # transcoder under magnitude never reaches 80%: hollow, above all points that do.
    hollow = [item for item in axes[0].get_lines() if item.get_markerfacecolor() == "none"]
    assert len(hollow) == 1
    top = max(
        float(item.get_ydata()[0]) for item in axes[0].get_lines() if item not in hollow and item.get_marker() != "None"
    )
    assert float(hollow[0].get_ydata()[0]) > top
    assert "seconds" in axes[0].get_xlabel()
    assert "nodes to 80%" in axes[0].get_ylabel()
    assert "3 tasks" in title_of(figure)


def test_rows_may_come_in_any_order(frame: pd.DataFrame) -> None:
    rows = frame[(frame["family"] == "resid") & (frame["task"] == "ioi")]
    figures = [plot_curves(part, quantity="faithfulness") for part in (rows, rows.sample(frac=1.0, random_state=0))]
    for left, right in zip(*(drawn(figure)[0].get_lines() for figure in figures), strict=True):
        np.testing.assert_array_equal(left.get_xydata(), right.get_xydata())


# --- files ---


def test_records_at_hand_give_the_same_pictures(tmp_path: Path) -> None:
    records = [synthetic_record(), synthetic_record(basis="transcoder")]
    write_suite(tmp_path, records)
    read = read_results(tmp_path)
    plot_results(tmp_path, tmp_path / "paths")
    plot_results(read, tmp_path / "read", summary=summarise(read))
    files = [sorted((tmp_path / name).iterdir()) for name in ("paths", "read")]
    assert len(files[0]) == len(files[1]) > 0
    for left, right in zip(*files, strict=True):
        assert left.name == right.name
        assert left.read_bytes() == right.read_bytes()


def test_all_pictures_of_a_suite(tmp_path: Path) -> None:
    records = list(
        synthetic_suite(
            tasks=("ioi", "sva_rc"), bases=("mlp_act", "mlp_out", "transcoder", "resid"), methods=("relp", "ig")
        )
    )
    write_suite(tmp_path, records)
    seen: list[Path] = []
    written = plot_results(tmp_path, tmp_path / "pictures", progress=seen.append)
    assert seen == written
    assert {path.name for path in written} == {
        "faithfulness_mlp.png",
        "completeness_mlp.png",
        "faithfulness_bits_mlp.png",
        "faithfulness_resid.png",
        "completeness_resid.png",
        "methods_mlp_act.png",
        "methods_mlp_out.png",
        "methods_transcoder.png",
        "methods_resid.png",
        "cross_neurons_methods.png",
        "cost.png",
    }
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 500
        assert path.stat().st_size < 300_000


def test_other_formats_and_small_results(tmp_path: Path) -> None:
    write_suite(tmp_path, [synthetic_record()])
    written = plot_results(tmp_path, tmp_path / "out", formats=("png", "pdf"))
    assert {path.name for path in written} == {
        f"{stem}.{suffix}"
        for stem in ("faithfulness_mlp", "completeness_mlp", "faithfulness_bits_mlp", "cost")
        for suffix in ("png", "pdf")
    }
    assert (tmp_path / "out" / "cost.pdf").read_bytes().startswith(b"%PDF")


def test_settings_go_to_folders_of_their_own(tmp_path: Path) -> None:
    write_suite(tmp_path, [synthetic_record(), synthetic_record(ablation="zero")])
    written = plot_results(tmp_path, tmp_path / "out")
    assert {path.parent.name for path in written} == {
        "setting-1-pocket-llama-mean-node-position-0",
        "setting-2-pocket-llama-zero-node-position-0",
    }


def test_layers_are_named_and_never_mixed(tmp_path: Path) -> None:
    records = [synthetic_record(basis=basis) for basis in ("mlp_act", "resid", "sae_resid")]
    restricted = [synthetic_record(basis=basis, layers=(0, 2)) for basis in ("resid", "sae_resid")]
    frame = frame_of([records[0], *restricted])
    assert "resid on layers 0, 2 only" in title_of(plot_curves(frame))
    with pytest.raises(BasisBenchError, match=r"2 settings.*all layers; .*resid on layers 0, 2 only"):
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

    from basisbench.plot import Look

    name = r"$\bad$ x"
    records = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"basis": basis, "task": "a $\\b$ task"})})
        for basis in (name, "mlp_act")
        for record in [synthetic_record("ioi", "mlp_act", "relp")]
    ]
    paths = plot_results(records, tmp_path, style=cast("Look", style), formats=("svg",))
    assert any(path.suffix == ".svg" for path in paths)


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
