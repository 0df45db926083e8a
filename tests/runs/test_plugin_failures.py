"""A plug-in that fails takes its own cells along: the others are what they are without it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basisbench.cli import main
from basisbench.results.record import read_record
from basisbench.runs.progress import Event
from basisbench.runs.run import Outcome, Request, run_request
from basisbench.runs.runner import RunOptions
from basisbench.types import ModelSpec

pytestmark = pytest.mark.slow

Write = Callable[..., Path]

METHODS = """
import sys
import torch
from dataclasses import dataclass
from basisbench.attribution.projection import projected_scores
from basisbench.types import Scores

@dataclass(frozen=True)
class Bad:
    name: str
    summary: str = "fails"
    def score(self, context, basis):
        scores = projected_scores(context, basis, "ixg")
        return ACTS[self.name](context, basis, scores)

def endless(*given):
    return endless(*given)

def raises(error):
    raise error

def in_place(tensor, scores):
    tensor.mul_(1.5)
    return scores

def by_numpy(tensor, scores):
    tensor.numpy()[:] *= 1.5
    return scores

class Speechless(Exception):
    def __str__(self):
        raise ValueError

def hooked(context, scores):
    context.model.body.get_submodule("model.norm").register_forward_hook(lambda *_: None)
    return scores

ACTS = {
    "none": lambda context, basis, scores: None,
    "few_sites": lambda context, basis, scores: Scores(scores.units[:1], scores.errors),
    "few_units": lambda context, basis, scores: Scores(tuple(units[:, 1:] for units in scores.units), scores.errors),
    "no_positions": lambda context, basis, scores: Scores(tuple(units[0] for units in scores.units), scores.errors),
    "nan": lambda context, basis, scores: Scores(tuple(units * float("nan") for units in scores.units), None),
    "infinite": lambda context, basis, scores: Scores(tuple(units / 0 for units in scores.units), None),
    "divides": lambda context, basis, scores: 1 // 0,
    "recursion": endless,
    "exit": lambda *_: sys.exit(3),
    "interrupt": lambda *_: raises(KeyboardInterrupt("no key was pressed")),
    "activation": lambda context, basis, scores: in_place(context.activation(basis.sites[0].write, "clean"), scores),
    "coordinates": lambda context, basis, scores: in_place(
        context.coordinates(basis, basis.sites[0], "clean")[0], scores
    ),
    "field": lambda context, basis, scores: in_place(context.gradient_field("ixg", basis.sites[0]), scores),
    "tokens": lambda context, basis, scores: in_place(context.answers.view(-1)[:0].float(), scores)
    if context.answers.zero_() is None else scores,
    "weights": lambda context, basis, scores: in_place(
        next(context.model.body.parameters()).requires_grad_(False), scores
    ),
    "hook": lambda context, basis, scores: hooked(context, scores),
    "activation_behind": lambda context, basis, scores: in_place(
        context.activation(basis.sites[0].write, "clean").data, scores
    ),
    "field_by_numpy": lambda context, basis, scores: by_numpy(context.gradient_field("ixg", basis.sites[0]), scores),
    "weights_behind": lambda context, basis, scores: in_place(next(context.model.body.parameters()).data, scores),
    "default_type": lambda context, basis, scores: torch.set_default_dtype(torch.float64) or scores,
    "no_gradients": lambda context, basis, scores: torch.set_grad_enabled(False) and None or scores,
    "no_text": lambda *_: raises(Speechless()),
}
PROVIDES = tuple(map(Bad, ACTS))
"""
TOLD = {
    "none": "method 'none' on basis 'mlp_out': score gives NoneType, expected Scores",
    "few_sites": "units has 1 tensors, expected one for each of 2 sites",
    "few_units": "15 units are scored at blocks.0.hook_mlp_out, expected 16",
    "no_positions": "expected a tensor of shape (5, units)",
    "nan": "units at blocks.0.hook_mlp_out are not all finite numbers",
    "infinite": "units at blocks.0.hook_mlp_out are not all finite numbers",
    "divides": "method 'divides' failed: ZeroDivisionError: integer division or modulo by zero (bad.py, line ",
    "recursion": "method 'recursion' failed: RecursionError: maximum recursion depth exceeded",
    "exit": "method 'exit' failed: SystemExit: 3 (bad.py, line ",
    "interrupt": "method 'interrupt' failed: KeyboardInterrupt: no key was pressed (bad.py, line ",
    "activation": "changed in place what other cells use: the clean activation at blocks.0.hook_mlp_out",
    "coordinates": "changed in place what other cells use: the clean activation at blocks.0.hook_mlp_out",
    "field": "changed in place what other cells use: the gradient field of ixg at blocks.0.hook_mlp_out",
    "tokens": "changed in place what other cells use: the answers tokens",
    "weights": "changed in place what other cells use: the model's weights or hooks",
    "hook": "changed in place what other cells use: the model's weights or hooks",
    "activation_behind": "changed in place what other cells use: the clean activation at blocks.0.hook_mlp_out",
    "field_by_numpy": "changed in place what other cells use: the gradient field of ixg at blocks.0.hook_mlp_out",
    "weights_behind": "changed in place what other cells use: the model's weights or hooks",
    "default_type": "changed PyTorch's settings for all others: default type is torch.float64, was torch.float32",
    "no_gradients": "changed PyTorch's settings for all others: gradients enabled is False, was True",
    "no_text": "method 'no_text' failed: Speechless (bad.py, line ",
}

BASES = """
from dataclasses import dataclass, replace
from functools import partial
from basisbench.protocols import UNTOLD, BasisSpec, Training
from basisbench.types import Site

