"""Estimates what a run takes, from shapes alone: passes, memory and seconds.

1. Passes are counted as the meter of a run counts them: a backward pass is two, a pass from layer l of L is
   (L - l) / L. Cells of one model, task and seed share activations, F(M) and F(0); a method says what it takes
   (`types.Passes`) and who shares it; each cell adds the points of its own curve, of which a few are an expectation:
   where a curve is bisected follows from what is found. Dictionaries are tried on the pairs that scores come from.
2. Memory is the model, the largest basis, what is kept from cell to cell, and the largest pass.
3. Seconds are multiplications and additions over a rate, what short passes take whatever is in them, the time to load
   dictionaries, and what any cell takes. They count what is computed rather than passes: circuits leave out the common
   prefix and the last block of all but one position, and a backward pass without gradients of weights costs what a
   forward one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from basisbench.attribution.graph_size import graph_bytes
from basisbench.attribution.parts import all_kept, tokens_of_a_part
from basisbench.circuits.adversarial import search_passes
from basisbench.models.batching import BUDGETS
from basisbench.models.onednn import largest_bytes
from basisbench.protocols import Method, passes_of
from basisbench.results.metrics import sizes_grid
from basisbench.results.record import CellConfig
from basisbench.types import ModelShape, Passes

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

_RUNTIME_BYTES = 700 * 2**20
"""Python with torch, transformers, TransformerLens and SAELens, resident (measured)."""

_CELL_BYTES, _CELLS_KEPT = 8 * 2**20, 64
"""What oneDNN and the allocator keep of ever new shapes, up to a number of cells (peaks of results/pocket)."""

_HELD, _SORTED = 16, 16
"""Bytes of a node while scores are averaged over parts of the pairs (sums in float64, scores of a part, references)
or circuits are run (scores, places, references and their copies, masks); and what sorting takes besides."""

_HEAD_WIDTH, _SCORES = 64, 4
"""Width of a head, where scores of attention are tensors, and how many such tensors there are at once in a block."""

_KEPT_WIDTHS = 5
"""Activations of the model's width that are kept per layer: MLP input and output, heads, attention output, residual
stream; the first is only read."""

_DICTIONARY_SHARE = 0.25
"""Share of a dictionary's dense products that is left once circuits share units (measured on wide SAEs)."""

SOUGHT_CIRCUITS = 6
"""Circuits that a cell runs beyond its grid of sizes: those of bisection, at most ten, and the most scored nodes with
their complement (mean over bases, methods and conditions on the pocket model)."""

_LOAD_BYTES_PER_SECOND = 0.5e9
"""Weights from disk to where they are used (assumed)."""

_CELL_SECONDS = 0.15
"""Ranking, masks, statistics and the record of a cell (measured on the pocket model)."""


@dataclass(frozen=True)
class Prompts:
    """One aligned group: pairs of each split, tokens of a prompt, and with how many of them all prompts begin."""

    attribution: int
    evaluation: int
    positions: int
    shared: int = 0


@dataclass(frozen=True)
class BasisSize:
    """How large a basis is.

    Attributes:
        units: units per layer.
        stored: bytes of its weights; 0 for neurons, which leave no error.
        layer: bytes of its largest layer's weights.
    """

    units: tuple[int, ...]
    stored: int = 0
    layer: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes that are in use at the same time.

    Attributes:
        runtime: the interpreter and its libraries; 0 on a device.
        model: weights, packed copies included.
        dictionary: the largest basis, packed copies included.
        least: what it must have at least: one layer, and as much again to load it.
        kept: activations and gradient fields of pairs; scores, places and reference values of nodes.
        passing: the largest pass, or the sorting of nodes.
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


@dataclass(frozen=True)
class Speed:
    """How fast passes are.

    Attributes:
        rate: multiplications and additions a second, in a pass over many tokens.
        least: seconds of a pass over one short prompt: mostly those in which weights are read; 0 where nobody knows.
    """

    rate: float
    least: float = 0.0


