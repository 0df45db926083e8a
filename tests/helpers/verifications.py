"""Verifications of made-up records, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basisbench.results.record import read_record, write_whole
from basisbench.results.store import VERIFICATION_FILE
from basisbench.submissions.rerun_agreement import compare_records, tolerance_for
from basisbench.submissions.sampling import sample_cells
from basisbench.submissions.verification import Verification, list_records, records_digest
from basisbench.submissions.verification_fields import Sampling

FLOAT32 = tolerance_for("float32")


def verification_of(folder: Path, seed: int = 5, cells: int = 3, **changes: Any) -> Verification:
    """Return what a verifier whose re-run gives the very records would write."""
    drawn = sample_cells([path.stem for path in list_records(folder)], cells, seed)
    records = [read_record(folder / "records" / f"{name}.json") for name in drawn]
    verified = tuple(compare_records(record, record, record.identities, FLOAT32) for record in records)
    content: dict[str, Any] = {
        "schema_version": 2,
        "by": "Ada",
        "environment": records[0].environment.model_dump(),
        "device": "cpu",
        "records_digest": records_digest(folder),
        "cells_in_folder": len(list_records(folder)),
        "sampling": Sampling(seed=seed, cells=cells, points=4).model_dump(),
        "tolerances": {"float32": FLOAT32.model_dump()},
        "cells": [cell.model_dump() for cell in verified],
        "largest": max(cell.largest for cell in verified),
        "passed": all(cell.passed for cell in verified),
    }
    return Verification.model_validate({**content, **changes})


def write_verification(folder: Path, **changes: Any) -> None:
    """Write what a verifier whose re-run gives the very records would write into a folder."""
    write_whole(folder / VERIFICATION_FILE, verification_of(folder, **changes).model_dump_json())
