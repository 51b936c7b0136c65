import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.figures import (
    _short,
    plot_accuracy_over_class_size,
    plot_confused_pairs,
    plot_curves,
)
from rp2k_lab.evaluation.metrics import Predictions, per_class, predictions_table

CLASSES = ["555（冰炫）", "others", "雪碧 $1$"]


@pytest.fixture
def index(tmp_path, write_photo):
    rows = []
    for split, count in (("train", 2), ("test", 3)):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                path = f"{split}/{name}/{i}.png"
                write_photo(tmp_path / path, 10 + label, 20)
                rows.append((path, name, label, split))
    table = pd.DataFrame(rows, columns=["path", "class", "label", "split"])
    return Index(tmp_path, table, CLASSES, "", "", table[:0])


def make_predictions(index, top):
    """Return predictions of the test split, and their table, for the most probable labels `top`."""
    labels = index.split("test")["label"].to_numpy(np.int32)
    predictions = Predictions(labels, np.array(top, np.int32)[:, None], np.ones((len(top), 1), np.float32))
    return predictions, predictions_table(predictions, index.split("test"), CLASSES)


def is_not_blank(file):
    with Image.open(file) as image:
        return np.ptp(np.asarray(image.convert("L"))) > 50


@pytest.mark.parametrize(
    "top",
    [
        pytest.param([2, 0, 0, 1, 1, 1, 2, 2, 0], id="one pair, both ways"),
        pytest.param([0, 0, 0, 1, 1, 1, 2, 2, 1], id="one image"),
        pytest.param([1, 2, 1, 0, 2, 2, 0, 1, 0], id="every pair"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_confused_pairs_with_chinese_names(index, tmp_path, top):
    """A missing glyph is a warning, and warnings are errors."""
    file = plot_confused_pairs(make_predictions(index, top)[1], index, "test", tmp_path / "figures" / "pairs.png")
    assert is_not_blank(file)


def test_no_figure_without_errors(index, tmp_path):
    table = make_predictions(index, [0, 0, 0, 1, 1, 1, 2, 2, 2])[1]
    assert plot_confused_pairs(table, index, "test", tmp_path / "pairs.png") is None
    assert not (tmp_path / "pairs.png").exists()


@pytest.mark.parametrize("counts", [[100, 10, 1], [5, 5, 5]])
@pytest.mark.filterwarnings("error")
def test_accuracy_over_class_size(index, tmp_path, counts):
    table = per_class(make_predictions(index, [0, 0, 1, 1, 1, 1, 2, 0, 0])[0], CLASSES, np.array(counts))
    assert is_not_blank(plot_accuracy_over_class_size(table, "test", tmp_path / "a.png"))


@pytest.mark.filterwarnings("error")
def test_accuracy_with_an_empty_group_and_class(tmp_path):
    predictions = Predictions(np.zeros(2, np.int32), np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32))
    table = per_class(predictions, CLASSES, np.array([9, 5, 1]))
    assert is_not_blank(plot_accuracy_over_class_size(table, "val", tmp_path / "a.png"))


@pytest.mark.parametrize("steps", [1, 2, 49, 500])
@pytest.mark.filterwarnings("error")
def test_curves(tmp_path, steps):
    history = {
        "train/loss": [(step + 1, 3 / (step + 1)) for step in range(steps)],
        "train/lr": [(step + 1, 0.1) for step in range(steps)],
        "val/top1": [(steps, 0.5)],
    }
    assert is_not_blank(plot_curves(history, tmp_path / "new" / "curves.png"))


def test_figures_are_closed(tmp_path, index):
    import matplotlib.pyplot as plt

    plot_confused_pairs(make_predictions(index, [2] * 9)[1], index, "test", tmp_path / "a.png")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "short"),
    [("雪碧", "雪碧"), ("a" * 22, "a" * 22), ("a" * 23, "a" * 21 + "…"), ("$1$", r"\$1\$"), ("a\tb", r"a\tb")],
)
def test_short_names(name, short):
    assert _short(name) == short