@dataclass(frozen=True)
class Workload:
    """The work of some cells that share a model, a task and a seed.

    Attributes:
        cells: the cells.
        prompts: the aligned groups of the task.
        shape: of the model.
        sizes: of each basis.
        methods: by name.
        device: where it runs.
        dtype: type of the weights.
        speed: of passes.
    """

    cells: Sequence[CellConfig]
    prompts: Sequence[Prompts]
    shape: ModelShape
    sizes: Mapping[str, BasisSize]
    methods: Mapping[str, Method]
    device: str
    dtype: str
    speed: Speed

    @property
    def passes(self) -> float:
        """Passes over one prompt, as `Model.meter` counts them."""
        return sum(sum(passes) for passes in self._passes_by_group)

    @cached_property
    def _passes_by_group(self) -> list[tuple[float, float, float]]:
        """Passes of each aligned group: forward, forward with backward, and those of circuits."""
        # F(0) at the output; where layers are left out, that of the whole family too.
        ends = {(cell.family, cell.ablation, layers) for cell in self.cells for layers in {cell.layers, None}}
        # F(M), its distribution, F(0), and the counterfactual run that F(0) may need.
        once = 1 + any(cell.kl for cell in self.cells) + len(ends)
        once += any(ablation == "counterfactual" for _, ablation, _ in ends)
        # Losses of clean and counterfactual prompts: plain, with each mean of a family, with each dictionary.
        fitted = {cell.basis: cell.family for cell in self.cells if self.sizes[cell.basis].stored}
        losses = 2 * (1 + len(set(fitted.values())) + len(fitted)) if fitted else 0
        passes: list[tuple[float, float, float]] = []
        for group in self.prompts:
            gradients, patched = map(
                sum, zip(*(self._passes_to_score(name, group) for name in self.methods), strict=True)
            )
            circuits = sum(self._circuits(cell, group) for cell in self.cells)
            forward = group.attribution * (2 + losses + patched) + group.evaluation * once
            passes.append((forward, group.attribution * gradients, group.evaluation * circuits))
        return passes

    def _passes_to_score(self, method: str, group: Prompts) -> tuple[float, float]:
        """Return what a method takes for one pair in all cells together: passes with gradients, patched passes."""
        cells = [cell for cell in self.cells if cell.method == method]
        passes, layers = self._declared(method), self.shape.layers
        sharers = {"task": 1, "family": len({cell.family for cell in cells}), "cell": len(cells)}[passes.shared]
        shared = passes.per_prompt + passes.per_layer * (layers + 1) / 2
        alone = sum(self._nodes(cell, group) * (len(self.sizes[cell.basis].units) + 1) / 2 / layers for cell in cells)
        return sharers * shared, passes.per_node * alone

    def _circuits(self, cell: CellConfig, group: Prompts) -> int:
        """Return the passes of a cell over one prompt: points of its curve, and halves of complements."""
        points = self._points(cell, group) + (cell.ablation == "zero")  # there F(0) is the basis's own
        points += len(cell.subset_sizes) * cell.subset_draws
        if not cell.subset_blocks:
            return points
        left = [max(0, self._nodes(cell, group) - size) for size in cell.subset_sizes]
        return points + sum(search_passes(min(cell.subset_blocks, nodes)) for nodes in left)

    def _declared(self, method: str) -> Passes:
        return passes_of(self.methods[method]) or Passes()

    def _nodes(self, cell: CellConfig, group: Prompts) -> int:
        """Return the nodes that are ranked."""
        size = self.sizes[cell.basis]
        each = {"node": 1, "coordinates": self.shape.width, "rotated": self.shape.width}.get(cell.error_policy, 0)
        errors = each * len(size.units) if size.stored else 0
        return (sum(size.units) + errors) * (group.positions if cell.granularity == "position" else 1)

    def _points(self, cell: CellConfig, group: Prompts) -> int:
        """Return how many circuits and complements are run: F(M) and F(0) are known (basisbench.circuits.curve)."""
        nodes = self._nodes(cell, group)
        grid = sizes_grid(max(self._nodes(cell, other) for other in self.prompts))
        known = (cell.error_policy != "ablate") + (cell.error_policy != "keep" or not self.sizes[cell.basis].stored)
        on_grid = 2 * len({min(step, nodes) for step in grid}) - (known if cell.kl else 2 * known)
        return on_grid + SOUGHT_CIRCUITS

    @property
    def memory(self) -> Memory:
        """Memory in use at the peak."""
        shape, item = self.shape, item_bytes(self.dtype)
        fields = sum(self._declared(name).shared != "cell" for name in self.methods)
        on_cpu = self.device == "cpu"
        packed = largest_bytes() if on_cpu and self.dtype == "float32" else 0
        model = shape.parameters * item
        if model <= packed:  # a copy for the way there, and one for the way back where there are gradients
            model += (model - shape.vocabulary * shape.width * item) * (2 if fields else 1)
        largest = max(size.stored for size in self.sizes.values())
        dictionary = largest * (2 if largest <= packed else 1)
        least = min(dictionary, 2 * max(size.layer for size in self.sizes.values()))
        kept, most = self._pairs_kept(fields)
        nodes = [[sum(size.units) * group.positions for group in self.prompts] for size in self.sizes.values()]
        # Coordinates of one layer, clean and counterfactual, and what is computed from them; or places of nodes.
        passing = 3 * most * max(max(size.units) for size in self.sizes.values()) * item
        passing = max(passing, _SORTED * max(map(max, nodes)), self._gradient_pass(most) if fields else 0)
        kept += _HELD * max(map(sum, nodes))
        runtime = _RUNTIME_BYTES + _CELL_BYTES * min(len(self.cells), _CELLS_KEPT) if on_cpu else 0
        return Memory(runtime, model, dictionary, least, kept, passing)

    def _gradient_pass(self, tokens: int) -> int:
        """Return the bytes of a gradient pass, of a group or a part of one that has so many tokens."""
        shape, item = self.shape, max(4, item_bytes(self.dtype))
        longest, budget = max(group.positions for group in self.prompts), BUDGETS["gradients"].on(self.device)
        if self._graph_of(longest, shape.layers) <= budget:
            return min(budget, self._graph_of(tokens, shape.layers))
        # One prompt, of which every block keeps what enters it, and one block at a time its inside.
        scores = _SCORES * max(1, shape.width // _HEAD_WIDTH) * longest
        return self._graph_of(longest, 1) + longest * (shape.layers * shape.width + scores) * item

    def _graph_of(self, tokens: int, layers: int) -> int:
        """Return the bytes that autograd keeps of so many tokens in so many blocks."""
        return graph_bytes(tokens, layers, self.shape.width, self.shape.mlp_width, item_bytes(self.dtype))

    def _pairs_kept(self, fields: int) -> tuple[int, int]:
        """Return the bytes that are kept of pairs, and the tokens of one side of a group, or of a part of one.

        What is kept for all bases, for one basis at a time, or for a part of the pairs: `attribution.parts`.
        """
        shape, budget = self.shape, BUDGETS["pairs"].on(self.device)
        each = shape.layers * item_bytes(self.dtype)
        every, written = (
            (widths * shape.width + shape.mlp_width) * each for widths in (_KEPT_WIDTHS, _KEPT_WIDTHS - 1)
        )
        tokens = sum(group.attribution * group.positions for group in self.prompts)
        longest = max(group.positions for group in self.prompts)
        most = max(max(group.attribution, group.evaluation) * group.positions for group in self.prompts)
        kept = tokens * (2 * every + fields * written)
        if not all_kept(tokens, every, written, budget):
            of_basis = 3 * max(shape.mlp_width, 2 * shape.width) * each
            kept = min(tokens * of_basis, max(budget, longest * of_basis))
            most = min(most, max(longest, tokens_of_a_part(every, written, budget)))
        if any(cell.ablation == "counterfactual" for cell in self.cells):
            evaluation = sum(group.evaluation * group.positions for group in self.prompts)
            kept += min(evaluation * every, max(budget, longest * every))
        return kept, most

    @property
    def seconds(self) -> float:
        """Seconds in one process that has started."""
        cut = 1 - 0.5 / self.shape.layers  # what is left of the last block where one position of it is computed
        operations = 0.0
        for group, (forward, gradients, circuits) in zip(self.prompts, self._passes_by_group, strict=True):
            one, part = (
                pass_operations(self.shape, each, group.positions)
                for each in (group.positions, group.positions - group.shared)
            )
            # Where one prompt fills a gradient pass, its blocks are run twice.
            again = self._graph_of(group.positions, self.shape.layers) > BUDGETS["gradients"].on(self.device)
            operations += one * (forward + (3 if again else 2) / 3 * gradients) + cut * part * circuits
            for cell in self.cells:
                size = self.sizes[cell.basis]
                if size.stored:
                    tokens = group.evaluation * self._circuits(cell, group) * (group.positions - group.shared)
                    operations += _DICTIONARY_SHARE * 4 * self.shape.width * sum(size.units) * tokens
        # One after the other, each over a group's few pairs: the circuits that are sought. The grid is one pass at
        # least, and so is each step of scoring.
        short = len(self.prompts) * (len(self.cells) * (SOUGHT_CIRCUITS + 1) + 3 * len(self.methods) + 3)
        loaded = sum(size.stored for size in self.sizes.values()) / _LOAD_BYTES_PER_SECOND
        return operations / self.speed.rate + short * self.speed.least + loaded + _CELL_SECONDS * len(self.cells)


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number."""
    return _BYTES.get(dtype, 4)


def pass_operations(shape: ModelShape, tokens: float, positions: int) -> float:
    """Return the multiplications and additions of a forward pass over so many tokens, the head left out.

    Args:
        shape: of the model.
        tokens: of all prompts.
        positions: of one prompt: what each token attends to.
    """
    return (
        2 * (shape.parameters - shape.vocabulary * shape.width) + 4 * shape.layers * shape.width * positions
    ) * tokens


def dictionary_size(units: int, shape: ModelShape, *, cross_layer: bool) -> BasisSize:
    """Return the size of dictionaries of one width, in float32: an encoder row and a decoder row per unit.

    Args:
        units: units per layer.
        shape: of the model.
        cross_layer: whether there is a decoder row for every later layer too.
    """
    row, layers = 4 * units * shape.width, shape.layers
    if cross_layer:
        return BasisSize((units,) * layers, (layers + layers * (layers + 1) // 2) * row, (1 + layers) * row)
    return BasisSize((units,) * layers, 2 * layers * row, 2 * row)
