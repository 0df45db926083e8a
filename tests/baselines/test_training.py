"""`basisbench train` on a tiny model: what it leaves, that a kill changes nothing, and a transcoder's step by hand."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import basisbench_baselines.pocket
from basisbench.cli import main
from basisbench.commands.train import parse_layers
from basisbench.errors import BasisBenchError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Training, training_of
from basisbench.runs.layer_subset import restrict
from basisbench.types import ModelSpec
from basisbench_baselines.bases.cross_layer_transcoder import resolve_name as resolve_clt
from basisbench_baselines.bases.published import resolve_name
from basisbench_baselines.dictionaries.trained_on import how_trained
from basisbench_baselines.training import samples as samples_module
from basisbench_baselines.training.activations import Recorder, record
from basisbench_baselines.training.cross_layer import CrossLayer
from basisbench_baselines.training.dictionary import Dictionary, InTraining, Placed
from basisbench_baselines.training.progress import Progress
from basisbench_baselines.training.saelens_classes import AutoencoderInTraining
from basisbench_baselines.training.samples import Mixed, Samples
from basisbench_baselines.training.scaling import Scaling
from basisbench_baselines.training.settings import Settings
from basisbench_baselines.training.sparse_units import largest
from basisbench_baselines.training.text import Packed, pack
from basisbench_baselines.training.train import train

WORDS = [f"w{index}" for index in range(60)]
SETTINGS = Settings(
    kinds=("sae", "transcoder", "skip-transcoder"), site="mlp_out", layers=(0, 2), width="3x", k=6, tokens=4096,
    snapshots=(512,), context=16, chunk_contexts=32, batch_tokens=64, held_out_contexts=16, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama of three layers whose tokenizer puts `<s>` in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<s>", "?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    torch.manual_seed(0)
    body = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=62, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4)
    folder = tmp_path_factory.mktemp("tiny")
    body.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return load_model(ModelSpec("tiny", str(folder), ""))


@pytest.fixture(scope="module")
def text(model: Model) -> Packed:
    return pack("words", [some_text(5000)], model.tokenizer, SETTINGS, all_of_it=True)


@pytest.fixture(scope="module")
def trained(model: Model, text: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained dictionaries of every kind."""
    out = tmp_path_factory.mktemp("trained") / "out"
    train(model, text, SETTINGS, out, progress=False)
    return out


def some_text(words: int) -> str:
    draw = random.Random(0)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.relative_to(folder).as_posix(): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_dictionaries_learn_and_are_measured_at_every_snapshot(trained: Path) -> None:
    measured = json.loads((trained / "card.json").read_text())["measured"]
    assert list(measured) == ["512", "end"]
    for name, row in measured["end"]["dictionaries"].items():
        assert row["fvu"] < 0.75, name
        assert row["fvu"] < measured["512"]["dictionaries"][name]["fvu"], name
        assert row["l0"] == pytest.approx(6, rel=0.4), name
    written = {Path(file).parent.as_posix() for file in weights(trained / "snapshots/512")}
    assert written == set(measured["end"]["dictionaries"])
    page = (trained / "README.md").read_text()
    assert "| 4,096 | skip-transcoder/layer_2 |" in page
    assert {path.name for path in trained.iterdir()} == {
        *(*SETTINGS.kinds, "snapshots", "card.json", "README.md"),
    }


@pytest.mark.parametrize("kind", SETTINGS.kinds)
def test_the_basis_reads_them_and_reconstructs_as_saelens_does(
    kind: str, trained: Path, model: Model, text: Packed
) -> None:
    from sae_lens import SAE

    basis = resolve_name(f"sae:{trained}:{kind}/*").build(model)
    assert [site.layer for site in basis.sites] == [0, 2]
    assert resolve_name(f"sae:{trained}:*sae/layer_*").layers == (0, 2)  # snapshots are no dictionaries of their own
    rows = json.loads((trained / "card.json").read_text())["measured"]["end"]["dictionaries"]
    for site in basis.sites:
        held_out = record(model, (site.read, site.write), text.rows(range(-16, 0)))
        x, y = held_out[site.read], held_out[site.write]
        rebuilt = basis.decode(site, basis.encode(site, x))
        torch.testing.assert_close(rebuilt, SAE.load_from_disk(trained / f"{kind}/layer_{site.layer}")(x))
        unexplained = (y - rebuilt).square().sum() / (y - y.mean(0)).square().sum()
        assert float(unexplained) == pytest.approx(rows[f"{kind}/layer_{site.layer}"]["fvu"], rel=1e-4)


