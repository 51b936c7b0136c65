import numpy as np
import pandas as pd
import pytest

from rp2k_lab.dataset.summary import class_table, copies_by_relation, missing_classes, ratio_counts


def images(*rows):
    """Return a table of (class, split, problem)."""
    return pd.DataFrame(rows, columns=["class", "split", "problem"]).astype({"problem": object})


def test_class_table_of_a_small_set():
    rows = [("b", "train", None)] * 3 + [("a", "train", None)] * 3 + [("c", "train", None)]
    rows += [
        ("a", "train", "zero bytes"),
        ("b", "test", None),
        ("lost", "test", None),
        ("bad", "train", "truncated JPEG"),
    ]
    table = class_table(images(*rows))
    assert table.to_dict("list") == {
        "class": ["a", "b", "c", "bad", "lost"],
        "train": [3, 3, 1, 0, 0],
        "val": [0, 0, 0, 0, 0],
        "test": [0, 1, 0, 0, 1],
        "unreadable": [1, 0, 0, 1, 0],
        "group": ["medium", "medium", "tail", "", ""],
    }
    assert missing_classes(table, ["train", "test"]) == {"train": ["bad", "lost"], "test": ["a", "bad", "c"]}


def test_class_table_without_training_images():
    assert class_table(images(("a", "test", None)))["group"].tolist() == [""]


def test_ratio_bins():
    table = pd.DataFrame({"width": [100, 100, 100, 10, 10], "height": [49, 50, 100, 49, 50]})
    assert ratio_counts(table).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def copies(*rows):
    """Return a table of (group, content, class, split)."""
    return pd.DataFrame(rows, columns=["group", "content", "class", "split"])


def counts(table):
    return {(row.relation, row.group): (row.photos, row.exact) for row in table.itertuples()}


def test_relations_of_a_few_copies():
    table = copies(
        (0, 0, "a", "train"), (0, 0, "a", "train"), (0, 1, "a", "train"),  # three of one class: two superfluous
        (1, 2, "a", "train"), (1, 2, "b", "train"), (1, 3, "b", "train"),  # one of another class, the same bytes
        (2, 4, "a", "train"), (2, 4, "a", "test"), (2, 5, "a", "test"),  # two test images, one with the same bytes
        (3, 6, "a", "train"), (3, 7, "b", "val"), (3, 7, "b", "test"),  # everything at once
    )  # fmt: skip
    relations = copies_by_relation(table)
    assert counts(relations) == {
        ("within a class", 0): (2, 1),
        ("across classes", 1): (1, 1),
        ("within a class", 1): (1, 0),
        ("within a class", 2): (1, 0),
        ("train and test", 2): (2, 1),
        ("across classes", 3): (1, 0),
        ("train and test", 3): (1, 0),
        ("train and val", 3): (1, 0),
        ("val and test", 3): (1, 1),
    }
    for row in relations.itertuples():
        first, second = table.loc[row.first], table.loc[row.second]
        assert first["group"] == second["group"] == row.group
        if row.relation == "across classes":
            assert first["class"] != second["class"]
        elif row.relation == "within a class":
            assert list(first[["class", "split"]]) == list(second[["class", "split"]])
        else:
            assert f"{first['split']} and {second['split']}" == row.relation


def test_examples_prefer_different_bytes():
    relations = copies_by_relation(copies((0, 0, "a", "train"), (0, 0, "a", "train"), (0, 1, "a", "train")))
    assert relations[["first", "second"]].values.tolist() == [[0, 2]]


def test_no_copies():
    assert len(copies_by_relation(copies())) == 0


@pytest.mark.parametrize("relation", ["within a class", "across classes", "train and test"])
def test_a_huge_group_is_quick(relation):
    """20,000 equal images, like a camera's test images."""
    count = 20_000
    names = np.where(np.arange(count) % 1000, "a", "b")
    split = np.where(np.arange(count) % 7, "train", "test")
    relations = copies_by_relation(pd.DataFrame({"group": 0, "content": 0, "class": names, "split": split}))
    expected = {"within a class": count - 4, "across classes": 20, "train and test": (split == "test").sum()}
    assert counts(relations)[relation, 0] == (expected[relation],) * 2
