"""EK-FAC in full width: the curvature of whole gradients, fitted on a sample of the corpus and kept beside the store.

The Fisher of a linear map's gradient G = sum_t g_t a_t^T is close to E[g g^T] (x) E[a a^T]; in the eigenvectors of
these two its diagonal is corrected to what gradients have there (George et al. 2018, arXiv 1806.03884; for influence
Grosse et al. 2023, arXiv 2308.03296). Labels are drawn from the model's own predictions, as the Fisher asks for.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attrstore.errors import InputError, flag
from attrstore.export import replacing
from attrstore.ingest.encode import gradients, kronecker
from attrstore.ingest.measure.exact import Curved, ExactGradients
from attrstore.ingest.model.backward import Backward
from attrstore.vectors.solvers import ridge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.causal import LoadedModel
    from attrstore.ingest.model.linear import LinearMap
    from attrstore.ingest.model.sequences import Batch
    from attrstore.store import Store
    from attrstore.vectors.encoders import Encoder

VERSION = 1  # raised when the same sample would give another curvature
BATCH_TOKENS = 1024  # of the sample: all logits of a batch are held to draw its labels


class Fitted(NamedTuple):
    """One map's curvature."""

    left: Tensor  # [out, out]: eigenvectors of E[g g^T], in columns
    right: Tensor  # [in, in]: of E[a a^T]
    moments: Tensor  # [out, in]: mean squares of gradients in this basis

    def damped(self, damping: float) -> Tensor:
        """Return the eigenvalues with `damping` of their mean added."""
        return self.moments + ridge(float(self.moments.mean()), damping)

    def curved(self, damping: float) -> Curved:
        """Return the damped inverse."""
        return Curved(self.left, self.right, 1 / self.damped(damping))


Curvature = dict[str, Fitted]  # by map


def sample_of(store: Store, encoder: Encoder, loaded: LoadedModel, size: int) -> list[Batch]:
    """Return batches of a sample of the corpus, long texts treated as the encoder's recipe says."""
    return gradients.sample_of(store, encoder, loaded, size, BATCH_TOKENS, str(encoder.spec["long"]))


def digest_of(recipe: str, sample: Sequence[Batch]) -> str:
    """Return a digest of all that a curvature depends on: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{VERSION} {recipe}".encode())
    for batch in sample:
        for part in (batch.tokens, batch.targets, batch.owner):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]


def fit(
    model: PreTrainedModel,
    maps: Sequence[LinearMap],
    corrections: Mapping[str, Projection],
    sample: Sequence[Batch],
    seed: int = 0,
) -> Curvature:
    """Fit the curvature of corrected gradients, an example's loss being the sum over its targets.

    Args:
        model: frozen, in evaluation mode.
        maps: of the layers.
        corrections: the optimizer's, by name, not elementwise.
        sample: of the corpus.
        seed: of the labels that are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_drawn(model, batch, generator) for batch in sample]
    bases = {
        linear.name: Curved(
            torch.linalg.eigh(g.double()).eigenvectors.float(),
            torch.linalg.eigh(a.double()).eigenvectors.float(),
            torch.ones(linear.n_out, linear.n_in),
        )
        for linear, a, g in kronecker.factors(corrections, maps, Backward(model), drawn)
    }
    exact = ExactGradients(model, maps, corrections, lambda linear: linear.name, bases)
    moments = exact.moments(drawn)
    return {name: Fitted(basis.left, basis.right, moments[name].cpu()) for name, basis in bases.items()}


@torch.no_grad()
def _drawn(model: PreTrainedModel, batch: Batch, generator: torch.Generator) -> Batch:
    """Draw each target from what the model predicts there."""
    logits = model(input_ids=batch.tokens.to(model.device), use_cache=False).logits[:, :-1]
    there = batch.targets[:, 1:] != -100
    probabilities = logits[there.to(logits.device)].float().softmax(dim=1).cpu()
    targets = torch.full_like(batch.targets, -100)
    targets[:, 1:][there] = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return replace(batch, targets=targets)


def path_of(store: Store, recipe: str) -> Path:
    """Return where the curvature of gradients of a recipe is kept."""
    return store.path.with_name(f"{store.path.name}.ekfac-{recipe}.safetensors")


def load_or_fit(
    store: Store,
    recipe: str,
    model: PreTrainedModel,
    maps: Sequence[LinearMap],
    corrections: Mapping[str, Projection],
    sample: Sequence[Batch],
) -> tuple[Curvature, str]:
    """Return the curvature and its digest: from the file beside the store, if it is of this sample."""
    refuse(maps, corrections)
    if not sample:
        raise InputError(f"{store.path}: no example to fit a curvature on.")
    path, digest = path_of(store, recipe), digest_of(recipe, sample)
    kept = _kept(path, digest, maps)
    if kept is not None:
        return kept, digest
    found = fit(model, maps, corrections, sample)
    tensors = {
        f"{name}/{part}": tensor.contiguous()
        for name, of_map in found.items()
        for part, tensor in of_map._asdict().items()
    }
    with replacing(path, beside=store) as partial:
        save_file(tensors, partial, {"of": digest})
    return found, digest


def _kept(path: Path, digest: str, maps: Sequence[LinearMap]) -> Curvature | None:
    """Read a curvature from its file; None if there is none of this sample, or the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("of") != digest:
                return None
            return {
                m.name: Fitted(*(file.get_tensor(f"{m.name}/{part}") for part in Fitted._fields))
                for m in maps
            }
    except (SafetensorError, OSError):
        return None


def refuse(maps: Sequence[LinearMap], corrections: Mapping[str, Projection]) -> None:
    """Refuse what has no two small Kronecker factors."""
    for linear in maps:
        if linear.role != "layer":
            raise InputError(
                f"{flag('encoder')}: encodes {linear.name} too, one factor of whose curvature is as large as the "
                "vocabulary squared. Name an encoder of the layers' maps, as ingest makes it without "
                f"{flag('modules')}."
            )
        if corrections[linear.name].elementwise is not None:
            raise InputError(
                f"{flag('encoder')}: made with {flag('correction')} full, which no Kronecker factors go with. Name one "
                "made with factored, or without an optimizer's state."
            )
