"""What the tests of the pocket model's training share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from basisbench_baselines.pocket.training.documents import EncodedDocuments


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The pocket model's tokenizer."""
    from basisbench_baselines.pocket.corpus.stream import build_tokenizer

    return build_tokenizer()


@pytest.fixture(scope="session")
def documents(tokenizer: Any) -> EncodedDocuments:
    """A few documents of the corpus."""
    from basisbench_baselines.pocket.corpus import stream
    from basisbench_baselines.pocket.training.documents import encode_documents
    from basisbench_baselines.training.progress import Progress

    return encode_documents(tokenizer, stream.documents(1, "train"), 160, Progress(enabled=False))


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Any) -> Any:
    """A random model of the plan for tests, with weights so large that every part matters."""
    import torch

    from basisbench_baselines.pocket.training.plan import BuildPlan
    from basisbench_baselines.pocket.training.train import create_model

    model = create_model(BuildPlan.tiny().model, tokenizer, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return model.train(False)
