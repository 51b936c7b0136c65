"""Thresholds, calibration and open-set measures against simulation and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.evaluation.open_set import (
    OpenSet,
    accepted_at,
    auroc,
    calibration_error,
    conformal,
    fit_temperature,
    known_columns,
)


def test_the_threshold_refuses_the_asked_share_of_new_known_images():
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(400):
        open_set = conformal(rng.normal(size=199))
        refused.append(1 - open_set.known(rng.normal(size=200).astype(np.float32), 0.1).mean())
    # The mean is floor(0.1 · 200) / 200 exactly; 0.004 is four standard errors.
    assert abs(np.mean(refused) - 0.1) < 0.004


def test_p_values_and_threshold_say_the_same():
    open_set = conformal(np.arange(99)[::-1])
    scores = np.array([-1, 0, 3.5, 98, 200], np.float32)
    np.testing.assert_allclose(open_set.p_values(scores), [0.01, 0.02, 0.05, 1.0, 1.0])
    assert open_set.threshold(0.05) == 3
    np.testing.assert_array_equal(open_set.known(scores, 0.05), scores > 4 - 1e-6)
    assert open_set.threshold(0) == float("-inf")
    assert open_set.known(scores, 0).all()


def test_columns_only_with_scores_of_val():
    assert known_columns(np.ones(2, np.float32), None, 0.05) == {}
    columns = known_columns(np.array([0.1, 0.9], np.float32), conformal(np.linspace(0.5, 1, 50)), 0.05)
    assert columns["known"].tolist() == [False, True]
    assert list(columns) == ["known", "score", "p_value"]


def test_records_come_back_and_strangers_are_refused():
    open_set = conformal(np.random.default_rng(1).random(9), 1.5)
    back = OpenSet.from_json(open_set.as_json())
    assert back.temperature == 1.5
    assert (back.scores == open_set.scores).all()
    for text in ("{}", "[]", '{"temperature": 0, "scores": []}', '{"temperature": 1, "scores": ["a"]}', "no JSON"):
        with pytest.raises(ValueError, match=r"open set|JSON|Expecting|convert"):
            OpenSet.from_text(text)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_sharpened_logits_is_found(temperature):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20_000, 6)).astype(np.float32) * 2
    labels = np.array([rng.choice(6, p=row) for row in softmax(logits.astype(np.float64))])
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_auroc_with_ties_is_scikit_learns_and_its_interval_covers():
    rng = np.random.default_rng(3)
    known, unknown = rng.integers(2, 9, 70), rng.integers(0, 7, 50)
    truth = np.r_[np.ones(70), np.zeros(50)]
    assert auroc(known, unknown).value == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]), abs=1e-12)
    inside = 0
    for _ in range(300):
        score = auroc(rng.normal(1, size=60), rng.normal(size=80))
        inside += score.low <= 0.76025 <= score.high  # Φ(1 / √2)
    assert inside >= 270


def test_share_accepted_at_95_percent():
    known, unknown = np.arange(100.0), np.array([3.0, 4.0, 5.0, 90.0])
    assert accepted_at(known, unknown).value == 0.75
    assert accepted_at(known, unknown).count == 4


def test_calibration_error_of_honest_and_boastful_answers():
    rng = np.random.default_rng(4)
    probabilities = rng.uniform(0.2, 1, 4000)
    honest = calibration_error(probabilities, rng.random(4000) < probabilities)
    boastful = calibration_error(probabilities, rng.random(4000) < probabilities - 0.15)
    assert honest.value < 0.04
    assert 0.11 < boastful.value < 0.19
    assert boastful.low <= 0.15 <= boastful.high
    assert calibration_error(np.array([0.7]), np.array([True])).value == pytest.approx(0.3)
