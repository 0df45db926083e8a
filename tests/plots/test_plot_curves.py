"""Pictures of curves: they hold what they claim, nothing leaves the figure, nothing is clipped silently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from basisbench.errors import BasisBenchError
from basisbench.plots.cost import plot_cost
from basisbench.plots.curves import plot_curves
from basisbench.plots.pictures import plot_results
from basisbench.plots.style import COLOURS, basis_styles, method_styles
from basisbench.protocols import Basis, BasisSpec
from basisbench.registry import built_in
from basisbench.results.frame import frame_of, summarise
from basisbench.results.record import Record
from basisbench.types import Style
from helpers.altered_records import without_effect
from helpers.drawn_figures import DISPLAY, drawn, legend_labels, line, title_of
from helpers.synthetic_records import TASKS, synthetic_record

if TYPE_CHECKING:
    from basisbench.models.model import Model

pytestmark = pytest.mark.filterwarnings("error")


# --- curves ---


@pytest.mark.slow
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
    for part in (
        "method relp",
        "pocket-llama",
        "mean ablation",
        "error policy coordinates",
        "granularity position",
        "seed 0",
    ):
        assert part in title_of(figure)
    assert "n = 24" in title_of(figure)
    assert axes[-1].get_xlabel() == "circuit size k (nodes per aligned group)"
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
        measured = own[own[quantity].notna()]  # sizes that bisection added have no complement
        assert (len(measured) < len(own)) == (quantity == "completeness")
        np.testing.assert_array_equal(x, measured["size"])
        np.testing.assert_array_equal(y, measured[quantity])
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
    records = [synthetic_record(basis="mlp_act"), without_effect(synthetic_record(basis="mlp_out"))]
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


@pytest.mark.slow
def test_a_line_per_method(frame: pd.DataFrame) -> None:
    figure = plot_curves(frame[frame["basis"] == "mlp_out"], quantity="faithfulness", lines="method")
    assert len(drawn(figure)) == 9
    assert legend_labels(figure) == ["relp", "ig", "ixg", "magnitude", "random", "ideal"]
    with pytest.raises(BasisBenchError, match="rows of one basis"):
        plot_curves(frame, lines="method")


@pytest.mark.slow
def test_the_cross_of_neurons_and_methods(frame: pd.DataFrame) -> None:
    rows = frame[frame["basis"].isin(["mlp_act", "mlp_out"]) & frame["method"].isin(["ig", "relp"])]
    figure = plot_curves(rows, quantity="faithfulness", lines="basis and method")
    assert legend_labels(figure)[:4] == ["mlp_act, relp", "mlp_act, ig", "mlp_out, relp", "mlp_out, ig"]
    lines = [item for item in drawn(figure)[0].get_lines() if "," in str(item.get_label())]
    # Colour tells the basis, line style the method.
    assert len({to_hex(item.get_color()) for item in lines}) == 2
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


@pytest.mark.slow
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
    with pytest.raises(BasisBenchError, match=r"2 sets of conditions.*mean ablation.*zero ablation"):
        plot_curves(mixed)


def test_rows_may_come_in_any_order(frame: pd.DataFrame) -> None:
    rows = frame[(frame["family"] == "resid") & (frame["task"] == "ioi")]
    figures = [plot_curves(part, quantity="faithfulness") for part in (rows, rows.sample(frac=1.0, random_state=0))]
    for left, right in zip(*(drawn(figure)[0].get_lines() for figure in figures), strict=True):
        np.testing.assert_array_equal(left.get_xydata(), right.get_xydata())


# --- long names ---

LONG = [f"sae:gemma-scope-2-270m-pt-res-all:layer_*_width_{width}_l0_small" for width in ("16k", "65k", "262k")]


@pytest.fixture(scope="module")
def long_names() -> list[Record]:
    names = [*LONG, "sae:/home/x/folder", "clt:mntss/clt-gemma-2-2b-426k"]
    records = [synthetic_record("ioi", "sae_resid", method, name=name) for name in names for method in ("relp", "ig")]
    return [*records, synthetic_record("ioi", "resid"), synthetic_record("ioi", "resid", "ig")]


@pytest.mark.slow
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
    cost = plot_cost(summary, basis_styles(list(summary["basis"].unique()), DISPLAY), DISPLAY)
    (axes,) = drawn(cost)
    assert labels < {text.get_text() for text in axes.get_legend().get_texts()}
    assert f"sae:16k = {LONG[0]}" in cost.legends[0].get_title().get_text().splitlines()


def test_a_line_of_a_long_name_holds_its_own_numbers(long_names: list[Record]) -> None:
    frame = frame_of(long_names)
    (axes,) = drawn(plot_curves(frame, quantity="faithfulness", method="ig"))
    for label, name in zip(("sae:16k", "sae:65k", "sae:262k"), LONG, strict=True):
        own = frame[(frame["basis"] == name) & (frame["method"] == "ig")]
        np.testing.assert_array_equal(line(axes, label)[1], own["faithfulness"])


@pytest.mark.slow
def test_names_that_look_alike_in_a_file_name_keep_their_pictures(tmp_path: Path) -> None:
    names = ("my:basis", "my_basis", "my/basis", "x" * 200)
    records = [synthetic_record("ioi", "mlp_out", method, name=name) for name in names for method in ("relp", "ig")]
    written = plot_results(records, tmp_path)
    assert len(set(written)) == len(written)
    assert len([path for path in written if path.name.startswith("methods_")]) == len(names)


# --- styles ---


def test_styles_are_fixed_and_distinct() -> None:
    for table in (DISPLAY.basis_styles, DISPLAY.method_styles):
        assert len(set(table.values())) == len(table)
    few = basis_styles(["transcoder", "mine"], DISPLAY)
    many = basis_styles(["mlp_act", "mine", "transcoder", "yours"], DISPLAY)
    assert few["transcoder"] == many["transcoder"] == DISPLAY.basis_styles["transcoder"]
    assert len(set(many.values())) == 4
    assert method_styles(["new"], DISPLAY)["new"] not in DISPLAY.method_styles.values()
    family = [DISPLAY.basis_styles[n] for n in ("mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder")]
    for attribute in ("colour", "line", "marker"):
        assert len({getattr(style, attribute) for style in family}) == 5


def test_every_basis_has_a_style_of_its_own_however_many_there_are() -> None:
    many = basis_styles([f"mine_{number}" for number in range(300)], DISPLAY)
    assert len(set(many.values())) == 300
    taken = replace(DISPLAY, basis_styles={**DISPLAY.basis_styles, "copy": DISPLAY.basis_styles["mlp_act"]})
    assert basis_styles(["copy", "mlp_act"], taken)["mlp_act"] == DISPLAY.basis_styles["mlp_act"]
    assert basis_styles(["copy", "mlp_act"], taken)["copy"] != DISPLAY.basis_styles["mlp_act"]
    # Bases of different panels too, without styles from outside.
    frame = frame_of([synthetic_record(basis="mlp_out", name="a"), synthetic_record(basis="resid", name="b")])
    figure = plot_curves(frame, quantity="faithfulness")
    first, second, _ = figure.legends[0].get_lines()
    assert (first.get_color(), first.get_marker()) != (second.get_color(), second.get_marker())


@pytest.mark.parametrize("wrong", [("red", "solid", "o"), ("black", "wavy", "o"), ("black", "solid", "8")])
def test_a_style_that_pictures_or_the_page_cannot_draw_is_refused(wrong: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"^Style: .*expected one of"):
        Style(*wrong)


def test_every_built_in_basis_and_method_declares_its_style() -> None:
    """A table of styles in the harness once gave one to `cross_layer_transcoder`, a basis that is called `clt`."""
    assert set(DISPLAY.basis_styles) == {entry.name for entry in built_in().of("basis")}
    assert set(DISPLAY.method_styles) == {entry.name for entry in built_in().of("method")}
    declared = DISPLAY.basis_styles["clt"]
    for others in (["mlp_act"], ["mlp_act", "mine", "sae_mlp_out"], []):
        assert basis_styles(["clt", *others], DISPLAY)["clt"] == declared
    figure = plot_curves(frame_of([synthetic_record(), synthetic_record(basis="transcoder", name="clt")]))
    drawn_line = next(item for item in drawn(figure)[0].get_lines() if item.get_label() == "clt")
    assert (to_hex(drawn_line.get_color()).upper(), drawn_line.get_linestyle()) == (COLOURS[declared.colour], "-")
    assert declared.line == "solid"


def neurons(model: Model) -> Basis:
    raise AssertionError(f"a picture builds no basis for {model}")


def test_a_plug_in_s_own_place_and_style_reach_the_picture() -> None:
    declared = Style("orange", "dotted", "*")
    spec = BasisSpec("mine", "mlp", "of a stranger", build=neurons, order=0, style=declared)
    display = built_in().adding([spec], "a test").display()
    frame = frame_of([synthetic_record(), synthetic_record(basis="transcoder", name="mine")])
    figure = plot_curves(frame, quantity="faithfulness", display=display)
    assert legend_labels(figure) == ["mine", "mlp_act", "ideal"]
    handle = figure.legends[0].get_lines()[0]
    assert (handle.get_color(), handle.get_marker()) == (COLOURS["orange"], "*")
