"""Build the pocket model and its dictionaries from nothing but a seed.

1. Encode the documents; 2. train the model and measure it on the tasks; 3. train the dictionaries of single layers and
measure them on held-out documents; 4. do the same with the cross-layer transcoder; 5. write the provenance card.

`OUT/.work` holds checkpoints, in a folder named by a hash of every number of the build. A build that is killed and
started again continues from there; a build with other numbers starts afresh beside it. A finished build removes the
folder, and is left alone when it is asked for again.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.results.record import write_whole
from basisbench_baselines.pocket.card import render_card, size_of
from basisbench_baselines.pocket.training.plan import Architecture, BuildPlan, ModelPlan
from basisbench_baselines.training.checkpoint import read_json, replace_folder, write_json
from basisbench_baselines.training.machine import describe_machine
from basisbench_baselines.training.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from basisbench_baselines.pocket.training.activations import DictionarySite
    from basisbench_baselines.pocket.training.dictionaries import DictionaryTraining
    from basisbench_baselines.pocket.training.documents import EncodedDocuments
    from basisbench_baselines.pocket.training.evaluate import DictionaryStatistics
    from basisbench_baselines.pocket.training.train import ModelTraining

COMMAND = "basisbench pocket build"
CARD, WORK = "card.json", ".work"
_CORPUS_SAMPLE = 256


def build(
    out: Path,
    *,
    seed: int = 0,
    architecture: Architecture = "llama",
    dictionary_seed: int | None = None,
    plan: BuildPlan | None = None,
    progress: bool = True,
) -> None:
    """Train the pocket model and its dictionaries into a folder.

    Args:
        out: the folder; gets `model/`, `dictionaries/`, `card.json` and `README.md`.
        seed: everything random is drawn from it; ignored, as the next two are, when a plan is given.
        architecture: "llama", or "gpt2" for LayerNorm, learned positions and an MLP with GELU.
        dictionary_seed: what is random in the training of dictionaries is drawn from it; from `seed` when None.
        plan: every number of the build; the shipped ones by default.
        progress: show progress on standard error.

    Raises:
        BasisBenchError: the folder holds something else, or a checkpoint in it cannot be read.
    """
    shape = ModelPlan(architecture=architecture)
    own = BuildPlan(seed=seed, dictionary_seed=dictionary_seed, model=shape)
    _Build(out, plan or own, Progress(progress)).run()


def train_dictionaries_again(out: Path, model_of: Path, *, seed: int, progress: bool = True) -> None:
    """Train another set of dictionaries for the model of a finished build.

    Args:
        out: the folder of the new build; its model is a copy.
        model_of: the folder of the finished build.
        seed: what is random in the training of dictionaries is drawn from it.
        progress: show progress on standard error.

    Raises:
        BasisBenchError: one folder is no finished build, or the other holds something else.
    """
    if not (model_of / CARD).is_file() or (model_of / WORK).exists():
        raise BasisBenchError(f"{model_of}: expected the folder of a finished 'pocket build', with {CARD}")
    card = read_json(model_of / CARD)
    try:
        plan = replace(BuildPlan.read(card["plan"]), dictionary_seed=seed)
        corpus, trained = card["corpus_fingerprint"], _Trained(model_of / "model", card["model"], card["tasks"])
    except (KeyError, TypeError) as error:
        raise BasisBenchError(f"{model_of / CARD}: is not the card of a build; name the folder of one") from error
    if corpus_fingerprint(plan.seed) != corpus:
        raise BasisBenchError(f"{model_of}: its corpus is not that of this version; build its model anew")
    _Build(out, plan, Progress(progress), trained).run()


def corpus_fingerprint(seed: int) -> str:
    """Return a hash of the vocabulary and of the first documents of the corpus."""
    from basisbench_baselines.pocket.corpus.stream import documents, vocabulary

    digest = hashlib.sha256("\n".join(vocabulary()).encode())
    for text in itertools.islice(documents(seed, "train"), _CORPUS_SAMPLE):
        digest.update(text.encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Trained:
    """A model that another build has trained: its folder, and what the build's card says of it and of the tasks."""

    folder: Path
    model: dict[str, object]
    tasks: dict[str, dict[str, float | int]]


