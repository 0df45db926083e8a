"""Records for tests of the page of results, the browser that opens it, and what it shows."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pandas as pd
import pytest

from basisbench.results.record import Record
from basisbench.results.record_fields import TopNode
from basisbench.results.store import Store
from basisbench.submissions.submission import sha256
from helpers.altered_records import scored_to, with_cell, without_effect
from helpers.synthetic_records import BASES, METHODS, synthetic_record, write_suite
from helpers.synthetic_records import TASKS as ALL_TASKS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

Opened = Callable[..., "Page"]
VIEWS = ("leaderboard", "curves", "cost", "about")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TASKS = ("ioi", "sva_rc", "user_gender")
DICTIONARIES = [basis for basis in BASES if basis.startswith(("sae", "transcoder"))]
HOSTILE = "</script><img src=x onerror=\"window.broken='yes'\"><b>%{x}</b>"
GROUP = "then_gave/abba:2,1,1,1,3,1,1,1,2,1,1"
"""A group of ioi as a real record names it: 15 tokens and the beginning-of-sequence token."""


KEPT: WeakKeyDictionary[Browser, dict[str, Page]] = WeakKeyDictionary()
"""Pages that tests in one browser use one after the other, by the options that they were opened with."""


def browser_path() -> str:
    """Return the browser's path; where there is none the test is skipped, or fails where CI needs one."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        told = f"no browser on PATH; looked for {', '.join(BROWSERS)}"
        if os.environ.get("BASISBENCH_NEEDS_BROWSER") == "1":
            pytest.fail(told)
        pytest.skip(told)
    return found


def with_nodes(record: Record, *nodes: TopNode, group: str = GROUP, positions: int = 16) -> Record:
    """Return a record with top nodes in one group of that key."""
    values = record.model_dump()
    values["groups"][0].update({"key": group, "positions": positions, "tokens": ("word",) * positions})
    values["top_nodes"] = tuple(node.model_dump() for node in nodes)
    return Record.model_validate(values)


def node(position: int | None, role: str | None, *, unit: object = 7, group: str = GROUP) -> TopNode:
    """Return a top node in layer 1."""
    return TopNode.model_validate(
        {"group": group, "layer": 1, "position": position, "role": role, "unit": unit, "score": -0.5}
    )


NODES = (
    node(0, "bos"),
    node(2, "opening"),
    node(3, "first"),
    node(12, "transfer", unit="error"),
    node(4, "a role of another task"),
)

WHOLE_UNITS = (
    node(None, None, group="statement_0/question_0:2,3,1,1,2,3"),
    node(None, None, group=GROUP, unit=8),  # a template of another task
    node(None, None, group="all", unit=9),
)


def reference_records() -> list[Record]:
    """Three tasks, all bases, two methods, errors written in coordinates.

    One family is below a gate on one task, one cell is censored, one is undefined, in one only some nodes have a score.
    One task has dictionaries under other error policies, and one dictionary with other scores.
    """
    below = {("user_gender", basis) for basis in BASES if BASES[basis][0] == "attn"}
    censored = ("user_gender", "transcoder", "ixg")
    records = [
        synthetic_record(
            task,
            basis,
            method,
            examples=30,
            error_policy="coordinates",
            gap=0.2 if (task, basis) in below else 6.0,
            ceiling=0.7 if (task, basis, method) == censored else 1.0,
        )
        for task in TASKS
        for basis in BASES
        for method in ("relp", "ixg")
    ]
    records = [scored_to(record, 800) if is_partly_scored(record) else record for record in records]
    records += [
        synthetic_record("ioi", basis, "relp", examples=30, error_policy=policy)
        for policy in ("node", "ablate")
        for basis in DICTIONARIES
    ]
    usual = synthetic_record("ioi", "transcoder", "relp", examples=30, error_policy="coordinates")
    records += [with_cell(usual, score_split="evaluation"), with_cell(usual, score_reference="counterfactual")]
    flat = synthetic_record("sva_rc", "mlp_act", "magnitude", examples=30, error_policy="coordinates")
    records.append(without_effect(flat))
    records = [with_nodes(record, *NODES) if record.cell.task == "ioi" else record for record in records]
    return [with_nodes(record, *WHOLE_UNITS) if is_mlp_out_of_gender(record) else record for record in records]