@dataclass(frozen=True)
class Bad:
    name: str
    sites: tuple
    family: str = "mlp"
    exact: bool = False
    parameter_bytes: int = 0
    trained: object = UNTOLD
    def encode(self, site, x):
        return ENCODE.get(self.name, lambda x: x)(x)
    def decode(self, site, f):
        return DECODE.get(self.name, lambda f: 0.9 * f)(f)

def quits(*_):
    raise SystemExit

ENCODE = {
    "gives_none": lambda x: None,
    "gives_one": lambda x: x[:1],
    "rectifies_in_place": lambda x: x.relu_(),
    "gives_nan": lambda x: x * float("nan"),
    "has_no_key": lambda x: {}["key"],
}
DECODE = {"writes_little": lambda f: f[..., :1]}

def build(name, model):
    hooks = [model.hook("mlp_out", layer) for layer in range(model.layers)]
    return Bad(name, tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)))

def twice(model):
    basis = build("twice", model)
    return Bad("twice", basis.sites * 2)

def wide(model):
    import torch
    torch.set_default_dtype(torch.float64)
    return build("other_type", model)

PROVIDES = (
    BasisSpec("quits", "mlp", "leaves", build=quits),
    BasisSpec("unmarked", "mlp", "is fitted and has no fingerprint", fit=lambda model, data: build("unmarked", model)),
    BasisSpec("twice", "mlp", "has its sites twice", build=twice),
    BasisSpec("no_basis", "mlp", "gives nothing", build=lambda model: None),
    BasisSpec("other_type", "mlp", "changes the default type", build=wide),
    BasisSpec("boolean", "mlp", "is a torch module", build=lambda m: replace(build("boolean", m), trained=True)),
    BasisSpec("before", "mlp", "says too little", build=lambda m: replace(build("before", m), trained=Training(-1))),
    *(BasisSpec(name, "mlp", "fails", build=partial(build, name)) for name in (*ENCODE, *DECODE)),
)
"""
TOLD_OF_BASES = {
    "quits": "basis 'quits' failed: SystemExit (bad.py, line ",
    "unmarked": "basis 'unmarked': its fingerprint is None; expected 8 to 64 hexadecimal digits",
    "twice": "basis 'twice': expected distinct sites, at least one, found 4",
    "boolean": "basis 'boolean': trained is True, expected basisbench.protocols.Training",
    "before": "basis 'before': trained.first_position: input should be greater than or equal to 0, found -1",
    "no_basis": "basis 'no_basis': what was built is NoneType and has no 'name'",
    "other_type": "basis 'other_type' with method 'ixg' changed PyTorch's settings for all others: default type is",
    "gives_none": "basis 'gives_none': encode gives NoneType at blocks.0.hook_mlp_out, expected a tensor of shape",
    "gives_one": "basis 'gives_one': encode gives (1, 5, 16) at blocks.0.hook_mlp_out, expected a tensor of shape",
    "rectifies_in_place": "changed in place what other cells use: the clean activation at blocks.0.hook_mlp_out",
    "gives_nan": "basis 'gives_nan' explains nothing at blocks.0.hook_mlp_out",
    "has_no_key": "basis 'has_no_key' failed: KeyError: 'key' (bad.py, line ",
    "writes_little": "basis 'writes_little': decode gives (4, 5, 1) at blocks.0.hook_mlp_out, expected a tensor of",
}


def run_with(spec: ModelSpec, plugin_with: Write, folder: Path, plugin: str, **names: list[str]) -> Outcome:
    """Run cells on the tiny model, with a plug-in file."""
    (folder / "bad.py").write_text(plugin, encoding="utf-8")
    settings = RunOptions(out=folder / "out", plugins=(plugin_with(spec), folder / "bad.py"))
    changes: dict[str, Any] = {"models": [spec.name], "attribution_pairs": 4, "evaluation_pairs": 4, **names}
    return run_request(Request("pocket", changes, settings, progress=False))


def told(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(event.cell.basis, event.cell.method, event.message) for event in outcome.failures]


def values(outcome: Outcome, event: Event) -> Any:
    """Return all of a record that does not say when and where it was made."""
    record = read_record(outcome.out / "records" / f"{event.cell_id}.json")
    return record.model_dump(exclude={"created", "cost", "environment"}), record.cost.forward_equivalents


def finished(outcome: Outcome) -> dict[tuple[str, str], Any]:
    done = [event for event in outcome.events if event.state == "finished"]
    return {(event.cell.basis, event.cell.method): values(outcome, event) for event in done}


def test_a_failing_method_fails_its_own_cell_in_one_line(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    shared: dict[str, list[str]] = {"tasks": ["sva_simple"], "bases": ["mlp_out"]}
    honest = ["magnitude", "ixg", "relp"]
    alone = run_with(tiny_llama, plugin_with, tmp_path / "alone", METHODS, methods=honest, **shared)
    mixed = ["magnitude", *TOLD, "ixg", "relp"]
    both = run_with(tiny_llama, plugin_with, tmp_path, METHODS, methods=mixed, **shared)
    messages = {method: message for _, method, message in told(both)}
    assert messages.keys() == TOLD.keys()
    for method, expected in TOLD.items():
        assert expected in messages[method]
        assert "\n" not in messages[method]
    assert finished(both) == finished(alone)
    assert len(finished(both)) == 3


def test_a_failing_basis_fails_its_own_cell_in_one_line(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    shared: dict[str, list[str]] = {"tasks": ["sva_simple"], "methods": ["ixg"]}
    alone = run_with(tiny_llama, plugin_with, tmp_path / "alone", BASES, bases=["mlp_act", "mlp_out"], **shared)
    both = run_with(tiny_llama, plugin_with, tmp_path, BASES, bases=["mlp_act", *TOLD_OF_BASES, "mlp_out"], **shared)
    messages = {basis: message for basis, _, message in told(both)}
    assert messages.keys() == TOLD_OF_BASES.keys()
    for basis, expected in TOLD_OF_BASES.items():
        assert expected in messages[basis]
        assert "\n" not in messages[basis]
    assert finished(both) == finished(alone)
    assert len(finished(both)) == 2


TASK = """
from basisbench.types import ContrastPair
class Bad:
    name, version, summary = "bad", "1", "fails"
    def candidates(self, split, seed):
        raise KeyboardInterrupt
