"""Principal directions of the corpus's singular pairs, measured on a sample, in the place of random projections.

The pairs of one map share directions: u of all examples lie close to few of them, and v too. The eigenvectors of
E[share^2 u u^T] and of E[share^2 v v^T], a pair's share being how much of its gradient it holds, keep the most of any
projection to as many numbers (Eckart and Young 1936), and in them each coordinate has a variance of its own, by which
`attrstore.vectors.spread` gives it bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attrstore.ingest.encode.kronecker import groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attrstore.ingest.encode.low_rank import LowRankEncoder
    from attrstore.ingest.encode.projection import Projection
    from attrstore.ingest.model.sequences import Batch

TINY = 1e-30


def fit(projections: Mapping[str, Projection], encoder: LowRankEncoder, sample: Sequence[Batch]) -> None:
    """Replace the projections' matrices by principal directions, as many, and set their spreads, in place.

    A large model takes several passes over the sample, each for some of its maps.
    """
    for group in groups(encoder.maps, copies=encoder.rank):
        sums = {
            linear.name: (
                torch.zeros(encoder.rank, linear.n_out, linear.n_out),
                torch.zeros(encoder.rank, linear.n_in, linear.n_in),
            )
            for linear in group
        }
        n = 0
        for batch in sample:
            n += len(batch.items)
            for name, (left, values, right, norms) in encoder.whole_pairs(batch, group).items():
                weights = (values / norms.clamp(min=TINY).unsqueeze(1)).unsqueeze(2)
                for total, side in zip(sums[name], (left, right), strict=True):
                    weighted = (side * weights).transpose(0, 1).cpu()  # [rank, n, d]
                    total += torch.bmm(weighted.transpose(1, 2), weighted)
        for linear in group:
            projection = projections[linear.name]
            out, inputs = (total / max(n, 1) for total in sums[linear.name])
            projection.p_out, projection.spread_out = _principal(out, len(projection.p_out))
            projection.p_in, projection.spread_in = _principal(inputs, len(projection.p_in))
            projection.pair_weights = out.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True).sqrt()


def _principal(moments: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k strongest eigenvectors of the pairs' moments [rank, d, d] together, as rows, and each pair's spread.

    The spread is the standard deviation of a pair's coordinates, weighted by its share: [rank, k].
    """
    vectors = torch.linalg.eigh(moments.sum(dim=0).double()).eigenvectors.flip(1)[:, :k].T
    # An eigenvector's sign is arbitrary, and is fixed, so that it does not depend on the library.
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * largest.sign()
    variances = torch.einsum("kd,rde,ke->rk", vectors, moments.double(), vectors).clamp(min=0)
    whole = moments.double().diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True).clamp(min=TINY)
    return vectors.float().contiguous(), (variances / whole).sqrt().float()
