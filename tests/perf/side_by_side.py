"""Side by side with two published implementations: same machine, model, prompts and number of nodes.

    git clone https://github.com/hannamw/EAP-IG
    git clone https://github.com/saprmarks/feature-circuits    # also: pip install "nnsight<0.4" dictionary_learning
    python tests/perf/side_by_side.py --eap-ig EAP-IG --feature-circuits feature-circuits --out side_by_side.json
    python tests/perf/side_by_side.py --eap-ig EAP-IG --model smollm2-135m-q4 --task sva_rc --out smollm2.json

1. The model is a random GPT-2 small (workload.py), or a Llama that is named, on pairs of a task of one template.
   EAP-IG gets its weights as a `HookedTransformer`, Sparse Feature Circuits as a Hugging Face model, both with
   gradients of the weights on, which they need and never turn off.
2. Their files are imported, never changed. At run time EAP-IG's hard-coded "cuda" becomes "cpu", and its tokenizer
   step hands on the token ids that we use, so that no BOS is added.
3. Rounds are interleaved in one process: one plain forward pass with logits at every position (the unit), theirs,
   ours. Reported are medians. Ours scores from nothing in every round, as a run does for prompts it has not seen.
4. Where both compute the same quantity, the numbers of the last round are compared too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from basisbench.attribution.batch import Batch
from basisbench.attribution.context import GroupContext
from basisbench.attribution.gradients import gradient_field
from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import Ranking, pooled_scores, rank
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Basis
from basisbench.registry import load_registry
from basisbench.runs.environment import describe_environment
from basisbench.runs.session import open_session
from basisbench.types import Ablation, Pairs, Scores
from basisbench_baselines.bases.saelens import DictionaryBasis
from workload import SHAPES, Shape, open_group, random_body, random_dictionaries, random_model

TOGETHER = 8  # of our circuits are evaluated at once, as in the performance tests
SECONDS = 60  # after which a row begins no further round

Work = Callable[[], Any]
Comparison = Callable[[Any, Any], dict[str, Any]]


class Report:
    """Measures rows and writes the file after each."""

    def __init__(self, given: argparse.Namespace, ours: Ours) -> None:
        tokens = ours.group().attribution.batch.clean
        self.unit = torch.inference_mode()(lambda: ours.model.body(tokens, use_cache=False).logits)
        self.given, self.rows, self.agreement = given, list[dict[str, Any]](), dict[str, Any]()
        self.commits, self.machine = dict[str, str](), describe_environment(ours.model).model_dump()
        for _ in range(5):
            self.unit()

    def source(self, folder: Path, *packages: str) -> None:
        """Note where their code comes from."""
        commit = subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True)
        self.commits[folder.resolve().name] = commit.strip()
        self.machine["packages"] |= {package: version(package) for package in packages}

    def row(
        self, what: str, how: str, theirs: Work, ours: Work, compare: Comparison | None = None, times: tuple = (1, 1)
    ) -> None:
        """Time their work and ours; `times` is how often each has to be done for what the row says."""
        if not re.search(self.given.only, what):
            return
        taken: dict[str, list[float]] = {"unit": [], "theirs": [], "ours": []}
        result: dict[str, Any] = {}
        begun = time.perf_counter()
        while not taken["unit"] or (len(taken["unit"]) < self.given.rounds and time.perf_counter() - begun < SECONDS):
            for side, work in (("unit", self.unit), ("theirs", theirs), ("ours", ours)):
                start = time.perf_counter()
                result[side] = work()
                taken[side].append(time.perf_counter() - start)
        unit, a, b = (median(part) * factor for part, factor in zip(taken.values(), (1, *times), strict=True))
        self.rows.append({
            "what": what, "how": how, "rounds": len(taken["unit"]), "unit_seconds": unit, "theirs_seconds": a,
            "theirs_forwards": a / unit, "ours_seconds": b, "ours_forwards": b / unit, "speedup": a / b,
        })  # fmt: skip
        if compare:
            self.agreement[what] = compare(result["theirs"], result["ours"])
        print(f"{a / b:.1f} x {what} {self.agreement.get(what, '')}", flush=True)
        report = {
            "machine": self.machine, "commits": self.commits, "rows": self.rows, "agreement": self.agreement,
            "unit_seconds": median(row["unit_seconds"] for row in self.rows),
        }  # fmt: skip
        self.given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Ours:
    """Our side."""

    model: Model
    shape: Shape | None
    splits: Sequence[Pairs] = ()  # of the model that is named: attribution and evaluation pairs

    def group(self) -> GroupPair:
        """Return both splits of one aligned group, of which nothing is known yet."""
        if self.shape is not None:
            return open_group(self.model, self.shape)
        return GroupPair(*(GroupContext(self.model, pairs, 0) for pairs in self.splits))

    def scores(self, pairs: Pairs, method: str, bases: Sequence[Basis], *, steps: int = 10) -> list[Scores]:
        """Score every node of several bases from nothing; gradients are shared between them, as in a run.

        As the others score: clean against counterfactual, the whole error as one node.
        """
        context = GroupContext(self.model, pairs, 0)
        context.start("mean", "counterfactual", "node")
        with mock.patch("basisbench.attribution.context.gradient_field", partial(gradient_field, steps=steps)):
            return [load_registry().get("method", method).score(context, basis) for basis in bases]

    def curve(self, basis: Basis, ablation: Ablation, places: Ranking, size: int) -> Work:
        """Prepare a curve as a run does; the work returned evaluates `TOGETHER` circuits on each pair."""
        group = self.group()
        group.reference(basis, ablation), group.shared_work(basis, ablation)

        def masks(chosen: slice) -> CircuitMask:
            return places.mask([size] * (chosen.stop - chosen.start), [False] * (chosen.stop - chosen.start))

        return lambda: evaluate(group, basis, ablation, masks, TOGETHER).metric


class EapIg:
    """EAP-IG (Hanna et al. 2024), on the CPU. A graph's nodes are the embeddings, every head and every MLP."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

        sys.path.insert(0, str(folder / "src"))
        modules: list[Any] = [import_module(f"eap.{name}") for name in ("attribute_node", "evaluate", "utils", "graph")]
        self.attribute, self.evaluate, _, self.graphs = modules
        on_cpu: Any = ModuleType("torch")
        vars(on_cpu).update(vars(torch))
        on_cpu.zeros = lambda *size, device=None, dtype=None: torch.zeros(*size, dtype=dtype)  # noqa: ARG005
        for module in modules[:3]:
            module.torch, module.tokenize_plus = on_cpu, _tokenized
        body, of_llama = ours.model.body, {}
        shape = body.config  # transformers names GPT-2's sizes like these, too
        if shape.model_type == "llama":
            # Keys and values of a group are written out for each head: their code needs that, and says so.
            of_llama = {
                "d_mlp": shape.intermediate_size, "act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS",
                "final_rms": True, "eps": shape.rms_norm_eps, "positional_embedding_type": "rotary",
                "rotary_dim": shape.head_dim, "rotary_base": int(shape.rope_parameters["rope_theta"]),
                "n_key_value_heads": shape.num_key_value_heads, "ungroup_grouped_query_attention": True,
            }  # fmt: skip
        hooks = {"use_split_qkv_input": True, "use_attn_result": True, "use_hook_mlp_in": True}
        width, heads = shape.hidden_size, shape.num_attention_heads
        of_gpt2 = {"d_mlp": 4 * width, "act_fn": "gelu_new"}
        config = HookedTransformerConfig(
            n_layers=shape.num_hidden_layers, d_model=width, n_heads=heads, d_head=width // heads,
            d_vocab=shape.vocab_size, n_ctx=128, device="cpu", **hooks, **(of_llama or of_gpt2),
        )  # fmt: skip
        self.model = HookedTransformer(config).eval()
        convert = convert_llama_weights if of_llama else convert_gpt2_weights
        self.model.load_state_dict(convert(body, config), strict=False)

    def graph(self, *, moved: bool = False) -> Any:
        """Return a new graph; `moved` takes the MLPs' gradient at their output, not at their input as released."""
        graph = self.graphs.Graph.from_model(self.model, neuron_level=True, node_scores=True)
        for node in graph.nodes.values() if moved else ():
            node.in_hook = node.out_hook if node.name.startswith("m") else node.in_hook
        return graph

    def score(self, graph: Any, batch: Batch, method: str, level: str) -> Any:
        """Return the graph, its neurons or nodes scored by their `attribute_node`."""
        self.model.zero_grad()
        data, metric = [(batch.clean, batch.counterfactual, batch)], lambda *x: _metric(*x).sum()
        options = {"ig_steps": 5, "neuron": level == "neuron", "quiet": True}
        self.attribute.attribute_node(self.model, graph, data, metric, method, **options)
        return graph

    def point(self, graph: Any, batch: Batch) -> Any:
        """Return their `evaluate_graph` of the graph's circuit: the metric of each pair."""
        data = [(batch.clean, batch.counterfactual, batch)]
        return self.evaluate.evaluate_graph(self.model, graph, data, _metric, quiet=True)

    def compare(self, graph: Any, scores: Sequence[Scores]) -> dict[str, Any]:
        """Compare neuron scores (heads added up) with ours of MLP and attention outputs (positions added up)."""
        theirs = graph.neurons_scores[1:].unflatten(0, (self.model.cfg.n_layers, -1))
        mlp, attention = (torch.cat(pooled_scores([part], [1]).units) for part in scores)
        heads = theirs[:, :-1].sum(1)
        return {"MLP outputs": deviation(theirs[:, -1], mlp), "attention outputs": deviation(heads, attention)}


