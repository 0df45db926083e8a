"""Run a model from the middle: its last blocks on residual streams that an ordinary pass has left.

1. One ordinary pass over a batch keeps what enters every block: the residual stream, and the other arguments (masks,
   rotary embeddings) that the model itself passes to the block.
2. Later passes over the same prompts start at any block, with those arguments, and end at the unembedding.

No modeling code is copied: the blocks, the final norm and the head are the model's own modules. Between these a
verified architecture does nothing; any other (basisbench.models.examine) is run whole instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basisbench.models.hooks import Edit, Place, edited
from basisbench.models.model import Model, at_least_float32

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """What entered every block in one pass over a batch.

    Attributes:
        model: the model that was run.
        tokens: the prompts.
        residual: the residual stream entering each block; no rows of blocks that passes do not start at, and empty
            where the model has to be run whole.
        positional: what else each block is given by position.
        arguments: the keyword arguments of each block.
    """

    model: Model
    tokens: Int[Tensor, "row pos"]
    residual: tuple[Float[Tensor, "_row pos d_model"], ...]
    positional: tuple[tuple[Any, ...], ...]
    arguments: tuple[Mapping[str, Any], ...]

    def logits_from(self, layer: int, edits: Mapping[Place, Edit], *, keep: int = 1) -> Float[Tensor, "row vocab"]:
        """Run blocks `layer` and later; return the logits at the last position, in at least float32.

        Args:
            layer: first block to run.
            edits: interventions; places before the block are never reached.
            keep: how many of the last positions reach the unembedding, which may make one of them.
        """
        return self.last_logits_from(layer, edits, keep=keep)[:, -1]

    def last_logits_from(
        self, layer: int, edits: Mapping[Place, Edit], *, keep: int = 1
    ) -> Float[Tensor, "row last vocab"]:
        """Return the logits at the last positions, as `logits_from` does."""
        if not self.residual:
            return self.model.last_logits(self.tokens, edits, fast=True, keep=keep)
        body = self.model.fast_body
        hidden = self.residual[layer]
        with edited(body, edits):
            called = zip(plain_blocks(self.model), self.positional, self.arguments, strict=True)
            for block, positional, arguments in list(called)[layer:]:
                output = block(hidden, *positional, **arguments)
                hidden = output[0] if isinstance(output, tuple) else output
            normed = _final_norm(self.model)(hidden[:, -keep:])
            logits: Tensor = body.get_output_embeddings()(normed)
        share = (self.model.layers - layer) / self.model.layers
        self.model.meter.forward_equivalents += len(hidden) * share
        return at_least_float32(logits.to(self.model.device))

    def repeated(self, times: int, layer: int | None = None) -> BlockInputs:
        """Return the same for the batch repeated `times` times, copy after copy.

        Args:
            times: how often.
            layer: the one block that passes are to start at; any when None, which takes memory for all of them.
        """
        rows = len(self.tokens)
        return BlockInputs(
            self.model,
            self.tokens.repeat(times, 1),
            tuple(
                repeated_rows(residual, rows, times if layer in (None, index) else 0)
                for index, residual in enumerate(self.residual)
            ),
            repeated_rows(self.positional, rows, times),
            tuple(
                {name: repeated_rows(value, rows, times) for name, value in keywords.items()}
                for keywords in self.arguments
            ),
        )


def map_rows(value: Any, rows: int, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every tensor of a batch; what has no row axis is left alone.

    Args:
        value: a tensor, a tuple of such values, or anything else.
        rows: rows of the batch; tensors of another first axis are shared by all rows.
        change: what becomes of a tensor with a row axis.
    """
    if isinstance(value, tuple):
        return tuple(map_rows(part, rows, change) for part in value)
    if hasattr(value, "ndim") and value.ndim > 1 and value.shape[0] == rows:
        return change(value)
    return value


def repeated_rows(value: Any, rows: int, times: int) -> Any:
    """Repeat every tensor of a batch, copy after copy; see `map_rows`."""
    return map_rows(value, rows, lambda tensor: tensor.repeat(times, *(1,) * (tensor.ndim - 1)))


def block_inputs(model: Model, tokens: Int[Tensor, "row pos"]) -> BlockInputs:
    """Run the model once and keep what enters its blocks."""
    if not model.verified:
        return BlockInputs(model, tokens, (), (), ())
    residual: list[Tensor] = []
    positional: list[tuple[Any, ...]] = []
    arguments: list[Mapping[str, Any]] = []

    def watch(_module: nn.Module, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        residual.append(given[0])
        positional.append(given[1:])
        arguments.append(keywords)

    handles = [block.register_forward_pre_hook(watch, with_kwargs=True) for block in plain_blocks(model)]
    try:
        model.logits(tokens, fast=True)
    finally:
        for handle in handles:
            handle.remove()
    return BlockInputs(model, tokens, tuple(residual), tuple(positional), tuple(arguments))


def plain_blocks(model: Model) -> list[nn.Module]:
    """Return the blocks of the model that runs curves and ordinary gradients (`Model.fast_body`)."""
    return [
        model.fast_body.get_submodule(model.place(model.hook("resid_post", layer)).module)
        for layer in range(model.layers)
    ]


def _final_norm(model: Model) -> nn.Module:
    norm: nn.Module = model.fast_body.get_submodule(model.place("ln_final.hook_out").module)
    return norm
