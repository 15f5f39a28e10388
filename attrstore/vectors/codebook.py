"""The Nordstrom-Robinson code as a codebook: 16 entries of a direction in one byte.

Its 256 words of 16 bits differ in at least 6 places (Nordstrom and Robinson, "An optimum nonlinear code", 1967);
read as vectors of +-1 they lie so evenly on the sphere that the nearest one keeps .65 of the length of a normal
vector, squared .424: more a byte than signs (8 entries, squared .637 each) or any scalar quantiser of that rate.
In the construction of Kerdock (1972) a word is a quadratic form of four bits, one of eight whose differences
have full rank, plus a linear form, plus a constant; so the nearest word is found by eight Hadamard transforms.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import torch
from torch import Tensor

LENGTH = 16
# Each form is six bits: which of the products of two of the four bits it sums.
FORMS = (0, 12, 22, 27, 39, 41, 53, 58)
AT_ONCE = 2**15  # vectors whose products are held together: 16 MB


@cache
def words() -> Tensor:
    """Return the codewords as entries of +-1: int8 [256, 16]. Byte b + 128 is the opposite of byte b."""
    points = torch.arange(LENGTH)
    bits = [(points >> i) & 1 for i in range(4)]
    rows = []
    for form in FORMS:
        products = [
            bits[i] & bits[j] for place, (i, j) in enumerate(combinations(range(4), 2)) if form >> place & 1
        ]
        quadratic = sum(products, torch.zeros_like(points))
        for line in range(LENGTH):
            linear = sum((bits[i] for i in range(4) if line >> i & 1), torch.zeros_like(points))
            rows.append((quadratic + linear) % 2)
    half = 1 - 2 * torch.stack(rows)
    return torch.cat([half, -half]).to(torch.int8)


def nearest(vectors: Tensor) -> Tensor:
    """Return the byte of the word nearest to each vector [n, 16], the first of several: uint8 [n]."""
    half = words()[:128].to(vectors.device, vectors.dtype).T
    found = torch.empty(len(vectors), dtype=torch.uint8, device=vectors.device)
    for rows, out in zip(vectors.split(AT_ONCE), found.split(AT_ONCE), strict=True):
        products = rows @ half  # [n, 128]
        best = products.abs().argmax(dim=1, keepdim=True)
        opposite = products.gather(1, best) < 0
        out.copy_((best + 128 * opposite).squeeze(1))
    return found
