"""Records for tests of the page of results, and the browser that opens it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from basisbench.record import Record, TopNode
from basisbench.store import Store
from basisbench.submission import sha256
from synthetic_records import BASES, METHODS, synthetic_record, write_suite
from synthetic_records import TASKS as ALL_TASKS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TASKS = ("ioi", "sva_rc", "user_gender")
HOSTILE = "</script><img src=x onerror=\"window.broken='yes'\"><b>%{x}</b>"
GROUP = "then_gave/abba:2,1,1,1,3,1,1,1,2,1,1"
"""A group of ioi as a real record names it: 15 tokens and the beginning-of-sequence token."""


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
    values["groups"][0].update({"key": group, "positions": positions})
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
    node(None, None, group=GROUP),  # a template of another task
    node(None, None, group="all"),
)


def renamed(record: Record, **names: str) -> Record:
    """Return a record whose cell has other names."""
    values = record.model_dump()
    values["cell"] |= names
    return Record.model_validate(values)


def reference_records() -> list[Record]:
    """Three tasks, all bases, two methods; the other error policy for one task; an undefined and a censored cell."""
    records = [
        synthetic_record(task, basis, method, examples=30)
        for task in TASKS
        for basis in BASES
        for method in ("relp", "ixg")
        if (task, basis, method) != ("user_gender", "transcoder", "ixg")
    ]
    records.append(synthetic_record("user_gender", "transcoder", "ixg", examples=30, ceiling=0.7))
    records += [synthetic_record("ioi", basis, "relp", examples=30, error_policy="keep") for basis in BASES]
    records.append(synthetic_record("sva_rc", "mlp_act", "magnitude", examples=30, gap=0.0))
    records = [with_nodes(record, *NODES) if record.cell.task == "ioi" else record for record in records]
    return [with_nodes(record, *WHOLE_UNITS) if is_mlp_out_of_gender(record) else record for record in records]


def is_mlp_out_of_gender(record: Record) -> bool:
    """Tell the one cell whose top nodes are units at all positions."""
    return (record.cell.task, record.cell.basis, record.cell.method) == ("user_gender", "mlp_out", "relp")


def write_tree(folder: Path) -> None:
    """Write a tree like `results/`: a reference run, a hostile submission, and a folder without records."""
    write_suite(folder / "reference", reference_records())
    submission = folder / "submissions" / "rotor"
    hostile = renamed(synthetic_record("ioi", "transcoder", "relp", examples=30), basis=HOSTILE)
    hostile = with_nodes(hostile, node(3, HOSTILE), node(3, "first", group=HOSTILE), group=GROUP)
    write_suite(submission, [hostile, synthetic_record("ioi", "mlp_act", "relp", examples=30)])
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


def two_thousand_records(examples: int) -> list[Record]:
    """Return 2,000 cells of five settings; a page does not see how many examples they have."""
    return [
        synthetic_record(task, basis, method, seed=seed, examples=examples)
        for seed in range(5)
        for task in ALL_TASKS
        for basis in BASES
        for method in METHODS
    ][:2000]


def first_view_seconds(browser: Browser, file: Path) -> float:
    """Return the time from the address to painted rows, in a browser that has never seen the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("#board tbody tr")
    milliseconds = page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    assert page.inner_text("#count") == "2000 of 2000 cells"
    context.close()
    return float(milliseconds) / 1000
