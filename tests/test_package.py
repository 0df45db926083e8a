"""What is installed: the wheel under tox, every data file with it."""

from __future__ import annotations

import os
import sysconfig
from importlib.resources import files
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("basisbench", "basisbench_tasks", "basisbench_baselines")


@pytest.mark.parametrize("package", PACKAGES)
def test_tox_tests_the_wheel_and_not_the_checkout(package: str) -> None:
    folder = Path(str(files(package))).resolve()
    installed = folder.is_relative_to(Path(sysconfig.get_paths()["purelib"]).resolve())
    in_checkout = folder.is_relative_to(CHECKOUT / "bench") or folder.parent.parent == CHECKOUT
    under_tox = os.environ.get("TOX_ENV_NAME") in {"tests", "perf"}
    assert installed if under_tox else installed or in_checkout


@pytest.mark.parametrize("package", PACKAGES)
def test_data_files_are_there(package: str) -> None:
    wanted = {"basisbench": ["py.typed", "runs/suites/pocket.yaml"]}.get(package, ["py.typed"])
    for name in wanted:
        assert (files(package) / name).is_file(), name