@pytest.fixture(scope="module")
def trained_across(model: Model, text: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained cross-layer transcoder of two of the three layers."""
    out = tmp_path_factory.mktemp("across") / "out"
    train(model, text, replace(SETTINGS, kinds=("clt",)), out, progress=False)
    return out


def test_the_basis_reads_a_cross_layer_transcoder(trained_across: Path, model: Model, text: Packed) -> None:
    card = json.loads((trained_across / "card.json").read_text())["measured"]
    folder = trained_across / "clt"
    basis: Any = resolve_clt(f"clt:{folder}").build(model)
    before: dict[str, float] = {name: row["fvu"] for name, row in card["512"]["dictionaries"].items()}
    hooks = [hook for site in basis.sites for hook in (site.read, site.write)]
    held_out = record(model, hooks, text.rows(range(-16, 0)))
    codes = [basis.encode(site, held_out[site.read]) for site in basis.sites]
    assert codes[1].shape[1] == 1
    assert not codes[1].any()  # a layer that was not chosen
    for name, layer in (("clt/layer_0", 0), ("clt/layer_2", 2)):
        site, row = basis.sites[layer], card["end"]["dictionaries"][name]
        rebuilt = basis.decode(site, codes[layer])
        for source in range(layer):
            rebuilt = rebuilt + basis.spread(basis.sites[source], codes[source], site)
        y = held_out[site.write]
        unexplained = (y - rebuilt).square().sum() / (y - y.mean(0)).square().sum()
        assert float(unexplained) == pytest.approx(row["fvu"], rel=1e-4)
        assert float((codes[layer] > 0).sum() / len(y)) == pytest.approx(row["l0"])
        assert row["fvu"] < min(0.75, before[name])
        assert row["l0"] == pytest.approx(6, rel=0.4)
    written = load_file(folder / "W_dec_0.safetensors")["W_dec_0"]
    assert written.shape == (48, 3, 16)
    assert not written[:, 1].any()
    torch.testing.assert_close(written.flatten(1).norm(dim=1), torch.ones(48))
    assert written[:, 2].norm() > 0.5  # it does write across layers


def test_a_basis_says_how_it_was_trained(trained: Path, model: Model, text: Packed) -> None:
    card = json.loads((trained / "card.json").read_text())
    known = Training(1, card["trained_on"], "transcoder", "words", text.digest, card["fingerprint"])
    snapshot = replace(known, tokens=512 // 16 * 15, kind="skip transcoder")
    folder = trained / "snapshots/512"
    for name, layers, expected in (
        (f"{trained}/transcoder", None, known),
        (f"{trained}:transcoder/*", [2], known),
        (f"{folder}/skip-transcoder", None, snapshot),
        (f"{folder}:skip-transcoder/*", [0], snapshot),
    ):
        assert training_of(restrict(resolve_name(f"sae:{name}").build(model), layers)) == expected
    assert card["trained_on"] == 4096 // 16 * 15


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, Training(kind="SAE")),
        ({"seqpos_slice": [None], "training_tokens": 0}, Training(kind="SAE")),
        ({"seqpos_slice": [5, -5], "training_tokens": 10**9}, Training(5, 10**9, "SAE")),
        ({"seqpos_slice": [-5, None], "training_tokens": "many"}, Training(kind="SAE")),
    ],
)
def test_what_other_makers_say_of_a_training(metadata: Any, expected: Training, tmp_path: Path) -> None:
    from sae_lens import JumpReLUSAEConfig

    (tmp_path / "card.json").write_text('{"text": "somebody else\'s card"}')
    told, later = (
        JumpReLUSAEConfig.from_dict({"architecture": "jumprelu", "d_in": 2, "d_sae": 3, "metadata": each})
        for each in (metadata, {"seqpos_slice": [7], "training_tokens": 5})
    )
    assert how_trained([told], tmp_path / "sae") == expected
    assert how_trained([told, later]) == replace(expected, first_position=7, tokens=expected.tokens and 5)


@pytest.mark.parametrize("site", ["mlp_act", "attn_z", "attn_out", "resid_post"])
def test_autoencoders_of_every_site(site: Any, model: Model, text: Packed, tmp_path: Path) -> None:
    train(
        model,
        text,
        replace(SETTINGS, kinds=("sae",), site=site, layers=(1,), tokens=512, snapshots=()),
        tmp_path,
        progress=False,
    )
    basis = resolve_name(f"sae:{tmp_path}/sae").build(model)
    x = record(model, (basis.sites[0].read,), text.rows(range(3)))[basis.sites[0].read]
    assert basis.sites[0].read == model.hook(site, 1)
    assert basis.decode(basis.sites[0], basis.encode(basis.sites[0], x)).shape == x.shape


class _KilledError(BaseException):
    """Stands for a kill, which nothing can answer."""


@pytest.mark.parametrize(
    ("kinds", "end"), [(("sae", "skip-transcoder"), _KilledError), (("clt",), KeyboardInterrupt)], ids=["kill", "stop"]
)
def test_a_training_that_ends_early_ends_with_the_same_weights(
    kinds: Any, end: type[BaseException], model: Model, text: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = (0, 1, 2) if "clt" in kinds else (1,)
    settings = replace(SETTINGS, kinds=kinds, layers=layers, tokens=1536, chunk_contexts=16)
    train(model, text, settings, tmp_path / "whole", progress=False)
    steps, out = iter(range(1000)), tmp_path / "early"
    stops = [19 * len(kinds), 21 * len(kinds) + 1]
    seconds = 0.0 if end is _KilledError else 3600.0  # asked to end it writes a checkpoint

    def ending(self: InTraining, batch: Any, step: Any = InTraining.step) -> Any:
        if next(steps) in stops:  # in the middle of a chunk; the second time after a checkpoint of the second run
            if end is KeyboardInterrupt:
                signal.raise_signal(signal.SIGTERM)  # answered when the step is over
            else:
                raise end
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(InTraining, "step", ending)
        for run in range(2):
            with pytest.raises(end):
                train(model, text, settings, out, progress=False, checkpoint_seconds=seconds)
            assert len(list((out / ".training").glob("chunk_*"))) == 1
            measured = json.loads((out / "card.json").read_text())["measured"] if run else {"512": 0}
            assert list(measured) == ["512"]
    torch.manual_seed(99)  # nothing hangs on the state of the process
    train(model, text, settings, out, progress=False, checkpoint_seconds=0)
    expected, found = weights(tmp_path / "whole"), weights(out)
    assert expected.keys() == found.keys()
    assert len(expected) == 2 * (len(kinds) if "sae" in kinds else 6)
    for place, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found[place][name]), (place, name)
    assert json.loads((out / "card.json").read_text())["runs"] == 3
    before = (out / "card.json").stat().st_mtime_ns
    train(model, text, settings, out, progress=False)  # finished: left alone
    assert (out / "card.json").stat().st_mtime_ns == before


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


def test_a_step_of_a_cross_layer_transcoder_has_loss_and_gradients_of_a_plain_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    batch = {
        hook: torch.randn(40, 6 if hook < "y" else 4, generator=draw) for hook in ("x0", "x1", "x2", "y0", "y1", "y2")
    }
    scales = {hook: Scaling(torch.full((x.shape[1],), 0.1), 1.5) for hook, x in batch.items()}
    settings = replace(SETTINGS, k=3, width="12")
    across = CrossLayer([Placed("clt", layer, f"x{layer}", f"y{layer}") for layer in range(3)], scales, settings, 0)
    sae = across.trainer.sae
    found: dict[torch.Tensor, torch.Tensor] = {}
    for parameter in sae.parameters():  # before they are clipped
        parameter.register_post_accumulate_grad_hook(lambda each: found.update({each: each.grad.double()}))
    dead = torch.arange(36) % 12 < 3
    for _ in range(3):
        across.trainer.n_forward_passes_since_fired[dead] = 1000
        u, v = ([(batch[f"{name}{layer}"].double() - 0.1) / 1.5 for layer in range(3)] for name in "xy")
        twins = {parameter: parameter.detach().double().requires_grad_() for parameter in sae.parameters()}
        encoders, biases = twins[sae.W_enc].split(12, 1), twins[sae.b_enc].split(12)
        decoders = twins[sae.W_dec].split([12, 8, 4], 1)
        befores, codes = [], []
        for layer in range(3):
            before = (u[layer] @ encoders[layer] + biases[layer]) * decoders[layer].norm(dim=1)
            least = before.flatten().sort(descending=True).values[3 * 40 - 1]
            befores.append(before)
            codes.append(torch.where((before >= least) & (before > 0), before, 0.0))
        errors = []
        for target in range(3):
            output = twins[sae.b_dec][4 * target : 4 * target + 4].expand(40, 4)
            for source in range(target + 1):
                rows = decoders[source] / decoders[source].norm(dim=1, keepdim=True)
                offset = 4 * (target - source)
                output = output + codes[source] @ rows[:, offset : offset + 4]
            errors.append(v[target] - output)
        loss = sum(error.square().sum(1).mean() for error in errors)
        for layer in range(3):
            left = torch.cat(errors[layer:], 1).detach()
            rows = decoders[layer][:3] / decoders[layer][:3].norm(dim=1, keepdim=True)
            values, places = befores[layer][:, :3].topk(2)  # half of what one layer writes
            rebuilt = torch.stack([values[token] @ rows[places[token]] for token in range(40)])
            loss = loss + (rebuilt - left).square().sum(1).mean()
        loss.backward()
        assert across.step(batch)().loss == pytest.approx(loss.item(), rel=1e-5)
        for parameter, twin in twins.items():
            torch.testing.assert_close(found[parameter], twin.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["transcoder", "skip-transcoder"])
def test_a_step_of_a_transcoder_is_that_of_a_plain_formula(kind: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=draw), torch.randn(40, 4, generator=draw)
    read, write = Scaling(torch.full((6,), 0.3), 1.7), Scaling(torch.full((4,), -0.2), 0.6)
    settings = replace(SETTINGS, k=3, width="12")
    dictionary = Dictionary(Placed(kind, 0, "x", "y"), read, write, settings, seed=0)
    trainer, sae = dictionary.trainer, dictionary.trainer.sae
    dead = torch.arange(12) % 3 == 0
    trainer.n_forward_passes_since_fired[dead] = 1000
    twin = {name: parameter.detach().clone().double() for name, parameter in sae.named_parameters()}
    moments = {name: (torch.zeros_like(each), torch.zeros_like(each)) for name, each in twin.items()}
    u, v = ((x - 0.3) / 1.7).double(), ((y + 0.2) / 0.6).double()
    for step in range(2):
        for parameter in twin.values():
            parameter.requires_grad_()
        mask = trainer.dead_neurons.clone()
        loss, kept = plain_loss(twin, u, v, mask, k=3)
        output = trainer.step(dictionary._input({"x": x, "y": y}))
        trainer.n_training_steps += 1
        assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        gradients = dict(zip(twin, torch.autograd.grad(loss, list(twin.values())), strict=True))
        norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        rate = settings.learning_rate * (step + 1) / min(100, settings.steps // 10)
        for name, gradient in gradients.items():
            clipped = gradient / max(1.0, float(norm) + 1e-6)
            first, second = moments[name]
            first = 0.9 * first + 0.1 * clipped
            second = 0.999 * second + 0.001 * clipped.square()
            moments[name] = first, second
            scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            twin[name] = (twin[name] - rate * first / (1 - 0.9 ** (step + 1)) / scale).detach()
        for name, parameter in sae.named_parameters():
            torch.testing.assert_close(parameter.detach().double(), twin[name], rtol=1e-4, atol=2e-5)
        assert bool((output.feature_acts.to_dense() > 0).eq(kept > 0).all())


def plain_loss(
    twin: dict[str, torch.Tensor], u: torch.Tensor, v: torch.Tensor, dead: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return BatchTopK's squared error, with the auxiliary loss, and the units' activations; token by token."""
    norms = twin["W_dec"].square().sum(1).sqrt()
    before = (u @ twin["W_enc"] + twin["b_enc"]) * norms
    threshold = before.detach().flatten().sort(descending=True).values[k * len(u) - 1]
    f = torch.where((before >= threshold) & (before > 0), before, 0.0)
    rows = twin["W_dec"] / norms[:, None]
    target = v - u @ twin["W_skip"].T if "W_skip" in twin else v
    error = target - f @ rows - twin["b_dec"]
    loss = error.square().sum(1).mean()
    if dead.any():
        strongest = min(v.shape[1] // 2, int(dead.sum()))
        rebuilt = []
        for token in before:
            places = sorted(dead.nonzero().flatten().tolist(), key=lambda unit: -token[unit].item())[:strongest]
            rebuilt.append(sum(token[unit] * rows[unit] for unit in places))
        scale = min(1.0, int(dead.sum()) / (v.shape[1] // 2))
        loss = loss + scale * (torch.stack(rebuilt) - error.detach()).square().sum(1).mean()
    return loss, f.detach()


def test_samples_are_a_function_of_their_place(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_ROWS_AT_ONCE", 4)
    samples = Samples(model, SETTINGS, 10)
    kept = samples.keep(tmp_path, Progress(enabled=False))
    everything = samples.rows(range(10))
    assert everything.shape == (10, 16)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to read: give --text FILE..., --dataset HUB or --samples"),
        (["--samples", "2k", "--tokens", "3k"], "--samples 2000: without --text or --dataset all tokens are samples"),
        (["--dataset", "a/b", "--samples"], "say how many of the 4,000,000 tokens are samples"),
        (["--dataset", "a/b", "--samples", "5k", "--tokens", "5k"], "of the 5,000 tokens are samples"),
        (["--samples", "--site", "mlp_up"], "no site to write to named 'mlp_up'; did you mean mlp_out"),
        (["--samples", "--kind", "sea"], "no kind of dictionary named 'sea'; did you mean sae?"),
        (["--samples", "--kind", "clt", "--site", "attn_z"], "a transcoder goes from mlp_in to mlp_out"),
        (["--samples", "--kind", "transcoder", "--site", "attn_z"], "a transcoder goes from mlp_in to mlp_out"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file; expected a text file"),
        (["--samples", "--tokens", "1k", "--snapshots", "1k"], "--snapshots 1000: not before the end of the training"),
        (["--samples", "--dtype", "float8"], "no type named 'float8'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gpt2-small", "--out", "out", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    "arguments", [["--samples", "--tokens", "4G"], ["--samples", "--width", "0x"], ["--samples", "--k", "0"]]
)
def test_bad_arguments_are_told_by_the_parser(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "gpt2-small", "--out", "out", *arguments])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_text_in_other_words_than_the_models_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(basisbench_baselines.pocket.__file__).parent / "assets" / "model")
    words = "the doctor near the cars " * 1800
    pack("known", [words], tokenizer, SETTINGS, all_of_it=True)
    assert not caplog.messages
    pack("other", [words, "zyxwv " * 1000], tokenizer, SETTINGS, all_of_it=True)
    assert len(caplog.messages) == 1
    assert "other: 10% of the tokens are unknown to the model's tokenizer" in caplog.messages[0]


def test_an_interruption_says_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("basisbench.commands.train.execute", stop)
    assert main(["train", "gpt2-small", "--samples", "--out", "out"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    monkeypatch.setattr("basisbench.commands.compare.execute", stop)
    assert main(["compare", "results"]) == 130
    assert capsys.readouterr().err == "basisbench: interrupted\n"


def test_layers() -> None:
    assert parse_layers(None, 3) == (0, 1, 2)
    assert parse_layers("4,0-2, 1", 5) == (0, 1, 2, 4)
    for text, message in (
        ("10-19", "the model has no layer 19; it has 0 to 11"),
        ("3-1", "found '3-1'"),
        ("", "found ''"),
        ("-1", "found '-1'"),
    ):
        with pytest.raises(BasisBenchError, match=message):
            parse_layers(text, 12)


def test_what_does_not_fit_is_one_line(model: Model, text: Packed, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(BasisBenchError, match=r"--k 60 is more than the 48 units of --width 3x"):
        train(model, text, replace(SETTINGS, k=60), tmp_path / "wide", progress=False)
    assert not (tmp_path / "wide").exists()
    with pytest.raises(BasisBenchError, match=r"short: too little text: 81 tokens, expected at least 4,080"):
        pack("short", [some_text(80)], model.tokenizer, SETTINGS, all_of_it=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BasisBenchError, match=r"holds 'notes.txt', which no training makes"):
        train(model, text, SETTINGS, tmp_path, progress=False)
    with pytest.raises(BasisBenchError, match="holds another training"):
        train(model, text, replace(SETTINGS, seed=1), trained, progress=False)
    with pytest.raises(BasisBenchError, match="is a file; choose a folder"):
        train(model, text, SETTINGS, tmp_path / "notes.txt", progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
def test_the_largest_are_what_saelens_keeps(scale: float) -> None:
    from sae_lens.saes.batchtopk_sae import BatchTopK

    before = torch.randn(50, 130, generator=torch.Generator().manual_seed(1)) + scale * torch.arange(130) / 20
    for k in (0.5, 3.0, 40.0, 130.0):
        kept = torch.zeros_like(before)
        places, values = largest(before, int(50 * k))
        kept.view(-1)[places] = values
        assert torch.equal(kept, BatchTopK(k)(before))


@pytest.mark.parametrize("dead", [0, 3, 30])
def test_a_step_of_an_autoencoder_has_saelens_s_losses_and_gradients(dead: int) -> None:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    shape = {"d_in": 10, "d_sae": 70, "k": 4.0, "dtype": "float64", "apply_b_dec_to_input": False}
    ours, theirs = (each(BatchTopKTrainingSAEConfig(**shape)) for each in (AutoencoderInTraining, BatchTopKTrainingSAE))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
            theirs.get_parameter(name).copy_(parameter)
    x = torch.randn(90, 10, generator=draw, dtype=torch.float64)
    outputs = [
        sae.training_forward_pass(TrainStepInput(x, {}, torch.arange(70) < dead, 0, False)) for sae in (ours, theirs)
    ]
    for output in outputs:
        output.loss.backward()
    assert set(outputs[0].losses) == set(outputs[1].losses)
    for name, loss in outputs[1].losses.items():
        torch.testing.assert_close(outputs[0].losses[name], loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs[0].feature_acts.to_dense(), outputs[1].feature_acts, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.topk_threshold, theirs.topk_threshold)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-9)


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


def test_products_of_dead_units_have_few_shapes() -> None:
    """OneDNN keeps memory for every shape of a product; how many units are dead changes with every step."""
    shapes: set[tuple[int, ...]] = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
            if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
                shapes.add(tuple(arguments[1].shape))
            return function(*arguments, **(named or {}))

    scale = Scaling(torch.zeros(8), 1.0)
    sae = Dictionary(Placed("sae", 0, "x", "x"), scale, scale, replace(SETTINGS, width="300"), seed=0).trainer.sae
    for dead in range(1, 120):
        with Watch():
            sae.auxiliary_loss(torch.ones(16, 8), torch.zeros(16, 8), torch.arange(300) < dead)
    assert shapes == {(8, 64), (8, 128), (64, 8), (128, 8)}


def test_progress_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("basisbench_baselines.training.progress.time.monotonic", lambda: now[0])
    progress = Progress(said=now[0])
    with progress.bar("tokens", 4_000_000, 1_000_000) as bar, progress.bar("samples", None) as inner:
        for seconds in (30, 31, 29, 31):
            now[0] += seconds
            bar.set_postfix_str("FVU 0.3", refresh=False)
            bar.update(250_000)
            inner.update(7)
        now[0] += 61
        inner.update(7)
        progress.line("written")
    assert capsys.readouterr().err.splitlines() == [
        "tokens: 1,500,000 of 4,000,000, 01:01 gone, 05:05 left, FVU 0.3",
        "tokens: 2,000,000 of 4,000,000, 02:01 gone, 04:02 left, FVU 0.3",
        "samples: 35, 03:02 gone",
        "written",
    ]
    Progress(enabled=False).line("never")
    assert capsys.readouterr().err == ""
