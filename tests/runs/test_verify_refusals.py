"""What `basisbench verify` refuses: one line, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.results.store import Store
from helpers.few_cells import run, store
from helpers.forgeries import Content

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The record of one cell."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, bases=["resid"], methods=["ixg"])
    (path,) = Store(folder).records.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def folder(content: Content, tmp_path: Path) -> Path:
    """A results folder with that record."""
    store(content, tmp_path / "results")
    return tmp_path / "results"


def test_a_record_of_schema_1_is_for_the_version_that_ranked_as_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records").mkdir()
    (old,) = (Path(__file__).parents[1] / "data" / "0.2.0").glob("*.json")
    shutil.copy(old, tmp_path / "records")
    assert main(["verify", str(tmp_path), "--by", "Ada"]) == 2
    assert f"cell {old.stem} cannot be re-run: BasisBench 0.2.0 ranked nodes of equal score" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("basis", "mine", "no basis named 'mine'"),
        ("method", "mine", "no method named 'mine'"),
        ("task", "mine", "no task named 'mine'"),
        ("model", "mine", "--model mine=FOLDER says where it is"),
        ("task_version", "7", "it has version 7 of task 'sva_simple', here is version "),
        ("basis", "sae:./nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_re_run_is_one_line_and_nothing_is_written(
    content: Content,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    field: str,
    value: str,
    expected: str,
) -> None:
    identifier = store({**content, "cell": {**content["cell"], field: value}}, tmp_path)
    assert main(["verify", str(tmp_path), "--by", "Ada"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"basisbench: error: cell {identifier} cannot be re-run: ")
    assert expected in line
    assert "--plugin FILE" in line
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "verify needs --by NAME"),
        (["--by", "  "], "verify needs --by NAME"),
        (["--by", "Ada", "--out", "nowhere/file.json"], "nowhere: cannot be written"),
        (["--by", "Ada", "--out", "."], "is a folder; give the name of a file"),
        (["--by", "Ada", "--plugin", "nothing.py"], "nothing.py: no such file"),
        (["--by", "Ada", "--device", "cuda:77"], "device 'cuda:77' cannot be used"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert main(["verify", str(folder), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert [path.name for path in folder.iterdir()] == ["records"]


def test_damaged_folders_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = Store(folder).records.glob("*.json")
    renamed = record.rename(record.with_name("0123456789abcdef01234567.json"))
    assert main(["verify", str(folder), "--by", "Ada"]) == 2
    assert f"expected the name {record.name}" in capsys.readouterr().err
    renamed.write_text("{", encoding="utf-8")
    assert main(["verify", str(folder), "--by", "Ada"]) == 2
    assert f"{renamed}: " in capsys.readouterr().err
    renamed.unlink()
    assert main(["verify", str(folder), "--by", "Ada"]) == 2
    assert "holds no records" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nowhere"), "--by", "Ada"]) == 2
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
