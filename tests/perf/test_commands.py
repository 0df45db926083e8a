"""What the commands cost as whole processes: the default suite, listings, checking records."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from basisbench.results.store import file_name
from figures import Figures
from helpers.report_pages import browser_path, first_view_seconds, two_thousand_records
from helpers.synthetic_records import synthetic_record, write_suite

CLI = [sys.executable, "-m", "basisbench.cli"]


def seconds_of(command: Sequence[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["models", "tasks", "bases", "methods", "suites"])
def test_listing(benchmark: BenchmarkFixture, figures: Figures, tmp_path: Path, kind: str) -> None:
    seconds = [benchmark.pedantic(seconds_of, args=([*CLI, "list", kind], tmp_path), rounds=1)]
    seconds += [seconds_of([*CLI, "list", kind], tmp_path) for _ in range(figures.rounds - 1)]
    median = statistics.median(seconds)
    figures.value(f"basisbench list {kind}", "0.5 seconds", 1.0, median / 0.5, median)


@pytest.mark.slow
def test_importing_the_errors(benchmark: BenchmarkFixture, figures: Figures) -> None:
    """Without what Python itself takes to start."""
    code = "import time; start = time.perf_counter(); import basisbench.errors; print(time.perf_counter() - start)"

    def seconds() -> float:
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    median = statistics.median([benchmark.pedantic(seconds, rounds=1), *(seconds() for _ in range(figures.rounds - 1))])
    figures.value("import basisbench.errors", "0.1 seconds", 1.0, median / 0.1, median)


@pytest.mark.measured
def test_validating_a_thousand_records(benchmark: BenchmarkFixture, figures: Figures, tmp_path: Path) -> None:
    for index in range(1000):
        record = synthetic_record("ioi", "transcoder", "relp", seed=index)
        (tmp_path / file_name(record.id)).write_text(record.model_dump_json(), encoding="utf-8")
    seconds = [benchmark.pedantic(seconds_of, args=([*CLI, "validate", "."], tmp_path), rounds=1)]
    seconds += [seconds_of([*CLI, "validate", "."], tmp_path) for _ in range(2)]
    median = statistics.median(seconds)
    figures.value("basisbench validate of 1,000 records", "5 seconds", 1.0, median / 5, median)


@pytest.mark.measured
def test_a_page_of_two_thousand_cells(benchmark: BenchmarkFixture, figures: Figures, tmp_path: Path) -> None:
    """Writing it, as a whole process, and its first view in a browser that has never seen it."""
    from playwright.sync_api import sync_playwright

    path = browser_path()
    write_suite(tmp_path / "run", two_thousand_records(examples=100))
    command = [*CLI, "report", "run", "--out", "page"]
    taken = benchmark.pedantic(seconds_of, args=(command, tmp_path), rounds=1)
    figures.value("basisbench report of 2,000 cells", "60 seconds", 1.0, taken / 60, taken)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        file = tmp_path / "page" / "index.html"
        median = statistics.median(first_view_seconds(browser, file) for _ in range(figures.rounds))
        browser.close()
    figures.value("first view of a page of 2,000 cells", "2 seconds", 1.0, median / 2, median)


@pytest.mark.measured
def test_the_default_suite(benchmark: BenchmarkFixture, figures: Figures, tmp_path: Path) -> None:
    """With tables and pictures, as a user runs it."""
    taken = benchmark.pedantic(seconds_of, args=([*CLI, "run", "pocket", "--out", "out"], tmp_path), rounds=1)
    figures.value("basisbench run pocket", "180 seconds", 1.0, taken / 180, taken)
    shutil.rmtree(tmp_path / "out")
