"""The reference workload of the performance tests: random weights in the shape of a known model, random prompts.

Weights can be random, for what an arithmetic operation costs does not depend on the numbers. Two things must be
as in trained dictionaries, because fast paths use them: how many units are active (set by the thresholds) and how
few pairs of prompts share a prefix (none do here).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basisbench.attribution.batch import Batch
from basisbench.attribution.context import GroupContext
from basisbench.circuits.group import GroupPair
from basisbench.models.hooks import Place
from basisbench.models.load import wrap
from basisbench.models.model import Model
from basisbench.models.sites import SiteKind
from basisbench.models.start_at_layer import BlockInputs
from basisbench.types import Family, ModelSpec, Pairs, Site, Split
from basisbench_baselines.bases.saelens import DictionaryBasis


@dataclass(frozen=True)
class Shape:
    """Sizes of a workload.

    Attributes:
        name: name on the command line.
        layers: transformer blocks.
        width: width of the residual stream.
        heads: attention heads; must divide the width.
        vocabulary: tokens known to the model.
        units: units per layer of a dictionary.
        active: mean number of active units per position of a dictionary.
        pairs: pairs of prompts.
        length: tokens per prompt.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    units: int
    active: int
    pairs: int
    length: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 2, 32, 2, 97, units=128, active=8, pairs=4, length=6),
        Shape("gpt2-small", 12, 768, 12, 50257, units=24576, active=50, pairs=16, length=16),
    )
}


def random_body(shape: Shape, *, seed: int = 0) -> Any:
    """Return a Hugging Face GPT-2 of the given shape with its initial random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=shape.vocabulary, n_positions=128, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def random_model(shape: Shape, *, seed: int = 0) -> Model:
    """Return `random_body` wrapped for the harness; it has no words, for prompts are token ids here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(shape.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))
    spec = ModelSpec(name=f"random-{shape.name}", path="gpt2", summary="random weights")
    return wrap(random_body(shape, seed=seed), tokenizer, spec)


def random_pairs(shape: Shape, split: Split, *, seed: int = 0) -> Pairs:
    """Draw pairs of random token ids, one answer and one foil each; prompts differ at every position."""
    generator = np.random.default_rng((seed, split == "evaluation"))

    def draw(*size: int) -> np.ndarray:
        return generator.integers(1, shape.vocabulary, size)

    names = tuple(f"prompt {index}" for index in range(shape.pairs))
    return Pairs(
        task="random",
        version="1",
        split=split,
        group="all",
        roles=tuple(f"position {index}" for index in range(shape.length)),
        clean=draw(shape.pairs, shape.length),
        counterfactual=draw(shape.pairs, shape.length),
        answers=draw(shape.pairs, 1),
        foils=draw(shape.pairs, 1),
        clean_text=names,
        counterfactual_text=names,
    )


def open_group(model: Model, shape: Shape, *, seed: int = 0) -> GroupPair:
    """Return both splits of one aligned group of random pairs."""
    return GroupPair(
        GroupContext(model, random_pairs(shape, "attribution", seed=seed), seed),
        GroupContext(model, random_pairs(shape, "evaluation", seed=seed), seed),
    )


def random_dictionaries(
    model: Model,
    shape: Shape,
    group: GroupContext,
    *,
    name: str = "sae_mlp_out",
    family: Family = "mlp",
    read: SiteKind = "mlp_out",
    write: SiteKind = "mlp_out",
    seed: int = 0,
) -> DictionaryBasis:
    """Return JumpReLU dictionaries with random weights, whose thresholds leave `shape.active` units on average."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    generator = torch.Generator().manual_seed(seed)
    dictionaries, sites = [], []
    for layer in range(model.layers):
        site = Site(layer, model.hook(read, layer), model.hook(write, layer))
        x = group.activation(site.read, "clean").flatten(0, 1)
        dictionary = JumpReLUSAE(
            JumpReLUSAEConfig(
                d_in=shape.width, d_sae=shape.units, dtype="float32", device="cpu", apply_b_dec_to_input=False
            )
        )
        with torch.no_grad():
            weights = torch.randn(shape.units, shape.width, generator=generator) / shape.width**0.5
            before = x @ weights.T
            kept = max(1, round(shape.active * len(x)))
            threshold = before.flatten().topk(kept).values[-1]
            dictionary.W_enc.copy_(weights.T)
            # Small, and around the mean: a dictionary that explains nothing is refused.
            dictionary.W_dec.copy_(0.01 * weights)
            dictionary.b_enc.zero_()
            dictionary.b_dec.copy_(group.activation(site.write, "clean").mean((0, 1)))
            dictionary.threshold.fill_(float(threshold.clamp_min(0)))
        dictionaries.append(dictionary.eval().requires_grad_(False))
        sites.append(site)
    return DictionaryBasis(name, family, tuple(sites), tuple(dictionaries))


def partial_passes(
    entered: BlockInputs, batch: Batch, acts: Mapping[str, Place], ends: Mapping[str, Tensor], steps: int
) -> Callable[[], None]:
    """Return work that takes integrated gradients by a forward and backward pass for each layer and step.

    Args:
        entered: what enters the blocks for the clean prompts.
        batch: the prompts.
        acts: the places that are interpolated by hook, in the order of the layers.
        ends: what each runs to.
        steps: points on each path.
    """

    def work() -> None:
        for layer, (hook, place) in enumerate(acts.items()):
            for step in range(steps):
                leaves: list[Tensor] = []

                def interpolate(x: Tensor, hook: str = hook, step: int = step, leaves: list[Tensor] = leaves) -> Tensor:
                    leaves.append(torch.lerp(x.detach(), ends[hook], step / steps).requires_grad_())
                    return leaves[0]

                logits = entered.logits_from(layer, {place: interpolate})
                torch.autograd.grad(batch.metric(logits).sum(), leaves)

    return work
