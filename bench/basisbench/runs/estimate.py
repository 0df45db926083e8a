"""What a run will take, from shapes alone: passes, memory, disk and time.

1. Cells of one model, task and seed share activations, gradient fields and F(M); each cell adds the points of its own
   curve. Passes are counted as the meter of a run counts them: a backward pass is two, a pass from layer l of L is
   (L - l) / L (tests/runs/test_dry_run.py compares both on the pocket model).
2. Memory is the model, the largest basis, what a group of cells keeps, and the largest pass.
3. Time is arithmetic over an assumed rate. On a CPU the rate was measured (results/hardware), on a device it is an
   assumption: nothing was measured there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig
from basisbench.types import ModelShape

STEPS = 10
"""Points on the paths of `ig` and `ig_inputs`."""

RECORD_BYTES = 40_000
"""A record of 100 examples and 20 sizes."""

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_KINDS = 5
"""Activations kept per layer: MLP input, activation and output, attention output, residual stream."""

_RUNTIME_BYTES = 700 * 2**20
"""Python with torch, transformers, TransformerLens and SAELens, resident (measured)."""

_GRAPH_WIDTHS = 10
_GRAPH_BYTES = {"cpu": 2 * 2**30}
_DEVICE_GRAPH_BYTES = 16 * 2**30

_RATES: Mapping[tuple[str, str], float] = {
    ("cpu", "float32"): 3.5e11,
    ("cpu", "half"): 0.5e11,
    ("device", "float32"): 1e13,
    ("device", "half"): 5e13,
}
"""Multiply-adds and additions per second: two CPU cores as measured with packed weights, without them a seventh of
that; a data-centre GPU as assumed, a tenth of what its makers give."""

_DICTIONARY_SHARE = 0.25
"""Share of a dictionary's dense products that is left once circuits share units (measured on wide SAEs)."""

_LOAD_BYTES_PER_SECOND = 0.5e9
"""Weights from disk to where they are used (assumed)."""


@dataclass(frozen=True)
class Prompts:
    """One aligned group.

    Attributes:
        attribution: pairs of the attribution split.
        evaluation: pairs of the evaluation split.
        positions: tokens of a prompt.
    """

    attribution: int
    evaluation: int
    positions: int


@dataclass(frozen=True)
class BasisSize:
    """How large a basis is.

    Attributes:
        units: units per layer.
        stored: bytes of its weights; 0 for neurons, None where unknown.
        exact: whether there are no errors.
        layer: bytes of its largest layer's weights.
    """

    units: tuple[int, ...]
    stored: int | None
    exact: bool
    layer: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes that are in use at the same time.

    Attributes:
        runtime: the interpreter and its libraries; 0 on a device.
        model: weights, packed copies included.
        dictionary: the largest basis, packed copies included.
        least: what it must have at least: one layer, and as much again to load it.
        kept: activations, gradient fields and reference values of a group of cells.
        passing: the largest pass.
    """

    runtime: int
    model: int
    dictionary: int
    least: int
    kept: int
    passing: int

    @property
    def total(self) -> int:
        """All of it, the whole basis at once."""
        return self.smallest - self.least + self.dictionary

    @property
    def smallest(self) -> int:
        """All of it, where layers of the basis that do not fit are loaded anew in every pass."""
        return self.runtime + self.model + self.least + self.kept + self.passing


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number."""
    return _BYTES.get(dtype, 4)


def expected_forwards(
    cells: Sequence[CellConfig],
    prompts: Sequence[Prompts],
    shape: ModelShape,
    sizes: Mapping[str, BasisSize],
    *,
    post_norms: bool = False,
) -> float:
    """Return the passes over one prompt that a group of cells takes, as `Model.meter` counts them.

    Args:
        cells: cells of one model, task and seed.
        prompts: the aligned groups.
        shape: of the model.
        sizes: of each basis.
        post_norms: whether a norm follows the MLP, so that its activations and its output are two paths (Gemma).
    """
    total = 0.0
    for group in prompts:
        pairs, shared = group.attribution, 0.0
        rules = {cell.method for cell in cells}
        total += 2 * pairs + group.evaluation  # clean, counterfactual; F(M)
        total += group.evaluation * any(cell.kl for cell in cells)
        total += 3 * pairs * len(rules & {"ixg", "relp"}) + 3 * STEPS * pairs * ("ig_inputs" in rules)
        for family in {cell.family for cell in cells if cell.method == "ig"}:
            sweeps = 2 if family == "mlp" and post_norms else 1
            total += 2 * pairs + sweeps * 3 * STEPS * pairs * (shape.layers + 1) / 2
        ends = {(cell.family, cell.ablation) for cell in cells if cell.ablation != "zero"}
        shared += group.evaluation * (len(ends) + ("counterfactual" in {ablation for _, ablation in ends}))
        total += shared
        for cell in cells:
            size = sizes[cell.basis]
            points = _points(cell, size, prompts, group)
            total += group.evaluation * (points + (cell.ablation == "zero"))
            total += group.evaluation * len(cell.subset_sizes) * cell.subset_draws
            if cell.method == "patching":
                share = (len(size.units) + 1) / 2 / shape.layers
                total += pairs * _nodes(cell, size, group) * share
    return total


