"""The protocol of new products on synthetic features with known answers."""

import numpy as np
import pytest

from rp2k_lab.enrollment import heads
from rp2k_lab.enrollment.protocol import (
    Base,
    Labeled,
    Outputs,
    build_base,
    class_folds,
    draw_photos,
    interval_over_splits,
    measure,
    split_within_brands,
)

OLD, NEW, UNKNOWN, WIDTH = 8, 3, 2, 24


def clusters(spread: float, seed: int = 0) -> Base:
    """13 classes of Gaussian features: 8 old, 3 new, 2 unknown."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.standard_normal((OLD + NEW + UNKNOWN, WIDTH))
    labels = np.repeat(np.arange(len(means)), 40)
    features = (means[labels] + spread * rng.standard_normal((len(labels), WIDTH))).astype(np.float32)
    splits = np.tile(np.repeat(["train", "val", "test"], [20, 8, 12]), len(means))
    classes = class_folds(len(means), 4)[0]
    classes = type(classes)(np.arange(OLD), OLD + np.arange(NEW), OLD + NEW + np.arange(UNKNOWN))
    return build_base(features, labels, splits, classes)


def all_heads(base: Base) -> dict[str, heads.Enroll]:
    trained = heads.fit_logistic(base.train, 1e-3)
    return {
        "cosine": heads.prototype(base, whitened=False),
        "whitened": heads.prototype(base),
        "centers": heads.centers(base),
        "nearest photo": heads.nearest_photo(base),
        "head": heads.with_trained_head(heads.centers(base), base, trained),
        "ridge": heads.ridge(base, 0.1),
        "retrained": heads.retrained(base, 1e-3),
    }


def no_photos(base: Base) -> Labeled:
    return base.new.at(np.zeros(0, int))


@pytest.fixture(scope="module")
def base() -> Base:
    return clusters(0.5)


@pytest.fixture(scope="module")
def enrolls(base) -> dict[str, heads.Enroll]:
    return all_heads(base)


def test_a_base_has_old_classes_in_train_and_val_and_all_in_test(base):
    assert set(base.train.labels) == set(base.val.labels) == set(range(OLD))
    assert set(base.new.labels) == {OLD, OLD + 1, OLD + 2}
    assert set(base.test.labels) == {-1, *range(OLD + NEW)}
    assert (base.test.labels == -1).sum() == UNKNOWN * 12


def test_clear_clusters_are_told_apart_by_every_head(base, enrolls):
    for name, enroll in enrolls.items():
        values = measure(enroll(no_photos(base)), enroll(draw_photos(base.new, 5, [0])), base)
        assert values["new_top1"] > 0.97, name
        assert values["old_before"] == 1, name
        assert values["old_after"] > 0.97, name
        assert values["auroc"] > 0.9, name
        assert values["ece"] < 0.2, name


def test_references_know_no_new_product_or_forget_the_old_ones(base):
    trained = heads.fit_logistic(base.train, 1e-3)
    untouched = heads.untouched(base, trained)
    before = untouched(no_photos(base))
    values = measure(before, untouched(base.new), base)
    assert values["new_top1"] == values["harmonic"] == values["stolen"] == values["old_change"] == 0
    tuned = measure(before, heads.fine_tuned(base, trained)(base.new), base)
    assert tuned["new_top1"] > 0.97
    assert tuned["stolen"] > 0
    assert tuned["old_change"] == pytest.approx(tuned["old_after"] - tuned["old_before"])


def test_galleries_never_move_an_old_score(base, enrolls):
    for name in ("cosine", "whitened", "centers", "nearest photo"):
        before, after = enrolls[name](no_photos(base)), enrolls[name](base.new)
        assert np.array_equal(before.test, after.test[:, :OLD]), name
        assert np.array_equal(before.threshold, after.threshold), name
        changed = before.test.argmax(axis=1) != after.test.argmax(axis=1)
        assert (after.test.argmax(axis=1)[changed] >= OLD).all(), name


def test_the_trained_head_decides_among_old_classes(base):
    rng = np.random.default_rng(1)
    random = heads.Linear(rng.standard_normal((WIDTH, OLD)).astype(np.float32), np.zeros(OLD, np.float32))
    outputs = heads.with_trained_head(heads.centers(base), base, random)(base.new)
    old = outputs.test.argmax(axis=1) < OLD
    assert np.array_equal(outputs.test.argmax(axis=1)[old], random(base.test.features).argmax(axis=1)[old])
    assert np.exp(outputs.test).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_linear_head_is_recovered_from_its_logits(base):
    trained = heads.fit_logistic(base.train, 1e-3)
    again = heads.linear_of(base.train.features, trained(base.train.features))
    assert again(base.test.features) == pytest.approx(trained(base.test.features), abs=1e-3)


def test_a_start_changes_no_solution_of_logistic_regression(base):
    both = base.train.joined(base.new)
    cold = heads.fit_logistic(both, 1e-2, 500)
    warm = heads.fit_logistic(both, 1e-2, 500, heads.fit_logistic(base.train, 1e-2))
    assert warm.weight == pytest.approx(cold.weight, abs=5e-3)


def test_draws_are_nested_and_seeded(base):
    two, five = (draw_photos(base.new, count, [1, 2]) for count in (2, 5))
    assert len(two.labels) == 2 * NEW
    assert {row.tobytes() for row in two.features} < {row.tobytes() for row in five.features}
    assert np.array_equal(draw_photos(base.new, 5, [1, 2]).features, five.features)
    assert len(draw_photos(base.new, 500, [1]).labels) == len(draw_photos(base.new, None, [1]).labels) == 20 * NEW


def test_measures_of_hand_made_outputs():
    empty = Labeled(np.zeros((0, 1), np.float32), np.zeros(0, int))
    test = Labeled(np.zeros((6, 1), np.float32), np.array([0, 0, 1, 2, 2, -1]))
    base = Base(empty, Labeled(np.zeros((2, 1), np.float32), np.array([0, 1])), test, empty, old=2)
    sure = lambda *answers: 100.0 * np.eye(3)[list(answers)]  # noqa: E731
    hidden, threshold = np.array([0.3, 0.5]), np.linspace(0.5, 1, 99)
    before = Outputs(sure(0, 1)[:, :2], sure(0, 0, 1, 0, 0, 0)[:, :2], np.zeros(6), hidden, threshold)
    known = np.array([0.9, 0.9, 0.1, 0.9, 0.9, 0.2])
    values = measure(before, Outputs(sure(0, 1), sure(0, 2, 1, 2, 0, 0), known, hidden, threshold), base)
    assert values["new_top1"] == values["new_macro_top1"] == 0.5
    assert values["old_before"] == 1
    assert values["old_after"] == pytest.approx(2 / 3)
    assert values["harmonic"] == pytest.approx(4 / 7)
    assert values["stolen"] == 1
    assert values["auroc"] == pytest.approx(0.8)
    assert values["listed_refused"] == 0.2
    assert values["unknown_accepted"] == 0
    assert values["open_set"] == pytest.approx(3 / 6)
    assert values["ece"] == pytest.approx(0.4)


def test_every_class_is_new_once_and_unknown_at_most_once():
    splits = class_folds(120)
    assert [(len(s.old), len(s.new), len(s.unknown)) for s in splits] == [(84, 24, 12)] * 5
    assert sorted(np.concatenate([s.new for s in splits])) == list(range(120))
    unknown = np.concatenate([s.unknown for s in splits])
    assert len(set(unknown)) == len(unknown)
    for split in splits:
        assert len(set(split.old) | set(split.new) | set(split.unknown)) == 120


def test_look_alikes_stand_on_both_sides():
    brands = [str(i // 3) for i in range(30)]
    may_be_new = np.arange(30) % 2 == 0
    split = split_within_brands(brands, may_be_new, 6, 3, seed=1)
    assert (len(split.new), len(split.unknown)) == (6, 3)
    assert may_be_new[split.new].all()
    assert {brands[i] for i in (*split.new, *split.unknown)} <= {brands[i] for i in split.old}
    with pytest.raises(ValueError, match="too few"):
        split_within_brands(brands, may_be_new, 20, 3, seed=1)


def test_intervals_cover_splits_and_draws():
    """Of 150 simulated tables, about 95 % hold the truth, whichever of splits and draws varies."""
    rng, splits = np.random.default_rng(0), np.repeat(np.arange(5), 4)
    for of_splits, of_draws in ((1.0, 0.2), (0.0, 1.0), (0.5, 0.5)):
        held = 0
        for _ in range(150):
            values = of_splits * rng.standard_normal(5)[splits] + of_draws * rng.standard_normal(20)
            _, low, high, _ = interval_over_splits(values, splits)
            held += low <= 0 <= high
        assert 0.9 <= held / 150 <= 1
    mean, _, _, sd = interval_over_splits(np.array([1.0, 3.0, 2.0, 4.0]), np.array([0, 0, 1, 1]))
    assert (mean, sd) == (2.5, pytest.approx(np.sqrt(2)))
