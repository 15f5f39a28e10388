"""Codes, curvature and the stable parts of the mathematics, against numpy in float64."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from attrstore.ingest.encode.projection import sign_matrix
from attrstore.vectors import codebook, codes, curvature
from attrstore.vectors.encoders import make_blocks

BLOCKS = make_blocks([("a", 64), ("b", 64), ("c", 27)])


def vectors(n: int = 50, seed: int = 0) -> torch.Tensor:
    scale = torch.cat([torch.full((64,), 1e-6), torch.full((64,), 3.0), torch.full((27,), 2e7)])
    return torch.randn(n, 155, generator=torch.Generator().manual_seed(seed)) * scale


# Lloyd-Max levels and mean squared errors of a unit Gaussian as Max (1960), table I, prints them.
@pytest.mark.parametrize(
    ("bits", "levels", "error"),
    [(1, [0.7980], 0.3634), (2, [0.4528, 1.510], 0.1175),
     (4, [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497)],
)  # fmt: skip
def test_levels_are_those_of_lloyd_and_max(bits: int, levels: list[float], error: float) -> None:
    found = np.array(codes.gaussian_levels(bits))
    assert np.allclose(found[len(found) // 2 :], levels, atol=6e-4)
    assert np.allclose(found, -found[::-1], atol=1e-9)
    x = np.random.default_rng(0).standard_normal(400_000)
    squared = ((x[:, None] - found[None, :]) ** 2).min(axis=1).mean()
    assert squared == pytest.approx(error, rel=0.01)


# The cosine between a Gaussian direction and its code is sqrt(1 - mse) for a Lloyd-Max quantiser.
@pytest.mark.parametrize(
    ("name", "cosine"),
    [
        ("fp16", 1.0),
        ("int8", 0.9999),
        ("4bit", 0.9952),
        ("2bit", 0.9394),
        ("1bit", 0.7979),
    ],
)
def test_direction_and_norms_survive(name: str, cosine: float) -> None:
    original = vectors(2000)
    code = codes.CODES[name]
    quantised, scales = codes.encode(original, BLOCKS, code)
    assert quantised.shape == (2000, code.n_bytes(155))
    assert scales.shape == (2000, 2 * len(BLOCKS))
    directions, norms = codes.decode(quantised, scales, BLOCKS, code)
    for i, block in enumerate(BLOCKS):
        part = original[:, block.offset : block.offset + block.length]
        unit = directions[:, block.offset : block.offset + block.length]
        assert torch.allclose(unit.norm(dim=1), torch.ones(2000), atol=1e-5)
        found = torch.nn.functional.cosine_similarity(part, unit, dim=1).mean()
        if block.length == 64:  # at 27 the sphere is not yet a Gaussian
            assert float(found) == pytest.approx(cosine, abs=0.004)
        assert torch.allclose(norms[:, i], part.norm(dim=1), rtol=2**-8)


def test_a_vector_of_zeros_is_a_code_of_norm_zero() -> None:
    quantised, scales = codes.encode(torch.zeros(1, 155), BLOCKS, codes.CODES["int8"])
    _, norms = codes.decode(quantised, scales, BLOCKS, codes.CODES["int8"])
    assert norms.abs().max() == 0


def test_signs_are_the_bits_of_shake_256() -> None:
    first = hashlib.shake_256(b"0/x/in").digest(1)[0]
    expected = [(1 if first >> i & 1 else -1) / 2**0.5 for i in range(8)]
    assert sign_matrix("0/x/in", 2, 40)[0, :8].tolist() == pytest.approx(expected)
    assert torch.equal(sign_matrix("any", 4, 3), torch.eye(3))


def test_power_mixing_and_packing() -> None:
    rows = np.random.default_rng(1).standard_normal((300, 12)) * np.linspace(0.1, 3, 12)
    r = rows.T @ rows / 300
    values, basis = np.linalg.eigh(r)
    values = values + 0.1 * values.mean()
    root = curvature.power(torch.from_numpy(r).float(), -0.5, 0.1).double().numpy()
    assert np.allclose(root, (basis * values**-0.5) @ basis.T, atol=1e-5)
    scale, packed = curvature.pack(torch.from_numpy(r).float())
    assert len(packed) == 12 * 13
    assert np.allclose(curvature.unpack(scale, packed, 12).numpy(), r, rtol=2e-3, atol=1e-3)
    # Curvature is of squared gradients: far below what float16 holds; a dead block's is zero.
    for small in (1e-12 * torch.from_numpy(r).float(), torch.zeros(12, 12)):
        found = curvature.unpack(*curvature.pack(small), 12)
        assert torch.allclose(found, small, rtol=2e-3, atol=1e-3 * float(small.diagonal().mean()))
    # Two blocks of spectra 4, 1 and 1, .25: at the damped rank (0 here: the strongest) q outweighs c fourfold.
    corpus, queries = [torch.diag(torch.tensor([1.0, 0.25]))], [torch.diag(torch.tensor([4.0, 1.0]))]
    mixing = curvature.choose_mixing(corpus, queries)
    assert mixing == pytest.approx(0.2)
    assert torch.allclose(curvature.mix(corpus, queries, mixing)[0].diagonal(), torch.tensor([1.6, 0.4]))


@pytest.mark.parametrize("damping", [0.1, 1e-3, 0.0])
@pytest.mark.parametrize("rank", [12, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-24])
def test_what_is_whitened_has_the_products_of_the_inverse_root(
    damping: float, rank: int, scale: float
) -> None:
    """Also where the damped curvature is singular, and has no Cholesky factor."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(12, rank, generator=generator) * torch.linspace(0.5, 3, rank)
    r = rows @ rows.T * scale
    root = curvature.power(r, -0.5, damping).double()
    whitening = curvature.whitening(r, damping).double()
    np.testing.assert_allclose(
        whitening @ whitening.T * scale,
        root @ root * scale,
        rtol=1e-3,
        atol=1e-3 * float((root @ root).max()) * scale,
    )
    triangular = torch.equal(whitening, whitening.triu())
    assert triangular == (damping > 0)


