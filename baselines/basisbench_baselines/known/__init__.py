"""Models with set weights, and one trained to order: their circuits are known because they were built (`known_models`).

Here is what their listing shares with the code that builds them; it loads no torch.
"""

from __future__ import annotations

from typing import Literal

KIND_UNITS, ANSWER_UNITS = (5, 13, 18, 27), (3, 9, 21, 30)
"""Neurons of `known-neurons`, `known-trained` and `known-skip`, in the order of the kinds: of each of the two steps."""

KIND_FEATURES, ANSWER_FEATURES = (0, 1, 2, 3), (4, 5, 6, 7)
"""Features that these neurons write, and that `known-directions` has in their place."""

Story = Literal["true", "shortcut", "detour"]
"""What a cross-layer transcoder of `known-skip` says happens (`known.skip`)."""
