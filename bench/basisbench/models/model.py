"""A model under study: two views of one set of weights, and the names of its sites.

1. Hugging Face transformers loads the checkpoint; that plain model (`body`) runs every curve and every
   ordinary gradient.
2. A second copy of the module tree *with the same parameters* is wrapped in TransformerLens's
   `TransformerBridge`. It gives the field's hook names (SAELens's too), says which module each belongs to,
   and has the inner hook points that RelP needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from basisbench.errors import BasisBenchError
from basisbench.models.batching import BUDGETS, Batching
from basisbench.models.gguf import GgufFile
from basisbench.models.hooks import Edit, Place, edited, observed
from basisbench.models.onednn import OneDnnLinears, onednn_linears, onednn_twin
from basisbench.models.shape import longest_prompt
from basisbench.models.sites import ARCHITECTURES, SITES, SiteKind
from basisbench.types import ModelSpec

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor, nn

TUNING = "basisbench_tuning"
"""Name in a checkpoint's configuration under which `basisbench tune` says what it was tuned on."""


@dataclass
class Meter:
    """Counts model work, so that costs can be compared across machines.

    Attributes:
        forward_equivalents: forward passes of one prompt; a backward pass counts as two, a pass that
            starts in the middle as its share of the layers.
    """

    forward_equivalents: float = 0.0


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded causal language model.

    Attributes:
        spec: where it came from, and where its dictionaries lie.
        body: the plain Hugging Face model, in evaluation mode, parameters without gradients.
        bridge: TransformerLens's view of the same parameters.
        tokenizer: the fast tokenizer of the checkpoint.
        meter: counts forward passes.
        file: the GGUF file that the weights were read from; None for a checkpoint.
        without: kinds of site that the model does not have, and why: experts have no MLP activations.
    """

    spec: ModelSpec
    body: Any
    bridge: Any
    tokenizer: Any
    _modules: Mapping[int, str]
    meter: Meter = field(default_factory=Meter)
    file: GgufFile | None = None
    without: Mapping[SiteKind, str] = field(default_factory=dict)

    @cached_property
    def batching(self) -> Batching:
        """How large one pass may be, where memory has run out before."""
        return Batching(self.name, self.device)

    def pass_tokens(self, length: int) -> int:
        """Return how many tokens one plain forward pass should hold.

        Args:
            length: tokens of a prompt: each has its logits at one position, and a mask over all of them.
        """
        cfg = self.bridge.cfg
        numbers = 6 * int(cfg.d_model) + 4 * int(cfg.d_mlp) + int(cfg.d_vocab) // length + length
        return max(1, BUDGETS["activations"].on(self.device.type) // (numbers * max(4, self.dtype.itemsize)))

    @cached_property
    def bases(self) -> dict[Any, Any]:
        """Bases built for this model (basisbench.runs.basis_cache), kept here to be freed with it: they may hold it."""
        return {}

    @property
    def name(self) -> str:
        """Name in suites and records."""
        return self.spec.name

    @property
    def sources(self) -> Mapping[str, str]:
        """The repository of the hub that the weights came from, with its commit; nothing for a folder."""
        return {} if self.spec.revision is None else {self.spec.path: self.spec.revision}

    @property
    def tuning(self) -> Mapping[str, Any] | None:
        """What the checkpoint says of its tuning (`record_fields.Tuning`); None where it was not tuned here."""
        told = getattr(self.body.config, TUNING, None)
        return told if isinstance(told, Mapping) and told else None

    @property
    def architecture(self) -> str:
        """Hugging Face's name of the architecture, for example "GPT2LMHeadModel"."""
        return str(self.bridge.cfg.architecture)

    @property
    def verified(self) -> bool:
        """Whether the tests hold on this architecture, so that shortcuts may be taken."""
        return self.architecture in ARCHITECTURES

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def longest(self) -> int | None:
        """Most positions that a prompt may have; None where the configuration names no number."""
        return longest_prompt(self.body.config)

    @property
    def device(self) -> torch.device:
        """Device of the embeddings."""
        device: torch.device = next(self.body.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        dtype: torch.dtype = next(self.body.parameters()).dtype
        return dtype

    def hook(self, kind: SiteKind, layer: int) -> str:
        """Return the TransformerLens hook name of a kind of site in one layer.

        Raises:
            BasisBenchError: this model has no such sites.
        """
        if kind in self.without:
            raise BasisBenchError(f"model '{self.name}' ({self.architecture}) has no {kind}: {self.without[kind]}")
        known = ARCHITECTURES.get(self.architecture)
        other = None if known is None else known.hooks.get(kind)
        return (other or SITES[kind].hook).format(layer=layer)

    def kinds(self) -> tuple[SiteKind, ...]:
        """Return the kinds of site that the model has."""
        return tuple(kind for kind in SITES if kind not in self.without)

    def written_kinds(self) -> tuple[SiteKind, ...]:
        """Return the kinds of site that bases write to."""
        return tuple(kind for kind in self.kinds() if SITES[kind].family is not None)

    def affine_output(self, kind: SiteKind, layer: int) -> SiteKind | None:
        """Return the kind of site that is an affine map of another one in a layer; None where a norm lies between."""
        site = SITES[kind]
        if kind in self.without or (site.norm and hasattr(self.component(f"blocks.{layer}"), site.norm)):
            return None
        return site.affine_output

    @cached_property
    def hook_points(self) -> Mapping[str, nn.Module]:
        """The bridge's hook points by name, aliases included; the bridge makes this list anew at every question."""
        return dict(self.bridge.hook_dict)

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {}

    def hook_point(self, hook: str) -> nn.Module:
        """Return the bridge's hook point of that name, or of the name it is an alias for.

        Raises:
            BasisBenchError: this model has no such hook.
        """
        point = self.hook_points.get(hook)
        if point is None:
            raise BasisBenchError(
                f"model '{self.name}' ({self.architecture}) has no hook '{hook}' in this "
                "TransformerLens; sites are TransformerLens hook names such as 'blocks.0.hook_mlp_out'"
            )
        return point

    def place(self, hook: str) -> Place:
        """Return the end of a plain module at which the activation of a hook can be read and replaced.

        Raises:
            BasisBenchError: no such hook, or it lies inside a module, where a plain hook cannot reach.
        """
        if hook not in self._places:
            self._places[hook] = self._find_place(hook)
        return self._places[hook]

    def _find_place(self, hook: str) -> Place:
        canonical = str(self.hook_point(hook).name)
        path, _, end = canonical.rpartition(".")
        component = self.component(path)
        module = self._modules.get(id(getattr(component, "original_component", None)))
        if module is None or end not in ("hook_in", "hook_out"):
            raise BasisBenchError(
                f"hook '{hook}' of model '{self.name}' is not the input or output of a module; "
                "a basis can only be traced where a module begins or ends"
            )
        return Place(module, "in" if end == "hook_in" else "out")

    def component(self, path: str) -> Any:
        """Return a component of the bridge by its dotted path, for example "blocks.0.mlp"."""
        component = self.bridge
        for part in path.split("."):
            component = component[int(part)] if part.isdigit() else getattr(component, part)
        return component

    @cached_property
    def head(self) -> str:
        """Name of the module that maps the last hidden state to logits."""
        return self.place("unembed.hook_out").module

    def tokens(self, ids: Any) -> Int[Tensor, "pair pos"]:
        """Put token ids on the model's device.

        Raises:
            BasisBenchError: the model has no embedding of one of them.
        """
        import torch

        tokens = torch.as_tensor(ids, dtype=torch.long)
        rows = int(self.body.get_input_embeddings().weight.shape[0])
        if tokens.numel() and int(tokens.max()) >= rows:
            raise BasisBenchError(
                f"model '{self.name}': its tokenizer gives the id {int(tokens.max())}, but its embeddings have {rows} "
                "rows; the tokenizer is another model's, or has words that this one was never given"
            )
        return tokens.to(self.device)

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        edits: Mapping[Place, Edit] | None = None,
        *,
        past: Any = None,
        fast: bool = False,
        keep: int = 1,
    ) -> Float[Tensor, "row vocab"]:
        """Return the logits at the last position, before any final soft-cap, in at least float32.

        Args:
            tokens: token ids, all prompts of one length.
            edits: interventions to apply during the pass.
            past: key-value cache of the positions before the tokens, which the pass may change.
            fast: run with oneDNN's weights where they are faster (basisbench.models.onednn); same up to rounding.
            keep: how many of the last positions reach the unembedding, which may make one of them.
        """
        return self.last_logits(tokens, edits, past=past, fast=fast, keep=keep)[:, -1]

    def last_logits(
        self,
        tokens: Int[Tensor, "row pos"],
        edits: Mapping[Place, Edit] | None = None,
        *,
        past: Any = None,
        fast: bool = False,
        keep: int = 1,
    ) -> Float[Tensor, "row last vocab"]:
        """Return the logits at the last positions, as `logits` does."""
        head = self.place("unembed.hook_out")
        body = self.fast_body if fast else self.body
        with edited(body, edits or {}), observed(body, {"logits": head}) as seen:
            body(input_ids=tokens, past_key_values=past, use_cache=past is not None, logits_to_keep=keep)
        self.meter.forward_equivalents += len(tokens)
        return at_least_float32(seen["logits"].to(self.device))

    def next_token_losses(
        self, tokens: Int[Tensor, "row pos"], edits: Mapping[Place, Edit] | None = None
    ) -> Float[Tensor, "row next"]:
        """Return the cross-entropy of every token but the first, in nats: what the model was trained on.

        Args:
            tokens: token ids, all prompts of one length, at least two.
            edits: interventions to apply during the pass.
        """
        from torch.nn import functional

        body = self.fast_body
        with edited(body, edits or {}):
            logits = body(input_ids=tokens, use_cache=False).logits
        self.meter.forward_equivalents += len(tokens)
        told = at_least_float32(logits[:, :-1].to(self.device))
        return functional.cross_entropy(told.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view_as(
            tokens[:, 1:]
        )

    @cached_property
    def onednn_linears(self) -> OneDnnLinears:
        """The linear layers with oneDNN's weights, where these are faster."""
        return onednn_linears(self.body)

    @cached_property
    def fast_body(self) -> Any:
        """The body whose linear layers run with oneDNN's weights where that is faster; the body itself elsewhere."""
        return onednn_twin(self.body, self.onednn_linears) if self.onednn_linears else self.body

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes, types and bytes of all parameters, in order of name."""
        import torch

        digest = hashlib.sha256()
        for name, parameter in sorted(self.body.state_dict().items()):
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half-precision tensors in float32 and leave float32 and float64 alone."""
    import torch

    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
