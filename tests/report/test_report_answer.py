"""What the page opens on, and what it does with an address: the answer, then whatever was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from basisbench.plots.style import COLOURS
from basisbench.registry import load_registry
from basisbench.report.central import median_curve
from basisbench.report.write import write_report
from basisbench.results.columns import normalised
from helpers.report_pages import Opened, all_rows_on_screen, drawn
from helpers.synthetic_records import synthetic_record, write_suite

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_median_curve_is_the_median_over_tasks_at_the_sizes_of_all() -> None:
    records = [synthetic_record(task, "mlp_out", examples=20) for task in ("ioi", "sva_rc", "user_age")]
    curve = median_curve(records)
    sizes, found = np.array(curve["size"]).tolist(), np.array(curve["faithfulness"])
    ends = [record.curve.sizes[-1] for record in records]
    assert sizes[:5] == [0, 1, 2, 5, 10]
    assert sizes[-1] == max(ends) > min(ends)
    for place, size in enumerate(sizes):
        own = []
        for record in records:
            values = dict(zip(record.curve.sizes, normalised(record).faithfulness[0], strict=True))
            own.append(values[min(size, record.curve.sizes[-1])])
        assert found[place] == pytest.approx(np.median(own), abs=1e-5)
    low, middle, high = (np.array(curve[f"faithfulness{end}"]) for end in ("_low", "", "_high"))
    assert ((low <= middle) & (middle <= high)).all()


@pytest.mark.slow
def test_the_page_opens_on_medians_and_the_median_curve(opened: Opened) -> None:
    page = opened("leaderboard")
    drawn(page, "#answer-figures")
    rows = all_rows_on_screen(page)
    assert {row["method"] for row in rows} == {"relp"}
    assert len(rows) < 15
    words = page.inner_text("#answer-words")
    assert words.startswith("Fewest nodes to 80% faithfulness under relp, median over 3 tasks: mlp: ")
    lines = page.locator("#answer-figures .plot").first.evaluate(
        "plot => plot.data.filter(trace => trace.meta).map(trace => [trace.name, trace.line.color])"
    )
    declared = load_registry().display().basis_styles
    assert ["mlp_act", COLOURS[declared["mlp_act"].colour]] in lines
    page.check("[name=rows][value=cells]", force=True)
    assert page.locator("#answer-figures").is_hidden()
    assert page.locator("#answer-words").is_hidden()


@pytest.mark.slow
def test_the_page_opens_on_the_largest_model_however_many_cells_another_has(opened: Opened, tmp_path: Path) -> None:
    small = [synthetic_record(task, "mlp_out", model="small", examples=8) for task in ("ioi", "sva_rc", "user_age")]
    large = [synthetic_record(task, "mlp_act", model="large", examples=8) for task in ("ioi", "sva_rc")]
    large.append(synthetic_record("ioi", "mlp_act", model="large", ablation="zero", examples=8))
    write_suite(tmp_path / "mine", [*small, *large])
    page = opened(file=write_report(tmp_path / "mine", tmp_path / "page"))
    assert page.inner_text("#board-setting").startswith("large, mean ablation")


@pytest.mark.slow
def test_a_phone_shows_the_numbers_at_once(opened: Opened) -> None:
    page = opened("leaderboard", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for rows in ("medians", "cells"):
        page.goto(page.url.split("#")[0] + f"#leaderboard?rows={rows}")
        page.wait_for_selector("#board tbody td.number:visible")
        box = page.locator("#board tbody tr").first.locator("td.number:visible").first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 360
        assert "relp" in page.locator("#board tbody th").first.inner_text()


@pytest.mark.slow
def test_a_search_takes_words_of_any_name(opened: Opened) -> None:
    page = opened()
    page.fill("#filters [name=search]", "IOI trans ixg")
    assert {(row["basis"], row["task"], row["method"]) for row in all_rows_on_screen(page)} == {
        ("transcoder", "ioi", "ixg")
    }


@pytest.mark.slow
def test_a_bad_address_shows_a_view_and_says_what_is_wrong(opened: Opened) -> None:
    page = opened()
    base = page.url.split("#")[0]
    for fragment, told in (
        ("cell/%", None),
        ("cell/%E0%A4%A", None),
        ("nothing", 'There is no view "nothing"'),
        ("%", 'There is no view "%"'),
        ("curves?setting=99", 'setting "99"'),
        ("curves?task_label=no&lines=what&x=y&method=%", 'task_label "no", lines "what", x "y", method "%"'),
        ("cost?lines=what&setting=-1&length=3", 'lines "what", setting "-1", length "3"'),
        ("leaderboard?rows=x&family=y&setting=z", 'rows "x", family "y", setting "z"'),
        ("leaderboard?=&__proto__=1&bands=2", "which is not here"),
    ):
        page.goto(f"{base}#{fragment}")
        page.wait_for_selector("main section:not([hidden])")
        page.wait_for_timeout(50)
        if told is None:
            assert page.inner_text("#heading-cell") == "No such cell"
        else:
            page.wait_for_selector("#problem:not([hidden])")
            assert told in page.inner_text("#problem")
            assert "cannot be shown" not in page.inner_text("#problem")


@pytest.mark.slow
def test_top_nodes_of_several_groups_are_one_row(browser: Browser, tmp_path: Path) -> None:
    from basisbench.report import write_report
    from helpers.report_pages import node, with_nodes
    from helpers.synthetic_records import write_suite

    first, second = "then_gave/abba:2,1,1,1,1,1", "then_gave/baba:2,1,1,1,1,1"
    nodes = [node(3, "first", group=first), node(3, "first", group=second), node(3, "second", group=second)]
    record = with_nodes(synthetic_record("ioi", examples=10), *nodes)
    write_suite(tmp_path / "run", [record, synthetic_record("sva_rc", examples=20)])
    file = write_report(tmp_path / "run", tmp_path / "page")
    page = browser.new_page()
    page.goto(f"{file.as_uri()}#cell/{record.id}")
    page.wait_for_selector("#cell .nodes")
    assert page.locator("#cell .nodes tbody tr").count() == 2
    assert first in page.locator("#cell .nodes .group").first.inner_text()
    assert "n = 10 examples" in page.inner_text("#cell .setting"), "not that of all tasks, 10 to 20"
    page.close()
