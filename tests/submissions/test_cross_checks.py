"""`basisbench validate` on submissions: endpoints, pairs and weights that a task's records share cannot be forged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import basisbench.submissions.cross_checks
from basisbench.cli import main
from basisbench.results.record import Record
from basisbench.results.store import Store
from basisbench.submissions.validate import validate
from helpers.submissions import edit_json, make_submission, mine, only_line, replace_records, some_records, the_record
from helpers.synthetic_records import synthetic_record, synthetic_suite, with_endpoint_moved, write_suite


def shifted(record: Record, field: Any, amount: float = 1.0) -> Record:
    """Return the record with an endpoint moved everywhere, and the curve with it: nothing contradicts anything."""
    return with_endpoint_moved(record, field, [amount] * len(record.endpoints.full))


@pytest.mark.parametrize("field", ["full", "empty"])
@pytest.mark.parametrize("version", [None, "9.9"])
def test_endpoints_are_those_of_the_reference(tree: Path, field: str, version: str | None) -> None:
    """Whoever claims another version of BasisBench does not escape."""

    def forged(record: Record) -> Record:
        endpoints = record.endpoints.model_copy(update={"empty_at": "output"})
        record = record.model_copy(update={"endpoints": endpoints, "basisbench": version or record.basisbench})
        return shifted(record, field)

    for path in Store(tree / "pocket").records.iterdir():
        edit_json(path, lambda content: content["endpoints"].update(empty_at="output"))
    replace_records(mine(tree), forged)
    for paths in ([tree], [mine(tree)], [tree / "pocket", mine(tree)]):
        line = only_line(*paths)
        assert line.startswith(f"{the_record(tree)}: endpoints.{field}[0]: found ")
        assert "and 5 more" in line
        assert "pocket" in line


def test_many_forged_records_do_not_outvote_the_reference(tree: Path) -> None:
    bases, methods = ("mlp_act_rotated", "sae_mlp_out"), ("ixg", "ig", "relp", "random", "magnitude")
    forged = [shifted(record, "full") for record in synthetic_suite(("ioi",), bases, methods, examples=6)]
    shutil.rmtree(tree / "submissions")
    folder = tree / "submissions" / "many"
    shutil.copytree(make_submission(tree.parent / "aside", forged, name="many"), folder)
    report = validate([tree])
    assert len(report.problems) == len(forged) == 10 > report.valid == 6
    assert all(path.is_relative_to(folder) for path in report.problems)


@pytest.mark.slow
def test_thousands_of_different_values_take_no_longer(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are compared with a few others each, however many differ."""
    compared = 0
    apart = basisbench.submissions.cross_checks._apart

    def counted(*arguments: Any) -> int | None:
        nonlocal compared
        compared += 1
        return apart(*arguments)

    monkeypatch.setattr(basisbench.submissions.cross_checks, "_apart", counted)
    monkeypatch.setattr(basisbench.submissions.cross_checks, "MOST_CLUSTERS", 3)
    records = [synthetic_record("ioi", "mlp_act_rotated", seed=seed, examples=6) for seed in range(1, 60)]
    folder = tree / "submissions" / "many"
    shutil.copytree(make_submission(tree.parent / "aside", records, name="many"), folder)
    replace_records(folder, lambda record: shifted(record, "full", record.cell.seed))
    compared = 0
    report = validate([tree])
    assert len(report.problems) == len(records)
    assert compared < 20 * len(records), "far from the 1,700 pairs that each number has, twice"


def test_the_reference_can_be_named(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere" / "mine"
    elsewhere.parent.mkdir()
    mine(tree).rename(elsewhere)
    replace_records(elsewhere, lambda record: shifted(record, "full"))
    assert main(["validate", str(elsewhere)]) == 0, "nothing to hold it against"
    for more in (["--reference", str(tree / "pocket")], [str(tree / "pocket")]):
        assert main(["validate", str(elsewhere), *more]) == 2
        assert "endpoints.full[0]: found" in capsys.readouterr().err
    replace_records(elsewhere, lambda record: record.model_copy(update={"basisbench": "9.9"}))
    assert main(["validate", str(elsewhere), str(tree / "pocket")]) == 2, "another path counts, whatever the version"
    assert "endpoints.full[0]: found" in capsys.readouterr().err
    assert main(["validate", str(elsewhere), "--reference", str(tree / "nowhere")]) == 2
    assert "nowhere: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "meaning"),
    [("data", "the pairs of a task's version and seed"), ("model", "a model of one name has the same weights")],
)
def test_other_pairs_or_weights_under_the_same_name_are_told(tree: Path, field: str, meaning: str) -> None:
    def forged(record: Record) -> Record:
        identities = record.identities.model_copy(update={field: "f" * 64})
        return shifted(record.model_copy(update={"identities": identities}), "full")

    replace_records(mine(tree), forged)
    line = only_line(tree)
    assert f"identities.{field}: found ffffffffffff..., expected " in line
    assert meaning in line


def other_statistic(place: str) -> Callable[[Any], None]:
    """Return a change of one record that nothing in it contradicts."""

    def change(content: Any) -> None:
        if place == "counts.area_end":
            content["counts"]["area_end"] *= 2
        elif place == "clusters":
            content["clusters"]["name"] = [0] * len(content["endpoints"]["full"])
        elif place == "groups[].tokens":
            content["groups"][0]["tokens"][3] = "other"
        else:
            name = place.removeprefix("endpoints.")
            value = content["endpoints"][name]
            content["endpoints"][name] = value + 0.5 if isinstance(value, float) else [value[0] + 0.5, *value[1:]]

    return change


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("counts.area_end", {}),
        ("clusters", {}),
        ("groups[].tokens", {}),
        ("endpoints.gate_empty", {"ablation": "zero"}),
        ("endpoints.family_empty", {"layers": (0, 2, 4, 6)}),
    ],
)
@pytest.mark.parametrize("version", [None, "9.9"])
def test_what_statistics_are_made_of_is_one_for_a_family(
    tmp_path: Path, place: str, options: dict[str, Any], version: str | None
) -> None:
    """Ends of areas, levels of clusters and the gates' F(0): of a submission whatever version it claims."""
    bases = ("mlp_act", "mlp_out", "mlp_act_rotated", "transcoder")
    records = [synthetic_record("ioi", basis, examples=6, **options) for basis in bases]
    others = synthetic_record("ioi", "resid", examples=6, **options)  # another family ends elsewhere
    write_suite(tmp_path / "results" / "pocket", [*records[:-1], others])
    folder = make_submission(tmp_path, [records[-1]], name="mine")
    assert validate([tmp_path / "results"]).problems == {}
    replace_records(folder, lambda record: record.model_copy(update={"basisbench": version or record.basisbench}))
    path = the_record(tmp_path / "results")
    edit_json(path, other_statistic(place))
    replace_records(folder, lambda record: record)
    line = only_line(tmp_path / "results")
    assert line.startswith(f"{the_record(tmp_path / 'results')}: {place}")
    assert "as in" in line
    assert "pocket" in line


def test_a_submission_does_not_replace_a_cell_of_others(tree: Path) -> None:
    """The same cell under one path: what nobody submitted stays, whatever the date of the other.

    `submit` would leave it out here, so it is made elsewhere.
    """
    elsewhere = make_submission(tree.parent / "elsewhere", some_records()[:1], name="again")
    folder = Path(shutil.copytree(elsewhere, tree / "submissions" / "again"))
    (path,) = Store(folder).records.iterdir()
    assert only_line(tree).startswith(f"{path}: holds a record of the same cell as {tree / 'pocket'}")
