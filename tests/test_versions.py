"""Versions never mix silently: tables and pictures keep them apart and name them, or refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basisbench.cli import main
from basisbench.errors import BasisBenchError, RecordError
from basisbench.plots.curves import plot_curves
from basisbench.plots.pictures import plot_results
from basisbench.plots.save import save_figure
from basisbench.results.compare import compare_table, render_markdown, render_text
from basisbench.results.conditions import split_conditions
from basisbench.results.frame import frame_of, load_results, summarise
from basisbench.results.metrics import METRICS
from basisbench.results.record import Record, read_record
from basisbench.results.store import Store
from helpers.synthetic_records import synthetic_record

OLD = sorted((Path(__file__).parent / "data").glob("*/*.json"))


def of_version(record: Record, version: str) -> Record:
    return record.model_copy(update={"basisbench": version})


def titles_of(records: list[Record]) -> list[str]:
    return [title for title, _ in split_conditions(summarise(records))]


@pytest.mark.slow
def test_versions_of_basisbench_stand_in_tables_of_their_own() -> None:
    """And the titles name them, whatever else differs: a version is part of what was done."""
    for changes in ({}, {"seed": 1}, {"ablation": "zero"}):
        records = [
            of_version(synthetic_record(basis="mlp_act"), "0.1.0"),
            of_version(synthetic_record(basis="mlp_out", **changes), "0.2.0"),  # type: ignore[arg-type]
        ]
        titles = titles_of(records)
        assert len(titles) == 2
        for version in ("0.1.0", "0.2.0"):
            assert sum(f"BasisBench {version}" in title for title in titles) == 1
        table = compare_table(summarise(records))
        assert not table[[f"{name}_best" for name in METRICS]].to_numpy().any(), "no best of two versions"
        for text in (render_text(summarise(records)), render_markdown(summarise(records))):
            assert all(title in text for title in titles)
        with pytest.raises(BasisBenchError, match=r"2 sets of conditions in one picture; .*0\.1\.0.*0\.2\.0"):
            plot_curves(frame_of(records))


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a picture is written follows from names alone: the files are empty."""
    monkeypatch.setattr("basisbench.plots.pictures.plot_curves", lambda *_, **__: None)
    monkeypatch.setattr("basisbench.plots.pictures.plot_cost", lambda *_, **__: None)
    monkeypatch.setattr("basisbench.plots.pictures.save_figure", lambda _figure, path, **_: path.touch())


@pytest.mark.usefixtures("_undrawn")
def test_versions_of_basisbench_have_pictures_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for basis in ("mlp_act", "mlp_out"):
        store.write(of_version(synthetic_record(basis=basis), "0.1.0"))
        store.write(of_version(synthetic_record(basis=basis), "0.2.0"))
    pictures = plot_results(tmp_path / "run", tmp_path / "pictures")
    assert len({path.parent for path in pictures}) == 2


def test_one_version_is_not_named_in_every_title() -> None:
    (title,) = titles_of([synthetic_record(), synthetic_record(basis="mlp_out")])
    assert "BasisBench" not in title


@pytest.mark.slow
def test_versions_of_a_task_stand_in_rows_and_pictures_of_their_own() -> None:
    records = [
        synthetic_record(basis=basis, task_version=version)
        for version in ("1", "2")
        for basis in ("mlp_act", "mlp_out")
    ]
    table = compare_table(summarise(records))
    assert table.groupby("task_version")["nodes_to_80_best"].sum().to_dict() == {"1": 1, "2": 1}, "a best in each"
    text, markdown = render_text(summarise(records)), render_markdown(summarise(records))
    for version in ("1", "2"):
        assert f"ioi v{version}" in text
        assert f"ioi (version {version})" in markdown
    titles = [axes.get_title() for axes in plot_curves(frame_of(records)).axes if axes.get_title()]
    assert set(titles) == {"ioi (version 1)", "ioi (version 2)"}


def test_weights_of_one_name_are_told_apart() -> None:
    """Two dictionaries under one basis name: the label carries the digest of the weights."""
    records = [synthetic_record(basis="transcoder", dictionary=digit * 64) for digit in "ab"]
    assert set(summarise(records)["basis"]) == {"transcoder (aaaaaaaa)", "transcoder (bbbbbbbb)"}
    text = render_text(summarise(records))
    assert "transcoder (aaaaaaaa)" in text
    assert "transcoder (bbbbbbbb)" in text


