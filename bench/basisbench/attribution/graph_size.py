"""What autograd keeps of a pass for the way back, and what it need not keep where one prompt is too much.

1. A pass holds as many prompts as leave the inside of all blocks within `BUDGETS["gradients"]`.
2. Where one prompt alone takes more, or memory has run out with few of them, blocks keep what enters them and nothing
   else, and are run again one after the other on the way back (Chen et al. 2016, arXiv 1604.06174). Every number is the
   same; the pass takes a third longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any

from basisbench.models.batching import BUDGETS
from basisbench.models.hooks import replaced_forward

if TYPE_CHECKING:
    from torch import nn

    from basisbench.models.model import Model

GRAPH_WIDTHS = 10
"""Activations of the model's and the MLP's width that autograd keeps per block (tests/models/test_memory_limits.py)."""


def graph_bytes(tokens: int, layers: int, width: int, mlp_width: int, item: int) -> int:
    """Return the bytes that autograd keeps of a pass over so many tokens, which is the inside of all blocks."""
    return tokens * layers * GRAPH_WIDTHS * (width + mlp_width) * max(4, item)


def gradient_tokens(model: Model) -> int:
    """Return how many tokens one gradient pass holds: autograd keeps the inside of every block until the way back."""
    configuration = model.bridge.cfg
    widths = int(configuration.d_model), int(configuration.d_mlp)
    of_a_token = graph_bytes(1, model.layers, *widths, model.dtype.itemsize)
    return max(1, BUDGETS["gradients"].on(model.device.type) // of_a_token)


def is_too_long(model: Model, length: int) -> bool:
    """Return whether one prompt of so many tokens fills a gradient pass, so that its blocks should be run again."""
    return length > gradient_tokens(model) or length >= model.batching.bounds.get("gradients", length + 1)


@contextmanager
def blocks_run_again(
    blocks: Iterable[nn.Module], again: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Let passes keep what enters a block instead of its inside; gradients may be taken after this context has ended.

    Args:
        blocks: the blocks.
        again: makes the context in which they are run again: what changes them, and nothing that watches them.
    """
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, _running_again(block.forward, again)))
        yield


def _running_again(
    forward: Callable[..., Any], again: Callable[[], AbstractContextManager[object]]
) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), again()

    @wraps(forward)  # TransformerLens passes on the arguments that it names
    def run(*arguments: Any, **keywords: Any) -> Any:
        return checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **keywords
        )

    return run
