"""What a user's own runs leave in `local` is never taken for a tree's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from basisbench.errors import RecordError
from basisbench.report import write_report
from basisbench.report.sources import read_sources
from basisbench.results.frame import read_results
from basisbench.submissions.validate import validate
from helpers.submissions import make_submission
from helpers.synthetic_records import synthetic_record, write_suite


@pytest.mark.slow
def test_a_users_own_runs_are_no_part_of_a_tree_of_results(tmp_path: Path) -> None:
    tree, cells = tmp_path / "results", [synthetic_record(examples=6), synthetic_record(basis="mlp_out", examples=6)]
    write_suite(tree / "pocket", cells)
    for own in ("local", "local/mine"):  # the same cells again, as a run of the same suite leaves them
        write_suite(tree / own, cells)
    for _ in range(2):
        report = validate([tree])
        assert (report.valid, report.problems) == (2, {})
        (source,) = read_sources(tree)
        assert (source.name, len(source.cells)) == ("pocket", 2)
        assert write_report(tree, tmp_path / "page").is_file()
    assert len(read_results(tree)) == 2
    assert validate([tree / "local" / "mine"]).valid == len(read_results(tree / "local" / "mine")) == 2


def test_only_the_folder_directly_in_the_tree_is_a_users_own(tmp_path: Path) -> None:
    make_submission(tmp_path, [synthetic_record("ioi", "mlp_out", examples=6)], name="local")
    write_suite(tmp_path / "deep" / "runs" / "local", [synthetic_record(examples=6)])
    for tree in (tmp_path / "results" / "submissions", tmp_path / "deep"):
        assert validate([tree]).valid == len(read_results(tree)) == 1


def test_a_tree_with_nothing_but_a_users_own_runs_says_where_they_are(tmp_path: Path) -> None:
    write_suite(tmp_path / "local", [synthetic_record(examples=6)])
    with pytest.raises(RecordError, match=f"holds no records.*your own runs are in {tmp_path}/local"):
        read_results(tmp_path)
    (line,) = validate([tmp_path]).lines()
    assert "holds no records" in line
    assert f"your own runs are in {tmp_path}/local" in line
