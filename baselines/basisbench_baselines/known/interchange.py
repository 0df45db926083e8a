"""`known-trained`: a Llama trained by interchange intervention, so that eight named neurons carry two known variables.

A trained model with known nodes, in the way of interchange intervention training (Geiger et al. 2022, arXiv 2112.00826)
and, for all nodes that are to bear nothing on the answer, of its strict form (Gupta et al. 2024, arXiv 2407.14494):

1. The causal model has a variable at the thing, "is it a bird, a fish, ...", and a copy of it at the last position. A
   named neuron stands for each value: four of layer 0 at the thing, four of layer 2 at the last position.
2. Two prompts of one template are drawn, and some neurons of the first take their values in the second. Where the named
   ones of the two kinds do, at either place, the answer has to be that of the second prompt.
3. Other neurons, a share drawn anew each time, take their values in the second prompt or their means: that must change
   nothing.
4. Beside it the model learns to predict every next word of the prompts, so that other neurons have something to do.

Unlike the models whose weights were set, its units are the usual gated ones, its head count is four, and no unit is
exactly on or off. `python -m basisbench_baselines.known.interchange OUT` trains it again, in two minutes on a core.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from basisbench.registry import built_in
from basisbench.types import SPLITS
from basisbench_baselines.known import ANSWER_UNITS, KIND_UNITS
from basisbench_baselines.known.lexicon import TASK, Lexicon, build_tokenizer, llama_config, read_lexicon

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, NEURONS = 3, 64
KIND_LAYER, ANSWER_LAYER = 0, 2
STEPS, BATCH = 2000, 64
_RATE, _WORDS_WEIGHT = 2e-3, 0.3


def build_known_trained(folder: Path) -> None:
    """Copy the trained weights to a folder, and write configuration and tokenizer beside them."""
    lexicon = read_lexicon()
    _config(lexicon).save_pretrained(folder / "model")
    build_tokenizer(lexicon).save_pretrained(folder / "model")
    with as_file(files(__package__) / "known-trained.safetensors") as weights:
        shutil.copy(weights, folder / "model" / "model.safetensors")


def _config(lexicon: Lexicon) -> LlamaConfig:
    return llama_config(
        lexicon,
        hidden_size=64,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
    )


@dataclass(frozen=True, eq=False)
class Prompts:
    """All prompts of the task's words in one template, each thing with each place and time.

    Attributes:
        tokens: their ids.
        kinds: which kind the thing is.
        thing: position of the thing.
    """

    tokens: Int[Tensor, "prompt pos"]
    kinds: Int[Tensor, " prompt"]
    thing: int


def read_prompts(lexicon: Lexicon) -> tuple[Prompts, ...]:
    """Return the prompts of both splits of the task, a set per template: every word of it, in every combination."""
    kind_of = {word: row for row, kind in enumerate(lexicon.kinds) for word in lexicon.ids(*lexicon.things[kind])}
    texts: dict[str, set[str]] = {}
    for split in SPLITS:
        for pair in built_in().get("task", TASK).candidates(split, 0):
            texts.setdefault(pair.template, set()).add(pair.clean_text)
    found = []
    for own in texts.values():
        columns = zip(*([0, *lexicon.ids(*text.split())] for text in own), strict=True)
        tokens = torch.cartesian_prod(*(torch.tensor(sorted(set(column))) for column in columns))
        thing = next(place for place, word in enumerate(tokens[0].tolist()) if word in kind_of)
        found.append(Prompts(tokens, torch.tensor([kind_of[word] for word in tokens[:, thing].tolist()]), thing))
    return tuple(found)


Activations = list["Float[Tensor, 'prompt pos neuron']"]


@contextmanager
def neurons_of(model: LlamaForCausalLM, swapped: Activations | None = None, where: Any = None) -> Iterator[Activations]:
    """Yield the neurons of each layer of the runs inside, some of which take other values.

    Args:
        model: the model.
        swapped: the other values.
        where: which neurons take them, a mask per layer.
    """
    seen: Activations = []

    def hook(layer: int) -> Any:
        def edit(_: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
            (values,) = arguments
            if swapped is not None:
                values = torch.where(where[layer], swapped[layer], values)
            seen.append(values)
            return (values,)

        return edit

    handles = [
        block.mlp.down_proj.register_forward_pre_hook(hook(layer)) for layer, block in enumerate(model.model.layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def train(seed: int = 0, *, steps: int = STEPS) -> LlamaForCausalLM:
    """Train the model.

    Args:
        seed: of the first weights and of every draw.
        steps: steps of Adam, its rate falling to 0 along a line.
    """
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    lexicon = read_lexicon()
    prompts, answers = read_prompts(lexicon), torch.tensor(lexicon.ids(*lexicon.kinds))
    model = LlamaForCausalLM(_config(lexicon))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    for step in range(steps):
        own = prompts[step % len(prompts)]
        rows = torch.randint(len(own.tokens), (2, BATCH))
        loss = interchange_loss(model, own, rows, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    return model


def interchange_loss(
    model: LlamaForCausalLM, prompts: Prompts, rows: Int[Tensor, "two pair"], answers: Int[Tensor, " kind"]
) -> Float[Tensor, ""]:
    """Return the loss of one draw of interchanges, and of the next words of the prompts that they are made in.

    Args:
        model: the model.
        prompts: the prompts of a template.
        rows: the prompts in which neurons are swapped, and those that they take their values from.
        answers: the word of each kind.
    """
    (base, source), (kind, other) = prompts.tokens[rows], prompts.kinds[rows]
    named = named_nodes(base.shape[1], prompts.thing)
    with neurons_of(model) as there:
        model(input_ids=source)
    # Half of the other neurons, drawn anew, would take their mean.
    values = [
        torch.where((torch.rand(mask.shape) < 0.5) & ~mask, found.mean(0), found)
        for mask, found in zip(named, there, strict=True)
    ]
    chosen, expected = draw_swaps(kind, other, base.shape[1], prompts.thing)
    with neurons_of(model, values, chosen):
        swapped = model(input_ids=base).logits[:, -1]
    plain = model(input_ids=base).logits
    words = cross_entropy(plain[:, :-1].flatten(0, 1), base[:, 1:].flatten())
    behaviour = cross_entropy(plain[:, -1], answers[kind])
    return cross_entropy(swapped, answers[expected]) + behaviour + _WORDS_WEIGHT * words


def named_nodes(length: int, thing: int) -> list[Bool[Tensor, "pos neuron"]]:
    """Return by layer which neurons are named, at which positions."""
    masks = [torch.zeros(length, NEURONS, dtype=torch.bool) for _ in range(LAYERS)]
    for layer, position, units in _places(length, thing):
        masks[layer][position, list(units)] = True
    return masks


def _places(length: int, thing: int) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    return (KIND_LAYER, thing, KIND_UNITS), (ANSWER_LAYER, length - 1, ANSWER_UNITS)


def draw_swaps(
    kind: Int[Tensor, " pair"], other: Int[Tensor, " pair"], length: int, thing: int
) -> tuple[list[Bool[Tensor, "pair pos neuron"]], Int[Tensor, " pair"]]:
    """Draw which neurons are swapped, and return them by layer, with the kind that the answer has to be then.

    Args:
        kind: kinds of the prompts in which neurons are swapped.
        other: kinds of those that the values come from.
        length: positions of a prompt.
        thing: position of the thing.
    """
    pairs = len(kind)
    share = torch.rand(pairs, 1, 1) * (torch.rand(pairs, 1, 1) < 0.8)
    masks = [torch.rand(pairs, length, NEURONS) < share for _ in range(LAYERS)]
    expected = kind
    for layer, position, units in _places(length, thing):
        moved = torch.rand(pairs) < 0.4
        # Neurons of kinds that neither prompt is of say "no" in both: they too may be swapped or not.
        swapped = torch.rand(pairs, len(units)) < 0.5
        for kinds in (kind, other):
            swapped[torch.arange(pairs), kinds] = moved
        masks[layer][:, position, list(units)] = swapped
        expected = torch.where(moved, other, expected)
    return masks, expected


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the model and write its weights."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description="Train known-trained again.")
    parser.add_argument("out", type=Path, help="the file of weights that is written")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = train(options.seed)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, options.out, {"format": "pt"})


if __name__ == "__main__":
    main()
