"""Long prompts: what a cell takes does not grow with pairs, and with their length as it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from unittest import mock
import torch
from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.batching import BUDGETS, Budget
from basisbench.models.load import load_model
from basisbench.models.memory import give_memory_back, peak_memory, reset_peak_memory
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.session import Session
from basisbench.types import PairSet
from helpers.oracle_models import random_pairs

registry = load_registry()
model = load_model(registry.get("model", "pocket-llama"))
small = {"gradients": Budget(2**24, 2**24), "pairs": Budget(2**22, 2**22), "activations": Budget(2**24, 2**24)}
for pairs, length in json.loads(sys.argv[1]):
    cell = CellConfig(
        model="pocket-llama", task="stub", task_version="1", basis="mlp_act", family="mlp", method="relp",
        attribution_pairs=pairs, evaluation_pairs=1,
    )
    with mock.patch.dict(BUDGETS, small):
        attribution, evaluation = random_pairs(pairs, length, 1), random_pairs(1, length, 2, split="evaluation")
        group = GroupPair(GroupContext(model, attribution, 0), GroupContext(model, evaluation, 0))
        session = Session(model, PairSet((attribution,)), PairSet((evaluation,)), (group,))
        give_memory_back()
        reset_peak_memory(model.device)
        start = peak_memory(model.device)
        record = session.run(cell, registry.get("basis", "mlp_act"), registry.get("method", "relp"), at=[10])
        print(record.cost.peak_memory_bytes - start)
    del session, group
"""


def peaks(*cases: tuple[int, int]) -> list[int]:
    """Return the bytes that a cell takes beside the model, for each number of pairs and tokens; the first warms up."""
    roots = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([cases[0], *cases])],
        capture_output=True,
        text=True,
        check=False,
        # What is freed is given back at once, so that peaks are those of what is in use.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "PYTHONPATH": os.pathsep.join(roots),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(line) for line in done.stdout.splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of one cell can be measured on Linux alone")
def test_memory_is_flat_in_pairs_and_linear_in_their_length() -> None:
    few, more, twice = peaks((2, 300), (6, 300), (2, 600))
    assert more < 1.05 * few
    assert twice < 2.4 * few  # scores of attention, in one block at a time, grow with the square
