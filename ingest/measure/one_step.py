"""One optimizer step from a checkpoint on one example, taken in a copy of the model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from attrstore.errors import InputError
from attrstore.ingest.model import adapters
from attrstore.ingest.model.backward import Backward
from attrstore.ingest.model.logprobs import target_logprobs
from attrstore.ingest.model.optimizer import Full, Saved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from attrstore.ingest.model.sequences import Batch, Item

Moment = Saved | Full

# optimizer: its learning rate. On a trained model the two move a target about equally far, by some thousandths
# of its log-probability; steps a hundred times as large overshoot.


class _Stepped(NamedTuple):
    """A parameter that the step moves."""

    base: Tensor
    moved: Tensor  # the same parameter of the copy
    moment: Moment | None  # None: a plain gradient step
    kept: Tensor  # what of the moment the step finds, on the model's device: see `direction`

    @classmethod
    def of(cls, base: Tensor, moved: Tensor, moment: Moment | None) -> _Stepped:
        """Prepare what every step shares."""
        if moment is None:
            return cls(base, moved, None, base[:0])
        values = moment.values.to(base.device)
        if isinstance(moment, Full):
            return cls(base, moved, moment, values.sqrt().add_(moment.epsilon))
        return cls(base, moved, moment, values.mul(moment.beta2 / moment.bias))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return what the parameter moves along, before the learning rate."""
        if self.moment is None:
            return gradient
        if isinstance(self.moment, Full):
            return gradient / self.kept.to(gradient.dtype)
        # AdamW's: v = beta2 V + (1 - beta2) g^2, then g / (sqrt(v / bias) + epsilon)
        wide = gradient.float()
        share = (1 - self.moment.beta2) / self.moment.bias
        root = torch.addcmul(self.kept, wide, wide, value=share).sqrt_()
        return wide.div_(root.add_(self.moment.epsilon)).to(gradient.dtype)


class OneStep:
    """Takes steps, each from the checkpoint itself.

    The model's own weights are only read: a step writes base - learning_rate * direction into the copy's, over
    whatever the last step left there. So there is nothing to restore, and nothing that a crash could leave
    half restored.

    Args:
        model: frozen, in evaluation mode.
        learning_rate: times the direction: the gradient; the gradient over the root that AdamW finds after it took
            this gradient in (`Saved`); or over the root of the second moment as it was saved (`Full`).
        moments: second moments by parameter name; parameters without one were not trained and stay. None: a
            plain gradient step on all parameters, or on those of the model's adapter.
    """

    def __init__(self, model: nn.Module, learning_rate: float, moments: Mapping[str, Moment] | None) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.device = next(model.parameters()).device
        self.split = Backward(model).split
        stepped = {
            name: base for name, base in adapters.trained(model).items() if moments is None or name in moments
        }
        for name, base in stepped.items():
            if not base.is_floating_point():
                raise InputError(
                    f"{type(model).__name__}: {name} is quantised, and no step moves it. Give the model with whole "
                    "weights, or an adapter on this one."
                )
        steps = set(map(id, stepped.values()))
        # What stays is shared with the copy.
        self.copy = copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in steps})
        moved = dict(self.copy.named_parameters())
        self.parameters = [
            _Stepped.of(base, moved[name], None if moments is None else moments[name])
            for name, base in stepped.items()
        ]
        if not self.parameters:
            raise InputError(f"{type(model).__name__}: no parameter would move.")

    def __call__(self, example: Item) -> bool:
        """Step on the item's mean target loss; say whether every gradient was finite."""
        bases = [parameter.base for parameter in self.parameters]
        for base in bases:
            base.requires_grad_(True)
        try:
            with torch.enable_grad():
                gradients = torch.autograd.grad(self._mean_loss(example), bases, allow_unused=True)
        finally:
            for base in bases:
                base.requires_grad_(False)
        # A sum is finite only where every number is, and takes one reading.
        sums = torch.stack([gradient.sum() for gradient in gradients if gradient is not None])
        if not bool(sums.isfinite().all()):
            return False
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is None:
                    parameter.moved.copy_(parameter.base)
                    continue
                direction = parameter.direction(gradient)
                torch.add(parameter.base, direction, alpha=-self.learning_rate, out=parameter.moved)
        return True

    def _mean_loss(self, example: Item) -> Tensor:
        total = torch.zeros((), device=self.device)
        for i, window in enumerate(example.windows):
            tokens = torch.tensor([window], device=self.device)
            targets = torch.tensor(example.targets(i)[1:], device=self.device)  # -100 where no loss counts
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
            total = total + functional.cross_entropy(logits, targets, reduction="sum")
        return total / example.n_targets

    def logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the targets' summed log-probabilities before and after the step: float64 [items], on the CPU."""
        before, after = (target_logprobs(m, batch, split=self.split) for m in (self.model, self.copy))
        return before, after
