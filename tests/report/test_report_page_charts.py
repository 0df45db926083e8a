"""The charts of the page of results in a browser: what they show is what the records say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from basisbench.report.sources import read_sources
from basisbench.results.frame import frame_of
from basisbench.results.medians import median_table
from helpers.report_pages import (
    Opened,
    drawn,
    hover_text,
    lines_of,
    usual,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("quantity", "figure"), [("faithfulness", 0), ("completeness", 1)])
def test_a_curves_hover_value_equals_the_records(opened: Opened, page_tree: Path, quantity: str, figure: int) -> None:
    page = opened("curves")
    page.select_option("#curve-controls [name=task_label]", "sva_rc")
    page.select_option("#curve-controls [name=family]", "resid")
    page.uncheck("#curve-legend label:has-text('sae_resid') input")
    plots = drawn(page, "#curve-figures")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#curve-figures .plot')].every(plot => plot.data.length === 2)"
    )
    records = [cell.record for cell in read_sources(page_tree)[0].cells]
    frame = frame_of([r for r in records if (r.cell.task, r.cell.basis, r.cell.method) == ("sva_rc", "resid", "relp")])
    assert frame["completeness"].isna().any(), "bisected sizes have no complement"
    frame = frame[frame[quantity].notna()]
    for index in (0, 6, 9):
        point = frame.iloc[index]
        text = hover_text(page, plots.nth(figure), "resid", index)
        ends = ", ".join(f"{point[f'{quantity}_{end}']:.4f}" for end in ("low", "high"))
        assert f"{quantity} {point[quantity]:.4f} [{ends}]" in text
        assert f"{point['size']} nodes per group, " in text
        assert f"{point['all_units']:.0f} units in all groups" in text


def test_curves_are_drawn_in_the_pictures_colours_with_bands(opened: Opened) -> None:
    from basisbench.plots.style import COLOURS
    from basisbench.registry import built_in

    page = opened("curves")
    page.select_option("#curve-controls [name=task_label]", "user_gender")
    plot = drawn(page, "#curve-figures").first
    declared = built_in().display().basis_styles
    names = ["mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder"]
    page.wait_for_function("() => document.querySelector('#curve-figures .plot').data.length === 10")
    assert [(line["name"], line["colour"]) for line in lines_of(plot)] == [
        (name, COLOURS[declared[name].colour]) for name in names
    ]
    page.uncheck("#curve-controls [name=bands]")
    page.wait_for_function("() => document.querySelector('#curve-figures .plot').data.length === 5")
    page.select_option("#curve-controls [name=x]", "bits")
    page.wait_for_function(
        "() => document.querySelector('#curve-figures .plot').layout.xaxis.title.text.startsWith('bits')"
    )
    page.select_option("#curve-controls [name=x]", "all_units")
    page.wait_for_function(
        "() => document.querySelector('#curve-figures .plot').layout.xaxis.title.text.startsWith('distinct units')"
    )


def test_other_policies_are_thin_lines_and_levels_beside_a_dictionarys_own(opened: Opened, page_tree: Path) -> None:
    page = opened("curves")
    page.select_option("#curve-controls [name=task_label]", "ioi")
    plots = drawn(page, "#curve-figures")
    assert page.input_value("#curve-controls [name=beside]") == "policies"
    page.wait_for_function("() => document.querySelector('#curve-note').textContent.includes('Thin: a dictionary')")
    lines = {line["name"]: line for line in lines_of(plots.first)}
    own, thin, level = (lines[f"transcoder{end}"] for end in ("", ", errors as one node each", ", errors at reference"))
    assert own["colour"] == thin["colour"] == level["colour"]
    assert own["width"] > thin["width"]
    frame = frame_of([cell.record for cell in read_sources(page_tree)[0].cells])
    rows = frame[(frame["task"] == "ioi") & (frame["basis"] == "transcoder") & (frame["method"] == "relp")]
    of = {policy: rows[rows["error_policy"] == policy]["faithfulness"] for policy in ("node", "ablate")}
    assert thin["y"] == pytest.approx(list(of["node"]), rel=1e-5)
    assert level["y"] == pytest.approx([of["ablate"].iloc[-1]] * 2, rel=1e-5)
    assert not any(name.startswith("mlp_act,") for name in lines)
    assert not any("reference" in line["name"] for line in lines_of(plots.nth(1))), "no level of completeness"
    page.select_option("#curve-controls [name=beside]", "held in")
    page.wait_for_function("() => document.querySelector('#curve-note').textContent.includes('Thin: held in')")
    assert [line["name"] for line in lines_of(plots.first) if "," in line["name"]] == ["transcoder, held in"]


def test_a_curve_is_faint_where_the_order_is_random(opened: Opened) -> None:
    page = opened("curves")
    page.select_option("#curve-controls [name=task_label]", "sva_rc")
    plot = drawn(page, "#curve-figures").first
    page.wait_for_function("() => document.querySelector('#curve-note').textContent.includes('random order')")
    own, beyond, tick = plot.evaluate(
        "plot => plot.data.filter(trace => trace.name === 'sae_mlp_out' && trace.meta)"
        ".map(trace => [[...trace.x], trace.opacity ?? 1, trace.marker.symbol])"
    )
    assert max(own[0]) <= 800 < max(beyond[0])
    assert beyond[0][0] == own[0][-1] == tick[0][0]
    assert beyond[1] < own[1] == 1
    assert tick[2] == "line-ns-open"
    assert "random order" in page.locator("#curve-values tbody tr", has_text="sae_mlp_out").last.text_content()


def test_cost_points_are_medians_over_the_suites_tasks(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened("cost")
    plots = drawn(page, "#cost-figures")
    assert plots.count() == 3
    points = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('#cost-figures .plot')].flatMap(plot => plot.data.map("
        "trace => [trace.name, [trace.x[0], trace.y[0], trace.error_x?.array[0], trace.error_x?.arrayminus[0]]])))"
    )
    medians = median_table(usual(reference)).set_index(["basis", "method"])
    for basis in ("resid", "sae_attn_out", "mlp_out"):
        own = medians.loc[(basis, "relp")]
        nodes = own["nodes_to_80"]
        ends = [own["nodes_to_80_high"] - nodes, nodes - own["nodes_to_80_low"]]
        assert points[basis] == pytest.approx([nodes, own["seconds"], *ends], rel=1e-4, abs=0.01)
    assert "attn: user_gender: " in page.inner_text("#cost-left")
    page.select_option("#cost-controls [name=task_label]", "user_gender")
    page.select_option("#cost-controls [name=method]", "ixg")
    page.select_option("#cost-controls [name=y]", "peak_memory_bytes")
    page.select_option("#cost-controls [name=x]", "bits_to_80")
    page.wait_for_function(
        "() => document.querySelector('#cost-figures .plot').layout?.yaxis.title.text === 'memory (MiB)'"
    )
    table = page.locator("#cost-values tbody tr", has_text="transcoder").all_text_contents()
    assert sum(">" in row.split("[")[0] for row in table) == 1
    cell = usual(reference)
    cell = cell[(cell["basis"] == "transcoder") & (cell["task"] == "user_gender")].iloc[0]
    fit = page.locator("#fit-values tbody tr", has_text="transcoder")
    assert fit.count() == 1
    assert f"{cell['fvu_mean']:.3f}" in fit.inner_text()
    assert f"{cell['l0_mean']:.1f}" in fit.inner_text()


@pytest.mark.parametrize("view", ["curves", "cost"])
def test_a_chart_is_saved_as_a_picture(opened: Opened, tmp_path: Path, view: str) -> None:
    page = opened(view)
    drawn(page, f"#{view.rstrip('s')}-figures")
    with page.expect_download() as download:
        page.click(f"#view-{view} figure button")
    download.value.save_as(tmp_path / "chart.png")
    assert download.value.suggested_filename.endswith(".png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.size == (2000, 1360)
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 50
