"""Nearest embeddings: exact by NumPy, and above 500,000 by faiss, if the extra `faiss` is installed."""

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from rp2k_lab.analysis.neighbors import nearest
from rp2k_lab.core.errors import RequestError

log = logging.getLogger(__name__)

MOST_BY_NUMPY = 500_000  # embeddings; above, a part of a core-hour for a thousand images
_BLOCK = 16_384
_TRAINING = 40  # embeddings to fit each cell of ivf; faiss warns below 39
_PROBED = 24  # ivf looks into one of so many cells

# (embeddings (n, width), count) to (positions int64 (n, count), cosines float32 (n, count)), nearest first.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def build_search(kind: str, vectors: np.ndarray, check: Callable[[], None]) -> Search:
    """Return the search for the nearest of `vectors`, float32 (images, width) of length 1.

    Args:
        kind: flat, sq8 or ivf, see the key `task.index`.
        check: called between blocks; raises to stop (a signal).

    Raises:
        RequestError: sq8 or ivf without faiss.
    """
    if len(vectors) <= MOST_BY_NUMPY:
        if kind != "flat":
            log.info("task.index=%s: acts above %d photos; these %d are searched exactly",
                     kind, MOST_BY_NUMPY, len(vectors))  # fmt: skip
        return _by_numpy(vectors, check)
    if find_spec("faiss") is None:
        way_out = "install the extra faiss: pip install -c constraints.txt -e '.[faiss]'"
        if kind != "flat":
            raise RequestError(f"task.index={kind}: faiss is not installed\n{way_out}; or leave out task.index")
        log.warning("%d photos are searched by NumPy; %s", len(vectors), way_out)
        return _by_numpy(vectors, check)
    return _by_faiss(kind, vectors, check)


def _by_numpy(vectors: np.ndarray, check: Callable[[], None]) -> Search:
    def search(queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        positions, distances = nearest(queries, vectors, count, check=check)
        return positions, 1 - distances

    return search


def _by_faiss(kind: str, vectors: np.ndarray, check: Callable[[], None]) -> Search:
    index = _new_index(import_module("faiss"), kind, vectors)
    for start in range(0, len(vectors), _BLOCK):
        check()
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))

    def search(queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(queries), _BLOCK):
            check()
            parts.append(index.search(np.ascontiguousarray(queries[start : start + _BLOCK]), min(count, len(vectors))))
        cosines, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
        return positions, cosines

    return search


def _new_index(faiss: Any, kind: str, vectors: np.ndarray) -> Any:
    """Return an empty faiss index, fitted to a sample of the embeddings."""
    count, width = vectors.shape
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "sq8":
        index, samples = (
            faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT),
            100_000,
        )
    else:
        cells = max(1, min(round(2 * count**0.5), count // _TRAINING))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe, samples = max(1, cells // _PROBED), _TRAINING * cells
    step = max(1, count // samples)
    index.train(np.ascontiguousarray(vectors[::step]))
    return index
