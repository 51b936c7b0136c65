"""The search for nearest embeddings, by NumPy and by faiss if it is installed."""

import logging

import numpy as np
import pytest

from rp2k_lab.analysis import vector_search
from rp2k_lab.analysis.vector_search import build_search
from rp2k_lab.core.errors import RequestError


def clustered(count: int, seed: int) -> np.ndarray:
    """Return rows of length 1 around 50 directions, float32 (count, 32)."""
    directions = np.random.default_rng(0).standard_normal((50, 32), dtype=np.float32)
    rng = np.random.default_rng(seed)
    rows = directions[rng.integers(0, 50, count)] + 0.4 * rng.standard_normal((count, 32), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


VECTORS, QUERIES = clustered(4000, 1), clustered(60, 2)
EXACT = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :5]


def search(kind: str):
    return build_search(kind, VECTORS, lambda: None)(QUERIES, 5)


def test_numpy_searches_exactly(caplog):
    caplog.set_level(logging.INFO)
    positions, cosines = search("ivf")
    np.testing.assert_array_equal(positions, EXACT)
    np.testing.assert_allclose(cosines, np.take_along_axis(QUERIES @ VECTORS.T, EXACT, 1), atol=1e-6)
    assert "task.index=ivf: acts above 500000 photos; these 4000 are searched exactly" in caplog.text


@pytest.mark.parametrize(("kind", "recall"), [("flat", 1.0), ("sq8", 0.9), ("ivf", 0.7)])
def test_faiss_searches_more_images(monkeypatch, kind, recall):
    pytest.importorskip("faiss", reason="the extra faiss is not installed (faiss-cpu)")
    monkeypatch.setattr(vector_search, "MOST_BY_NUMPY", 3999)
    positions, cosines = search(kind)
    assert positions.shape == cosines.shape == (60, 5)
    found = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(positions, EXACT, strict=True)])
    assert found >= recall
    assert (np.diff(cosines, axis=1) <= 1e-6).all()
    known = positions >= 0
    exact = np.take_along_axis(QUERIES @ VECTORS.T, np.maximum(positions, 0), 1)
    np.testing.assert_allclose(cosines[known], exact[known], atol=0.03 if kind == "sq8" else 1e-5)


def test_without_faiss_many_images_are_searched_by_numpy_and_other_indexes_are_refused(monkeypatch, caplog):
    monkeypatch.setattr(vector_search, "MOST_BY_NUMPY", 3999)
    monkeypatch.setattr(vector_search, "find_spec", lambda name: None)
    np.testing.assert_array_equal(search("flat")[0], EXACT)
    assert "4000 photos are searched by NumPy; install the extra faiss" in caplog.text
    with pytest.raises(
        RequestError, match=r"^task\.index=sq8: faiss is not installed\ninstall the extra faiss: .*; or "
    ):
        search("sq8")
