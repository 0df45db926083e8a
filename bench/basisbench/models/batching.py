"""How large one pass may be, and what happens when memory runs out: it is halved, and the work goes on.

1. `BUDGETS` says how many bytes each piece of work should take at most; every kind of pass (activations, gradients,
   circuits, patching) is cut to a number of tokens, rows times positions, by whoever runs it.
2. When memory runs out in a pass, the bound of its kind is halved and that pass is done again in smaller parts; what
   was done before it is kept. The bound stays, so that the next passes do not fail first.
3. When one prompt alone does not fit, `MemoryExhaustedError` says so in one line.

Rows do not depend on each other, so that results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from basisbench.errors import BasisBenchError
from basisbench.models.memory import give_memory_back

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")


@dataclass(frozen=True)
class Budget:
    """How many bytes a piece of work should take at most.

    Attributes:
        cpu: on a CPU.
        device: on a GPU or any other device.
    """

    cpu: int
    device: int

    def on(self, kind: str) -> int:
        """Return the bytes on a kind of device, for example "cuda"."""
        return self.cpu if kind == "cpu" else self.device


Work = Literal[
    "activations",
    "circuits",
    "constants",
    "gradients",
    "losses",
    "pairs",
    "units",
    "units across layers",
    "units of the first site",
    "units of a basis",
]

BUDGETS: Mapping[Work, Budget] = {
    # The inside of one plain forward pass: an MLP's activations and the logits of the last position, mostly.
    "activations": Budget(256 * 2**20, 4 * 2**30),
    # The widest activation of one pass of circuits: on a CPU it should stay in its caches (measured on the pocket
    # model: 512 tokens to a pass take 1.2 times as long as 2048, and 8192 take 1.2 times as long too).
    "circuits": Budget(4 * 2**20, 256 * 2**20),
    # Outputs of modules that are the same in all passes of circuits over a split.
    "constants": Budget(128 * 2**20, 2 * 2**30),
    # What autograd keeps for one gradient pass.
    "gradients": Budget(512 * 2**20, 16 * 2**30),
    # Logits at every position, from which losses are taken.
    "losses": Budget(256 * 2**20, 2 * 2**30),
    # Activations and gradient fields that are kept of the pairs of a split (basisbench.attribution.parts).
    "pairs": Budget(256 * 2**20, 8 * 2**30),
    # Coordinates computed at once at a site. On a CPU the C library hands blocks of more than 32 MiB back to the
    # system each time; their pages then cost more than the arithmetic.
    "units": Budget(24 * 2**20, 512 * 2**20),
    # The same where units write to later layers too: they stay in a CPU's caches until all of them are written.
    "units across layers": Budget(8 * 2**20, 512 * 2**20),
    # Coordinates of the first site that are kept from pass to pass.
    "units of the first site": Budget(64 * 2**20, 2**30),
    # Coordinates of the basis at hand in the runs of one group, kept for the next method.
    "units of a basis": Budget(64 * 2**20, 64 * 2**20),
}
"""Bounds that keep memory from growing with the number of prompts and circuits."""


def slices_within(rows: int, bytes_of_a_row: int, budget: int) -> Iterator[slice]:
    """Cut rows so that each slice stays within a number of bytes, one row at least."""
    step = max(1, budget // max(1, bytes_of_a_row))
    for start in range(0, rows, step):
        yield slice(start, start + step)


_SIGNS = (
    "can't allocate memory",  # PyTorch's allocator on a CPU
    "cannot allocate memory",  # the system, for a file that is mapped into memory
    "not enough memory",  # the same on Windows
    "out of memory",  # devices whose error has no class of its own
    "bad_alloc",  # C++
    "could not create a memory",  # oneDNN, whose buffers are allocated apart
    "could not create a primitive",
)


class MemoryExhaustedError(BasisBenchError):
    """One prompt does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or under a limit of the process."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


@dataclass
class Batching:
    """Bounds that memory has set so far, for one model in one process.

    Attributes:
        model: name of the model, for messages.
        device: where its passes run.
        bounds: for each kind of pass, tokens it may hold; kinds that never failed have no bound.
    """

    model: str
    device: torch.device
    bounds: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def tokens(self, kind: str, wanted: int) -> int:
        """Return how many tokens a pass of a kind may hold, where `wanted` would be best."""
        return min(wanted, self.bounds.get(kind, wanted))

    def in_parts(
        self, kind: str, rows: int, length: int, work: Callable[[slice], Result], *, most: int | None = None
    ) -> list[Result]:
        """Do work on rows in as few parts as fit into memory, and return the result of each part in order.

        Args:
            kind: kind of pass.
            rows: rows in all, at least 1.
            length: tokens of a row.
            work: does some of the rows; called again with fewer when memory runs out.
            most: tokens that a part should hold at most; all rows when None.

        Raises:
            MemoryExhaustedError: a single row does not fit.
        """
        done: list[Result] = []
        self.in_blocks(kind, rows, 1, length, lambda some, _: done.append(work(some)), most=most or rows * length)
        return done

    def in_blocks(
        self, kind: str, rows: int, columns: int, length: int, work: Callable[[slice, slice], None], *, most: int
    ) -> None:
        """Do work on every entry of a table: several whole rows at once, or parts of a row that does not fit.

        Args:
            kind: kind of pass.
            rows: rows of the table, circuits for example.
            columns: entries of a row, prompts for example.
            length: tokens of an entry.
            work: does a block of rows and columns; called again with a smaller one when memory runs out.
            most: tokens that a block should hold at most; one whole row where memory allows it.

        Raises:
            MemoryExhaustedError: a single entry does not fit.
        """
        row = column = 0
        while row < rows:
            tokens, whole = self.tokens(kind, most), columns * length
            if column == 0 and self.bounds.get(kind, whole) >= whole:
                height, width = min(max(1, tokens // whole), rows - row), columns
            else:
                height, width = 1, min(max(1, tokens // length), columns - column)
            size = height * width * length
            self._seen[kind] = size, length
            try:
                work(slice(row, row + height), slice(column, column + width))
                column += width
                if column == columns:
                    row, column = row + height, 0
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback holds what the failed pass has made.
            if size == length:
                raise MemoryExhaustedError(self._exhausted(kind, length))
            self._halve(kind, size, length)
            self.release()

    def halve_all(self) -> bool:
        """Halve the bounds of every kind of pass done so far; False when each is at one prompt already."""
        changed = False
        for kind, (tokens, length) in self._seen.items():
            now = self.tokens(kind, tokens)
            if now > length:
                self._halve(kind, now, length)
                changed = True
        return changed

    def release(self) -> None:
        """Give freed memory back, so that a smaller pass finds it."""
        import torch

        give_memory_back()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _halve(self, kind: str, tokens: int, length: int) -> None:
        self.bounds[kind] = max(length, tokens // 2)

    def _exhausted(self, kind: str, length: int) -> str:
        return (
            f"out of memory on {self.device}: {kind} of model '{self.model}' do not fit with one prompt of {length} "
            "tokens to a pass; free memory, raise the limit of the process, or use --dtype bfloat16, fewer --examples "
            "or a narrower basis"
        )


def joined_rows(parts: list[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Put the rows of parts below each other, key by key.

    Args:
        parts: tensors by key, the same keys in each part; emptied on the way, so that only one key is in memory twice.
    """
    import torch

    if len(parts) == 1:
        return parts[0]
    given = [dict(part) for part in parts]
    parts.clear()
    return {key: torch.cat([part.pop(key) for part in given]) for key in list(given[0])}
