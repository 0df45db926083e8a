"""Performance tests: `tox run -e perf` measures; the test suite only runs each once, at a tiny shape."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.shapes import check_shapes

check_shapes()  # where these tests alone are run, this file is imported before the session starts

from basisbench.circuits.group import GroupPair
from basisbench.models.model import Model
from basisbench.protocols import Basis, Method
from basisbench.registry import load_registry
from basisbench_baselines.bases.saelens import DictionaryBasis
from figures import Figures
from workload import SHAPES, Shape, open_group, random_body, random_dictionaries, random_model

_FIGURES = pytest.StashKey[Figures]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("basisbench")
    group.addoption("--shape", choices=sorted(SHAPES), default="tiny", help="shape of the workload")
    group.addoption("--rounds", type=int, default=7, help="rounds per figure")
    group.addoption("--figures", type=Path, help="JSON file to write the figures to")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "measured: only where figures are measured")
    config.stash[_FIGURES] = Figures(config.getoption("--rounds"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--benchmark-enable"):
        measured = {item for item in items if item.get_closest_marker("measured")}
        config.hook.pytest_deselected(items=list(measured))
        items[:] = [item for item in items if item not in measured]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if figures.figures:
        terminalreporter.section("figures")
    for figure in figures.figures:
        bound = "" if figure.bound is None else f"  bound {figure.bound:g}{'' if figure.holds else '  MISSED'}"
        terminalreporter.write_line(
            f"{figure.ratio:8.3f} ({figure.low:.3f} to {figure.high:.3f})  {figure.name} / {figure.against}{bound}"
        )
    path = config.getoption("--figures")
    if path is not None and figures.figures:
        figures.write(path, asdict(SHAPES[config.getoption("--shape")]))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return request.config.stash[_FIGURES]


@pytest.fixture(scope="session")
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.config.getoption("--shape")]


class Workload:
    """The reference workload, each part made when it is first asked for."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.registry = load_registry()

    @cached_property
    def model(self) -> Model:
        return random_model(self.shape)

    @cached_property
    def plain(self) -> Any:
        """The same weights as a plain Hugging Face model."""
        return random_body(self.shape)

    @cached_property
    def group(self) -> GroupPair:
        return open_group(self.model, self.shape)

    @cached_property
    def dictionaries(self) -> DictionaryBasis:
        return random_dictionaries(self.model, self.shape, self.group.attribution)

    def basis(self, name: str) -> Basis:
        return self.dictionaries if name == "sae_mlp_out" else self.registry.get("basis", name).build(self.model)

    def method(self, name: str) -> Method:
        return self.registry.get("method", name)

    @property
    def hooks(self) -> list[str]:
        """The write hooks of all families."""
        kinds = ("mlp_act", "mlp_out", "attn_out", "resid_post")
        return [self.model.hook(kind, layer) for layer in range(self.model.layers) for kind in kinds]

    def plain_forward(self) -> None:
        """All logits of the evaluation prompts, by the plain model."""
        plain = self.plain  # made outside inference mode
        with torch.inference_mode():
            plain(input_ids=self.group.evaluation.batch.clean, use_cache=False)


@pytest.fixture(scope="session")
def workload(shape: Shape) -> Workload:
    return Workload(shape)
