"""Train the pocket language model.

1. One document per row, rows of a batch of nearly equal length, padding on the right.
2. Next-token loss over every real token after BOS. Padding needs no mask: attention is causal, so no real
   token ever sees it, and the loss leaves it out.
3. AdamW with linear warm-up and cosine decay; gradients clipped.
4. Matrix products in bfloat16 where the processor has them natively, else float32; weights and optimizer
   stay in float32. The batch of a step is a function of (seed, step): a killed run goes on exactly there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from basisbench_baselines.pocket.training.documents import EncodedDocuments, batch_indices
from basisbench_baselines.pocket.training.plan import BuildPlan, ModelPlan
from basisbench_baselines.training.checkpoint import (
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
    with_prefix,
    without_prefix,
)
from basisbench_baselines.training.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ModelTraining:
    """How the training went.

    Attributes:
        steps: optimizer steps.
        tokens: real tokens with a loss, over all steps.
        loss: mean loss of the last 100 steps, nats per token.
        seconds: time in training over all runs that contributed.
        precision: number format of the matrix products.
    """

    steps: int
    tokens: int
    loss: float
    seconds: float
    precision: str


def matmul_precision() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it natively (about three times as fast), else float32."""
    # PyTorch has no public question for this; where the private ones are gone, float32 is always right.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, name, bool)() for name in questions)
    return torch.bfloat16 if native else torch.float32


def create_model(plan: ModelPlan, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Return an untrained model of the planned shape."""
    ids = tokenizer.get_vocab()
    special: dict[str, Any] = {
        "tie_word_embeddings": False,
        "bos_token_id": ids[str(tokenizer.bos_token)],
        "eos_token_id": ids[str(tokenizer.eos_token)],
        # A padding token would pin its embedding to zero, and padding may share the id of BOS.
        "pad_token_id": None,
    }
    make = _gpt2 if plan.architecture == "gpt2" else _llama
    torch.manual_seed(seed)
    return make(plan, len(tokenizer), special)


def _llama(plan: ModelPlan, vocabulary: int, special: Mapping[str, Any]) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=plan.width,
        intermediate_size=plan.mlp_width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=plan.positions,
        **special,
    )
    # At this size the plain attention is faster on a CPU than the fused one.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def _gpt2(plan: ModelPlan, vocabulary: int, special: Mapping[str, Any]) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=plan.width,
        n_inner=plan.mlp_width,
        n_layer=plan.layers,
        n_head=plan.heads,
        n_positions=plan.positions,
        # As for the other: each document is seen once.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **special,
    )
    config._attn_implementation = "eager"
    return GPT2LMHeadModel(config)


def learning_rate(plan: ModelPlan, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine down to `final_share` of the peak."""
    if step < plan.warmup_steps:
        return plan.learning_rate * (step + 1) / plan.warmup_steps
    place = (step - plan.warmup_steps) / max(plan.steps - plan.warmup_steps, 1)
    share = plan.final_share + (1 - plan.final_share) * 0.5 * (1 + math.cos(math.pi * place))
    return plan.learning_rate * share


def next_token_loss(model: PreTrainedModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean next-token loss over the real tokens of padded rows, in nats."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    real = torch.arange(1, ids.shape[1]) < lengths[:, None]
    # Only real positions meet the vocabulary, the widest matrix of the model.
    logits = model.lm_head(hidden[real])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][real])


def _parameter_groups(model: PreTrainedModel, decay: float) -> list[dict[str, object]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def train_model(
    plan: BuildPlan,
    tokenizer: PreTrainedTokenizerFast,
    documents: EncodedDocuments,
    work: Path,
    progress: Progress,
    inspect: Callable[[PreTrainedModel], str],
) -> tuple[PreTrainedModel, ModelTraining]:
    """Train the model, continuing from a checkpoint in `work` if there is one.

    Args:
        plan: the build.
        tokenizer: gives vocabulary size and special tokens.
        documents: at least `plan.model.documents` of them.
        work: folder of the checkpoint.
        progress: where to report.
        inspect: called every `plan.accuracy_seconds` with the model in evaluation mode; its text is logged.
    """
    shape = plan.model
    model = create_model(shape, tokenizer, plan.seed)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, shape.weight_decay), lr=shape.learning_rate, betas=(0.9, 0.98), fused=True
    )
    path = work / "model.safetensors"
    step, tokens, seconds, losses = 0, 0, 0.0, list[float]()
    saved = load_state(path)
    if saved is not None:
        tensors, state = saved
        model.load_state_dict(without_prefix("model", tensors))
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        step, tokens, seconds, losses = state["step"], state["tokens"], state["seconds"], state["losses"]
        progress.line(f"model: continuing at step {step} of {shape.steps}")

    def save() -> None:
        tensors = with_prefix("model", model.state_dict())
        tensors |= with_prefix("optimizer", optimizer_tensors(optimizer))
        save_state(path, tensors, {"step": step, "tokens": tokens, "seconds": seconds, "losses": losses})

    precision = matmul_precision()
    lengths = documents.lengths[: shape.documents]
    model.train()
    now = saved_at = inspected_at = time.monotonic()
    with progress.bar("model", shape.steps, step) as bar:
        while step < shape.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(shape, step)
            ids, sizes = documents.rows(batch_indices(lengths, shape.batch_documents, step, plan.seed), pad=0)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
                loss = next_token_loss(model, ids, sizes)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), shape.gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            tokens += int(sizes.sum()) - len(sizes)
            losses = [*losses[-99:], float(loss.detach())]
            before, now = now, time.monotonic()
            seconds += now - before
            bar.set_postfix_str(f"loss {sum(losses) / len(losses):.4f}, {tokens / seconds:.0f} tokens/s", refresh=False)
            bar.update()
            if now - saved_at >= plan.checkpoint_seconds:
                save()
                saved_at = now
            if now - inspected_at >= plan.accuracy_seconds:
                model.train(False)
                progress.line(f"model step {step}, loss {sum(losses) / len(losses):.4f}: {inspect(model)}")
                model.train()
                inspected_at = now
    save()
    model.train(False)
    trained = ModelTraining(step, tokens, sum(losses) / max(len(losses), 1), seconds, str(precision).split(".")[-1])
    return model, trained
