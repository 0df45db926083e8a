"""The data that flows through the harness; everything here is frozen.

Nothing in this module imports torch or numpy, so that listing stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, overload

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int
    from torch import Tensor

Split = Literal["attribution", "evaluation"]
ScoreSplit = Literal["attribution", "evaluation", "other_templates"]
"""Pairs that scores are taken on."""
Side = Literal["clean", "counterfactual"]
Family = Literal["mlp", "attn", "resid"]
Ablation = Literal["mean", "counterfactual", "zero"]
ErrorPolicy = Literal["coordinates", "rotated", "node", "keep", "ablate"]
WITHOUT_ERROR_NODES: tuple[ErrorPolicy, ...] = ("keep", "ablate")
"""Policies under which errors are no nodes: all are live, or all are at their reference."""
ScoreReference = Literal["ablation", "counterfactual"]
Bos = Literal["auto", "always", "never"]
Metric = Literal["logit", "logprob"]
"""What answers are worth: the logit of one token, or the summed log-probability of several."""
Granularity = Literal["position", "unit"]
Colour = Literal["black", "orange", "sky", "green", "blue", "vermillion", "purple", "grey"]
"""Okabe and Ito's palette, safe for colour-blind readers."""
Line = Literal["solid", "dashed", "dotted", "dash-dot", "long-dash"]
Marker = Literal["o", "s", "X", "D", "P", "h", "p", "*", "^", "v", "<", ">"]
"""Markers that pictures and the page can draw, by matplotlib's names."""

