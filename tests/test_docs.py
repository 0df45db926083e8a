"""The pages: their Python runs and prints what they say, their links lead somewhere, their lists are the code's."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
from pydantic.fields import FieldInfo

from basisbench.commands import COMMANDS
from basisbench.runs.suite import Expected, Suite

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results/README.md", *ROOT.glob("docs/*.md")])
PACKAGES = ("", "pairs", "models", "attribution", "results", "submissions", "plots", "report", "runs")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_what_is_there(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_contents_have_every_page() -> None:
    linked = set(LINK.findall((ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"} <= linked


WITH_PYTHON = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_python_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names, as if typed one after the other; a `text` block is what one prints."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    module = ModuleType("page_of_the_documentation")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for place, (language, code) in enumerate(blocks):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page.name}, block {place}", "exec"), vars(module))
        if blocks[place + 1 : place + 2] and blocks[place + 1][0] == "text":
            assert printed.getvalue() == blocks[place + 1][1]


def test_the_list_of_public_names_is_that_of_the_packages() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        name = f"basisbench.{package}".rstrip(".")
        public = ", ".join(f"`{each}`" for each in import_module(name).__all__)
        assert f"| `{name}` | {public} |\n" in text


def test_every_command_is_there() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert all(f"| `basisbench {command} " in text for command in COMMANDS)


def table_of(fields: dict[str, FieldInfo]) -> str:
    """Return the fields of a part of a suite file as rows of a table."""
    rows = []
    for name, field in fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        meaning = str(field.description).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {meaning} |\n")
    return "".join(rows)


@pytest.mark.parametrize("part", [Suite, Expected])
def test_the_fields_of_suite_files_are_those_that_are_read(part: type[Suite] | type[Expected]) -> None:
    assert table_of(part.model_fields) in (ROOT / "docs/suites.md").read_text(encoding="utf-8")
