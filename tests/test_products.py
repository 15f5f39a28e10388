"""Scores straight from codes against float64, and weights that are kept from one scan to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

import attrstore
from attrstore import Store
from attrstore.methods import Request, linear_map
from attrstore.methods.parts import Parts
from attrstore.scoring import selected
from attrstore.vectors import codes, encoders, products, scan, stored
from attrstore.vectors.encoders import Encoder

BLOCKS = encoders.make_blocks([("a", 64), ("b", 64), ("c", 27), ("d", 600)])  # the last in two pieces
D = 755
WHOLE_BYTES = encoders.make_blocks([("a", 64), ("b", 64), ("c", 32), ("d", 595)])  # but the last, at its end


def encoder(code: str, blocks: Any = BLOCKS) -> Encoder:
    return Encoder("gradient", "synthetic", "none", {"code": code}, blocks)


def chunk_of(vectors: torch.Tensor, code: str, blocks: Any = BLOCKS) -> scan.Chunk:
    return scan.Chunk(torch.arange(len(vectors)), *codes.encode(vectors, blocks, codes.CODES[code]))


def sixteen(made: Encoder, queries: torch.Tensor) -> products.IntegerProducts:
    return products.IntegerProducts(made, queries, products.Sixteen)


@pytest.mark.parametrize("kind", [sixteen, products.FloatProducts, products.LookedUpProducts])
@pytest.mark.parametrize(
    ("code", "tolerance"),
    [("halfbit", 1e-4), ("1bit", 1e-4), ("2bit", 1e-3), ("4bit", 6e-3), ("int8", 1e-4), ("fp16", 1e-4)],
)
def test_scores_equal_float64(
    kind: Any, code: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is sixteen and code == "fp16":
        pytest.skip("float16 is no grid of integers")
    if kind is products.LookedUpProducts and code != "halfbit":
        pytest.skip("only 16 entries a byte are looked up")
    monkeypatch.setattr(products, "LOOKED_UP", 500)  # bytes: ten examples at a time
    blocks = WHOLE_BYTES if kind is products.LookedUpProducts else BLOCKS
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(40, D, generator=generator)
    queries = torch.randn(5, D, generator=generator) * torch.logspace(-4, 4, 5).unsqueeze(1)
    queries[:, :64] *= 1000  # blocks of unlike size, as behind an inverse curvature
    roots = [torch.randn(b.length, 2 * b.length, generator=generator) for b in blocks]
    matrices = [root @ root.T / root.shape[1] for root in roots]
    chunk = chunk_of(examples, code, blocks)
    prepared = kind(encoder(code, blocks), queries)
    prepared.load(chunk)
    found = prepared.scores(1 / prepared.lengths(matrices)).double().numpy()

    unit, _ = codes.decode(chunk.code, chunk.scales, blocks, codes.CODES[code])
    wanted = np.zeros((5, 40))
    for block, matrix in zip(blocks, matrices, strict=True):
        where = slice(block.offset, block.offset + block.length)
        z, q = unit[:, where].double().numpy(), queries[:, where].double().numpy()
        wanted += q @ z.T / np.linalg.norm(z @ matrix.double().numpy(), axis=1)
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, wanted / largest, atol=tolerance)


@pytest.mark.parametrize("code", ["halfbit", "1bit", "2bit", "4bit"])
@pytest.mark.parametrize("kind", [products.Eight, products.Sixteen])
def test_a_rounded_query_is_off_by_half_of_a_unit_of_its_blocks_largest_entry(
    code: str, kind: type[products.Rounded]
) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(12, D, generator=generator)
    queries[0] = 0
    queries[1, :64] = 0
    queries[2, 70] = 1e6  # the rest of its block is lost, and nothing else
    queries[3] *= 1e-20
    chunk = chunk_of(torch.randn(40, D, generator=generator), code)
    prepared = products.IntegerProducts(encoder(code), queries, kind)
    prepared.load(chunk)
    weights = torch.rand(40, len(BLOCKS), generator=generator)
    found = prepared.scores(weights).double().numpy()

    grid = prepared.grid.spread(chunk.code).double().numpy()
    wanted, most = np.zeros((12, 40)), np.zeros((12, 40))
    for block, weight in zip(BLOCKS, weights.double().numpy().T, strict=True):
        where = slice(block.offset, block.offset + block.length)
        q, z = queries[:, where].double().numpy(), grid[:, where]
        wanted += q @ z.T * weight
        half_a_unit = np.abs(q).max(axis=1, keepdims=True) * kind.unit / 2
        most += half_a_unit * np.abs(z).sum(axis=1) * weight
    off = np.abs(found - wanted)
    assert (off <= most + 1e-6 * np.abs(wanted).max(axis=1, keepdims=True)).all()
    usual = off[4:].mean() / most[4:].mean()
    assert 0 < usual < 0.1  # most of it cancels, over hundreds of entries
    assert (found[0] == 0).all()


def test_eight_bits_hold_whole_multiples_exactly_however_long_a_block_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-127, 128, (9, D), generator=generator).float()
    for block in BLOCKS:
        queries[:, block.offset] = 127
    chunk = chunk_of(torch.randn(40, D, generator=generator), "1bit")
    found = []
    for piece in (products.Eight.piece, 128):
        monkeypatch.setattr(products.Eight, "piece", piece)
        prepared = products.IntegerProducts(encoder("1bit"), queries, products.Eight)
        prepared.load(chunk)
        found.append(prepared.scores(torch.ones(40, len(BLOCKS))))
        np.testing.assert_allclose(found[-1], queries @ prepared.grid.spread(chunk.code).float().T, rtol=1e-5)
    assert torch.equal(*found)


@pytest.mark.parametrize("code", ["halfbit", "1bit", "2bit"])
def test_lengths_of_blocks_equal_float64(code: str) -> None:
    chunk = chunk_of(torch.randn(7, D, generator=torch.Generator().manual_seed(0)), code)
    prepared = sixteen(encoder(code), torch.ones(1, D))
    prepared.load(chunk)
    integers = prepared.grid.spread(chunk.code).double().numpy()
    wanted = [np.linalg.norm(integers[:, b.offset : b.offset + b.length], axis=1) for b in BLOCKS]
    np.testing.assert_allclose(prepared.lengths(None).numpy(), np.stack(wanted, axis=1), rtol=1e-6)


@pytest.mark.parametrize("strip", [256, 100])
def test_lengths_times_a_triangular_matrix_equal_float64(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which only what is not zero is multiplied; a matrix of zeros leaves no length."""
    monkeypatch.setattr(products, "STRIP", strip)
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(b.length, b.length, generator=generator).triu() for b in BLOCKS]
    matrices[1] *= 1e-18
    matrices[2] *= 0
    chunk = chunk_of(torch.randn(7, D, generator=generator), "1bit")
    prepared = sixteen(encoder("1bit"), torch.ones(1, D))
    prepared.load(chunk)
    found = prepared.lengths(matrices).numpy()
    grid = prepared.grid.spread(chunk.code).double()
    for i, (block, matrix) in enumerate(zip(BLOCKS, matrices, strict=True)):
        z = grid[:, block.offset : block.offset + block.length]
        np.testing.assert_allclose(found[:, i], (z @ matrix.double()).norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("code", "blocks", "n_queries", "wanted"),
    [
        ("halfbit", WHOLE_BYTES, 8, "LookedUpProducts"),
        ("halfbit", WHOLE_BYTES, 9, "IntegerProducts"),
        ("halfbit", BLOCKS, 1, "IntegerProducts"),  # a byte of two blocks
        ("1bit", WHOLE_BYTES, 1, "IntegerProducts"),
        ("fp16", BLOCKS, 1, "FloatProducts"),
    ],
)
def test_few_queries_are_looked_up(
    code: str, blocks: Any, n_queries: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    chosen = products.prepare(encoder(code, blocks), torch.ones(n_queries, D), curved=False)
    assert type(chosen).__name__ == wanted


@pytest.mark.parametrize(
    ("code", "parts", "wanted"),
    [
        ("halfbit", Parts("none", "block"), products.Eight),
        ("1bit", Parts("none", "none"), products.Eight),
        ("2bit", Parts("none", "vector"), products.Eight),
        ("4bit", Parts("none", "block"), products.Eight),
        ("int8", Parts("none", "block"), products.Sixteen),
        ("halfbit", Parts("corpus", "block"), products.Sixteen),
        ("1bit", Parts("corpus", "none", solver="datainf"), products.Sixteen),
    ],
)
def test_queries_have_eight_bits_where_neither_curvature_nor_code_needs_more(
    path: Path, code: str, parts: Parts, wanted: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    rounded: list[type] = []
    for kind in (products.Eight, products.Sixteen):

        def seen(self: Any, rows: torch.Tensor, kind: Any = kind, before: Any = kind.__init__) -> None:
            rounded.append(kind)
            before(self, rows)

        monkeypatch.setattr(kind, "__init__", seen)
    with attrstore.open(path, create=True) as store:
        made, queries = synthetic(store, 40, code)
        side, _ = linear_map.asked_side(store, made, parts, queries.repeat(3, 1))
        side.scorer(store)
    assert set(rounded) == {wanted}


def test_scores_of_eight_bits_are_of_one_order_across_chunks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same whatever chunk an example is in, and as near to float64 as is said; equal codes tie, by example_id."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    found = []
    for size in (25, 80):
        monkeypatch.setattr(scan, "rows_at_once", lambda _, size=size: size)
        own = path.with_name(f"{size}.duckdb")
        with attrstore.open(own, create=True) as store:
            made, queries = synthetic(store, 80, "1bit")
            for column in ("code", "scales"):
                store.execute(
                    f"UPDATE encodings SET {column} = (SELECT {column} FROM encodings WHERE example_id = 3) "
                    "WHERE example_id = 60"
                )
            found.append(ranked(store, made, queries.repeat(3, 1), "block"))
            chunk = scan.Chunk(*(part.clone() for part in next(scan.chunks(store, made, "all_encoded"))))
    assert found[0].keys() == found[1].keys()
    for pair, score in found[0].items():
        assert found[1][pair] == pytest.approx(score, abs=1e-7)
    units, _ = codes.decode(chunk.code, chunk.scales, WIDE, codes.CODES["1bit"])
    for query in range(9):
        assert found[0][query, 3] == found[0][query, 60]
        for example in range(80):
            q, z = (v.double().view(8, 256) for v in (queries[query % 3], units[example]))
            wanted = float(torch.cosine_similarity(q, z, dim=1).mean())
            assert found[0][query, example] == pytest.approx(wanted, abs=1e-3)


def test_a_block_of_zeros_scores_nothing() -> None:
    examples = torch.zeros(2, D)
    examples[1, :64] = 1
    chunk = chunk_of(examples, "int8")
    prepared = sixteen(encoder("int8"), torch.zeros(1, D).index_fill_(1, torch.arange(64), 2.0))
    prepared.load(chunk)
    found = prepared.scores(1 / prepared.lengths(None).clamp(min=1e-30))
    assert found[0].tolist() == pytest.approx([0, 16], abs=1e-3)  # 64 * 2 * 1 / |1| of 64 ones


WIDE = encoders.make_blocks([(f"m{i}", 256) for i in range(8)])


def synthetic(store: Store, n: int, code: str = "int8", blocks: Any = WIDE) -> tuple[Encoder, torch.Tensor]:
    """Random codes, long enough for their weights to be kept."""
    wide = encoder(code, blocks)
    generator = torch.Generator().manual_seed(1)
    quantised, scales = codes.encode(torch.randn(n, 2048, generator=generator), blocks, codes.CODES[code])
    table = pyarrow.table(
        {
            "i": range(n),
            "code": [bytes(row) for row in quantised.numpy()],
            "scales": [bytes(row) for row in scales.numpy()],
        }
    )
    with store.transaction(), store.registered(made=table):
        encoders.save(store, wide)
        store.execute("INSERT INTO examples SELECT i, i::VARCHAR, 't', NULL, NULL, 0 FROM made")
        store.execute(
            "INSERT INTO encodings SELECT $e, i, code, scales, 1, 1, 'ok' FROM made", {"e": wide.encoder_id}
        )
    return wide, torch.randn(3, 2048, generator=generator)


def ranked(
    store: Store, wide: Encoder, queries: torch.Tensor, norm: str = "vector", curvature: str = "none"
) -> dict[Any, float]:
    ids = range(len(queries))
    with selected(store, None):
        pairs = linear_map.rank_vectors(
            store, wide, Parts(curvature, norm), ids, queries, Request(top_k=40)
        ).pairs
    rows = zip(*(pairs[name].to_pylist() for name in ("query_id", "example_id", "score")), strict=True)
    return {(query, example): value for query, example, value in rows}


def test_weights_are_computed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "rows_at_once", lambda _: 25)
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(store, 80)
        first = ranked(store, wide, queries)
        assert store.value("SELECT count(*) FROM block_weights") == 3  # not the rest of five
        computed: list[int] = []
        lengths = products.FloatProducts.lengths, products.IntegerProducts.lengths
        for kind, method in zip((products.FloatProducts, products.IntegerProducts), lengths, strict=True):

            def counted(self: Any, matrices: Any, method: Any = method) -> torch.Tensor:
                computed.append(1)
                return method(self, matrices)  # type: ignore[no-any-return]

            monkeypatch.setattr(kind, "lengths", counted)
        assert ranked(store, wide, queries) == first
        assert len(computed) == 1  # the last chunk
        # A code that changed is not taken for what it was.
        store.execute("UPDATE encodings SET scales = (SELECT scales FROM encodings WHERE example_id = 30) "
                      "WHERE example_id = 7")  # fmt: skip
        ranked(store, wide, queries)
        assert len(computed) == 3


@pytest.mark.parametrize("curvature", ["none", "corpus"])
def test_weights_of_signs_are_kept_where_a_matrix_makes_them(
    path: Path, monkeypatch: pytest.MonkeyPatch, curvature: str
) -> None:
    monkeypatch.setattr(scan, "rows_at_once", lambda _: 40)
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(
            store, 80, "halfbit", encoders.make_blocks([(f"m{i}", 512) for i in range(4)])
        )
        alone = ranked(store, wide, queries[:1], "block", curvature)
        kept_at_once = store.value("SELECT count(*) FROM block_weights")
        together = ranked(store, wide, queries.repeat(3, 1), "block", curvature)
        assert (
            kept_at_once == store.value("SELECT count(*) FROM block_weights") == 2 * (curvature == "corpus")
        )
    for pair, score in alone.items():  # looked up for one, multiplied for nine
        assert together[pair] == pytest.approx(score, abs=1e-3 if curvature == "none" else 1e-4)


def test_kept_weights_change_no_score_by_more_than_float16(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(store, 80)
        with monkeypatch.context() as unkept:
            unkept.setattr("attrstore.vectors.kept.LEAST_DIMENSIONS", 4096)
            exact = ranked(store, wide, queries)
        monkeypatch.setattr(scan, "rows_at_once", lambda _: 80)
        kept = ranked(store, wide, queries)
        assert store.value("SELECT count(*) FROM block_weights") == 1
    largest = max(map(abs, exact.values()))
    assert max(abs(exact[pair] - kept[pair]) for pair in exact) < 2**-11 * largest
    assert any(exact[pair] != kept[pair] for pair in exact)


def test_weights_of_a_code_that_changed_are_not_taken_for_the_old_ones(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose norms stayed, under the same curvature: nothing but the code tells the chunk from what it was."""
    monkeypatch.setattr(scan, "rows_at_once", lambda _: 40)
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(store, 40)
        fixed = stored.corpus_curvature(store, wide, torch.device("cpu"))
        monkeypatch.setattr(stored, "corpus_curvature", lambda *_: fixed)
        before = ranked(store, wide, queries, "block", "corpus")
        store.execute(
            "UPDATE encodings SET code = (SELECT code FROM encodings WHERE example_id = 3) WHERE example_id = 7"
        )
        found = ranked(store, wide, queries, "block", "corpus")
        store.execute("DELETE FROM block_weights")
        wanted = ranked(store, wide, queries, "block", "corpus")
    assert found == wanted
    assert all(found[query, 7] == found[query, 3] != before[query, 7] for query in range(3))


def test_weights_under_an_earlier_curvature_are_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the file would grow with every batch of appended examples, each of which changes the curvature."""
    monkeypatch.setattr(scan, "rows_at_once", lambda _: 40)
    recipes = "SELECT norm, count(DISTINCT recipe), count(*) FROM block_weights GROUP BY norm ORDER BY norm"
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(store, 40)
        ranked(store, wide, queries, "block", "corpus")
        ranked(store, wide, queries, "vector")
        assert store.rows(recipes) == [("block", 1, 1), ("vector", 1, 1)]
        store.execute("UPDATE encodings SET code = (SELECT code FROM encodings WHERE example_id = 3)")
        ranked(store, wide, queries, "block", "corpus")
        assert store.rows(recipes) == [("block", 1, 1), ("vector", 1, 1)]


@pytest.mark.parametrize("own", [None, "3GB", "1GiB", "-1"])
def test_a_scan_holds_duckdb_to_its_share_of_memory(path: Path, own: str | None) -> None:
    limit = "SELECT current_setting('memory_limit')"
    with attrstore.open(path, create=True) as store:
        wide, queries = synthetic(store, 80)
        if own:
            store.execute("SET memory_limit = $own", {"own": own})
        before = store.value(limit)
        seen: list[str] = []

        def look(done: int, total: int) -> None:
            seen.append(store.connection.cursor().execute(limit).fetchall()[0][0])

        with selected(store, None):
            linear_map.rank_vectors(
                store, wide, Parts("none", "none"), [0, 1, 2], queries, Request(progress=look)
            )
        assert seen == ["512.0 MiB"]
        assert store.value(limit) == before