def test_a_block_that_nothing_moves_is_whitened_to_zeros() -> None:
    assert curvature.whitening(torch.zeros(4, 4), 0.1).abs().max() == 0


def test_second_moment_equals_numpy() -> None:
    x = vectors(40)
    moment = curvature.SecondMoment(BLOCKS)
    moment.add(x[:15])
    moment.add(x[15:])
    for block, matrix in zip(BLOCKS, moment.matrices(), strict=True):
        part = x[:, block.offset : block.offset + block.length].double().numpy()
        assert np.allclose(matrix.numpy(), part.T @ part / 40, rtol=1e-4, atol=1e-5 * np.abs(part).max() ** 2)


@pytest.mark.parametrize("name", list(codes.CODES))
def test_a_block_of_zeros_stays_zeros(name: str) -> None:
    """Such as the queries' and keys' gradients of a text of two tokens."""
    blocks = make_blocks([("a", 16), ("b", 256)])
    vectors = torch.randn(3, 272, generator=torch.Generator().manual_seed(0))
    vectors[0, :16] = 0
    vectors[1, 16:] = 0
    code = codes.CODES[name]
    directions, norms = codes.decode(*codes.encode(vectors, blocks, code), blocks, code)
    assert directions.isfinite().all()
    assert norms[0, 0] == 0
    assert norms[1, 1] == 0


def test_the_codebook_is_the_nordstrom_robinson_code() -> None:
    """256 words of 16 bits, closed under the opposite, with distances 6, 8 and 10 as often as is known."""
    words = codebook.words().int()
    assert len({tuple(word) for word in words.tolist()}) == 256
    assert torch.equal(words[128:], -words[:128])
    distances, counts = ((16 - words @ words.T) // 2).unique(return_counts=True)
    assert distances.tolist() == [0, 6, 8, 10, 16]
    assert (counts // 256).tolist() == [1, 112, 30, 112, 1]


def test_the_nearest_word_is_the_one_of_the_largest_product() -> None:
    x = torch.randn(500, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(codebook.nearest(x).long(), (x @ codebook.words().double().T).argmax(dim=1))


def test_half_a_bit_keeps_what_the_codebook_keeps() -> None:
    """The cosine of a long direction and its code: the mean largest product of normal entries and words, / 16."""
    normal = np.random.default_rng(0).standard_normal((40_000, 16))
    expected = (normal @ codebook.words().numpy().T.astype(float)).max(axis=1).mean() / 16
    assert expected == pytest.approx(
        0.6515, abs=0.002
    )  # the squared cosine that attrstore.vectors.codebook states
    blocks = make_blocks([("a", 1023), ("b", 1025)])  # words stand across the border
    original = torch.randn(200, 2048, generator=torch.Generator().manual_seed(0))
    code = codes.CODES["halfbit"]
    quantised, scales = codes.encode(original, blocks, code)
    assert quantised.shape == (200, 128)
    directions, _ = codes.decode(quantised, scales, blocks, code)
    for part in (slice(0, 1023), slice(1023, 2048)):
        cosine = torch.nn.functional.cosine_similarity(original[:, part], directions[:, part], dim=1)
        assert float(cosine.mean()) == pytest.approx(expected, abs=0.002)


def test_int8_rounds_to_steps_of_a_32nd_of_a_standard_deviation() -> None:
    """A uniform grid's squared error is its step's by 12, and what lies past its 127th step is cut to it."""
    blocks = make_blocks([("a", 4096)])
    vectors = torch.randn(20, 4096, generator=torch.Generator().manual_seed(3))
    directions, _ = codes.decode(
        *codes.encode(vectors, blocks, codes.CODES["int8"]), blocks, codes.CODES["int8"]
    )
    exact = vectors / vectors.norm(dim=1, keepdim=True)
    error = float((directions - exact).norm(dim=1).mean())
    past = np.linspace(127 / 32, 8, 100_001)
    cut = 2 * np.trapezoid((past - 127 / 32) ** 2 * np.exp(-(past**2) / 2) / np.sqrt(2 * np.pi), past)
    assert error == pytest.approx((1 / 32**2 / 12 + cut) ** 0.5, rel=0.05)