def is_partly_scored(record: Record) -> bool:
    """Tell the one cell in which some nodes have no score."""
    return (record.cell.task, record.cell.basis, record.cell.method) == ("sva_rc", "sae_mlp_out", "relp")


def is_mlp_out_of_gender(record: Record) -> bool:
    """Tell the one cell whose top nodes are units at all positions."""
    return (record.cell.task, record.cell.basis, record.cell.method) == ("user_gender", "mlp_out", "relp")


def write_tree(folder: Path) -> None:
    """Write a tree like `results/`: a reference run, a hostile submission, and a folder without records."""
    write_suite(folder / "reference", reference_records())
    submission = folder / "submissions" / "rotor"
    hostile = with_cell(
        synthetic_record("ioi", "transcoder", "relp", examples=30, error_policy="coordinates"), basis=HOSTILE
    )
    hostile = with_nodes(hostile, node(3, HOSTILE), node(3, "first", group=HOSTILE), group=GROUP)
    own_code = {"basis": "ab" * 32}
    neurons = synthetic_record("ioi", "mlp_act", "relp", examples=30, error_policy="coordinates")
    neurons = neurons.model_copy(update={"identities": neurons.identities.model_copy(update={"code": own_code})})
    write_suite(submission, [hostile, neurons])
    card = {
        "schema_version": 1,
        "name": "rotor",
        "title": HOSTILE,
        "authors": ["A. Person", HOSTILE],
        "link": "https://example.org/paper",
        "code": {"repository": "https://example.org/rotor", "revision": "0123abc"},
        "licence": "MIT",
        "bases": {HOSTILE: {"parameters": {"note": HOSTILE}}, "mlp_act": {}},
        "methods": {"relp": {}},
        "records": {path.name: sha256(path.read_bytes()) for path in Store(submission).records.iterdir()},
        "created": "2026-11-26T12:00:00Z",
    }
    (submission / "submission.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "hardware").mkdir()
    (folder / "hardware" / "figures.json").write_text("{}", encoding="utf-8")


def two_thousand_records(examples: int, *, most: int = 2000) -> list[Record]:
    """Return 2,000 cells of one setting, or fewer; a page does not see how many examples they have."""
    names = (
        (task, basis, method, f"{basis}_{number}")
        for number in range(5)
        for task in ALL_TASKS
        for basis in BASES
        for method in METHODS
    )
    return [
        synthetic_record(task, basis, method, examples=examples, name=name)
        for task, basis, method, name in islice(names, most)
    ]


def first_view_seconds(browser: Browser, file: Path, *, cells: int = 2000) -> float:
    """Return the time from the address to painted rows, in a browser that has never seen the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("#board tbody tr")
    milliseconds = page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    page.goto(f"{file.as_uri()}#leaderboard?rows=cells&method=")
    page.wait_for_function(f"() => document.querySelector('#count').textContent === '{cells} of {cells} cells'")
    context.close()
    return float(milliseconds) / 1000


@contextmanager
def opened_views(browser: Browser, page_file: Path, *, shown: str = "main section:not([hidden])") -> Iterator[Opened]:
    """Open views; whatever is done with them, the page must not complain and must not ask the network for anything."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    requests: list[str] = []
    listeners: dict[str, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "dialog": lambda dialog: (complaints.append(dialog.message), dialog.dismiss()),
        "request": lambda request: requests.append(request.url),
    }
    # A page that is left and entered again has read the library of charts before, which takes longer than most tests:
    # what a test opens first with some options is one page of the browser, emptied in between.
    kept = KEPT.setdefault(browser, {})
    taken: list[Page] = []

    def open_view(view: str = "leaderboard?rows=cells", *, file: Path = page_file, **options: Any) -> Page:
        key = repr(sorted(options.items()))
        page = kept[key] if key in kept and kept[key] not in taken else _new_page(browser, **options)
        if kept.setdefault(key, page) is page:
            taken.append(page)
        else:
            contexts.append(page.context)
        for event, listener in listeners.items():
            page.on(event, listener)  # type: ignore[call-overload] # each name has an overload of its own
        page.goto(f"{file.as_uri()}#{view}")
        page.wait_for_selector(shown)
        return page

    yield open_view
    for context in contexts:
        context.close()
    for page in taken:
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        page.goto("about:blank")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file://", "data:", "blob:"))] == []


def _new_page(browser: Browser, **options: Any) -> Page:
    """Return a page of its own context, without a network."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_offline(True)
    context.set_default_timeout(120_000)  # how busy the machine is says nothing about the page
    return context.new_page()


def rows_of(page: Page) -> list[list[str]]:
    """Return the texts of the leaderboard's rows, without intervals and names of results folders."""
    return page.eval_on_selector_all(
        "#board tbody tr",
        "rows => rows.map(row => [...row.cells].map(cell => cell.firstElementChild?.tagName === 'SPAN' "
        "|| cell.firstElementChild?.tagName === 'A' ? cell.firstElementChild.textContent : cell.textContent))",
    )


def heads_of(page: Page) -> list[str]:
    """Return the headings of the leaderboard's columns."""
    return [head.strip() for head in page.locator("#board thead th button").all_inner_texts()]


def all_rows_on_screen(page: Page) -> list[dict[str, str]]:
    """Return the rows of the leaderboard that are on screen."""
    return [dict(zip(heads_of(page), row, strict=True)) for row in rows_of(page)]


def all_rows(page: Page) -> list[dict[str, str]]:
    """Return the rows of all pages of the leaderboard."""
    heads = [re.sub(r"\s*[▲▼]\s*", "", head) for head in heads_of(page)]
    rows = rows_of(page)
    while page.locator("#next").is_visible() and page.locator("#next").is_enabled():
        page.click("#next")
        rows += rows_of(page)
    return [dict(zip(heads, row, strict=True)) for row in rows]


def keys_of_all_rows(page: Page) -> list[str]:
    """Return the ids of the rows of all pages of the leaderboard."""
    while page.locator("#previous").is_enabled():
        page.click("#previous")
    read = functools.partial(page.eval_on_selector_all, "#board tbody tr", "rows => rows.map(row => row.dataset.key)")
    keys = read()
    while page.locator("#next").is_enabled():
        page.click("#next")
        keys += read()
    return keys


def drawn(page: Page, figures: str) -> Locator:
    """Wait until every chart of a view is drawn, and return the charts."""
    page.wait_for_function(
        "figures => { const plots = [...document.querySelectorAll(`${figures} .plot`)];"
        "return plots.length && plots.every(plot => plot.querySelector('.main-svg') && plot._fullLayout); }",
        arg=figures,
    )
    return page.locator(f"{figures} .plot")


def hover_text(page: Page, plot: Locator, name: str, index: int) -> str:
    """Move the mouse onto a point of a line and return what appears."""
    plot.scroll_into_view_if_needed()
    x, y = plot.evaluate(
        "(plot, [name, index]) => { const trace = plot.data.find(trace => trace.name === name);"
        "const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();"
        "return [box.left + xaxis._offset + xaxis.d2p(trace.x[index]),"
        " box.top + yaxis._offset + yaxis.d2p(trace.y[index])]; }",
        [name, index],
    )
    page.mouse.move(1, 1)
    page.wait_for_function("() => !document.querySelector('.hoverlayer .hovertext')")
    page.mouse.move(x, y)
    page.wait_for_function("() => document.querySelector('.hoverlayer .hovertext')")
    return page.locator(".hoverlayer .hovertext").first.text_content() or ""


def usual(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the setting that the page begins with."""
    return summary[
        (summary["error_policy"] == "coordinates")
        & (summary["score_split"] == "attribution")
        & (summary["score_reference"] == "ablation")
    ]


def lines_of(plot: Locator) -> list[dict[str, Any]]:
    """Return name, colour, width and values of the lines of a chart."""
    lines: list[dict[str, Any]] = plot.evaluate(
        "plot => plot.data.filter(trace => trace.meta && !trace.meta.beyond).map(trace => ({name: trace.name, "
        "colour: trace.line.color, width: trace.line.width, dash: trace.line.dash, x: [...trace.x], y: [...trace.y]}))"
    )
    return lines
