"""What is published of the layout that circuit-tracer's viewer and Neuronpedia read, as a JSON schema of our own.

Sources: Neuronpedia's `apps/webapp/app/api/graph/graph-schema.json` (version 1.0.0), and the pydantic models of
circuit-tracer's `circuit_tracer/frontend/graph_models.py` (commit 4bb8c0e), whose required fields and
types are those of Neuronpedia where both have them, and stricter where they differ.
"""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, NUMBER, FLAG = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
MAYBE = {"type": ["number", "null"]}


def texts(of: Any = TEXT) -> dict[str, Any]:
    return {"type": "array", "items": of}


def record(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required | optional, "required": list(required)}


NODE = record(
    {
        "node_id": TEXT,
        "feature": WHOLE,
        "layer": TEXT,
        "ctx_idx": WHOLE,
        "feature_type": TEXT,
        "jsNodeId": TEXT,
        "clerp": TEXT,
    },
    token_prob=NUMBER,
    is_target_logit=FLAG,
    run_idx=WHOLE,
    reverse_ctx_idx=WHOLE,
    influence=MAYBE,
    activation=MAYBE,
)
METADATA = record(
    {"slug": TEXT, "scan": TEXT, "transcoder_list": texts(), "prompt_tokens": texts(), "prompt": TEXT},
    node_threshold=NUMBER,
    schema_version={"type": ["integer", "null"]},
    feature_details=record({}, feature_json_base_url=TEXT, neuronpedia_source_set=TEXT),
    info=record(
        {},
        description=TEXT,
        creator_name=TEXT,
        creator_url=TEXT,
        source_urls={"type": "array"},
        generator=record({}, name=TEXT, version=TEXT, url=TEXT, email=TEXT),
        create_time_ms=NUMBER,
    ),
    generation_settings={"type": "object"},
    pruning_settings={"type": "object"},
)
QPARAMS = record(
    {"pinnedIds": texts(), "supernodes": texts(texts()), "linkType": TEXT, "clickedId": TEXT, "sg_pos": TEXT}
)
LINK = record({"source": TEXT, "target": TEXT, "weight": NUMBER})
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    **record({"metadata": METADATA, "qParams": QPARAMS, "nodes": texts(NODE), "links": texts(LINK)}),
}
