"""The log-probability of targets under a model, by forward passes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.ingest.model.backward import LOGITS_AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attrstore.ingest.model.sequences import Batch


@torch.no_grad()
def target_logprobs(model: PreTrainedModel, batch: Batch, *, split: bool, precise: bool = True) -> Tensor:
    """Return the log-probability of each item's targets, summed, in nats: float64 [items], on the CPU.

    Args:
        split: whether the model is a trunk and a linear head (`Backward.split`): logits are then computed in
            chunks that fit the cache, and only where a target is.
        precise: normalise in float64, on the CPU, which always has it: for changes of a thousandth of the value.
            Otherwise in float32, where the model is.
    """
    device = next(model.parameters()).device
    tokens, targets = batch.tokens.to(device), batch.targets.to(device)
    windows, positions = (targets[:, 1:] != -100).nonzero(as_tuple=True)
    wanted = targets[windows, positions + 1]
    if split:
        head = model.get_output_embeddings()
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[windows, positions]
        rows = max(1, LOGITS_AT_ONCE // len(head.weight))
        parts = zip(hidden.split(rows), wanted.split(rows), strict=True)
        chosen = torch.cat([_chosen(head(h), w, precise) for h, w in parts])
    else:
        logits = model(input_ids=tokens, use_cache=False).logits[windows, positions]
        chosen = _chosen(logits, wanted, precise)
    sums = torch.zeros(len(batch.items), dtype=torch.float64)
    return sums.index_add_(0, batch.owner[windows.cpu()], chosen)


def _chosen(logits: Tensor, wanted: Tensor, precise: bool) -> Tensor:
    """Return log-probabilities of `wanted` [n] under logits [n, vocabulary]: float64 [n], on the CPU."""
    if precise:
        logits, wanted = logits.cpu().double(), wanted.cpu()
    elif logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    found: Tensor = logits.log_softmax(dim=1).gather(1, wanted.unsqueeze(1)).squeeze(1)
    return found.cpu().double()
