"""The page of results in use: by keyboard, on a phone, in both themes, with hostile records and with many cells."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basisbench.report import write_report
from basisbench.results.record import read_record
from helpers.report_pages import (
    HOSTILE,
    VIEWS,
    Opened,
    all_rows_on_screen,
    browser_path,
    drawn,
    first_view_seconds,
    hover_text,
    two_thousand_records,
)
from helpers.synthetic_records import write_suite

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "results"
AN_IMAGE_IS_THERE = """() => new Promise(done => {
    const source = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
    Object.assign(new Image(), {onload: () => done(), src: source});
})"""
"""Images before this one have by then failed to load, and have run whatever they run."""


def test_the_keyboard_is_enough(opened: Opened) -> None:
    page = opened()
    keyboard = page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(300):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached by Tab")

    tab_to("#filters [name=family]")
    keyboard.type("resid")
    assert {row["family"] for row in all_rows_on_screen(page)} == {"resid"}
    tab_to("th[data-column=bits_to_80] button")
    keyboard.press("Enter")
    assert page.get_attribute("th[data-column=bits_to_80]", "aria-sort") == "ascending"
    # The focus stays on the heading, so that a second press turns the order round.
    keyboard.press("Enter")
    assert page.get_attribute("th[data-column=bits_to_80]", "aria-sort") == "descending"
    tab_to("#board tbody a")
    keyboard.press("Enter")
    page.wait_for_selector("#cell .record")
    tab_to("#cell .record summary")
    keyboard.press("Enter")
    assert page.get_attribute("#cell .record", "open") is None
    tab_to("#back")
    keyboard.press("Enter")
    page.wait_for_selector("#board")
    tab_to(".views [data-view=curves]")
    keyboard.press("Enter")
    drawn(page, "#curve-figures")
    tab_to("#curve-legend input")
    keyboard.press("Space")
    page.wait_for_function("() => !document.querySelector('#curve-values').textContent.includes('mlp_act0')")
    tab_to("#view-curves .values summary")
    keyboard.press("Enter")
    assert page.locator("#curve-values").is_visible()


@pytest.mark.parametrize("view", [*VIEWS, "cell"])
def test_a_phone_shows_everything_without_sideways_scrolling(opened: Opened, view: str) -> None:
    page = opened(
        "leaderboard?rows=cells" if view == "cell" else view,
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
    )
    if view == "leaderboard":
        page.click("#more-filters summary")
        page.check("[name=rows][value=medians]", force=True)
    if view == "cell":
        page.click("#board tbody a")
        page.wait_for_selector("#cell .record")
        page.locator("#cell .plot").scroll_into_view_if_needed()
        drawn(page, "#cell")
    if view in ("curves", "cost"):
        drawn(page, f"#{view.rstrip('s')}-figures")
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    outside = page.evaluate(
        "() => [...document.querySelectorAll('main *')].filter(part => part.offsetParent && !part.closest('.scroll *')"
        " && part.getBoundingClientRect().right > 360.5 && !part.closest('.plot'))"
        ".map(part => part.outerHTML.slice(0, 120))"
    )
    assert outside == []
    for table in page.locator(f"#view-{view} table").all():
        assert table.evaluate("table => getComputedStyle(table.parentElement).overflowX") == "auto"


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_switch_and_stays_readable(opened: Opened, scheme: str) -> None:
    page = opened("about", color_scheme=scheme)

    def look(selector: str, name: str) -> float:
        return luminance(page.eval_on_selector(selector, f"part => getComputedStyle(part).{name}"))

    def check_readable() -> None:
        ground = look("body", "backgroundColor")
        for selector in ("h2", "main p", "main a", ".title p", ".status", ".meanings dt"):
            light, dark = sorted((ground, look(selector, "color")), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, selector

    assert (look("body", "backgroundColor") < 0.1) == (scheme == "dark")
    check_readable()
    page.select_option("#theme", "light" if scheme == "dark" else "dark")
    assert (look("body", "backgroundColor") < 0.1) == (scheme == "light")
    check_readable()
    page.reload()
    assert (look("body", "backgroundColor") < 0.1) == (scheme == "light")


def test_charts_follow_the_theme(opened: Opened) -> None:
    page = opened("curves", color_scheme="dark")
    page.select_option("#curve-controls [name=family]", "resid")
    plot = drawn(page, "#curve-figures").first
    page.wait_for_function(
        "() => document.querySelector('#curve-figures .plot').data.some(trace => trace.name === 'resid')"
    )
    colour = "plot => [plot.layout.paper_bgcolor, plot.data.find(trace => trace.name === 'resid').line.color]"
    assert plot.evaluate(colour) == ["#14171c", "#f2f4f7"]
    page.select_option("#theme", "light")
    page.wait_for_function("() => document.querySelector('#curve-figures .plot').layout.paper_bgcolor === '#ffffff'")
    assert plot.evaluate(colour) == ["#ffffff", "#000000"]


def test_hostile_strings_stay_text_everywhere(opened: Opened) -> None:
    page = opened()
    page.select_option("#filters [name=source]", "rotor")
    page.fill("#filters [name=search]", "script")
    assert [row["basis"] for row in all_rows_on_screen(page)] == [HOSTILE]
    page.click("#board tbody a")
    page.wait_for_selector("#cell .nodes")
    assert HOSTILE in page.inner_text("#heading-cell")
    assert HOSTILE in page.inner_text("#cell .nodes")
    page.click("text=compare its curve with other bases")
    plots = drawn(page, "#curve-figures")
    assert HOSTILE in page.locator("#curve-legend .name").all_text_contents()
    page.get_by_role("checkbox", name="transcoder", exact=True).uncheck()  # its curve is the same
    page.wait_for_function("() => document.querySelector('.plot').data.every(trace => trace.name !== 'transcoder')")
    escaped = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    assert HOSTILE in hover_text(page, plots.first, escaped, 5)
    page.goto(page.url.split("#")[0] + "#cost")
    drawn(page, "#cost-figures")
    page.goto(page.url.split("#")[0] + "#about")
    assert HOSTILE in page.inner_text("#view-about")
    assert page.locator("#view-about a[href^=javascript]").count() == 0
    page.evaluate(AN_IMAGE_IS_THERE)
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0


def test_the_page_forbids_itself_inline_scripts_and_connections(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector("#board tbody tr")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src=x onerror=\"window.broken = 1\">`)")
    refused = page.evaluate("fetch('https://example.org').then(() => 'answered', () => 'refused')")
    page.evaluate(AN_IMAGE_IS_THERE)
    assert page.evaluate("window.broken") is None
    assert refused == "refused"
    page.close()


def test_the_page_of_the_projects_results(opened: Opened, tmp_path: Path) -> None:
    """Of two tasks of what CI builds: every view opens, and cells have prompts of their own task."""
    records = tmp_path / "results" / "pocket" / "records"
    records.mkdir(parents=True)
    for path in (RESULTS / "pocket" / "records").iterdir():
        if read_record(path).cell.task in ("ioi", "sva_simple"):
            shutil.copy(path, records)
    file = write_report(tmp_path / "results", tmp_path / "page")
    page = opened(file=file)
    assert int(page.inner_text("#count").split(" ")[0]) >= 90
    for view in ("curves", "cost"):
        page.goto(f"{file.as_uri()}#{view}")
        drawn(page, f"#{view.rstrip('s')}-figures")
    page.goto(f"{file.as_uri()}#leaderboard")
    page.select_option("#filters [name=task_label]", "sva_simple")
    page.click("#board tbody a")
    page.wait_for_selector("#cell .nodes")
    assert 0 < page.locator("#cell .nodes tbody tr").count() <= 20
    assert page.locator("#cell .nodes tbody tr:not(:has(mark))").count() == 0


def test_a_cell_that_is_not_there_is_told(opened: Opened) -> None:
    page = opened("cell/0123456789abcdef")
    assert page.inner_text("#heading-cell") == "No such cell"


def test_many_cells_are_on_screen(browser: Browser, tmp_path: Path) -> None:
    write_suite(tmp_path / "run", two_thousand_records(examples=8, most=300))
    file = write_report(tmp_path / "run", tmp_path / "page")
    # Holds that all are there; how long it takes for two thousand is for tests/perf.
    first_view_seconds(browser, file, cells=300)


def test_without_a_browser_tests_are_skipped_but_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BASISBENCH_NEEDS_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser on PATH; looked for chromium"):
        browser_path()
    monkeypatch.setenv("BASISBENCH_NEEDS_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser on PATH"):
        browser_path()
