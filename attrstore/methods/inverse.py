"""The inverse-Hessian family: influence functions over the stored encodings, by six ways to invert.

The score is the inner product of H^{-1} phi(q) and phi(z) (Koh and Liang 2017, equation 2, with the sign that
makes proponents positive). H is block-diagonal; the mathematics of each way is in `attrstore.vectors.solvers`.
"""

from collections.abc import Sequence
from functools import partial

from attrstore.methods.base import Method, Reads
from attrstore.methods.linear_map import rank
from attrstore.methods.parts import PUBLISHED, Parts

CLOSED = ("encoder", "norm", "damping", "device")
ITERATED = (*PUBLISHED, "iterations")

PARTS = {
    "influence": Parts(curvature="corpus", norm="none", solver="exact"),
    "cg": Parts(curvature="corpus", norm="none", solver="cg", iterations=20),
    "lissa": Parts(curvature="corpus", norm="none", solver="lissa", iterations=50),
    "datainf": Parts(curvature="corpus", norm="none", solver="datainf"),
    "kfac": Parts(curvature="corpus", norm="none", solver="kfac"),
    "ekfac": Parts(curvature="corpus", norm="none", solver="ekfac"),
}


def _method(
    name: str, paper: str, takes: Sequence[str], cost: str, when: str, differs: str
) -> Method:  # fmt: skip
    ranked = partial(rank, "gradient")
    return Method(
        name, "influence", paper, Reads("gradient"), cost, when, ranked, PARTS[name], takes, differs
    )


INVERSE_METHODS = (
    _method(
        "influence",
        "Koh and Liang 2017, arXiv 1703.04730",
        PUBLISHED,
        "two scans; d^3 a block",
        "Influence functions with the exact damped inverse: the reference for those below.",
        "The Hessian is the mean outer product of the examples' gradients (empirical Fisher), block by block.",
    ),
    _method(
        "cg",
        "Koh and Liang 2017, arXiv 1703.04730 (section 3)",
        ITERATED,
        "two scans; d^2 a block, query and iteration",
        "The same by conjugate gradients, to see what few iterations lose.",
        "The same Hessian as influence has, where the paper multiplies by the true one.",
    ),
    _method(
        "lissa",
        "Agarwal et al. 2016 (LiSSA), arXiv 1602.03943; as in arXiv 2409.19998",
        ITERATED,
        "two scans; d^2 a block, query and iteration",
        "The same by the LiSSA recursion, which converges slowly: a comparison.",
        "The recursion itself; the code released with arXiv 2409.19998 computes a product of gradients instead.",
    ),
    _method(
        "datainf",
        "Kwon et al. 2023 (DataInf), arXiv 2310.00902",
        CLOSED,
        "three scans; no d x d matrix",
        "The closed form that swaps mean and inverse; for LoRA gradients of any width.",
        "An example's loss is the sum over its tokens, where the paper takes the mean.",
    ),
    _method(
        "kfac",
        "Choe et al. 2024 (LoGra), arXiv 2405.13954",
        CLOSED,
        "two scans; no d x d matrix",
        "Influence for wide projections: two small Kronecker factors a block.",
        "The factors are means of G G' and G' G of whole gradients, not of inputs and output gradients apart.",
    ),
    _method(
        "ekfac",
        "Grosse et al. 2023 (EK-FAC), arXiv 2308.03296",
        CLOSED,
        "three scans; no d x d matrix",
        "K-FAC with corrected eigenvalues: closer to the exact inverse.",
        "The eigenbasis is that of kfac's factors; the true labels stand in for ones sampled from the model.",
    ),
)
