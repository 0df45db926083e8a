"""A few cells of the pocket model, run for real, and their records under the ids that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from basisbench.results.record import Record
from basisbench.results.store import Store
from basisbench.runs.run import Request, run_request
from basisbench.runs.runner import RunOptions
from helpers.forgeries import Content

PAIRS = 8


def run(out: Path, **changes: Any) -> None:
    """Run cells of one task on the pocket model, with few pairs."""
    chosen = {"tasks": ["sva_simple"], "attribution_pairs": PAIRS, "error_policies": ["coordinates"]}
    request = Request("pocket", {**chosen, "evaluation_pairs": PAIRS, **changes}, RunOptions(out=out), progress=False)
    run_request(request).raise_failures()


def store(content: Content, folder: Path) -> str:
    """Write a record under the id that follows from it, as a careful forger would; return the id."""
    record = Record.model_validate_json(json.dumps(content), strict=True)
    Store(folder).write(record)
    return record.id
