"""`basisbench check`: what it can be given, what it prints, and how it exits."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from basisbench.checks import check as check_module
from basisbench.checks.check import check
from basisbench.cli import main
from basisbench.errors import BasisBenchError

pytestmark = pytest.mark.slow

METHOD = """
from dataclasses import dataclass
from basisbench.attribution.projection import projected_scores
from basisbench.types import Scores

@dataclass(frozen=True)
class Method:
    name: str
    factor: float = 1.0
    summary: str = "a method for tests"

    def score(self, context, basis):
        scores = projected_scores(context, basis, "ixg")
        return Scores(tuple(units * self.factor for units in scores.units), scores.errors)

GOOD, BAD = Method("good_method"), Method("bad_method", factor=float("nan"))
NOTHING = ()
PROVIDES = (GOOD, BAD)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin_for_check.py"
    path.write_text(METHOD, encoding="utf-8")
    return path


def test_a_line_per_property_with_value_and_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "sva_simple"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task sva_simple on pocket-llama"
    assert re.fullmatch(r"  ok      disjoint words: no word .*: 0 words of one split in .* \(none\)", lines[3])
    assert lines[-2].startswith("  info    accuracy: ")
    assert lines[-1] == "10 properties hold, 0 failed"


@pytest.mark.parametrize("form", ["plugin", "file and name", "module and name"])
def test_things_outside_the_package(
    form: str, plugin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is found is checked; of its properties, which another test goes through, the first."""
    monkeypatch.syspath_prepend(str(plugin.parent))
    whole = check_module.iterate
    monkeypatch.setattr(check_module, "iterate", lambda *given: itertools.islice(whole(*given), 1))
    given = {
        "plugin": ["good_method", "--plugin", str(plugin)],
        "file and name": [f"{plugin}:GOOD"],
        "module and name": ["plugin_for_check:GOOD"],
    }[form]
    assert main(["check", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "method good_method on pocket-llama"
    assert lines[-1] == "1 properties hold, 0 failed"


def test_a_failed_property_is_named_and_the_exit_code_is_2(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--plugin", str(plugin)]) == 2
    printed = capsys.readouterr().out
    assert "method good_method" in printed
    bad = printed[printed.index("method bad_method") :]
    assert (
        "  FAILED  scores of neurons: every node of a basis without errors has a score: 2 mistakes on stand-in neurons"
        in bad
    )
    assert re.search(r"\d+ properties hold, [1-9]\d* failed$", bad.strip())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["mlp_atc"], "no task, basis or method named 'mlp_atc'; did you mean mlp_act"),
        ([], "check needs a name, MODULE:THING or --plugin FILE"),
        (["nothing_of_that_name:THING"], "module 'nothing_of_that_name' cannot be imported: ModuleNotFoundError"),
        (["nothing.py:THING"], "plug-in nothing.py: no such file"),
        (["basisbench_tasks.ioi:THING"], "basisbench_tasks.ioi has no 'THING'; it has "),
        (["basisbench_tasks.ioi:IndirectObject"], "IndirectObject is a class; give an instance, IndirectObject(...)"),
        (["basisbench_tasks.ioi:ORDERS"], "check: str is no BasisSpec, and lacks the members of a Basis"),
        (["basisbench_baselines.pocket:PROVIDES"], "'pocket-llama' is a model; tasks, bases and methods are checked"),
        (["ioi", "--model", "gtp2"], "no model named 'gtp2'"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *given]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("basisbench: error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err


def test_an_empty_tuple_is_no_success(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{plugin}:NOTHING"]) == 2
    assert "is empty; expected tasks, bases or methods" in capsys.readouterr().err


def test_python_refuses_what_is_nothing_to_check() -> None:
    with pytest.raises(BasisBenchError, match="int is no BasisSpec"):
        check((1,), "pocket-llama")