SPLITS: tuple[Split, ...] = ("attribution", "evaluation")
FAMILIES: tuple[Family, ...] = ("mlp", "attn", "resid")


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt and the role it plays there; roles decide which prompts align.

    Attributes:
        role: a short name, for example "subject"; segments of one template have distinct roles.
        text: the text with its leading space, if it has one; segments are joined without a separator.
        speaker: "user", "assistant" or "system" where the prompt is a chat that the model's own template writes; all
            segments of such a prompt have one. Empty in plain text.
    """

    role: str
    text: str
    speaker: str = ""


@dataclass(frozen=True)
class ContrastPair:
    """One minimal pair as text, before any tokenizer has seen it.

    Attributes:
        template: names the sentence frame; only pairs of one template can share an aligned group.
        clean: segments of the clean prompt.
        counterfactual: segments of the counterfactual prompt, with the same roles in the same order.
        answers: continuations that the clean prompt calls for, each with its leading space.
        foils: continuations that the counterfactual prompt calls for.
        words: the lexical items that the task varies here (nouns, names, cues); no word occurs in both splits.
        clusters: by factor (noun, receiver, cue, ...), the level that this pair has of it; a task's pairs have the same
            factors. Intervals resample levels, for pairs that share a word are not independent. A factor is what is
            sampled: a fixed list, such as the templates of most tasks, is none (docs/numbers.md). Without any, the
            words of a pair together are its one level.
    """

    template: str
    clean: tuple[Segment, ...]
    counterfactual: tuple[Segment, ...]
    answers: tuple[str, ...]
    foils: tuple[str, ...]
    words: tuple[str, ...]
    clusters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def clean_text(self) -> str:
        """The clean prompt as one string."""
        return "".join([segment.text for segment in self.clean])

    @property
    def counterfactual_text(self) -> str:
        """The counterfactual prompt as one string."""
        return "".join([segment.text for segment in self.counterfactual])


@dataclass(frozen=True, eq=False)
class Pairs:
    """An aligned group: pairs of one token length in which position p plays the same role in every pair.

    Attributes:
        task: name of the task.
        version: version of the task's data.
        split: which split the pairs belong to.
        group: key of the aligned group, the same in both splits.
        roles: role of each position, ``pos`` strings.
        clean: token ids of the clean prompts.
        counterfactual: token ids of the counterfactual prompts.
        answers: ids of the answer tokens.
        foils: ids of the foil tokens.
        clean_text: the clean prompts as text.
        counterfactual_text: the counterfactual prompts as text.
        clusters: by factor, the level of each pair; without factors that have one level in all groups.
        token_texts: the tokens of the first clean prompt as text.
        metric: what answers are worth. Under "logprob" each pair has one answer and one foil, of equally many tokens;
            prompts go on with all tokens of the answer but the last one.
    """

    task: str
    version: str
    split: Split
    group: str
    roles: tuple[str, ...]
    clean: Int[np.ndarray, "pair pos"]
    counterfactual: Int[np.ndarray, "pair pos"]
    answers: Int[np.ndarray, "pair answer"]
    foils: Int[np.ndarray, "pair foil"]
    clean_text: tuple[str, ...]
    counterfactual_text: tuple[str, ...]
    clusters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    token_texts: tuple[str, ...] = ()
    metric: Metric = "logit"

    def __len__(self) -> int:
        return len(self.clean)

    def part(self, chosen: slice) -> Pairs:
        """Return some of the pairs."""
        return replace(
            self,
            **{
                name: getattr(self, name)[chosen]
                for name in ("clean", "counterfactual", "answers", "foils", "clean_text", "counterfactual_text")
            },
            clusters={factor: levels[chosen] for factor, levels in self.clusters.items()},
        )

    @property
    def length(self) -> int:
        """Tokens per prompt, the beginning-of-sequence token included."""
        return int(self.clean.shape[1])

    @property
    def token_count(self) -> int:
        """Tokens of one side of all pairs, as the model reads them: whole answers take a row each, and so do foils."""
        return len(self) * self.length * (1 if self.metric == "logit" else 2)

    @property
    def first_position(self) -> int:
        """The first position behind a beginning-of-sequence token, whose activation is the same in every prompt."""
        return 1 if self.roles[0] == "bos" and self.length > 1 else 0


@dataclass(frozen=True, eq=False)
class PairSet(Sequence[Pairs]):
    """The aligned groups of one split, with the account of what was dropped on the way.

    Attributes:
        groups: the aligned groups, largest first.
        dropped: candidate pairs left out, counted by reason.
    """

    groups: tuple[Pairs, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Pairs: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pairs]: ...
    def __getitem__(self, index: int | slice) -> Pairs | Sequence[Pairs]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Pairs]:
        return iter(self.groups)

    @property
    def pair_count(self) -> int:
        """Pairs over all groups."""
        return sum(len(group) for group in self.groups)


@dataclass(frozen=True)
class Site:
    """Where a basis reads and where it writes in one layer.

    Attributes:
        layer: index of the layer, from 0.
        read: TransformerLens hook name whose activation is encoded.
        write: hook name whose activation is reconstructed; equal to `read` for neurons and SAEs.
    """

    layer: int
    read: str
    write: str


@dataclass(frozen=True, eq=False)
class Scores:
    """Signed scores of every node of a basis in one aligned group.

    The sign is the effect on the metric of replacing the clean value by the one that the node moves to
    (`ScoringContext.target`), in logits.

    Attributes:
        units: per site, the scores of its units at each position.
        errors: per site, the scores of the error nodes at each position, `ScoringContext.error_nodes` of them: one for
            the whole error under the policy `node`, one for each coordinate of the write site under `coordinates` and
            `rotated`. None for a basis without error, and where errors are no nodes (`keep`, `ablate`).
    """

    units: tuple[Float[Tensor, "pos unit"], ...]
    errors: tuple[Float[Tensor, "pos error"], ...] | None


@dataclass(frozen=True)
class Style:
    """How a basis or a method is drawn in every picture.

    Attributes:
        colour: of the line and its markers.
        line: how the line is broken.
        marker: matplotlib's name of the marker, for example "o".

    Raises:
        ValueError: pictures have no such colour, line or marker.
    """

    colour: Colour
    line: Line
    marker: Marker

    def __post_init__(self) -> None:
        for field_name, kind in (("colour", Colour), ("line", Line), ("marker", Marker)):
            if (value := getattr(self, field_name)) not in get_args(kind):
                raise ValueError(f"Style: {field_name} {value!r}; expected one of {', '.join(get_args(kind))}")


@dataclass(frozen=True)
class Passes:
    """How many passes a method takes, in forward-equivalents (a backward pass is two): for estimates before a run.

    Attributes:
        per_prompt: for each pair of the attribution split, whatever the basis.
        per_layer: for each pair and layer, in passes from that layer to the end.
        per_node: for each pair and node, in passes from the node's layer to the end.
        shared: who shares `per_prompt` and `per_layer`: all bases of a "task", those of a "family", or none ("cell").
    """

    per_prompt: float = 0.0
    per_layer: float = 0.0
    per_node: float = 0.0
    shared: Literal["task", "family", "cell"] = "cell"


@dataclass(frozen=True)
class BackwardRules:
    """What the parts of a model do to a gradient on its way back; forward values stay bit-equal.

    What is left at its default goes back as autograd does it.

    Attributes:
        norms: of every LayerNorm and RMSNorm; "frozen" takes its scale for a constant.
        activations: of the MLP's activation a(x); "ratio" makes it x times the constant a(x)/x.
        gate: share of the gradient that each side of a gated MLP's product gets; 1 is autograd.
        pattern: of the attention pattern; "frozen" takes it for a constant: queries and keys get no gradient.
        temperature: the pattern's softmax goes back as p * (g - <g, p>) with p = softmax(scores / temperature).
        queries: factor of the gradient that the queries get, where they leave their projection.
        keys: factor of the gradient that the keys get.
        values: factor of the gradient that the values get.
        reads: of what attention and MLP read; "stopped" lets no gradient pass, so that what is left is the way straight
            through the residual stream.
    """

    norms: Literal["autograd", "frozen"] = "autograd"
    activations: Literal["autograd", "ratio"] = "autograd"
    gate: float = 1.0
    pattern: Literal["autograd", "frozen"] = "autograd"
    temperature: float = 1.0
    queries: float = 1.0
    keys: float = 1.0
    values: float = 1.0
    reads: Literal["autograd", "stopped"] = "autograd"


@dataclass(frozen=True)
class ModelShape:
    """How large a model is.

    Attributes:
        layers: transformer blocks.
        width: of the residual stream.
        mlp_width: of the MLP's activations.
        vocabulary: rows of the embedding.
        parameters: weights in all, tied ones once.
        dtype: type of the published weights, for example "bfloat16".
    """

    layers: int
    width: int
    mlp_width: int
    vocabulary: int
    parameters: int
    dtype: str


@dataclass(frozen=True)
class TrueNodes:
    """The nodes that compute a task's answer, in a model whose circuit is known because it was built.

    Attributes:
        task: name of the task.
        basis: name of the basis that the nodes are of: one in which the model was built.
        nodes: layer, role of the position, and unit of each; all other nodes bear nothing on the answer.
        edges: pairs of nodes, the first of which is read by the second, without another MLP in between.
    """

    task: str
    basis: str
    nodes: tuple[tuple[int, str, int], ...]
    edges: tuple[tuple[tuple[int, str, int], tuple[int, str, int]], ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is loaded.

    Attributes:
        name: name in suites and records.
        path: folder of a Hugging Face checkpoint, or a repository id; empty where `packages` hold the model.
        summary: one line for listings.
        dictionaries: for each dictionary basis, the folder that holds `layer_0`, `layer_1`, ...
        revision: commit, tag or branch of the repository, `main` when None; the commit itself once the model is loaded
            from the hub.
        revisions: revision of other repositories, of dictionaries for example, where a suite pins them.
        shape: its shape as published, for estimates where its configuration is not at hand.
        default: whether it is the model that is taken where none is named.
        gguf: the GGUF file in that folder or repository that is the model, in place of a checkpoint.
        packages: packages of the Python package index ("NAME==VERSION") that carry the GGUF file, in parts in order.
        build: writes a model that code makes into an empty folder: a checkpoint into `model`, its dictionaries into
            `dictionaries/NAME`. `path` is empty then.
        truth: the nodes that compute a task's answer, of a model whose circuit is known.
    """

    name: str
    path: str
    summary: str
    dictionaries: Mapping[str, Path] = field(default_factory=dict)
    revision: str | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    shape: ModelShape | None = None
    default: bool = False
    gguf: str | None = None
    packages: tuple[str, ...] = ()
    build: Callable[[Path], None] | None = None
    truth: tuple[TrueNodes, ...] = ()