def _nodes(cell: CellConfig, size: BasisSize, group: Prompts) -> int:
    """Return the nodes that are ranked."""
    errors = 0 if size.exact or cell.error_policy != "node" else len(size.units)
    return (sum(size.units) + errors) * (group.positions if cell.granularity == "position" else 1)


def _points(cell: CellConfig, size: BasisSize, prompts: Sequence[Prompts], group: Prompts) -> int:
    """Return how many circuits and complements are run: F(M) and F(0) are known (basisbench.circuits.curve)."""
    nodes = _nodes(cell, size, group)
    grid = sizes_grid(max(_nodes(cell, size, other) for other in prompts))
    distinct = len({min(step, nodes) for step in grid})
    both = 2 * distinct
    known_full, known_empty = cell.error_policy != "ablate", cell.error_policy != "keep" or size.exact
    known = 2 * known_full + 2 * known_empty
    if cell.kl:
        known = known_full + known_empty
    return both - known


def expected_memory(
    cells: Sequence[CellConfig],
    prompts: Sequence[Prompts],
    shape: ModelShape,
    sizes: Mapping[str, BasisSize],
    *,
    device: str,
    dtype: str,
    packing: int,
) -> Memory:
    """Return the memory in use at the peak of a group of cells.

    Args:
        cells: cells of one model, task and seed.
        prompts: the aligned groups.
        shape: of the model.
        sizes: of each basis.
        device: where it runs.
        dtype: type of the weights.
        packing: up to how many bytes weights get packed copies (`packed.largest_bytes`).
    """
    item, cpu = item_bytes(dtype), device == "cpu"
    model = shape.parameters * item
    embeddings = shape.vocabulary * shape.width * item
    if cpu and dtype == "float32" and model <= packing:
        # A copy for the way there, and one for the way back where there are gradients.
        model += (model - embeddings) * (2 if any(cell.method in _GRADIENT_METHODS for cell in cells) else 1)
    largest = max((sizes[cell.basis].stored or 0 for cell in cells), default=0)
    dictionary = largest * (2 if cpu and dtype == "float32" and largest <= packing else 1)
    widths = shape.layers * ((_KINDS - 1) * shape.width + shape.mlp_width) * item
    attribution = sum(group.attribution * group.positions for group in prompts)
    evaluation = sum(group.evaluation * group.positions for group in prompts)
    rules = {cell.method for cell in cells} & _GRADIENT_METHODS
    sides = 2 * attribution + (evaluation if any(cell.ablation == "counterfactual" for cell in cells) else 0)
    kept = widths * (sides + attribution * len(rules))
    most = max(max(group.attribution, group.evaluation) * group.positions for group in prompts)
    units = max(max(sizes[cell.basis].units) for cell in cells)
    graph = 0
    if rules:
        of_a_token = shape.layers * _GRAPH_WIDTHS * (shape.width + shape.mlp_width) * max(4, item)
        graph = min(_GRAPH_BYTES.get(device, _DEVICE_GRAPH_BYTES), most * of_a_token)
    # Coordinates of one layer, clean and counterfactual, and what is computed from them.
    coordinates = 3 * most * units * item
    least = min(dictionary, 2 * max((sizes[cell.basis].layer for cell in cells), default=0))
    return Memory(_RUNTIME_BYTES if cpu else 0, model, dictionary, least, kept, max(graph, coordinates))


_GRADIENT_METHODS = {"ixg", "ig", "ig_inputs", "relp"}


def expected_seconds(
    forwards: float,
    prompts: Sequence[Prompts],
    shape: ModelShape,
    sizes: Mapping[str, BasisSize],
    cells: Sequence[CellConfig],
    *,
    device: str,
    dtype: str,
) -> float:
    """Return the seconds that a group of cells takes at the assumed rate.

    Args:
        forwards: passes over one prompt.
        prompts: the aligned groups.
        shape: of the model.
        sizes: of each basis.
        cells: the cells.
        device: where they run.
        dtype: type of the weights.
    """
    pairs = sum(group.attribution + group.evaluation for group in prompts)
    positions = sum((group.attribution + group.evaluation) * group.positions for group in prompts) / pairs
    body = shape.parameters - shape.vocabulary * shape.width
    work = 2 * body * positions * forwards
    for cell in cells:
        size = sizes[cell.basis]
        if not size.exact:
            rows = sum(group.evaluation * _points(cell, size, prompts, group) for group in prompts)
            work += _DICTIONARY_SHARE * 4 * shape.width * sum(size.units) * positions * rows
    where = "cpu" if device == "cpu" else "device"
    rate = _RATES[where, "half" if item_bytes(dtype) == 2 else "float32"]
    loading = sum(sizes[name].stored or 0 for name in {cell.basis for cell in cells}) / _LOAD_BYTES_PER_SECOND
    return work / rate + loading


def dictionary_bytes(name: str, units: int, shape: ModelShape, item: int) -> tuple[int, int]:
    """Return the bytes of dictionaries of one width, of all layers and of the largest.

    There is an encoder row and a decoder row per unit.

    Args:
        name: name of the basis; a cross-layer transcoder (`clt:...`) has a decoder row for every later layer too.
        units: units per layer.
        shape: of the model.
        item: bytes of a number.
    """
    row, layers = units * shape.width * item, shape.layers
    if re.match(r"clt\b", name):
        return (layers + layers * (layers + 1) // 2) * row, (1 + layers) * row
    return 2 * layers * row, 2 * row
