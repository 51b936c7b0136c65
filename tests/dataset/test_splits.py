from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.splits import assign_folds, draw_fraction, hold_out_val, select_classes


class TestVal:
    def split(self, counts, fraction=0.2, seed=0):
        names = np.repeat(list(counts), list(counts.values()))
        table = pd.DataFrame({"class": names, "split": "train"})
        return table.assign(split=hold_out_val(table, fraction, seed))

    def val_of(self, *args, **kwargs):
        table = self.split(*args, **kwargs)
        return set(table.index[table["split"] == "val"])

    def test_is_stratified(self):
        counts = {"a": 100, "b": 10, "c": 5, "d": 3, "e": 2}
        table = self.split(counts)
        val = table[table["split"] == "val"]["class"].value_counts().to_dict()
        assert val == {"a": 20, "b": 2, "c": 1, "d": 1, "e": 1}

    def test_single_image_stays_in_train(self):
        table = self.split({"a": 10, "lone": 1})
        assert table[table["class"] == "lone"]["split"].tolist() == ["train"]

    @pytest.mark.parametrize("fraction", [0.5, 0.75, 0.9, 0.99])
    def test_every_class_keeps_an_image_in_train(self, fraction):
        """A class without training images cannot be learned."""
        table = self.split({"a": 100, "b": 5, "c": 3, "d": 2}, fraction)
        assert set(table[table["split"] == "train"]["class"]) == {"a", "b", "c", "d"}

    def test_seeded(self):
        counts = {"a": 100, "b": 50}
        assert self.val_of(counts) == self.val_of(counts)
        assert self.val_of(counts, seed=1) != self.val_of(counts)

    def test_a_smaller_fraction_is_part_of_a_larger_one(self):
        counts = {"a": 100, "b": 13, "c": 2}
        assert self.val_of(counts, 0.05) < self.val_of(counts, 0.1) < self.val_of(counts, 0.4)

    def test_an_added_class_changes_no_other(self):
        before = self.split({"b": 30, "c": 20})
        after = self.split({"a": 17, "b": 30, "c": 20})
        for name in "bc":
            one, other = (t[t["class"] == name]["split"].tolist() for t in (before, after))
            assert one == other

    def test_test_split_and_the_given_table_do_not_change(self):
        table = pd.DataFrame({"class": ["a"] * 10, "split": ["train"] * 5 + ["test"] * 5})
        split = hold_out_val(table, 0.4, 0)
        assert (split[5:] == "test").all()
        assert (table["split"][:5] == "train").all()

    def test_is_not_the_first_images_of_each_class(self):
        """Neighboring file names are often images of one shelf."""
        assert self.val_of({"a": 100}) != set(range(20))


COUNTS = {"a": 100, "b": 10, "c": 3, "lone": 1}


class TestFraction:
    def used(self, fraction, seed=0, counts=COUNTS):
        names = np.repeat(list(counts), list(counts.values()))
        table = pd.DataFrame({"class": [*names, "a", "b"], "split": ["train"] * len(names) + ["val", "test"]})
        return table, draw_fraction(table, fraction, seed)

    @pytest.mark.parametrize(
        ("fraction", "counts"),
        [(1.0, COUNTS), (0.5, {"a": 50, "b": 5, "c": 2, "lone": 1}), (0.01, {"a": 1, "b": 1, "c": 1, "lone": 1})],
    )
    def test_is_stratified_and_keeps_one_of_each_class(self, fraction, counts):
        table, used = self.used(fraction)
        assert table[used & (table["split"] == "train")]["class"].value_counts().to_dict() == counts

    def test_keeps_all_of_val_and_test(self):
        table, used = self.used(0.1)
        assert used[table["split"] != "train"].all()

    def test_is_nested(self):
        parts = [self.used(fraction)[1] for fraction in (0.05, 0.2, 0.5, 0.9)]
        for smaller, larger in pairwise(parts):
            assert not (smaller & ~larger).any()
            assert smaller.sum() < larger.sum()

    def test_is_seeded(self):
        one, again, other = (self.used(0.5, seed)[1] for seed in (0, 0, 1))
        assert (one == again).all()
        assert (one != other).any()

    def test_an_added_class_changes_no_other(self):
        table, before = self.used(0.5, counts={"b": 10, "c": 30})
        wider, after = self.used(0.5, counts={"a": 7, "b": 10, "c": 30})
        for name in "bc":
            assert (before[table["class"] == name] == after[wider["class"] == name]).all()

    def test_is_independent_of_val(self):
        """Two draws of one class with one seed must not use the same permutation."""
        table = pd.DataFrame({"class": ["a"] * 100, "split": "train"})
        val = (hold_out_val(table, 0.5, 0) == "val").to_numpy()
        assert 10 < (val & draw_fraction(table, 0.5, 0)).sum() < 40


