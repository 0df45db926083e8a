"""Numbers of a text: they are the records', ratios are paired, and what names no cell is told with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.results.columns import Draws
from basisbench.results.controls import ratio
from basisbench.results.findings import written_anew
from basisbench.results.frame import summarise
from basisbench.results.robustness import robustness
from basisbench.results.robustness_tables import tau_text
from helpers.synthetic_records import changed, synthetic_record, synthetic_suite, write_suite

TASKS = ("ioi", "sva_rc")
RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of two tasks, bases and two methods in `mine`."""
    folder = tmp_path_factory.mktemp("findings")
    bases = ("mlp_act", "mlp_out")
    records = list(synthetic_suite(tasks=TASKS, bases=bases, methods=("relp", "ixg"), examples=6))
    records.append(synthetic_record("ioi", "transcoder", name="sae:mine/transcoder", examples=6))
    write_suite(folder / "mine", records)
    return folder


def filled(folder: Path, what: str) -> str:
    """Return what stands in a text for a comment."""
    text = written_anew(f"so <!-- {what} -->old<!-- / -->.", folder)
    assert text.startswith(f"so <!-- {what} -->")
    assert text.endswith("<!-- / -->.")
    return text[len(f"so <!-- {what} -->") : -len("<!-- / -->.")]


def test_a_number_is_that_of_the_summary(folder: Path) -> None:
    rows = summarise(folder / "mine").set_index(["task", "basis", "method"])
    row = rows.loc["sva_rc", "mlp_out", "relp"]
    text = filled(folder, "nodes_to_80 mine task=sva_rc basis=mlp_out method=relp")
    assert text == f"{row['nodes_to_80']:.0f} [{row['nodes_to_80_low']:.0f}, {row['nodes_to_80_high']:.0f}]"
    assert filled(folder, "total_nodes mine task=sva_rc basis=mlp_out method=relp") == f"{row['total_nodes']:,}"
    assert filled(folder, "model mine task=ioi basis=mlp_act method=relp") == "pocket-llama"


def test_without_a_task_it_is_the_median_over_tasks(folder: Path) -> None:
    rows = summarise(folder / "mine")
    own = rows[(rows["basis"] == "mlp_act") & (rows["method"] == "relp")]["nodes_to_80"]
    text = filled(folder, "nodes_to_80 mine basis=mlp_act method=relp")
    assert float(text.split()[0]) == pytest.approx(own.median(), abs=0.5)


def test_a_ratio_is_that_of_each_resample() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.uniform(10, 20, 1001), draw.uniform(1, 2, 1001)
    a, b = (Draws("same", {"nodes_to_80": rows}, {"nodes_to_80": 100.0}) for rows in (x, y))
    found = ratio(a, b, "nodes_to_80")
    ordered = np.sort(x[1:] / y[1:])
    assert found.value == x[0] / y[0]
    assert (found.low, found.high) == (min(ordered[24], found.value), max(ordered[975], found.value))


def test_a_ratio_of_what_is_not_reached_is_one_of_bounds() -> None:
    def rows(value: float, resampled: float) -> Draws:
        return Draws("same", {"nodes_to_80": np.array([value] + [resampled] * 1000)}, {"nodes_to_80": 100.0})

    found = ratio(rows(np.inf, np.inf), rows(10.0, 10.0), "nodes_to_80")
    assert (found.value, found.low, found.high) == (np.inf, 10.0, np.inf)
    found = ratio(rows(20.0, 20.0), rows(10.0, np.inf), "nodes_to_80")
    assert (found.value, found.low, found.high) == (2.0, 0.0, 2.0)
    found = ratio(rows(np.inf, np.inf), rows(np.inf, np.inf), "nodes_to_80")
    assert np.isnan(found.value)
    assert (found.low, found.high) == (0.0, np.inf)


def test_cells_of_other_examples_have_no_ratio(folder: Path) -> None:
    with pytest.raises(BasisBenchError, match=r"line 1: .*not of the same examples"):
        filled(folder, "nodes_to_80 mine task=ioi basis=mlp_act method=relp / task=sva_rc")


def test_a_ratio_in_the_text(folder: Path) -> None:
    rows = summarise(folder / "mine").set_index(["task", "basis", "method"])
    expected = rows.loc["ioi", "mlp_out", "relp"]["nodes_to_80"] / rows.loc["ioi", "mlp_act", "relp"]["nodes_to_80"]
    text = filled(folder, "nodes_to_80 mine task=ioi basis=mlp_out method=relp / basis=mlp_act")
    assert float(text.split()[0]) == pytest.approx(expected, rel=0.05)
    assert text.endswith("]")
    named = filled(folder, "nodes_to_80 mine task=ioi basis=sae:mine/transcoder method=relp / basis=mlp_act")
    dictionary = rows.loc["ioi", "sae:mine/transcoder", "relp"]["nodes_to_80"]
    assert float(named.split()[0]) == pytest.approx(
        dictionary / rows.loc["ioi", "mlp_act", "relp"]["nodes_to_80"], rel=0.05
    )