def _tokenized(_model: Any, tokens: Tensor, **_options: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    return tokens, torch.ones_like(tokens), torch.full((len(tokens),), tokens.shape[1]), tokens.shape[1]


def _metric(logits: Tensor, _clean_logits: Tensor | None, _lengths: Tensor, batch: Batch) -> Tensor:
    return batch.metric(logits[:, -1])


def against_eap_ig(report: Report, theirs: EapIg, ours: Ours, size: int) -> None:
    """Compare scores of both families, and circuits that patch in the counterfactual run."""
    bases = [load_registry().get("basis", name).build(ours.model) for name in ("mlp_out", "attn_out")]
    group = ours.group()
    pairs, batch, evaluated = group.attribution.pairs, group.attribution.batch, group.evaluation.batch
    report.row(
        "one forward pass, logits at every position", "theirs: HookedTransformer with the hooks it needs; ours: plain",
        torch.no_grad()(lambda: theirs.model(batch.clean)), report.unit,
        lambda a, b: {"logits": deviation(a, b)},
    )  # fmt: skip
    for method, rule, level, moved in (
        ("EAP", "ixg", "node", False), ("EAP", "ixg", "neuron", False), ("EAP", "ixg", "neuron", True),
        ("EAP-IG-inputs", "ig_inputs", "neuron", True),
    ):  # fmt: skip
        report.row(
            f"scores, {method} against {rule}, per {level}" + ", gradients at MLP outputs" * moved,
            f"theirs: attribute_node (IG: 5 steps), every {level} of heads and MLPs; ours: MLP and attention outputs",
            partial(theirs.score, theirs.graph(moved=moved), batch, method, level),
            partial(ours.scores, pairs, rule, bases, steps=5),
            theirs.compare if level == "neuron" else None,
        )  # fmt: skip
    scores, graph = ours.scores(pairs, "ixg", bases)[0], theirs.graph()
    units = rank(pooled_scores([scores], [1]), policy="node")
    graph.reset(empty=False)
    for layer, places in enumerate(units.units):
        graph.neurons_in_graph[graph.forward_index(graph.nodes[f"m{layer}"])] = places[0] < size
    report.row(
        f"curve point, EAP-IG, the same {size} units of MLP outputs, all else kept",
        f"theirs: evaluate_graph; ours: evaluate, {TOGETHER} at once",
        partial(theirs.point, graph, evaluated), ours.curve(bases[0], "counterfactual", units, size),
        lambda a, b: {"metric": deviation(a, b[0])}, (1, 1 / TOGETHER),
    )  # fmt: skip
    best = theirs.score(theirs.graph(), batch, "EAP", "neuron")
    best.apply_topn(size, level="neuron")
    report.row(
        f"curve of {TOGETHER} points, EAP-IG, preparation included, the {size} best of each side",
        f"theirs: {TOGETHER} times apply_topn and evaluate_graph, {best.count_included_neurons()} neurons in "
        f"{best.count_included_nodes()} nodes; ours: ranking, reference values and all points, positions apart",
        lambda: (best.apply_topn(size, level="neuron"), theirs.point(best, evaluated)),
        lambda: ours.curve(bases[0], "counterfactual", rank(scores, policy="node"), size)(), times=(TOGETHER, 1),
    )  # fmt: skip


class FeatureCircuits:
    """Sparse Feature Circuits (Marks et al. 2025), on the outputs of GPT-2's MLPs."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        sys.path.insert(0, str(folder))
        loading: Any = import_module("loading_utils")
        loading.load_examples = None  # ablation.py imports it from here, where it no longer is; not used here
        self.attribution, self.ablation = import_module("attribution"), import_module("ablation")
        self.act = import_module("activation_utils").SparseAct
        body = random_body(ours.shape).requires_grad_(True)
        self.model = import_module("nnsight").LanguageModel(body, tokenizer=ours.model.tokenizer)
        self.submodules = [loading.Submodule(f"mlp_{i}", block.mlp) for i, block in enumerate(self.model.transformer.h)]

    def dictionaries(self, basis: Basis) -> dict[Any, Any]:
        """Return their identity dictionaries for neurons, and their JumpReLU dictionaries with our random weights."""
        kinds: Any = import_module("dictionary_learning.dictionary")
        if not isinstance(basis, DictionaryBasis):
            return {submodule: kinds.IdentityDict(self.model.config.n_embd) for submodule in self.submodules}
        found = {}
        for submodule, weights in zip(self.submodules, basis.dictionaries, strict=True):
            # Frozen, for a gradient of W_enc does not survive that they overwrite the activation in place.
            found[submodule] = kinds.JumpReluAutoEncoder(weights.cfg.d_in, weights.cfg.d_sae).requires_grad_(False)
            for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
                getattr(found[submodule], name).data = getattr(weights, name).data
        return found

    @staticmethod
    def metric(batch: Batch) -> Callable[[Any], Any]:
        """Return the metric, read at the head. Their scripts read `model.output.logits`.

        There nnsight 0.3.7 gives every step of `ig` the first step's logits: it does not split a transformers output.
        """
        return lambda model: batch.metric(model.lm_head.output[:, -1, :])

    def score(self, batch: Batch, dictionaries: dict[Any, Any], method: str) -> list[Any]:
        """Return the effects of their `patching_effect`, layer by layer."""
        self.model._model.zero_grad()
        sides, metric = (batch.clean, batch.counterfactual), self.metric(batch)
        found = self.attribution.patching_effect(*sides, self.model, self.submodules, dictionaries, metric, method)
        return list(found.effects.values())

    def point(self, group: GroupPair, dictionaries: dict[Any, Any], mask: CircuitMask) -> Any:
        """Return their `run_with_ablations` of one circuit, under mean ablation: the metric of each pair."""
        kept = zip(self.submodules, mask.units, mask.errors, strict=True)
        nodes = {key: self.act(units[0], resc=errors[0].expand(len(units[0]), 1)) for key, units, errors in kept}
        sides = group.evaluation.batch.clean, group.attribution.batch.counterfactual
        metric = self.metric(group.evaluation.batch)
        return self.ablation.run_with_ablations(*sides, self.model, self.submodules, dictionaries, nodes, metric)


def _compare_effects(effects: Sequence[Any], scores: Sequence[Scores]) -> dict[str, Any]:
    units, ours = [effect.act.mean(0) for effect in effects], scores[0].units
    return {"all": deviation(torch.cat(units), torch.cat(ours)), "last layer": deviation(units[-1], ours[-1])}


def against_feature_circuits(report: Report, theirs: FeatureCircuits, ours: Ours, size: int) -> None:
    """Compare at MLP outputs, circuits under mean ablation: neurons, then random dictionaries."""
    assert ours.shape is not None
    group = ours.group()
    batch, pairs = group.attribution.batch, group.attribution.pairs
    neurons = load_registry().get("basis", "mlp_out").build(ours.model)
    for basis in (neurons, random_dictionaries(ours.model, ours.shape, group.attribution)):
        dictionaries = theirs.dictionaries(basis)
        label = "neurons" if basis.exact else f"{ours.shape.layers} dictionaries of {ours.shape.units:,} units"
        for method, rule in (("attrib", "ixg"), ("ig", "ig")):
            report.row(
                f"scores, {method} against {rule}, {label}",
                "theirs: patching_effect (ig: 10 steps); both: every node of MLP outputs at every position",
                partial(theirs.score, batch, dictionaries, method), partial(ours.scores, pairs, rule, [basis]),
                _compare_effects,
            )  # fmt: skip
        places = rank(ours.scores(pairs, "ixg", [basis])[0], policy="node")
        report.row(
            f"curve point, Sparse Feature Circuits, the same {size} nodes, {label}",
            f"theirs: run_with_ablations; ours: evaluate, {TOGETHER} at once",
            partial(theirs.point, group, dictionaries, places.mask([size], [False])),
            ours.curve(basis, "mean", places, size), lambda a, b: {"metric": deviation(a, b[0])}, (1, 1 / TOGETHER),
        )  # fmt: skip


def deviation(theirs: Tensor, ours: Tensor) -> dict[str, float]:
    """Return the largest absolute difference, our largest absolute value, and Pearson's correlation."""
    both = torch.stack([theirs.detach().flatten().double(), ours.detach().flatten().double()])
    difference, largest, correlation = (both[0] - both[1]).abs().max(), both[1].abs().max(), both.corrcoef()[0, 1]
    return {"difference": float(difference), "our_largest": float(largest), "correlation": float(correlation)}


def _named(given: argparse.Namespace) -> Ours:
    """Return our side of a model and a task that are named."""
    registry = load_registry()
    model, task = load_model(registry.get("model", given.model)), registry.get("task", given.task)
    session = open_session(model, task, attribution_pairs=400, evaluation_pairs=400, seed=0)
    group = session.groups[0]
    return Ours(model, None, [each.pairs.part(slice(given.pairs)) for each in (group.attribution, group.evaluation)])


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eap-ig", type=Path, help="a clone of hannamw/EAP-IG")
    parser.add_argument("--feature-circuits", type=Path, help="a clone of saprmarks/feature-circuits")
    parser.add_argument("--out", type=Path, required=True, help="file to write, after every row")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--model", help="a registered Llama in place of a random shape; for EAP-IG alone")
    parser.add_argument("--task", default="sva_rc", help="task of that model, of which the largest group is taken")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of that group in each split")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes of a circuit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only rows whose name has this regular expression")
    given = parser.parse_args()
    torch.set_num_threads(2)
    ours = _named(given) if given.model else Ours(random_model(SHAPES[given.shape]), SHAPES[given.shape])
    report = Report(given, ours)
    if given.eap_ig:
        report.source(given.eap_ig, "transformer-lens")
        against_eap_ig(report, EapIg(given.eap_ig, ours), ours, given.nodes)
    if given.feature_circuits and not given.model:
        report.source(given.feature_circuits, "nnsight", "dictionary-learning")
        against_feature_circuits(report, FeatureCircuits(given.feature_circuits, ours), ours, given.nodes)


if __name__ == "__main__":
    main()
