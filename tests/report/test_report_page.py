"""The page of results in a browser: what its tables and cells show is what the records say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from basisbench.report.sources import read_sources
from basisbench.results.frame import frame_of
from basisbench.results.medians import median_table
from helpers.report_pages import (
    GROUP,
    VIEWS,
    Opened,
    all_rows,
    drawn,
    keys_of_all_rows,
    lines_of,
    usual,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def choose_setting(page: Page, select: str, wanted: str) -> None:
    """Choose the setting whose name has these words."""
    names = page.locator(f"{select} option").all_text_contents()
    (name,) = [name for name in names if re.search(wanted, name)]
    page.select_option(select, label=name)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_and_charts_are_loaded_only_where_they_are_seen(opened: Opened, view: str) -> None:
    page = opened(view)
    page.locator(f"#view-{view} h2").wait_for()
    figures = {"leaderboard": "#answer-figures", "curves": "#curve-figures", "cost": "#cost-figures"}.get(view)
    if figures:
        drawn(page, figures)
    assert page.evaluate("typeof Plotly !== 'undefined'") == (figures is not None)
    assert page.locator("#problem").is_hidden()


def test_filters_choose_rows(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    main = usual(reference)
    assert len(all_rows(page)) == len(main) + 2
    page.select_option("#filters [name=source]", "reference")
    page.select_option("#filters [name=family]", "resid")
    page.select_option("#filters [name=method]", "ixg")
    page.fill("#filters [name=search]", "SAE")
    chosen = main[(main["family"] == "resid") & (main["method"] == "ixg") & main["basis"].str.contains("sae")]
    found = {(row["task"], row["basis"], row["method"], row["family"]) for row in all_rows(page)}
    assert found == set(zip(chosen["task"], chosen["basis"], chosen["method"], chosen["family"], strict=True))
    assert page.inner_text("#count") == f"{len(chosen)} of {len(reference) + 2} cells"
    page.fill("#filters [name=search]", "no such basis")
    assert page.inner_text("#board tbody") == "No cell passes these filters."
    page.click("#clear")
    assert len(all_rows(page)) == len(main) + 2


def test_each_setting_has_its_own_cells_and_the_neurons_beside_them(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    exact = set(reference.loc[reference["exact"] & (reference["task"] == "ioi"), "basis"])
    for words, policy in (("error policy node", "node"), ("error policy ablate", "ablate")):
        choose_setting(page, "#filters [name=setting]", words)
        own = reference[reference["error_policy"] == policy]
        rows = all_rows(page)
        found = {row["basis"] for row in rows if row["task"] == "ioi" and row["method"] == "relp"}
        assert found == {*own["basis"], *exact, "mlp_act [rotor]"}
        assert not set(keys_of_all_rows(page)) & set(usual(reference).loc[~usual(reference)["exact"], "cell_id"])
    for words in ("scores on the evaluation pairs", "scores for the counterfactual value"):
        choose_setting(page, "#filters [name=setting]", words)
        assert [row["basis"] for row in all_rows(page)] == ["transcoder"]


def test_sorting_orders_rows_and_leaves_undefined_last(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    main = usual(reference)
    for name, ascending in (("nodes_to_80", True), ("area_faithfulness", False)):
        head = page.locator(f"th[data-column={name}]")
        assert head.get_attribute("aria-sort") is None
        for direction in (ascending, not ascending):  # the best first, then the other way
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == ("ascending" if direction else "descending")
            values = main.set_index("cell_id")[name]
            keys = keys_of_all_rows(page)
            shown = values[keys].to_numpy()
            assert len(keys) == len(main)
            assert np.isnan(shown[-1])  # F(M) is F(0) in one cell
            defined = shown[~np.isnan(shown)]
            in_order = np.sort(defined) if direction else np.sort(defined)[::-1]
            assert np.allclose(defined, in_order, rtol=1e-5)  # the page has six digits
            assert not np.isnan(shown[: len(defined)]).any()


def test_medians_are_those_of_the_tables(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "reference")
    page.check("[name=rows][value=medians]", force=True)
    medians = median_table(usual(reference)).set_index(["family", "basis", "method"])
    rows = all_rows(page)
    assert len(rows) == len(medians)
    for row in rows:
        own = medians.loc[(row["family"], row["basis"], row["method"])]
        assert row["tasks"].startswith(f"{own['tasks_found']}/3")
        area = own["area_faithfulness"]
        assert row["area F"] == ("-" if np.isnan(area) else f"{area:.2f}")
    attention = page.locator("#board tbody tr", has_text="attn").first
    assert "1 below a gate" in attention.inner_text()
    assert "user_gender: " in page.inner_text("#mixed")


def test_a_basis_that_lacks_tasks_has_no_median(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=family]", "mlp")
    page.select_option("#filters [name=method]", "relp")
    page.check("[name=rows][value=medians]", force=True)
    rows = {row["basis"]: row for row in all_rows(page)}
    assert rows["mlp_act"]["tasks"] == "3/3"
    assert rows["mlp_act [rotor]"]["tasks"].startswith("1/3")
    assert rows["mlp_act [rotor]"]["nodes to 80%"] == "-"
    of_rotor = page.locator("#board tbody tr", has_text="[rotor]")
    assert of_rotor.count() == 1
    assert "lacks 2" in of_rotor.inner_text()
    assert of_rotor.locator(".best").count() == 0
    assert page.locator("#board tbody .best").count() > 0
    page.click("nav >> text=Cost")
    page.wait_for_function("() => document.querySelector('#cost-note').textContent.includes('medians')")
    assert "mlp_act [rotor] (1/3)" in page.inner_text("#cost-note")


def test_a_cell_below_a_gate_is_marked_with_its_values(opened: Opened, reference: pd.DataFrame) -> None:
    page = opened()
    page.select_option("#filters [name=task_label]", "user_gender")
    page.select_option("#filters [name=family]", "attn")
    page.select_option("#filters [name=method]", "relp")
    cells = usual(reference)
    cells = cells[(cells["task"] == "user_gender") & (cells["family"] == "attn") & (cells["method"] == "relp")]
    assert page.locator("#board tbody tr.below").count() == len(cells) == 2
    cell = cells[cells["basis"] == "attn_out"].iloc[0]
    row = page.locator("#board tbody tr", has_text="attn_out").first.inner_text()
    assert f"below a gate: {cell['gate']}" in row
    assert f"{cell['accuracy']:.2f}" in row
    assert f"{cell['gap']:.2f}" in row
    assert f"of F(M) {cell['full_mean']:.2f}" in row
    page.click("#board tbody a")
    page.wait_for_selector("#cell .record")
    note = page.inner_text("#cell .note")
    assert cell["gate"] in note
    assert f"F(M) {cell['full_mean']:.2f}, F(0) {cell['empty_mean']:.2f}" in note
    page.click("text=compare its curve with other bases")
    drawn(page, "#curve-figures")
    assert cell["gate"] in page.inner_text("#curve-gate")


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
    texts = [
        "cell_id",
        "model_hash",
        "task_version",
        "gate",
        "no_mark",
        "unfit",
        "few_clusters",
        "suite",
        "suite_tasks",
    ]
    saved = pd.read_csv(
        tmp_path / "cells.csv", dtype=dict.fromkeys(texts, str), na_values=["nan"], keep_default_na=False
    )
    main = usual(reference)
    wanted = main[main["family"] == "mlp"].drop(columns="draws").set_index("cell_id")
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
    wanted = usual(frame)
    wanted = wanted[(wanted["task"] == "sva_rc") & (wanted["basis"] == "transcoder")][saved.columns]
    order = ["cell_id", "size"]
    pd.testing.assert_frame_equal(
        saved.sort_values(order, ignore_index=True),
        wanted.sort_values(order, ignore_index=True),
        rtol=1e-5,
        atol=1e-9,
        check_dtype=False,
    )


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
    for told in ("nodes with a score", "units to 80%", "calibration slope", "loss recovered", "gap"):
        assert page.locator("#cell td", has_text=told).count() > 0
    page.click("text=compare its curve with other bases")
    drawn(page, "#curve-figures")
    assert page.input_value("#curve-controls [name=task_label]") == "sva_rc"


def test_a_cells_page_shows_the_same_cell_otherwise(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=task_label]", "ioi")
    page.select_option("#filters [name=method]", "relp")
    page.select_option("#filters [name=source]", "reference")
    page.fill("#filters [name=search]", "transcoder")
    page.click("#board tbody a")
    page.wait_for_selector("#cell .record")
    page.locator("#cell .plot").scroll_into_view_if_needed()
    plot = drawn(page, "#cell").first
    texts = {"errors as one node each", "errors at reference", "held in", "scores for the counterfactual value"}
    names = {line["name"] for line in lines_of(plot)}
    assert names == {"faithfulness", "completeness", *(f"faithfulness, {text}" for text in texts)}
    page.get_by_role("checkbox", name="faithfulness, held in", exact=True).uncheck()
    page.wait_for_function(
        "() => !document.querySelector('#cell .plot').data.some(trace => /held in/.test(trace.name))"
    )
    page.click("#cell a:text-is('held in')")
    page.wait_for_function("() => document.querySelector('#cell .setting').textContent.includes('held in')")


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