PROVIDES = Bad()
"""


@pytest.mark.usefixtures("undrawn")
def test_a_failing_task_fails_its_own_cells_and_the_command_says_so(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(TASK, encoding="utf-8")
    options = [f"--plugin={plugin_with(tiny_llama)}", f"--plugin={tmp_path / 'bad.py'}", "--model=tiny-llama"]
    options += ["--task=bad", "--task=sva_simple", "--basis=resid", "--method=ixg", "--method=random", "--jobs=1"]
    assert main(["run", "pocket", *options, "--examples=4", f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "2 of 4 cells failed" in error
    assert "task 'bad' failed: KeyboardInterrupt (bad.py, line 6)" in error
    assert "Traceback" not in error


FRAGILE = """
from pathlib import Path
from basisbench.attribution.projection import projected_scores
from basisbench.registry import load_registry

def break_if_told(part):
    if Path(__file__).with_name(f"break the {part}").exists():
        raise SystemExit(3)

class FragileMethod:
    name, summary = "fragile", "fails when it is told to"
    def score(self, context, basis):
        break_if_told("method")
        return projected_scores(context, basis, "ixg")

class FragileTask:
    name, version, summary = "fragile", "1", "fails when it is told to"
    def candidates(self, split, seed):
        break_if_told("task")
        return load_registry().get("task", "sva_simple").candidates(split, seed)