class TestFolds:
    def assign(self, folds, counts=COUNTS):
        names = np.repeat(list(counts), list(counts.values()))
        table = pd.DataFrame({"class": [*names, "a", "b"], "split": ["train"] * len(names) + ["val", "test"]})
        return table, assign_folds(table, folds)

    @pytest.mark.parametrize("folds", [2, 3, 5])
    def test_folds_of_a_class_differ_by_at_most_one_image(self, folds):
        table, fold = self.assign(folds)
        for name in "abc":
            of_class = fold[(table["class"] == name) & (table["split"] == "train")]
            sizes = np.bincount(of_class, minlength=folds)
            assert sizes.sum() == COUNTS[name]
            assert np.ptp(sizes) <= 1

    def test_val_test_and_a_class_of_one_image_are_in_no_fold(self):
        table, fold = self.assign(3)
        outside = (table["split"] != "train") | (table["class"] == "lone")
        assert ((fold == -1) == outside).all()

    def test_every_class_keeps_images_without_any_fold(self):
        table, fold = self.assign(2, {"a": 2, "b": 3, "c": 1})
        for i in range(2):
            rest = table[(fold != i) & (table["split"] == "train")]
            assert set(rest["class"]) == {"a", "b", "c"}

    def test_larger_folds_vary_from_class_to_class(self):
        """Otherwise the first fold would lack the tail, and the last would have it twice."""
        _, fold = self.assign(3, {f"c{i}": 2 for i in range(60)})
        assert np.bincount(fold[fold >= 0], minlength=3).min() > 20

    def test_an_added_class_changes_no_other(self):
        table, before = self.assign(3, {"b": 10, "c": 30})
        wider, after = self.assign(3, {"a": 7, "b": 10, "c": 30})
        for name in "bc":
            assert (before[table["class"] == name] == after[wider["class"] == name]).all()


class TestClasses:
    @pytest.fixture
    def table(self):
        rows = [("a", "train")] * 5 + [("b", "train")] * 2 + [("others", "train")] * 9
        rows += [("a", "test"), ("b", "test"), ("others", "val")]
        return pd.DataFrame(rows, columns=["class", "split"])

    def test_all_are_kept_by_default(self, table):
        pd.testing.assert_frame_equal(select_classes(table, 1, None), table)

    def test_small_ones_are_dropped_from_every_split(self, table):
        kept = select_classes(table, 3, None)
        assert kept["class"].value_counts().to_dict() == {"a": 6, "others": 10}
        assert kept.index.tolist() == list(range(16))

    def test_the_catch_all_is_dropped_from_every_split(self, table):
        assert set(select_classes(table, 1, "others")["class"]) == {"a", "b"}

    def test_dropping_all_is_refused_with_the_largest_class(self, table):
        with pytest.raises(RequestError, match=r"min_images_per_class=10.*\n.*9"):
            select_classes(table, 10, None)

    def test_an_unknown_catch_all_is_refused(self, table):
        with pytest.raises(RequestError, match="no class rest"):
            select_classes(table, 1, "rest")
