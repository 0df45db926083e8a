"""What dictionaries are trained on: recorded activations, a model's own samples, and text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import basisbench_baselines.pocket
from basisbench.models.model import Model
from basisbench_baselines.training import samples as samples_module
from basisbench_baselines.training.activations import Recorder, record
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.samples import Mixed, Samples
from basisbench_baselines.training.text import Packed, pack
from helpers.tiny_training import SETTINGS, some_text


def test_one_pass_up_to_the_last_hook_gives_what_the_whole_model_has(model: Model, text: Packed) -> None:
    ids = text.rows(range(5))
    hooks = [model.hook("mlp_in", 1), model.hook("mlp_out", 1), model.hook("resid_post", 0)]
    ran: list[int] = []
    handle = model.body.model.layers[2].register_forward_hook(lambda *_: ran.append(2))
    found = record(model, hooks, ids)
    handle.remove()
    assert not ran
    expected: dict[str, torch.Tensor] = {}
    mlp = model.body.model.layers[1].mlp
    handle = mlp.register_forward_hook(
        lambda _, inputs, output: expected.update({hooks[0]: inputs[0], hooks[1]: output})
    )
    hidden = model.body(input_ids=ids, output_hidden_states=True).hidden_states
    handle.remove()
    expected[hooks[2]] = hidden[1]
    for hook in hooks:  # all positions but `<s>`
        torch.testing.assert_close(found[hook], expected[hook][:, 1:].flatten(0, 1), rtol=1e-4, atol=1e-4)
    assert (ids[:, 0] == 0).all()


def test_recordings_take_no_new_memory(model: Model, text: Packed) -> None:
    recorder = Recorder(model, [model.hook("mlp_in", 0), model.hook("mlp_out", 2), model.hook("resid_post", 1)])
    first = {hook: (x.data_ptr(), x.clone()) for hook, x in recorder.record(text.rows(range(8))).items()}
    taken = recorder.nbytes
    assert taken == 3 * 8 * 16 * 16 * 4  # hooks, contexts, positions, width, bytes
    for places in (range(8, 16), range(3)):
        for hook, x in recorder.record(text.rows(places)).items():
            assert x.data_ptr() == first[hook][0]
            torch.testing.assert_close(x, record(model, [hook], text.rows(places))[hook])
    assert recorder.nbytes == taken
    for hook, x in recorder.record(text.rows(range(8))).items():
        assert torch.equal(x, first[hook][1])


def test_samples_are_a_function_of_their_place(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_ROWS_AT_ONCE", 4)
    samples = Samples(model, replace(SETTINGS, context=6), 10)
    kept = samples.keep(tmp_path, Progress(enabled=False))
    everything = samples.rows(range(10))
    assert everything.shape == (10, 6)
    assert (everything[:, 0] == 0).all()
    assert len({tuple(row) for row in everything.tolist()}) == 10
    assert torch.equal(kept.rows([9, 2, 3, -4]), everything[[9, 2, 3, 6]])
    assert {path.name for path in tmp_path.iterdir()} == {f"samples_{part}.safetensors" for part in range(3)}
    (tmp_path / "samples_1.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(Samples, "_draw", lambda *_: everything[4:8])
    assert torch.equal(kept.rows(range(10)), everything)  # the others are read


def test_a_sample_follows_the_model_s_chances(model: Model) -> None:
    """The second token of many samples against the probabilities after `<s>`."""
    drawn = Samples(model, replace(SETTINGS, context=2), 4000).rows(range(4000))[:, 1]
    with torch.no_grad():
        chances = model.body(input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, -1].double().softmax(0)
    counts = torch.bincount(drawn, minlength=len(chances)).double()
    expected = 4000 * chances
    usual = expected > 5
    statistic = float(((counts - expected).square() / expected)[usual].sum())
    degrees = int(usual.sum())
    assert degrees > 10
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5


def test_samples_are_spread_among_a_text_s_contexts(model: Model) -> None:
    text = pack("text", [some_text(4000)], model.tokenizer, SETTINGS, all_of_it=True, besides=56)
    samples = Samples(model, SETTINGS, 56)
    mixed = Mixed(text, samples, 56)
    assert len(text.contexts) == 16 + 256 - 56
    assert torch.equal(mixed.rows(range(-16, 0)), text.rows(range(-16, 0)))
    rows, own, drawn = mixed.rows(range(256)).tolist(), text.rows(range(200)).tolist(), samples.rows(range(56)).tolist()
    assert [row for row in rows if row in drawn] == drawn  # the next one at each of their places
    assert sorted(rows) == sorted([*own, *drawn])
    assert 80 < sum(row in rows[:128] for row in own) < 120
    assert mixed.digest != text.digest
    assert mixed.digest == Mixed(text, Samples(model, SETTINGS, 56), 56).digest


def test_text_in_other_words_than_the_models_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(basisbench_baselines.pocket.__file__).parent / "assets" / "model")
    words = "the doctor near the cars " * 1800
    pack("known", [words], tokenizer, SETTINGS, all_of_it=True)
    assert not caplog.messages
    pack("other", [words, "zyxwv " * 1000], tokenizer, SETTINGS, all_of_it=True)
    assert len(caplog.messages) == 1
    assert "other: 10% of the tokens are unknown to the model's tokenizer" in caplog.messages[0]
