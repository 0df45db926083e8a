"""The command line: what it prints, what it leaves, how it fails."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import basisbench
from basisbench.cli import EXAMPLES, build_parser, main
from basisbench.registry import load_registry
from basisbench.results.record import read_record
from basisbench.results.store import Store
from basisbench.types import ModelSpec
from helpers.synthetic_records import synthetic_suite, write_suite

Write = Callable[..., Path]
COMMANDS = (
    *(["run"], ["list"], ["show"], ["steer"], ["swap"], ["mediate"], ["compare"], ["plot"], ["report"]),
    *(["new"], ["check"], ["validate"], ["verify"], ["submit"], ["pin"]),
    *(["train"], ["pocket"], ["pocket", "build"]),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with made-up records of two tasks."""
    folder = tmp_path_factory.mktemp("results")
    write_suite(folder, list(synthetic_suite(tasks=("ioi", "sva_rc"), methods=("relp", "ixg"))))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"basisbench {command[0]}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_no_example_is_listed_twice() -> None:
    commands = [re.split(r"  +", line.strip())[0] for line in EXAMPLES.splitlines() if "  basisbench " in line]
    assert len(commands) >= 10
    assert sorted(set(commands)) == sorted(commands)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"basisbench {basisbench.__version__}\n"


def test_listing_gives_a_line_per_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "bases"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ":" not in line.split()[0]]  # schemes come last
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert any(line.startswith("mlp_act ") for line in lines)


def test_methods_are_listed_by_what_they_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods"]) == 0
    nodes, edges = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert nodes[0] == "nodes of any basis (run, nodes, steer):"
    names = [line.split()[0] for line in nodes[1:]]
    assert names == [*(entry.name for entry in load_registry().of("method")), "scores:FILE"]
    assert edges[0] == "edges between nodes of any basis, each node one coordinate (edges, graph):"
    assert [line.split()[0] for line in edges[1:]] == ["ig_inputs", "ixg", "path_patching", "relp"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "poket"], "no suite named 'poket'; did you mean pocket or pocket-quick?"),
        (["run", "nothing.yaml"], "nothing.yaml: cannot be read: No such file or directory"),
        (["run", "--basis", "mlp_atc", "--model", "tiny-llama"], "no "),
        (["run", "--plugin", "nothing.py"], "nothing.py: no such file"),
        (["run", "--task", "ioi", "--task", "ioi"], "suite 'pocket' as changed: tasks: 'ioi' is given twice"),
        (["show", "ioi", "--model", "gtp2"], "no model named 'gtp2'"),
        (["show", "--model", "pocket-llama"], "show needs the name of a task or --task-file FILE"),
        (["compare", "nowhere"], "nowhere: no such file or folder"),
        (["plot", "nowhere", "--out", "pictures"], "nowhere: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("basisbench: error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


@pytest.mark.parametrize("arguments", [["run", "--examples", "0"], ["run", "--errors", "drop"], ["list", "things"], []])
def test_wrong_arguments_are_refused_by_the_parser(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: basisbench" in capsys.readouterr().err


def test_interrupting_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("basisbench.commands.list.execute", interrupt)
    assert main(["list", "tasks"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("basisbench.commands.list.execute", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list", "tasks"])


def test_compare_prints_a_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(results)]) == 0
    text = capsys.readouterr().out
    assert "transcoder" in text
    assert "sva_rc" in text


@pytest.mark.slow
def test_compare_writes_csv_and_markdown(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(results), "--csv", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(list(Store(results).records.glob("*.json")))
    assert {"task", "basis", "method"} <= set(rows[0])
    files = [tmp_path / "deeper" / "all.csv", tmp_path / "other" / "all.md"]
    assert main(["compare", str(results), "--csv", str(files[0]), "--markdown", str(files[1])]) == 0
    assert list(csv.DictReader(io.StringIO(files[0].read_text(encoding="utf-8")))) == rows
    assert files[1].read_text(encoding="utf-8").startswith("# ")


@pytest.mark.slow
def test_output_into_a_closed_pipe_is_no_traceback(results: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "basisbench.cli", "compare", str(results), "--csv", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait()


def test_show_gives_pairs_as_text(
    tiny_llama: ModelSpec, plugin_with: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = plugin_with(tiny_llama)
    assert main(["show", "sva_simple", "--model", "tiny-llama", "--plugin", str(plugin), "-n", "3"]) == 0
    text = capsys.readouterr().out
    assert text.count("  clean ") == text.count("  counterfactual ") == 3
    assert "roles: bos | " in text
    assert text.count(" 0 '<s>' | ") == 6, "every token of both prompts of each pair, with its id"
    assert re.search(r"^green +levels +noun \d+$", text, re.MULTILINE)
    assert " tokens\n" in text
    assert re.search(r"^\w+ +evaluation dropped +", text, re.MULTILINE)
    assert re.search(r"^data check: (green|yellow); --measure asks the model too$", text, re.MULTILINE)


def test_show_follows_what_is_asked_of_the_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "sva_simple", "-n", "1", "--bos", "never"]) == 0
    text = capsys.readouterr().out
    assert "roles: opening" in text
    assert "<s>" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_show_measures_accuracy_and_gaps_as_a_record_has_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = ["--examples", "24"]
    assert main(["show", "sva_simple", "--measure", *few]) == 0
    text = capsys.readouterr().out
    options = ["--task", "sva_simple", "--basis", "mlp_out", "--basis", "resid", "--method", "random", *few]
    assert main(["run", *options, "--out", str(tmp_path), "--jobs", "1"]) == 0
    paths = list((tmp_path / "records").glob("*.json"))
    assert len(paths) == 2
    for path in paths:
        record = read_record(path)
        full, empty = (sum(values) / len(values) for values in (record.endpoints.full, record.endpoints.empty))
        right = f"{record.endpoints.accuracy:.0%} of 24 evaluation pairs (gate: 75%); F(M) {full:.3f}\n"
        assert re.search(rf"^green +accuracy +{re.escape(right)}", text, re.MULTILINE)
        found = re.search(
            rf"^green +gap {record.cell.family} +F\(0\) (\S+), gap F\(M\) - F\(0\) (\S+) ", text, re.MULTILINE
        )
        assert found is not None
        assert [float(value) for value in found.groups()] == pytest.approx([empty, full - empty], abs=2e-3)


@pytest.mark.slow
def test_run_leaves_records_tables_and_pictures(
    tiny_llama: ModelSpec,
    plugin_with: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    out = tmp_path / "results"
    arguments = ["run", "--model", "tiny-llama", "--plugin", str(plugin_with(tiny_llama)), "--jobs", "1"]
    arguments += ["--task", "sva_simple", "--task", "sva_rc", "--basis", "mlp_act", "--basis", "attn_out"]
    arguments += ["--method", "ixg", "--examples", "4", "--out", str(out)]
    arguments += ["--halves", "2,5", "--adversarial-halves", "4"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert "cells: 4 finished" in first.out
    assert "F, adversarial" in first.out
    assert "[2/2] tiny-llama sva_rc: 2 finished in " in first.err
    assert "\r" not in first.err, "no bar when the output is not a terminal"
    assert len(list((out / "records").iterdir())) == 4
    assert (out / "summary.csv").stat().st_size > 0
    assert (out / "summary.md").stat().st_size > 0
    assert list((out / "pictures").iterdir())

    request.getfixturevalue("undrawn")
    assert main([*arguments, "--basis", "resid"]) == 0
    assert "cells: 2 finished, 4 kept" in capsys.readouterr().out
