"""Compute only what the logits of the last position need and what an ablation can change.

1. **Common prefix.** Tokens at which all prompts of a group agree, clean and counterfactual, in both splits,
   have the same activations everywhere, so that live and reference values are the same there (not under zero
   ablation). Their keys and values are computed once and reused by every pass. All of them are kept in layers of
   sliding attention too: the model's mask hides what a window does not reach.
2. **Constant modules.** Every module that has run to its end before a basis writes for the first time gives the
   same in all passes: the embeddings, the first attention, and in the `resid` family the whole first block. Their
   outputs are computed once.
3. **First site.** What a basis reads there is the same in all passes too: its coordinates are computed once.
4. **Last block.** Only its last position reaches the logits, where they are read at it alone. The output projection
   of its attention and its MLP are cut to that position; what the block adds to others is undefined and never read.

All change nothing but rounding; tests compare with `evaluate(..., fast=False)`. An architecture that they have not
been tested on (basisbench.models.examine) gets none of the first, second and last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from basisbench.models.batching import BUDGETS, is_out_of_memory
from basisbench.models.hooks import Edit, Place, replaced_forward
from basisbench.models.start_at_layer import map_rows, repeated_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Site

Layer = tuple["Float[Tensor, '1 head pos d_head']", "Float[Tensor, '1 head pos d_head']"]
"""Keys and values of one layer for one row."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The common beginning of an aligned group's prompts.

    Attributes:
        length: positions that are not run again; smaller than the prompts' length.
        layers: keys and values of these positions, per layer; empty when the length is 0.
    """

    length: int
    layers: tuple[Layer, ...]

    def cache(self, rows: int) -> Any:
        """Return a fresh key-value cache that holds the prefix for a number of rows; None without a prefix."""
        if not self.length:
            return None
        cache = _whole_cache()
        for layer, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


NO_PREFIX = Prefix(0, ())


def _whole_cache() -> Any:
    """Return an empty cache that keeps every position in every layer, also where attention slides."""
    from transformers import DynamicCache

    return DynamicCache()  # given the model's config, it would drop what lies before a window


def common_prefix(model: Model, prompts: Sequence[Int[Tensor, "_row pos"]], keep: int = 1) -> Prefix:
    """Run the common beginning of all prompts once.

    Args:
        model: the model.
        prompts: every prompt whose activations are live or a reference in the group.
        keep: how many of the last positions are run in any case.
    """
    import torch

    if not model.verified:
        return NO_PREFIX
    tokens = torch.cat(list(prompts))
    differing = (~(tokens == tokens[:1]).all(0)).nonzero()
    length = min(int(differing[0]) if len(differing) else tokens.shape[1], tokens.shape[1] - keep)
    if not length:
        return NO_PREFIX
    with torch.inference_mode():
        cache = _whole_cache()
        model.fast_body(input_ids=tokens[:1, :length], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(length, tuple((layer.keys, layer.values) for layer in cache.layers))


@dataclass(frozen=True, eq=False)
class ConstantModule:
    """The output of a module that is the same in every pass.

    Attributes:
        module: dotted name of the module.
        output: what it returned for each pair once.
        repeated: whether its output must have a row per circuit and pair. The input of the first write need not:
            what is written has all rows.
    """

    module: str
    output: Any
    repeated: bool


class FirstCoordinates:
    """The coordinates of a basis at its first site: every circuit reads the same there.

    Args:
        basis: the basis.
    """

    def __init__(self, basis: Basis) -> None:
        self._basis = basis
        self._units: Tensor | None = None

    def of(
        self, read: Float[Tensor, "circuit_or_1 pair pos d_read"], units: int
    ) -> Float[Tensor, "pair pos unit"] | None:
        """Return the coordinates of what is read, encoded once; None where they are too large to keep.

        Args:
            read: the activation at the read hook, the same for every circuit.
            units: units of the site.
        """
        if self._units is None:
            size = read[0, ..., 0].numel() * units * read.dtype.itemsize
            if size <= BUDGETS["units of the first site"].on(read.device.type):
                self._units = self._basis.encode(self._basis.sites[0], read[0])
        return self._units


@dataclass(frozen=True, eq=False)
class SharedWork:
    """What the ablated passes of one aligned group share.

    Attributes:
        model: the model.
        tokens: the tokens that remain to be run.
        prefix: what comes before them.
        constants: modules that need not run.
        keep: how many of the last positions logits are read at.
    """

    model: Model
    tokens: Int[Tensor, "pair rest"]
    prefix: Prefix
    constants: tuple[ConstantModule, ...]
    keep: int = 1
    _repeats: dict[int, dict[str, Any]] = field(default_factory=dict)

    def pairs(self, chosen: slice) -> SharedWork:
        """Return what the passes over some of the pairs share."""
        rows = len(self.tokens)
        constants = tuple(
            replace(constant, output=map_rows(constant.output, rows, lambda tensor: tensor[chosen]))
            for constant in self.constants
        )
        return SharedWork(self.model, self.tokens[chosen], self.prefix, constants, self.keep)

    @contextmanager
    def constant_modules(self, circuits: int) -> Iterator[None]:
        """Let the constant modules return their outputs, for a number of circuits, inside the block."""
        outputs = self._outputs(circuits)
        with ExitStack() as stack:
            for name, output in outputs.items():
                module = self.model.fast_body.get_submodule(name)
                stack.enter_context(replaced_forward(module, _returning(output)))
            yield

    def _outputs(self, circuits: int) -> Mapping[str, Any]:
        if circuits not in self._repeats:
            self._repeats.clear()  # one number of circuits at a time: nearly all batches have the same
            self._repeats[circuits] = {
                constant.module: repeated_rows(constant.output, len(self.tokens), circuits)
                if constant.repeated
                else constant.output
                for constant in self.constants
            }
        return self._repeats[circuits]

    def edits(self) -> Mapping[Place, Edit]:
        """Return the edits that cut the last block to the last position, where logits are read at it alone."""
        if not self.model.verified or self.keep > 1:
            return {}
        block = f"blocks.{self.model.layers - 1}"
        return {
            self.model.place(f"{block}.{hook}"): lambda activation: activation[:, -1:]
            for hook in ("attn.o.hook_in", "ln2.hook_in")
        }


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *_arguments, **_keywords: output


def share_work(
    model: Model, tokens: Int[Tensor, "pair pos"], prefix: Prefix, first: Site | None, keep: int = 1
) -> SharedWork:
    """Do what the ablated passes of one aligned group share; less of it where a pass over all pairs does not fit.

    Args:
        model: the model.
        tokens: the prompts that are run.
        prefix: their common beginning, or `NO_PREFIX`.
        first: the first site of the basis; None where no outputs of modules are to be kept.
        keep: how many of the last positions logits are read at.
    """
    rest = tokens[:, prefix.length :]
    constants: tuple[ConstantModule, ...] = ()
    if first is not None and model.verified:
        try:
            constants = _constants(model, rest, prefix, model.place(first.write))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not constants:  # outside the handler, whose traceback holds what the failed pass has made
            model.batching.release()
    return SharedWork(model, rest, prefix, constants, keep)


def _constants(model: Model, tokens: Tensor, prefix: Prefix, write: Place) -> tuple[ConstantModule, ...]:
    """Run the prompts once; return the outermost modules that end before the write and run only once."""
    import torch

    body = model.fast_body
    ended: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    reached = False

    def end(name: str) -> Callable[[nn.Module, object, Any], None]:
        def hook(_module: nn.Module, _arguments: object, output: Any) -> None:
            nonlocal reached
            calls[name] += 1
            if not reached:
                ended[name] = output
            reached = reached or (write.end == "out" and name == write.module)

        return hook

    def arrive(_module: nn.Module, _arguments: object) -> None:
        nonlocal reached
        reached = True

    with ExitStack() as stack:
        if write.end == "in":
            stack.callback(body.get_submodule(write.module).register_forward_pre_hook(arrive).remove)
        for name, module in body.named_modules():
            stack.callback(module.register_forward_hook(end(name)).remove)
        with torch.inference_mode():
            body(
                input_ids=tokens,
                past_key_values=prefix.cache(len(tokens)),
                use_cache=bool(prefix.length),
                logits_to_keep=1,
            )
    names = [name for name in ended if calls[name] == 1]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    # Inside the MLP nothing but the write reads these outputs.
    mlp = model.place(model.hook("mlp_in", 0)).module
    inside = f"{mlp}." if write.module.startswith(f"{mlp}.") else None

    def feeds_only_the_write(name: str) -> bool:
        return name == write.module or (inside is not None and name.startswith(inside))

    return tuple(ConstantModule(name, ended[name], not feeds_only_the_write(name)) for name in outermost)
