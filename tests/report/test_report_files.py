"""The files of the page of results: what they hold is escaped, an old page is replaced whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.report import write, write_report
from helpers.report_pages import HOSTILE, Opened
from helpers.synthetic_records import synthetic_record, write_suite


@pytest.mark.slow
def test_hostile_strings_are_escaped_in_every_file(page_tree: Path, tmp_path: Path) -> None:
    page = write_report(page_tree, tmp_path / "page")
    html = page.read_text(encoding="utf-8")
    assert "&lt;img src=x" in html
    assert "<img" not in html
    assert "javascript:" not in html
    for script in (tmp_path / "page" / "data").iterdir():
        text = script.read_text(encoding="ascii")
        assert "<" not in text
        assert text.startswith("basisbench.receive(")
    catalogue = (tmp_path / "page" / "data" / "catalogue.js").read_text()
    assert json.dumps(HOSTILE)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e") in catalogue


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    write_suite(tmp_path / "run", [synthetic_record(examples=10)])
    out = tmp_path / "page"
    out.mkdir()  # an empty folder is welcome
    write_report(tmp_path / "run", out)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    write_report(tmp_path / "run", out)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    (out / "data" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BasisBenchError, match=r"'data/notes\.txt' that no report wrote"):
        write_report(tmp_path / "run", out)
    with pytest.raises(BasisBenchError, match="holds files that no report wrote"):
        write_report(tmp_path / "run", tmp_path / "run")
    with pytest.raises(BasisBenchError, match="is a file"):
        write_report(tmp_path / "run", out / "index.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "run"]


@pytest.mark.slow
def test_a_failure_leaves_the_old_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path / "run", [synthetic_record(examples=10)])
    out = tmp_path / "page"
    write_report(tmp_path / "run", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    whole = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if path.name == "fields.js":
            raise OSError(28, "No space left on device")
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(BasisBenchError, match="No space left"):
        write_report(tmp_path / "run", out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(BasisBenchError, match="No space left"):
        write_report(tmp_path / "run", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "run"]


@pytest.mark.slow
def test_a_rename_that_fails_puts_the_old_page_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path / "run", [synthetic_record(examples=10)])
    out = tmp_path / "page"
    write_report(tmp_path / "run", out)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BasisBenchError, match="Permission denied"):
        write_report(tmp_path / "run", out)
    assert (out / "index.html").is_file()


@pytest.mark.slow
def test_the_command_prints_the_page_and_bad_input_is_one_line(
    page_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(page_tree), "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'index.html'}\n"
    assert main(["report", str(tmp_path / "nothing"), "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no such file or folder" in error
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_the_library_of_charts_is_the_packages_own(page_tree: Path, tmp_path: Path) -> None:
    import plotly

    write_report(page_tree, tmp_path / "page")
    shipped = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    assert (tmp_path / "page" / "plotly.min.js").read_bytes() == shipped.read_bytes()
    assert set(json.loads((tmp_path / "page" / write.MANIFEST).read_text())["files"]) == {
        path.relative_to(tmp_path / "page").as_posix()
        for path in (tmp_path / "page").rglob("*")
        if path.is_file() and path.name != write.MANIFEST
    }


FINDINGS = """# Findings

So <!-- nodes_to_80 run basis=mlp_act -->12 [9, 15]<!-- / --> nodes ([more](run/README.md), [paper](https://arxiv.org/abs/2601.22594)).
<script>broken()</script> [worse](javascript:broken())

| task | nodes |
| --- | --- |
| `ioi` | 12 |
"""


def test_findings_beside_the_results_are_a_view_of_the_page(tmp_path: Path) -> None:
    write_suite(tmp_path / "tree" / "run", [synthetic_record(examples=10)])
    bare = write_report(tmp_path / "tree", tmp_path / "bare").read_text(encoding="utf-8")
    assert "view-findings" not in bare
    assert "#findings" not in bare
    (tmp_path / "tree" / "FINDINGS.md").write_text(FINDINGS, encoding="utf-8")
    out = tmp_path / "somewhere" / "page"
    html = write_report(tmp_path / "tree", out).read_text(encoding="utf-8")
    section = html.partition('id="view-findings"')[2].partition("</section>")[0]
    assert '<a href="#findings" data-view="findings">Findings</a>' in html
    assert "<h2>Findings</h2>" in section
    assert "So 12 [9, 15] nodes" in section
    assert 'href="../../tree/run/README.md"' in section
    assert (out / "../../tree/run/README.md").resolve() == (tmp_path / "tree" / "run" / "README.md").resolve()
    assert 'href="https://arxiv.org/abs/2601.22594"' in section
    assert "<td><code>ioi</code></td>" in section
    assert "<script" not in section
    assert 'href="javascript' not in section
    # What is asked for besides does not hide it, and records alone have none.
    assert "view-findings" in write_report([tmp_path / "tree"], out).read_text(encoding="utf-8")
    assert "view-findings" not in write_report(tmp_path / "tree" / "run", out).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_findings_are_shown_and_hide_the_other_views(opened: Opened, tmp_path: Path) -> None:
    write_suite(tmp_path / "tree" / "run", [synthetic_record(examples=10)])
    (tmp_path / "tree" / "FINDINGS.md").write_text(FINDINGS, encoding="utf-8")
    page = opened("findings", file=write_report(tmp_path / "tree", tmp_path / "page"))
    assert page.is_visible("#view-findings h2")
    assert page.is_hidden("#view-leaderboard")
    page.click("nav >> text=Leaderboard")
    assert page.is_hidden("#view-findings")
    assert page.is_visible("#view-leaderboard")
