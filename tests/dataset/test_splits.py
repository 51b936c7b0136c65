from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.splits import assign_folds, complete_splits, draw_fraction, hold_out_val, select_classes
from tests.helpers.dataset_options import options


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


def grouped(*rows):
    """Return a table of (class, group, number of images), all in train."""
    names = [name for name, _, count in rows for _ in range(count)]
    groups = [group for _, group, count in rows for _ in range(count)]
    paths = [f"{i}.jpg" for i in range(len(names))]
    return pd.DataFrame({"path": paths, "class": names, "group": groups, "split": "train"})


SCENES = [(name, f"{name}{i}", 4) for name in "abc" for i in range(10)]


class TestGroups:
    def val(self, table, fraction=0.2, seed=0):
        split = hold_out_val(table, fraction, seed)
        divided = table.assign(split=split)[table["group"] != ""].groupby("group")["split"].nunique()
        assert (divided <= 1).all()
        kept = set(table.loc[split == "train", "class"])
        assert kept == set(table["class"])
        return table[split == "val"]

    def test_are_stratified(self):
        assert self.val(grouped(*SCENES))["class"].value_counts().to_dict() == {"a": 8, "b": 8, "c": 8}

    def test_are_seeded_whatever_the_order_of_the_rows(self):
        table = grouped(*SCENES)
        shuffled = table.sample(frac=1, random_state=1)
        assert set(self.val(table)["group"]) == set(self.val(shuffled)["group"])
        assert set(self.val(table)["group"]) != set(self.val(table, seed=1)["group"])

    def test_an_added_class_changes_no_other(self):
        before, after = (self.val(grouped(*rows)) for rows in (SCENES[10:], SCENES))
        assert set(before["group"]) == set(after.loc[after["class"] != "a", "group"])

    def test_a_class_of_one_group_stays_in_train(self):
        assert set(self.val(grouped(*SCENES, ("lone", "l", 30)))["class"]) == {"a", "b", "c"}

    def test_images_without_a_group_are_drawn_one_by_one(self):
        table = grouped(("a", "", 50), ("b", "", 10))
        assert self.val(table)["class"].value_counts().to_dict() == {"a": 10, "b": 2}

    def test_the_smallest_of_large_groups_is_taken(self):
        val = self.val(grouped(("a", "large", 60), ("a", "small", 20), ("a", "larger", 70)), 0.05)
        assert set(val["group"]) == {"small"}

    def test_large_groups_do_not_take_all_for_val(self):
        """With two equal groups a class, half of every class would be in val."""
        table = grouped(*[(f"c{i}", f"g{i}{j}", 10) for i in range(20) for j in range(2)])
        assert len(self.val(table, 0.1)) == 80  # at most twice the fraction of 400

    @pytest.mark.parametrize("seed", range(5))
    def test_groups_may_span_classes(self, seed):
        """Shops: each has all classes, some have one that few others have."""
        rng = np.random.default_rng(seed)
        rows = [
            (f"c{i:02}", f"shop{j}", int(rng.integers(1, 9)))
            for j in range(10)
            for i in range(30)
            if rng.random() < 0.7
        ]
        rows += [("rare", "shop0", 3), ("rarer", "shop1", 1), ("rarer", "shop2", 1)]
        val = self.val(grouped(*rows), 0.2, seed)
        assert "shop0" not in set(val["group"])  # the only one with the class `rare`
        assert 0.1 < len(val) / len(grouped(*rows)) < 0.4

    def test_no_group_can_leave_train(self):
        assert self.val(grouped(("a", "1", 5), ("b", "2", 5))).empty

    def test_empty(self):
        assert hold_out_val(grouped(), 0.2, 0).empty

    def test_a_draw_of_many_groups_is_quick(self):
        table = grouped(*[(f"c{i % 2000}", f"g{i}", 4) for i in range(20_000)])
        assert 0.15 < len(self.val(table)) / len(table) < 0.35


class TestDrawnTest:
    def complete(self, table, **changes):
        return complete_splits(table, options("folder", **changes))

    def table(self, count, split=None):
        return pd.DataFrame({"path": [f"{i}.jpg" for i in range(count)], "class": "a", "split": [split] * count})

    @pytest.mark.parametrize(("count", "test", "val"), [(1, 0, 0), (2, 0, 1), (3, 1, 1), (10, 1, 1), (100, 10, 9)])
    def test_counts(self, count, test, val):
        split = self.complete(self.table(count))
        assert [(split == name).sum() for name in ("test", "val", "train")] == [test, val, count - test - val]

    def test_differs_from_the_draw_of_val(self):
        """With one seed, the second draw would take the neighbors of the first."""
        table = self.table(1000)
        test = self.complete(table, test_fraction=0.5) == "test"
        val = hold_out_val(table.assign(split="train"), 0.5, 0) == "val"
        assert 200 < (test & val).sum() < 300

    def test_is_not_drawn_from_given_images(self):
        table = pd.concat([self.table(10, "train"), self.table(10)], ignore_index=True)
        split = self.complete(table, test_fraction=0.9)
        assert (split == "test").sum() == 9
        assert not (split[:10] == "test").any()

    def test_a_given_test_gets_no_more(self):
        table = pd.concat([self.table(3, "test"), self.table(10)], ignore_index=True)
        assert (self.complete(table, test_fraction=0.9) == "test").sum() == 3

    def test_groups_stay_together(self):
        table = grouped(*SCENES).assign(split=None)
        split = self.complete(table)
        assert split.groupby(table["group"]).nunique().max() == 1
        counts = pd.crosstab(table["class"], split)
        assert (counts[["test", "val"]] >= 4).all(axis=None)

    def test_two_groups_go_to_train_and_val(self):
        table = grouped(("a", "1", 10), ("a", "2", 10)).assign(split=None)
        assert set(self.complete(table)) == {"train", "val"}


class TestGroupFolds:
    @pytest.mark.parametrize("folds", [2, 3, 5])
    def test_groups_stay_together_and_classes_are_spread(self, folds):
        table = grouped(*SCENES, ("lone", "l", 7), ("pair", "p1", 2), ("pair", "p2", 5))
        fold = assign_folds(table, folds)
        assert pd.Series(fold).groupby(table["group"]).nunique().max() == 1
        assert (fold[table["class"] == "lone"] == -1).all()
        assert len(set(fold[table["class"] == "pair"])) == 2
        for name in "abc":
            sizes = np.bincount(fold[table["class"] == name], minlength=folds)
            assert sizes.sum() == 40
            assert np.ptp(sizes) <= 8

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class_keeps_images_without_any_fold(self, seed):
        rng = np.random.default_rng(seed)
        rows = [(f"c{i}", f"shop{j}", 3) for i in range(40) for j in rng.choice(6, rng.integers(1, 4), replace=False)]
        table = grouped(*rows)
        fold = assign_folds(table, 3)
        for i in range(3):
            assert set(table[fold != i]["class"]) == set(table["class"])
        assert pd.Series(fold).groupby(table["group"]).nunique().max() == 1

    def test_images_outside_of_train_are_in_no_fold(self):
        table = grouped(*SCENES)
        table.loc[:9, "split"] = "val"
        fold = assign_folds(table, 3)
        assert ((fold == -1) == (table["split"] == "val")).all()

    def test_empty(self):
        assert len(assign_folds(grouped(), 3)) == 0