class _Build:
    """One run of a build: the folder, the plan, and the times that add up over runs."""

    def __init__(self, out: Path, plan: BuildPlan, progress: Progress, trained: _Trained | None = None) -> None:
        self.out, self.plan, self.progress, self.trained = out, plan, progress, trained
        self.work = out / WORK
        self.corpus = corpus_fingerprint(plan.seed)
        self.fingerprint = plan.fingerprint(self.corpus)
        self.checkpoints = self.work / self.fingerprint
        self.times_path = self.checkpoints / "build.json"

    def run(self) -> None:
        """Do what is left to do."""
        if self._finished():
            self.progress.line(f"{self.out}: already built with these numbers; nothing to do")
            return
        self._prepare()
        tokenizer, documents, held_out = self._documents()
        model, model_part, tasks = self._model(tokenizer, documents, held_out)
        dictionary_part = self._dictionaries(model, documents, held_out)
        cross_layer_part = self._cross_layer(model, documents, held_out)
        state = read_json(self.times_path)
        card = {
            "command": COMMAND if self.trained is None else f"{COMMAND} --model-of",
            "fingerprint": self.fingerprint,
            "corpus_fingerprint": self.corpus,
            "plan": asdict(self.plan),
            "runs": state["runs"],
            "seconds": {**state["seconds"], "total": sum(state["seconds"].values())},
            "machine": describe_machine(),
            "model": model_part,
            "tasks": tasks,
            "dictionaries": dictionary_part,
            "cross_layer": cross_layer_part,
        }
        self._write_card(card)
        shutil.rmtree(self.work)

    def _finished(self) -> bool:
        card = self.out / CARD
        return card.exists() and not self.work.exists() and read_json(card).get("fingerprint") == self.fingerprint

    def _prepare(self) -> None:
        """Make the working folder and count this run."""
        known = {WORK, CARD, "README.md", "model", "dictionaries"}
        if self.out.exists():
            strange = sorted({path.name for path in self.out.iterdir()} - known)
            if strange:
                raise BasisBenchError(f"{self.out}: holds '{strange[0]}', which no build makes; choose an empty folder")
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = read_json(self.times_path) if self.times_path.exists() else {"runs": 0, "seconds": {}}
        write_json(self.times_path, {**state, "runs": state["runs"] + 1})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Add the time of a block to that of its phase; training keeps its own time across kills."""
        began = time.monotonic()
        yield
        state = read_json(self.times_path)
        spent = state["seconds"].get(phase, 0.0) + time.monotonic() - began
        write_json(self.times_path, {**state, "seconds": {**state["seconds"], phase: spent}})

    def _set_seconds(self, phase: str, seconds: float) -> None:
        state = read_json(self.times_path)
        write_json(self.times_path, {**state, "seconds": {**state["seconds"], phase: seconds}})

    def _documents(self) -> tuple[PreTrainedTokenizerFast, EncodedDocuments, EncodedDocuments]:
        from basisbench_baselines.pocket.corpus import stream as corpus
        from basisbench_baselines.pocket.training.documents import encode_documents, load_or_encode

        plan = self.plan
        tokenizer = corpus.build_tokenizer()
        count = max(plan.model.documents, plan.dictionaries.documents, plan.cross_layer.documents)
        path = self.checkpoints / "documents.safetensors"
        with self._timed("documents"):
            train = load_or_encode(path, tokenizer, corpus.documents(plan.seed, "train"), count, self.progress)
            held_out = encode_documents(
                tokenizer, corpus.documents(plan.seed, "held_out"), plan.evaluation_documents, self.progress
            )
        return tokenizer, train, held_out

    def _model(
        self, tokenizer: PreTrainedTokenizerFast, documents: EncodedDocuments, held_out: EncodedDocuments
    ) -> tuple[PreTrainedModel, dict[str, object], dict[str, dict[str, float | int]]]:
        from basisbench_baselines.pocket.training.evaluate import (
            REQUIRED_ACCURACY,
            document_loss,
            evaluation_pairs,
            task_accuracies,
        )
        from basisbench_baselines.pocket.training.train import train_model

        if self.trained is not None:
            return _copied_model(self.trained, self.out / "model")
        with self._timed("pairs"):
            pairs = evaluation_pairs(tokenizer, self.plan.evaluation_pairs, self.plan.seed)

        def inspect(model: PreTrainedModel) -> str:
            return " ".join(f"{task} {value:.3f}" for task, value in task_accuracies(model, pairs).items())

        model, training = train_model(self.plan, tokenizer, documents, self.checkpoints, self.progress, inspect)
        self._set_seconds("model", training.seconds)
        accuracies = task_accuracies(model, pairs)
        tasks: dict[str, dict[str, float | int]] = {
            task: {"accuracy": value, "pairs": pairs[task].pair_count, "required": REQUIRED_ACCURACY[task]}
            for task, value in accuracies.items()
        }
        self.progress.line(f"model: {inspect(model)}")
        _save_model(self.out / "model", model, tokenizer, tasks)
        return model, _model_part(model, training, document_loss(model, held_out)), tasks

    def _dictionaries(
        self, model: PreTrainedModel, documents: EncodedDocuments, held_out: EncodedDocuments
    ) -> dict[str, object]:
        from basisbench_baselines.pocket.sae_files import load_weights, save_dictionary
        from basisbench_baselines.pocket.training.activations import dictionary_sites
        from basisbench_baselines.pocket.training.dictionaries import train_dictionaries
        from basisbench_baselines.pocket.training.evaluate import dictionary_statistics

        sites = dictionary_sites(self.plan.model.layers)
        weights, training = train_dictionaries(self.plan, model, sites, documents, self.checkpoints, self.progress)
        self._set_seconds("dictionaries", training.seconds)
        places = {site: self.out / "dictionaries" / site.basis / f"layer_{site.layer}" for site in sites}
        for site in sites:
            save_dictionary(places[site], site, weights[site])
        with self._timed("statistics"):
            # Measured on what was saved, not on what was meant to be saved.
            saved = {site: load_weights(places[site]) for site in sites}
            statistics = dictionary_statistics(model, saved, held_out, self.progress)
        return self._part(training, statistics, sum(_parameters(weights[site]) for site in sites))

    def _cross_layer(
        self, model: PreTrainedModel, documents: EncodedDocuments, held_out: EncodedDocuments
    ) -> dict[str, object]:
        from basisbench_baselines.pocket.sae_files import MODEL_NAME
        from basisbench_baselines.pocket.training.activations import cross_layer_sites
        from basisbench_baselines.pocket.training.cross_layer import rebuilders, train_cross_layer
        from basisbench_baselines.pocket.training.evaluate import dictionary_statistics
        from basisbench_baselines.training.cross_layer_files import load_cross_layer, save_cross_layer

        sites = cross_layer_sites(self.plan.model.layers)
        weights, training = train_cross_layer(self.plan, model, sites, documents, self.checkpoints, self.progress)
        self._set_seconds("cross_layer", training.seconds)
        folder = self.out / "dictionaries" / sites[0].basis
        hooks = sites[0].read, sites[0].write
        replace_folder(folder, lambda path: save_cross_layer(path, weights, hooks, MODEL_NAME))
        with self._timed("statistics"):
            # Measured on what was saved, not on what was meant to be saved.
            saved = rebuilders(sites, load_cross_layer(folder, len(sites)))
            statistics = dictionary_statistics(model, saved, held_out, self.progress)
        parameters = sum(tensor.numel() for tensors in vars(weights).values() for tensor in tensors)
        return self._part(training, statistics, parameters)

    def _part(
        self,
        training: DictionaryTraining,
        statistics: Mapping[DictionarySite, DictionaryStatistics],
        parameters: int,
    ) -> dict[str, object]:
        """Return what the card says about some dictionaries."""
        for site, values in statistics.items():
            self.progress.line(f"{site.name}: {_short(values)}")
        part = {key: value for key, value in asdict(training).items() if key != "fvu"}
        measured = {
            site.name: {
                **values.to_json(),
                "unexplained_in_training": round(training.fvu[site.name], 5),
            }
            for site, values in statistics.items()
        }
        return {**part, "parameters": parameters, "sites": measured}

    def _write_card(self, card: Mapping[str, Any]) -> None:
        text = render_card(card)
        write_whole(self.out / "README.md", text)
        write_json(self.out / CARD, {**card, "bytes": size_of(self.out, WORK)})
        self.progress.line(f"{self.out}: built in {card['seconds']['total']:.0f} s")


def _copied_model(
    trained: _Trained, folder: Path
) -> tuple[PreTrainedModel, dict[str, object], dict[str, dict[str, float | int]]]:
    """Copy the model of another build, and return it with what that build's card says of it."""
    from transformers import AutoModelForCausalLM

    def copy(path: Path) -> None:
        shutil.copytree(trained.folder, path)

    replace_folder(folder, copy)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return model.train(False), trained.model, trained.tasks


def _save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Mapping[str, Mapping[str, float | int]],
) -> None:
    """Save a Hugging Face checkpoint; a folder of that name is replaced once the new one is complete."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def save(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        write_json(path / "accuracy.json", tasks)

    replace_folder(folder, save)


def _model_part(model: PreTrainedModel, training: ModelTraining, held_out_loss: float) -> dict[str, object]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, **asdict(training), "held_out_loss": held_out_loss}


def _parameters(weights: object) -> int:
    return sum(tensor.numel() for tensor in vars(weights).values())


def _short(statistics: DictionaryStatistics) -> str:
    return (
        f"L0 {statistics.l0:.1f}, FVU {statistics.fvu:.4f}, loss recovered {statistics.recovered:.4f}, "
        f"silent {statistics.silent_units} of {statistics.units}"
    )