def test_weights_of_a_model_stand_in_tables_of_their_own() -> None:
    record = synthetic_record(basis="mlp_out")
    identities = record.identities.model_copy(update={"model": "f" * 64})
    titles = titles_of([synthetic_record(), record.model_copy(update={"identities": identities})])
    assert len(titles) == 2
    assert any("weights ffffffffffff" in title for title in titles)


def test_data_that_changed_without_a_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = synthetic_record()
    changed = record.model_copy(update={"identities": record.identities.model_copy(update={"data": "f" * 64})})
    for item in (record, changed):
        Store(tmp_path).write(item)
    for command in (["compare", str(tmp_path)], ["plot", str(tmp_path), "--out", str(tmp_path / "pictures")]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "differ only in their data; read the results folders one at a time" in line
    with pytest.raises(RecordError, match="differ only in their data"):
        split_conditions(load_results(tmp_path))


def test_old_records_stay_apart_from_new_ones() -> None:
    """The same cell under another version of BasisBench is another cell, in a table of its own."""
    old = [read_record(path) for path in OLD]
    records = [*old, *(of_version(record, "0.3.0") for record in old if record.basisbench == "0.1.0")]
    frame = frame_of(records)
    assert frame["cell_id"].nunique() == len(records) > len(old)
    titles = [title for title, _ in split_conditions(frame)]
    assert [sum(f"BasisBench {version}" in title for title in titles) for version in ("0.1.0", "0.2.0", "0.3.0")] == [
        1
    ] * 3


# --- names that strangers chose ---

HOSTILE = ("../../|x|<img src=x onerror=alert(1)>", "a/b\\c", "C:\\x", "-rf", "..", "Ünï", "*?\"'`")
every_hostile_name = pytest.mark.parametrize("name", HOSTILE)


def records_named(name: str) -> list[Record]:
    cell = {"model": name, "task": name, "task_version": name, "method": "relp"}
    records = (synthetic_record(basis="mlp_act"), synthetic_record(basis="mlp_out", seed=1))
    return [record.model_copy(update={"cell": record.cell.model_copy(update=cell)}) for record in records]


@pytest.mark.usefixtures("_undrawn")
@every_hostile_name
def test_no_picture_leaves_the_folder(name: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "pictures"
    written = plot_results(records_named(name), out)
    assert written
    for path in written:
        assert path.resolve().is_relative_to(out.resolve())
    assert set(tmp_path.rglob("*.png")) == set(out.rglob("*.png")) == set(written)


@pytest.mark.slow
def test_every_hostile_name_can_be_drawn(tmp_path: Path) -> None:
    """All of them in one picture: a panel each."""
    records = [record for name in HOSTILE for record in records_named(name)[:1]]
    model = {"model": HOSTILE[0]}
    records = [each.model_copy(update={"cell": each.cell.model_copy(update=model)}) for each in records]
    figure = plot_curves(frame_of(records))
    save_figure(figure, tmp_path / "hostile.png", dpi=50)
    assert len({axes.get_title() for axes in figure.axes} - {""}) == len(HOSTILE)


@pytest.mark.slow
@every_hostile_name
def test_no_table_loses_its_columns_and_no_line_its_end(name: str) -> None:
    records = records_named(name)
    markdown = render_markdown(summarise(records))
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert all(line.isprintable() for line in render_text(summarise(records)).splitlines())


@pytest.mark.slow
def test_what_cannot_be_printed_is_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever reads records refuses it, so that no terminal gets to see it."""
    path = tmp_path / "x.json"
    for harm in ("\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\x9b31m"):
        for field in ("model", "task", "basis", "method", "task_version"):
            text = synthetic_record().model_dump_json()
            value = getattr(synthetic_record().cell, field)
            path.write_text(text.replace(f'"{field}":"{value}"', f'"{field}":{ascii_json(harm)}', 1), encoding="utf-8")
            for command in ("compare", "validate"):
                assert main([command, str(tmp_path)]) == 2
                captured = capsys.readouterr()
                (line,) = captured.err.splitlines()
                assert f"cell.{field}: expected printable text on one line" in line
                assert line.isprintable()


def test_the_name_of_a_file_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "\x1b[2J\u202e.json").write_text("{}", encoding="utf-8")
    for command in ("compare", "validate"):
        assert main([command, str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()
        assert r"\x1b[2J\u202e.json: schema_version: field required" in line


def ascii_json(text: str) -> str:
    return json.dumps(text)
