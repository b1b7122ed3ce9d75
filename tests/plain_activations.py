"""Activations by plain code, without cache and threads."""

from __future__ import annotations

import torch


@torch.no_grad()
def frozen_activations(tower, table, first_block, *, dtype=torch.float32, batch=128):
    """(N, S, d) input of `first_block` in `dtype`; (N, e) final features if that is the number of blocks."""
    parts = []
    for start in range(0, len(table), batch):
        images = [table.read(index) for index in range(start, min(start + batch, len(table)))]
        parts.append(tower.prefix(tower.preprocess(images), first_block).to(dtype))
    return torch.cat(parts) if parts else torch.empty(0, 0, 0, dtype=dtype)
