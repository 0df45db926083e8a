"""The page of results in a browser: what its tables, charts and cells show is what the records say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from basisbench.report.sources import read_sources
from basisbench.results.frame import frame_of, summarise
from helpers.report_pages import (
    GROUP,
    VIEWS,
    Opened,
    all_rows,
    drawn,
    hover_text,
    keys_of_all_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(page_tree: Path) -> pd.DataFrame:
    """The summary of the reference run."""
    return summarise([cell.record for cell in read_sources(page_tree)[0].cells])


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_and_charts_are_loaded_only_where_they_are_seen(opened: Opened, view: str) -> None:
    page = opened(view)
    page.locator(f"#view-{view} h2").wait_for()
    if view in ("curves", "cost"):
        drawn(page, f"#{view.rstrip('s')}-figures")
    assert page.evaluate("typeof Plotly !== 'undefined'") == (view in ("curves", "cost"))
    assert page.locator("#problem").is_hidden()


def test_filters_choose_rows(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    assert len(all_rows(page)) == len(reference) + 2
    page.select_option("#filters [name=source]", "reference")
    page.select_option("#filters [name=family]", "resid")
    page.select_option("#filters [name=error_policy]", "node")
    page.select_option("#filters [name=method]", "ixg")
    page.fill("#filters [name=search]", "SAE")
    chosen = reference[
        (reference["family"] == "resid")
        & (reference["error_policy"] == "node")
        & (reference["method"] == "ixg")
        & reference["basis"].str.contains("sae")
    ]
    found = {(row["task"], row["basis"], row["method"], row["family"]) for row in all_rows(page)}
    assert found == set(zip(chosen["task"], chosen["basis"], chosen["method"], chosen["family"], strict=True))
    assert page.inner_text("#count") == f"{len(chosen)} of {len(reference) + 2} cells"
    page.fill("#filters [name=search]", "no such basis")
    assert page.inner_text("#board tbody") == "No cell passes these filters."
    page.click("#clear")
    assert len(all_rows(page)) == len(reference) + 2


def test_sorting_orders_rows_and_leaves_undefined_last(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    for name, ascending in (("nodes_to_80", True), ("area_faithfulness", False)):
        head = page.locator(f"th[data-column={name}]")
        assert head.get_attribute("aria-sort") is None
        for direction in (ascending, not ascending):  # the best first, then the other way
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == ("ascending" if direction else "descending")
            values = reference.set_index("cell_id")[name]
            keys = keys_of_all_rows(page)
            shown = values[keys].to_numpy()
            assert len(keys) == len(reference)
            assert np.isnan(shown[-1])  # F(M) = F(0) in one cell
            defined = shown[~np.isnan(shown)]
            in_order = np.sort(defined) if direction else np.sort(defined)[::-1]
            assert np.allclose(defined, in_order, rtol=1e-5)  # the page has six digits
            assert not np.isnan(shown[: len(defined)]).any()


def test_medians_are_those_over_tasks_and_never_cross_settings(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    page.check("[name=rows][value=medians]", force=True)
    rows = all_rows(page)
    groups = reference.groupby(["error_policy", "family", "basis", "method"])
    assert len(rows) == groups.ngroups
    assert page.inner_text("#mixed").startswith("Rows of 2 settings are listed")
    titles = page.locator("#settings li").all_text_contents()
    for row in rows:
        policy = "keep" if "error policy keep" in titles[int(row["setting"][1:]) - 1] else "node"
        cells = groups.get_group((policy, row["family"], row["basis"], row["method"]))
        assert int(row["tasks"]) == len(cells)
        areas = cells["area_faithfulness"].dropna()
        assert row["area F"] == (f"{areas.median():.2f}" if len(areas) else "n/a")
        seconds = cells["seconds"].median()
        assert float(row["seconds (s)"]) == pytest.approx(seconds, rel=0.06)


def test_a_median_over_fewer_tasks_is_told_and_no_rival(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=family]", "mlp")
    page.select_option("#filters [name=method]", "relp")
    page.select_option("#filters [name=error_policy]", "node")
    page.check("[name=rows][value=medians]", force=True)
    rows = {row["basis"]: row for row in all_rows(page)}
    assert rows["mlp_act"]["tasks"] == "3"
    assert rows["mlp_act [rotor]"]["tasks"] == "1 of 3"
    of_rotor = page.locator("#board tbody tr", has_text="[rotor]")
    assert of_rotor.count() == 1
    assert of_rotor.locator(".best").count() == 0
    assert page.locator("#board tbody .best").count() > 0
    page.click("nav >> text=Cost")
    page.wait_for_function("() => document.querySelector('#cost-note').textContent.includes('medians')")
    assert "mlp_act [rotor] (1 of 3)" in page.inner_text("#cost-note")


def test_a_target_that_is_not_reached_is_written_as_more_than_all_nodes(
    opened: Opened, reference: pd.DataFrame
) -> None:
    page = opened()
    page.select_option("#filters [name=task_label]", "user_gender")
    page.fill("#filters [name=search]", "transcoder")
    page.select_option("#filters [name=method]", "ixg")
    (row,) = all_rows(page)
    cell = reference[
        (reference["basis"] == "transcoder") & (reference["task"] == "user_gender") & (reference["method"] == "ixg")
    ].iloc[0]
    assert np.isinf(cell["nodes_to_80"])
    assert row["nodes to 80%"].replace("\u202f", "") == f">{cell['total_nodes']}"


def test_the_csv_of_cells_equals_the_frame(opened: Opened, reference: pd.DataFrame, tmp_path: Path) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    page.select_option("#filters [name=family]", "mlp")
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "cells.csv")
    saved = pd.read_csv(tmp_path / "cells.csv", dtype={"cell_id": str, "model_hash": str, "task_version": str})
    wanted = reference[reference["family"] == "mlp"].set_index("cell_id")
    assert len(saved) == len(wanted)
    assert saved.pop("status").unique().tolist() == ["self-reported"]
    assert saved.pop("source").unique().tolist() == ["reference"]
    saved = saved.set_index("cell_id").loc[wanted.index]
    assert saved.columns.tolist() == wanted.columns.tolist()
    pd.testing.assert_frame_equal(saved, wanted, rtol=1e-5, check_dtype=False)


def test_the_csv_of_curves_equals_the_frame(opened: Opened, page_tree: Path, tmp_path: Path) -> None:
    page = opened("curves")
    drawn(page, "#curve-figures")
    page.select_option("#curve-controls [name=task_label]", "sva_rc")
    page.select_option("#curve-controls [name=lines]", "method")
    page.select_option("#curve-controls [name=basis]", "transcoder")
    page.wait_for_function("() => document.querySelector('#curve-values').textContent.includes('ixg')")
    with page.expect_download() as download:
        page.click("#curve-csv")
    download.value.save_as(tmp_path / "curves.csv")
    saved = pd.read_csv(tmp_path / "curves.csv", dtype={"task_version": str}).drop(columns="source")
    frame = frame_of([cell.record for cell in read_sources(page_tree)[0].cells])
    wanted = frame[(frame["task"] == "sva_rc") & (frame["basis"] == "transcoder")][saved.columns]
    order = ["cell_id", "size"]
    pd.testing.assert_frame_equal(
        saved.sort_values(order, ignore_index=True),
        wanted.sort_values(order, ignore_index=True),
        rtol=1e-5,
        atol=1e-9,
        check_dtype=False,
    )


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
    for index in (0, 6, 9):
        point = frame.iloc[index]
        text = hover_text(page, plots.nth(figure), "resid", index)
        ends = ", ".join(f"{point[f'{quantity}_{end}']:.4f}" for end in ("low", "high"))
        assert f"{quantity} {point[quantity]:.4f} [{ends}]" in text
        assert f"{point['size']} nodes, " in text


def test_curves_are_drawn_in_the_pictures_colours_with_bands(opened: Opened) -> None:
    from basisbench.plots.style import COLOURS
    from basisbench.registry import built_in

    page = opened("curves")
    plot = drawn(page, "#curve-figures").first
    traces = plot.evaluate("plot => plot.data.filter(trace => trace.meta).map(trace => [trace.name, trace.line.color])")
    declared = built_in().display().basis_styles
    assert all(colour == COLOURS[declared[name].colour] for name, colour in traces if name in declared)
    assert [name for name, _ in traces][:3] == ["mlp_act", "mlp_act [rotor]", "mlp_out"]
    count = plot.evaluate("plot => plot.data.length")
    assert count == 2 * len(traces)
    page.uncheck("#curve-controls [name=bands]")
    page.wait_for_function(
        "count => document.querySelector('#curve-figures .plot').data.length === count", arg=len(traces)
    )
    page.select_option("#curve-controls [name=x]", "bits")
    page.wait_for_function(
        "() => document.querySelector('#curve-figures .plot').layout.xaxis.title.text.startsWith('bits')"
    )


def test_cost_points_are_medians_over_tasks(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened("cost")
    plots = drawn(page, "#cost-figures")
    assert plots.count() == 3
    points = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('#cost-figures .plot')].flatMap(plot => plot.data.map("
        "trace => [trace.name, [trace.x[0], trace.y[0]]])))"
    )
    node = reference[(reference["error_policy"] == "node")]
    for basis, method in (("resid", "relp"), ("sae_attn_out", "ixg"), ("mlp_out", "relp")):
        cells = node[(node["basis"] == basis) & (node["method"] == method)]
        assert points[f"{basis}, {method}"] == pytest.approx(
            [cells["nodes_to_80"].median(), cells["seconds"].median()], rel=1e-4
        )
    page.select_option("#cost-controls [name=task_label]", "user_gender")
    page.select_option("#cost-controls [name=y]", "peak_memory_bytes")
    page.select_option("#cost-controls [name=x]", "bits_to_80")
    page.wait_for_function(
        "() => document.querySelector('#cost-figures .plot').layout?.yaxis.title.text === 'memory (MiB)'"
    )
    table = page.locator("#cost-values tbody tr").all_text_contents()
    assert sum("not reached" in row for row in table) == 1


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


def test_a_cells_page_shows_its_provenance_and_its_curve(opened: Opened, page_tree: Path) -> None:
    (record,) = [
        cell.record
        for cell in read_sources(page_tree)[0].cells
        if (cell.record.cell.task, cell.record.cell.basis, cell.record.cell.method) == ("sva_rc", "transcoder", "relp")
    ]
    page = opened()
    page.select_option("#filters [name=task_label]", "sva_rc")
    page.fill("#filters [name=search]", "transcoder")
    page.select_option("#filters [name=method]", "relp")
    page.click("#board tbody a")
    page.wait_for_selector("#cell .record")
    assert page.inner_text("#heading-cell") == "transcoder, relp, on sva_rc"
    page.evaluate("document.querySelectorAll('#cell details').forEach(part => { part.open = true; })")
    text = page.inner_text("#cell")
    guard = record.guard
    assert guard is not None
    for wanted in (
        f"reference/records/{record.id}.json",
        record.id,
        *record.identities.model_dump(exclude={"code"}).values(),
        record.basisbench,
        record.environment.packages["torch"],
        record.environment.python,
        str(record.cost.peak_memory_bytes),
        str(record.cost.seconds.curve),
        str(guard.fvu[0]),
        str(record.counts.nodes_max),
        "digest of the tokenised pairs of both splits",
    ):
        assert wanted in text
    page.locator("#cell .plot").scroll_into_view_if_needed()
    drawn(page, "#cell")
    page.click("text=compare its curve with other bases")
    drawn(page, "#curve-figures")
    assert page.input_value("#curve-controls [name=task_label]") == "sva_rc"


def test_top_nodes_come_with_prompts_and_their_segment_marked(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    page.select_option("#filters [name=task_label]", "ioi")
    page.click("#board tbody a:has-text('mlp_out')")
    page.wait_for_selector("#cell .nodes")
    rows = page.locator("#cell .nodes tbody tr")
    assert rows.count() == 5
    bos, opening, first, transfer, stranger = (rows.nth(index).locator(".prompts") for index in range(5))
    assert bos.locator("mark").first.text_content() == "bos"
    prompt = first.locator(".prompt").first
    sentence = re.match(
        r"clean(Then, (\w+) and (\w+) went to the \w+\. (\w+) gave a \w+ to) →(?: )?(\w+)", prompt.text_content() or ""
    )
    assert sentence is not None
    _, named_first, named_second, giver, answer = sentence.groups()
    assert (giver, answer) == (named_second, named_first)
    assert prompt.locator("mark").text_content() == named_first
    assert opening.locator("mark").first.text_content() == "Then,"
    assert "token 2 of 2" in rows.nth(1).inner_text()
    assert transfer.locator("mark").first.text_content() == "gave a"
    assert "error" in rows.nth(3).inner_text()
    assert stranger.locator("mark").count() == 0
    assert "so nothing is marked" in stranger.inner_text()


def test_units_at_all_positions_have_prompts_without_a_mark(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=task_label]", "user_gender")
    page.select_option("#filters [name=method]", "relp")
    page.click("#board tbody a:has-text('mlp_out')")
    page.wait_for_selector("#cell .nodes")
    assert "position" not in page.locator("#cell .nodes thead th").all_text_contents()
    cells = page.locator("#cell .nodes .prompts")
    assert cells.locator("mark").count() == 0
    known, other, unnamed = cells.all_text_contents()
    assert "User: I miss my" in known
    assert f"has no template {GROUP.split(':')[0]} of 11 segments" in other
    assert "the key of group all names no template" in unnamed