def test_a_change_of_a_choice_and_the_spread_of_draws_in_the_text(folder: Path) -> None:
    first = synthetic_record("ioi", "mlp_act", examples=6)
    other = changed(synthetic_record("ioi", "mlp_act", examples=6, ceiling=0.9), cell={"attribution_draw": 1})
    write_suite(folder / "draws", [first, other])
    rows = summarise([folder / "draws"])["nodes_to_80"]
    assert filled(folder, "most draws task=ioi basis=mlp_act") == f"{rows.max():.0f}"
    assert filled(folder, "inside draws task=ioi basis=mlp_act") in "01"
    found = robustness([folder / "mine"])
    found = found[(found["choice"] == "method") & (found["value"] == "ixg")].set_index(["task", "basis"])
    tau = filled(folder, "tau mine choice=method value=ixg")
    row = found.loc["", ""]
    assert tau == tau_text(row) == f"{row['tau']:.2f} [{row['tau_low']:.2f}, {row['tau_high']:.2f}]"
    assert filled(folder, "tau mine choice=method value=ixg task=ioi").startswith(
        f"{found.loc['ioi', '']['tau']:.2f} ["
    )
    assert filled(folder, "tasks mine choice=method value=ixg") == "2"
    ratio = found.loc["", "mlp_out"]["ratio"]
    assert float(filled(folder, "ratio mine choice=method value=ixg basis=mlp_out").split()[0]) == pytest.approx(
        ratio, rel=0.05
    )


def test_a_ratio_of_two_models_on_the_same_examples_is_paired(folder: Path) -> None:
    one = synthetic_record("ioi", "mlp_act", examples=24)
    tuned = changed(one, cell={"model": "tuned"}, identities={"model": "1" * 64})
    write_suite(folder / "models", [one, tuned])
    both = f"model=tuned / model={one.cell.model}"
    assert filled(folder, f"nodes_to_80 models task=ioi basis=mlp_act {both}") == "1.0 [1.0, 1.0]"


def test_what_two_circuits_have_in_common_in_the_text(folder: Path) -> None:
    one = synthetic_record("ioi", "mlp_act", examples=6)
    node = {"group": one.groups[0].key, "layer": 0, "position": 0, "role": "subject", "coordinate": None, "score": 1.0}
    tuned = changed(one, cell={"model": "tuned"}, identities={"model": "1" * 64})
    of_both = [(one, range(4)), (tuned, range(3, 7))]
    write_suite(
        folder / "tuned",
        [changed(each, record={"top_nodes": [{**node, "unit": unit} for unit in units]}) for each, units in of_both],
    )
    assert filled(folder, f"jaccard tuned task=ioi basis=mlp_act model=tuned / model={one.cell.model}") == "0.14"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nodes_to_80 mine task=ioi basis=mlp_act", "2 cells are so"),
        ("nodes_to_80 mine task=ioi basis=nowhere method=relp", "0 cells are so"),
        ("nodes mine task=ioi basis=mlp_act method=relp", "no column 'nodes'"),
        ("nodes_to_80 mine task=ioi colour=red", "no column 'colour'"),
        ("nodes_to_80 mine ioi", "expected COLUMN FOLDER KEY=VALUE"),
        ("nodes_to_80 yours task=ioi basis=mlp_act method=relp", "yours"),
        ("tau mine choice=method value=gim", "0 cells are so"),
        ("tau mine choice=method value=ixg basis=mlp_act", "no value there"),
        ("most mine task=ioi basis=mlp_act", "there is no column 'most'"),
        ("jaccard mine task=ioi basis=mlp_act method=relp / method=gim", "0 cells are so"),
        ("fvu_max mine task=ioi basis=mlp_act method=relp", "no value there"),
    ],
)
def test_what_names_no_cell_is_told_with_its_line(folder: Path, what: str, message: str) -> None:
    with pytest.raises(BasisBenchError, match=rf"line 3: .*{message}"):
        written_anew(f"\n\n<!-- {what} -->0<!-- / -->", folder)


def test_the_command_tells_what_differs_and_writes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "findings.md"
    file.write_text(
        "# A\n\n<!-- nodes_to_80 mine task=ioi basis=mlp_act method=relp -->7<!-- / -->\n", encoding="utf-8"
    )
    assert main(["findings", str(file), "--check"]) == 1
    assert "line 3: is not what the records say" in capsys.readouterr().out
    assert "-->7<" in file.read_text(encoding="utf-8")
    assert main(["findings", str(file)]) == 0
    assert "-->7<" not in file.read_text(encoding="utf-8")
    assert main(["findings", str(file), "--check"]) == 0
    assert main(["findings", str(folder / "none.md")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_the_numbers_of_the_findings_are_those_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        *("pocket-controls", "pocket-robust", "pocket-seeds", "pocket-sparsity", "pocket-staleness"),
        *("smollm2-dictionaries", "smollm2-staleness", "smollm2-robust", "gemma-3-270m"),
    )
    files = [RESULTS / "FINDINGS.md", *(RESULTS / name / "README.md" for name in names)]
    assert all(file.read_text(encoding="utf-8").count("<!-- / -->") > 20 for file in files)
    assert main(["findings", *map(str, files), "--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "a\nso <!-- nodes_to_80 mine task=ioi basis=mlp_act method=relp -->9<!-- -->",
        "a\nso <!-- Nodes_to_80 mine task=ioi -->9<!-- / -->",
        "a\nso 9<!-- / -->",
        "a\nso <!-- nodes_to_80 -->9<!-- / -->",
    ],
)
def test_half_a_mark_is_told_with_its_line(folder: Path, text: str) -> None:
    with pytest.raises(BasisBenchError, match=r"^line 2: .*stands alone; a number is <!-- COLUMN FOLDER"):
        written_anew(text, folder)


def test_a_text_without_numbers_and_a_mean_over_one_model_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "plain.md"
    file.write_text("Words. <!-- a remark -->", encoding="utf-8")
    assert main(["findings", str(file), "--check"]) == 0
    assert "no number is marked" in capsys.readouterr().out
    with pytest.raises(BasisBenchError, match="a mean needs several models"):
        written_anew("<!-- over_models mine basis=mlp_out method=relp -->?<!-- / -->", folder)
