"""One forward and backward pass over a batch: the summed token loss, down to the first hooked layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from attrstore.ingest.model.offload import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attrstore.ingest.model.sequences import Batch

# Told of some targets: their windows, positions, the head's inputs [n, H] and its outputs' gradients [n, V].
HeadSeen = Callable[[Tensor, Tensor, Tensor, Tensor], None]
LOGITS_AT_ONCE = 2**22  # entries of a chunk of logits: 16 MB in float32, so that it stays in cache


class Backward:
    """Runs a model forward and backward without gradients of its weights.

    Where the model is a trunk and a linear head, as a check on a few tokens confirms, the loss and its
    gradient are computed in chunks that fit the cache, only where a target is, and the logits of a whole
    batch are never held. Any other model goes through its own forward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = device_of(model)
        self.head = model.get_output_embeddings()
        self.trunk = model.base_model
        self.split = self._is_trunk_and_head()

    def __call__(self, batch: Batch, head_seen: HeadSeen | None = None) -> Tensor:
        """Backpropagate the loss, summed over the targets; hooks see the gradients.

        Args:
            head_seen: stands in for a hook on the head, whose module is not called where the model is split.

        Returns the loss of each window in nats: float32 [windows], on the model's device.
        """
        tokens, targets = batch.tokens.to(self.device), batch.targets.to(self.device)
        with torch.enable_grad():
            if not self.split:
                return self._whole(tokens, targets)
            hidden = self.trunk(input_ids=tokens, use_cache=False).last_hidden_state
            losses, gradient = self._head_loss(hidden.detach(), targets, head_seen)
            if hidden.requires_grad:
                hidden.backward(gradient)
        return losses

    def _head_loss(self, hidden: Tensor, targets: Tensor, seen: HeadSeen | None) -> tuple[Tensor, Tensor]:
        """Return the windows' losses and the gradient at `hidden` [windows, T, H]."""
        windows, positions = (targets[:, 1:] != -100).nonzero(as_tuple=True)
        wanted = targets[windows, positions + 1]
        weight, bias = self.head.weight, self.head.bias
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        token_losses, gradients = [], []
        flat = hidden[windows, positions]
        parts = zip(*(every.split(rows) for every in (windows, positions, flat, wanted)), strict=True)
        with torch.no_grad():
            for windows_of_part, positions_of_part, part, targets_of_part in parts:
                logits = functional.linear(part, weight, bias).float()
                log_norm = torch.logsumexp(logits, dim=1)
                column = targets_of_part.unsqueeze(1)
                token_losses.append(log_norm - logits.gather(1, column).squeeze(1))
                # d loss / d logits = softmax - one-hot, in place of the logits
                probabilities = logits.sub_(log_norm.unsqueeze(1)).exp_()
                probabilities.scatter_add_(1, column, -torch.ones_like(column, dtype=logits.dtype))
                at_logits = probabilities.to(weight.dtype)
                gradients.append(at_logits @ weight)
                if seen is not None:
                    seen(windows_of_part, positions_of_part, part, at_logits)
            losses = torch.zeros(len(targets), device=hidden.device)
            gradient = torch.zeros_like(hidden)
            if len(flat):
                losses.index_add_(0, windows, torch.cat(token_losses))
                gradient[windows, positions] = torch.cat(gradients)
        return losses, gradient

    def _whole(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100, reduction="none"
        )
        losses = losses.view(len(tokens), -1).sum(dim=1)
        if losses.requires_grad:
            losses.sum().backward()
        return losses.detach()

    @torch.no_grad()
    def _is_trunk_and_head(self) -> bool:
        """Whether head(trunk(x)) is the model's own output."""
        if not isinstance(self.head, torch.nn.Linear) or self.trunk is self.model:
            return False
        if self.head.weight.device != self.device:  # they are fetched when it is called, and only then
            return False
        tokens = torch.arange(8, device=self.device).unsqueeze(0) % self.model.config.vocab_size
        own = self.model(input_ids=tokens, use_cache=False).logits.float()
        ours = self.head(self.trunk(input_ids=tokens, use_cache=False).last_hidden_state).float()
        return ours.shape == own.shape and torch.allclose(ours, own, rtol=1e-3, atol=1e-3)
