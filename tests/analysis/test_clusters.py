"""Clusters of look-alikes."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.clusters import cluster_table, look_alike_clusters
from tests.helpers.error_cases import case, cases


def pairs(*rows: tuple) -> pd.DataFrame:
    """Return pairs from rows of (first, second, confused[, look_alike])."""
    full = [(*row, True)[:4] for row in rows]
    return pd.DataFrame(full, columns=["first", "second", "confused", "look_alike"])


def sort_clusters(clusters: list[list[str]]) -> list[list[str]]:
    return sorted(sorted(names) for names in clusters)


def test_clusters_are_connected_components():
    clusters = look_alike_clusters(pairs(("a", "b", 5), ("c", "d", 4), ("b", "e", 1), ("d", "f", 9, False)), None)
    assert sort_clusters(clusters) == [["a", "b", "e"], ["c", "d"]]


def test_catch_all_class_joins_no_cluster():
    clusters = look_alike_clusters(pairs(("a", "others", 5), ("b", "others", 4), ("a", "c", 1)), "others")
    assert sort_clusters(clusters) == [["a", "c"]]


def test_a_chain_is_cut_at_the_least_confused_pair():
    chain = [(f"k{i}", f"k{i + 1}", count) for i, count in enumerate([9, 9, 1, 9, 9])]
    assert sort_clusters(look_alike_clusters(pairs(*chain), None, 4)) == [["k0", "k1", "k2"], ["k3", "k4", "k5"]]
    long = [(f"k{i:03}", f"k{i + 1:03}", 1 + i % 7) for i in range(200)]
    sizes = [len(names) for names in look_alike_clusters(pairs(*long), None)]
    assert max(sizes) <= 12
    assert sum(sizes) > 150


def test_order_of_pairs_does_not_matter():
    rng = np.random.default_rng(0)
    table = pairs(*[(f"k{a}", f"k{b}", int(n)) for a, b, n in rng.integers(0, 40, (80, 3)) if a < b])
    shuffled = table.sample(frac=1, random_state=1)
    assert sort_clusters(look_alike_clusters(table, None)) == sort_clusters(look_alike_clusters(shuffled, None))


def test_no_cluster_without_look_alikes():
    clusters = look_alike_clusters(pairs(("a", "b", 5, False)), None)
    table = cluster_table(clusters, cases(case("a", "b")))
    assert clusters == []
    assert list(table.columns) == ["cluster", "classes", "images", "errors_within", "share"]
    assert len(table) == 0


def test_cluster_table_counts_errors_within_clusters():
    rows = [case("a", "b")] * 2 + [case("c", "b")] * 1 + [case("x", "y")] * 4 + [case("y", "a"), case("z", "z")]
    rows += [case("b", "b")] * 2
    table = cluster_table([["a", "b", "c"], ["x", "y"]], cases(*rows))
    assert table["cluster"].tolist() == [0, 1]
    assert table["classes"].tolist() == [["x", "y"], ["b", "a", "c"]]
    assert table["images"].tolist() == [5, 5]
    assert table["errors_within"].tolist() == [4, 3]
    assert table["share"].tolist() == pytest.approx([4 / 8, 3 / 8])
