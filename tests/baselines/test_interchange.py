"""Interchange intervention training: what is swapped, what the answer has to be, and that the shipped weights do it."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from basisbench.models.made import made
from basisbench.registry import built_in
from basisbench_baselines.known import ANSWER_UNITS, KIND_UNITS
from basisbench_baselines.known.interchange import (
    ANSWER_LAYER,
    KIND_LAYER,
    NEURONS,
    Prompts,
    draw_swaps,
    interchange_loss,
    named_nodes,
    neurons_of,
    read_prompts,
    train,
)
from basisbench_baselines.known.lexicon import read_lexicon

PROMPTS = read_prompts(read_lexicon())
KINDS = read_lexicon().kinds


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    found: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(made(built_in().get("model", "known-trained")).path)
    return found


def test_prompts_are_the_tasks_words_in_every_combination() -> None:
    for prompts in PROMPTS:
        things = prompts.tokens[:, prompts.thing]
        assert len(things.unique()) == 32
        assert len(prompts.tokens) % 32 == 0
        assert all(len(prompts.kinds[things == thing].unique()) == 1 for thing in things.unique())
        assert prompts.kinds.bincount().tolist() == [len(prompts.tokens) // 4] * 4


def test_named_neurons_of_both_kinds_move_together_and_set_the_answer() -> None:
    torch.manual_seed(0)
    kind, other = torch.randint(4, (2, 200))
    masks, expected = draw_swaps(kind, other, 10, 2)
    rows = torch.arange(200)
    first, last = masks[KIND_LAYER][:, 2], masks[ANSWER_LAYER][:, -1]
    early, late = first[rows, torch.tensor(KIND_UNITS)[kind]], last[rows, torch.tensor(ANSWER_UNITS)[kind]]
    assert torch.equal(early, first[rows, torch.tensor(KIND_UNITS)[other]])
    assert torch.equal(late, last[rows, torch.tensor(ANSWER_UNITS)[other]])
    assert torch.equal(expected, torch.where(early | late, other, kind))
    assert 0 < early.float().mean() < 1
    assert any(bool(each.any()) for each in masks[1]), "neurons that are not named are swapped too"


def answers(model: LlamaForCausalLM, prompts: Prompts, swapped: list[int], units: str) -> tuple[float, float]:
    """Return the shares of prompts that give their own answer, and the other prompt's, with neurons from there.

    Args:
        model: the model.
        prompts: the prompts, each next to one of another kind.
        swapped: layers whose neurons are swapped.
        units: "named" ones at their places, or "others" everywhere.
    """
    torch.manual_seed(0)
    rows = torch.randint(len(prompts.tokens), (2, 400))
    rows = rows[:, prompts.kinds[rows[0]] != prompts.kinds[rows[1]]]
    (base, source), (kind, other) = prompts.tokens[rows], prompts.kinds[rows]
    named = named_nodes(base.shape[1], prompts.thing)
    masks = [(mask if units == "named" else ~mask) & torch.tensor(layer in swapped) for layer, mask in enumerate(named)]
    ids = torch.tensor(read_lexicon().ids(*KINDS))
    with torch.inference_mode():
        with neurons_of(model) as there:
            model(input_ids=source)
        with neurons_of(model, list(there), masks):
            found = model(input_ids=base).logits[:, -1].argmax(-1)
    return float((found == ids[kind]).float().mean()), float((found == ids[other]).float().mean())


@pytest.mark.parametrize("prompts", PROMPTS, ids=["plain", "time first"])
def test_named_neurons_carry_the_answer_and_no_others_do(model: LlamaForCausalLM, prompts: Prompts) -> None:
    assert answers(model, prompts, [], "named") == (1, 0)
    assert answers(model, prompts, [KIND_LAYER], "named") == (0, 1)
    assert answers(model, prompts, [ANSWER_LAYER], "named") == (0, 1)
    assert answers(model, prompts, [0, 1, 2], "others") == (1, 0)


def test_the_loss_is_of_the_interchanged_answer() -> None:
    """Of a model that has learned nothing it is that of chance: three guesses among all words, one of them weighed."""
    model = train(steps=0)
    rows = torch.randint(len(PROMPTS[0].tokens), (2, 64))
    loss = interchange_loss(model, PROMPTS[0], rows, torch.tensor(read_lexicon().ids(*KINDS)))
    words = len(read_lexicon().words)
    assert loss.item() == pytest.approx(2.3 * torch.tensor(float(words)).log().item(), rel=0.05)
    assert len(named_nodes(10, 2)[0][2]) == NEURONS


@pytest.mark.slow
def test_a_few_steps_learn_something(capsys: pytest.CaptureFixture[str]) -> None:
    model = train(steps=30)
    answer = torch.tensor(read_lexicon().ids(*KINDS))
    rows = torch.randint(len(PROMPTS[0].tokens), (2, 64))
    assert (
        interchange_loss(model, PROMPTS[0], rows, answer).item()
        < 0.8 * interchange_loss(train(steps=0), PROMPTS[0], rows, answer).item()
    )
    assert "step 0" in capsys.readouterr().out