PROVIDES = FragileMethod(), FragileTask()
"""


@pytest.mark.parametrize("part", ["method", "task"])
def test_a_plug_in_that_fails_in_verify_is_one_line_and_nothing_is_written(
    tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    names = {"tasks": ["fragile"], "bases": ["mlp_out"], "methods": ["fragile"]}
    run_with(tiny_llama, plugin_with, tmp_path, FRAGILE, **names).raise_failures()
    (tmp_path / f"break the {part}").touch()
    options = [f"--plugin={plugin_with(tiny_llama)}", f"--plugin={tmp_path / 'bad.py'}", "--by=Ada"]
    assert main(["verify", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot be re-run: {part} 'fragile' failed: SystemExit: 3 (bad.py, line 8); nothing was written" in line
    assert not (tmp_path / "out" / "verification.json").exists()


@pytest.fixture
def _listening() -> Iterator[None]:
    """Python's own handler: a shell starts what runs in its background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_listening")
def test_the_user_s_own_interrupt_ends_the_run(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    pressed = METHODS.replace('"exit": lambda *_: sys.exit(3)', '"exit": lambda *_: press()')
    pressed += (
        f"\n\ndef press():\n    import os, time\n    os.kill({os.getpid()}, {int(signal.SIGINT)})\n    time.sleep(60)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        run_with(
            tiny_llama, plugin_with, tmp_path, pressed, tasks=["sva_simple"], bases=["mlp_out"], methods=["exit", "ixg"]
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_changed_code_is_a_new_cell(tiny_llama: ModelSpec, plugin_with: Write, tmp_path: Path) -> None:
    honest = METHODS.replace("ACTS[self.name](context, basis, scores)", "scores")
    names = {"tasks": ["sva_simple"], "bases": ["resid"], "methods": ["exit", "ixg"]}
    states = []
    for text in (honest, honest, honest + "# another line\n", honest.replace("\n", "  \r\n")):
        outcome = run_with(tiny_llama, plugin_with, tmp_path, text, **names)
        states.append({event.cell.method: event.state for event in outcome.events})
    kept, done = "kept", "finished"
    assert [state["exit"] for state in states] == [done, kept, done, kept]
    assert [state["ixg"] for state in states] == [done, kept, kept, kept]
    records = [read_record(path) for path in (tmp_path / "out" / "records").iterdir()]
    assert all(
        record.identities.code and set(record.identities.code) == {"task", "basis", "method"} for record in records
    )
