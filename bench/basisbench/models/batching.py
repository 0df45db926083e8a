"""How large one pass may be, and what happens when memory runs out: it is halved, and the work goes on.

1. Every kind of pass (activations, gradients, curve, patching) has a bound of its own in tokens, rows times positions.
2. When memory runs out in a pass, the bound of its kind is halved and that pass is done again in smaller parts; what
   was done before it is kept. The bound stays, so that the next passes do not fail first.
3. When one prompt alone does not fit, `MemoryExhaustedError` says so in one line.

Rows do not depend on each other, so that results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from basisbench.errors import BasisBenchError
from basisbench.models.memory import give_memory_back

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model

Result = TypeVar("Result")

_SIGNS = (
    "can't allocate memory",  # PyTorch's allocator on a CPU
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
        bounds: for each kind of pass, tokens it may hold; kinds that never failed have no bound.
    """

    bounds: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def tokens(self, kind: str, wanted: int) -> int:
        """Return how many tokens a pass of a kind may hold, where `wanted` would be best."""
        return min(wanted, self.bounds.get(kind, wanted))

    def note(self, kind: str, tokens: int, length: int) -> None:
        """Note that a pass of a kind is about to hold this many tokens, in prompts of this length."""
        self._seen[kind] = tokens, length

    def halve(self, kind: str, tokens: int, length: int) -> None:
        """Halve the bound of a kind after a pass of this many tokens has failed; one prompt at least."""
        self.bounds[kind] = max(length, tokens // 2)

    def halve_all(self) -> bool:
        """Halve the bounds of every kind of pass done so far; False when each is at one prompt already."""
        changed = False
        for kind, (tokens, length) in self._seen.items():
            now = self.tokens(kind, tokens)
            if now > length:
                self.halve(kind, now, length)
                changed = True
        return changed


def in_parts(
    model: Model, kind: str, rows: int, length: int, work: Callable[[slice], Result], *, most: int | None = None
) -> list[Result]:
    """Do work on rows in as few parts as fit into memory.

    Args:
        model: the model whose bounds hold.
        kind: kind of pass.
        rows: rows in all, at least 1.
        length: tokens of a row.
        work: does some of the rows; called again with fewer when memory runs out.
        most: tokens that a part should hold at most; all rows when None.

    Returns:
        The result of each part, in order of rows.

    Raises:
        MemoryExhaustedError: a single row does not fit.
    """
    done: list[Result] = []
    start = 0
    while start < rows:
        tokens = model.batching.tokens(kind, most or rows * length)
        count = min(max(1, tokens // length), rows - start)
        model.batching.note(kind, count * length, length)
        try:
            done.append(work(slice(start, start + count)))
            start += count
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback holds what the failed pass has made.
        if count == 1:
            raise MemoryExhaustedError(exhausted(model, kind, length))
        model.batching.halve(kind, count * length, length)
        release(model)
    return done


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


def exhausted(model: Model, kind: str, length: int) -> str:
    """Return the line that says that one prompt does not fit."""
    return (
        f"out of memory on {model.device}: {kind} of model '{model.name}' do not fit with one prompt of {length} "
        "tokens to a pass; free memory, raise the limit of the process, or use --dtype bfloat16, fewer --examples or "
        "a narrower basis"
    )


def release(model: Model) -> None:
    """Give freed memory back, so that a smaller pass finds it."""
    import torch

    give_memory_back()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
