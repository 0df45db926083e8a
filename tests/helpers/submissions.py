"""Submissions of made-up records, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from basisbench.registry import load_registry
from basisbench.results.record import PlugIn, Record
from basisbench.results.store import SUBMISSION_FILE, Store
from basisbench.submissions.submission import Checked, sha256
from basisbench.submissions.submit import SubmissionRequest, submit
from basisbench.submissions.validate import validate
from helpers.synthetic_records import synthetic_record, synthetic_suite, write_suite

GIVEN = {"name": "mine", "authors": ["Ada Lovelace", "Émilie du Châtelet"], "licence": "CC-BY-4.0"}


def some_records() -> list[Record]:
    """Return records of one task, three bases and two methods."""
    bases, methods = ("mlp_act", "mlp_out", "transcoder"), ("relp", "random")
    return list(synthetic_suite(tasks=("ioi",), bases=bases, methods=methods, examples=6))


def make_submission(
    folder: Path, records: list[Record] | None = None, checker_code: str | None = None, **given: Any
) -> Path:
    """Write a run's results and submit them; return the submission's folder in `folder/results/submissions`."""
    fields = {**GIVEN, **given}
    run = folder / f"run-{fields['name']}"
    write_suite(run, some_records() if records is None else records)
    out = folder / "results" / "submissions" / fields["name"]

    def passed_with(*named: Any) -> Checked:
        return passed(*named).model_copy(update={"code": checker_code})

    request = SubmissionRequest(results=[run], out=out, given=fields, registry=load_registry(), checker=passed_with)
    return submit(request).folder


def passed(kind: PlugIn, name: str, model: str) -> Checked:
    """Say that a plug-in of which there is no code has passed its contract tests."""
    return Checked(
        kind=kind, name=name, model=model, basisbench="0", code=None, properties=("ok      decode: affine: 0",)
    )


def write_results(folder: Path) -> Path:
    """Write a reference run and a submission of another basis; return the tree of results, `folder/results`."""
    write_suite(folder / "results" / "pocket", some_records())
    make_submission(folder, [synthetic_record("ioi", "mlp_act_rotated", examples=6)])
    return folder / "results"


def mine(tree: Path) -> Path:
    """Return the submission's folder in such a tree."""
    return tree / "submissions" / "mine"


def the_record(tree: Path) -> Path:
    """Return the submission's only record."""
    (path,) = Store(mine(tree)).records.iterdir()
    return path


def only_line(*paths: Path) -> str:
    """Validate and return the one line that is told, which must be fit to print."""
    (line,) = validate(paths).lines()
    assert line.isprintable()
    assert len(line) < 1500
    return line


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def replace_records(folder: Path, change: Callable[[Record], Record]) -> None:
    """Replace every record of a submission and make the metadata say so: what a forger would do."""
    store = Store(folder)
    before = sorted(store.records.iterdir())
    changed = [change(Record.model_validate_json(path.read_bytes(), strict=True)) for path in before]
    for path in before:
        path.unlink()
    digests = {path.name: sha256(path.read_bytes()) for path in map(store.write, changed)}
    edit_json(folder / SUBMISSION_FILE, lambda content: content.update(records=digests))
