"""One door to everything about attention: maps, their statistics, hiding, and what emerges."""

from .capture import prefix_tokens
from .maps import (
    AttentionMaps,
    attention_maps,
    attention_rollout,
    attention_row,
    attention_rows,
    patch_number,
    prepare,
    queries_keys,
)
from .occlusion import Hidden, hidden_logits, hide
from .probes import (
    Emergence,
    Probes,
    emergence,
    fit_probes,
    forward_stages,
    load_probes,
    probe_logits,
    save_probes,
)
from .stats import (
    attention_distance,
    attention_entropy,
    attention_inside,
    label_grid,
    uniform_distance,
)

__all__ = [
    "AttentionMaps",
    "Emergence",
    "Hidden",
    "Probes",
    "attention_distance",
    "attention_entropy",
    "attention_inside",
    "attention_maps",
    "attention_rollout",
    "attention_row",
    "attention_rows",
    "emergence",
    "fit_probes",
    "forward_stages",
    "hidden_logits",
    "hide",
    "label_grid",
    "load_probes",
    "patch_number",
    "prefix_tokens",
    "prepare",
    "probe_logits",
    "queries_keys",
    "save_probes",
    "uniform_distance",
]
