"""Compare the search for nearest embeddings by faiss (the extra `faiss`) with that by NumPy, as task=embed does them.

    python -m benchmarks.neighbors [--vectors 500000] [--width 256] [--queries 512] [--rounds 3]

The vectors lie around 20,000 directions.  A search lists ten neighbors; recall is the fraction of NumPy's that it has.
"""

import argparse
import time
from unittest import mock

import numpy as np

import rp2k_lab  # noqa: F401  before MindSpore: sets its environment
from benchmarks.timing import interleave, ratio_line
from rp2k_lab.analysis import vector_search
from rp2k_lab.analysis.vector_search import Search, build_search

COUNT, DIRECTIONS, SPREAD = 10, 20_000, 0.7


def main() -> None:
    """Print what it takes to build each index, its recall and its time beside NumPy's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("vectors", 500_000), ("width", 256), ("queries", 512), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((DIRECTIONS, options.width), dtype=np.float32)
    vectors, queries = (around(directions, count, rng) for count in (options.vectors, options.queries))
    searches = {"NumPy": build_search("flat", vectors, lambda: None)}
    with mock.patch.object(vector_search, "MOST_BY_NUMPY", 0):
        for kind in ("flat", "sq8", "ivf"):
            started = time.perf_counter()
            searches[kind] = build_search(kind, vectors, lambda: None)
            print(f"faiss {kind}: built in {time.perf_counter() - started:.1f} s", flush=True)
    exact = searches["NumPy"](queries, COUNT)[0]
    seconds = interleave({name: timed(search, queries) for name, search in searches.items()}, options.rounds)
    print(f"NumPy: {np.median(seconds['NumPy']):.2f} s for {len(queries)} of {len(vectors)}")
    for kind in ("flat", "sq8", "ivf"):
        found = searches[kind](queries, COUNT)[0]
        recall = np.mean([len(set(a) & set(b)) / COUNT for a, b in zip(found, exact, strict=True)])
        print(f"{ratio_line(f'faiss {kind} / NumPy:', seconds[kind] / seconds['NumPy'])}, recall {recall:.3f}")


def around(directions: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows of length 1 around some directions, float32 (count, width)."""
    rows = directions[rng.integers(0, len(directions), count)]
    rows += SPREAD * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(search: Search, queries: np.ndarray):
    """Return a function that searches and returns the seconds it took."""

    def measure() -> float:
        started = time.perf_counter()
        search(queries, COUNT)
        return time.perf_counter() - started

    return measure


if __name__ == "__main__":
    main()
