"""Known or unknown: calibrated probabilities, a threshold that refuses an asked share of known images, its measures.

Pure NumPy.  The threshold is split conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005).
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rp2k_lab.evaluation.intervals import Z95, wilson_interval
from rp2k_lab.evaluation.metric_registry import Score


@dataclass(frozen=True)
class OpenSet:
    """What a network's val images say about scores of known images.

    Attributes:
        temperature: divisor of the logits that calibrates the probabilities (Guo et al., arXiv 1706.04599).
        scores: of val images, float32, ascending; none: nothing is known or unknown.
    """

    temperature: float
    scores: np.ndarray

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return the conformal p-value of each score, float32 in (0, 1]: known images have p ≤ x at most with chance x.

        It is (1 + number of val scores no larger) / (1 + number of val scores).
        """
        below = np.searchsorted(self.scores, np.asarray(scores, np.float32), side="right")
        return ((1 + below) / (1 + len(self.scores))).astype(np.float32)

    def known(self, scores: np.ndarray, reject: float) -> np.ndarray:
        """Return bool (images,): whether each score is too large to be among the refused share of known images.

        Args:
            reject: share of known images that may be refused, [0, 1).
        """
        return self.p_values(scores) > reject

    def threshold(self, reject: float) -> float:
        """Return the largest val score that is refused; -inf if none is."""
        refused = self.scores[self.p_values(self.scores) <= reject]
        return float(refused[-1]) if len(refused) else float("-inf")

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return {"temperature": self.temperature, "scores": [float(score) for score in self.scores]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "OpenSet":
        """Return the record of `as_json`.

        Raises:
            ValueError: the values are no such record.
        """
        scores = np.array(values["scores"], np.float32)
        temperature = float(values["temperature"])
        if scores.ndim != 1 or not np.isfinite(scores).all() or not 0 < temperature < np.inf:
            raise ValueError("no scores and temperature of an open set")
        return cls(temperature, np.sort(scores))

    @classmethod
    def from_text(cls, text: str) -> "OpenSet":
        """Return the record of a JSON file's text.

        Raises:
            ValueError: it is no such record.
        """
        try:
            return cls.from_json(json.loads(text))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no record of an open set ({error})") from None


def known_columns(scores: np.ndarray, open_set: OpenSet | None, reject: float) -> dict[str, np.ndarray]:
    """Return the columns known (bool), score and p_value; none for a run that has recorded no scores of val."""
    if open_set is None:
        return {}
    return {"known": open_set.known(scores, reject), "score": scores, "p_value": open_set.p_values(scores)}


def conformal(scores: np.ndarray, temperature: float = 1.0) -> OpenSet:
    """Return the open set of val scores, any order."""
    return OpenSet(temperature, np.sort(np.asarray(scores, np.float32)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in [0.01, 100] that minimizes the cross-entropy of logits / temperature.

    Args:
        logits: float32 (images, classes), one image or more.
        labels: int (images,).
    """
    from scipy.optimize import minimize_scalar

    logits = logits - logits.max(axis=1, keepdims=True)
    true = logits[np.arange(len(labels)), labels].astype(np.float64)

    def cross_entropy(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((np.log(np.exp(logits * np.float32(scale)).sum(axis=1, dtype=np.float64)) - true * scale).mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(0.01), np.log(100)), method="bounded")
    return float(np.exp(found.x))


def auroc(known: np.ndarray, unknown: np.ndarray) -> Score:
    """Return the chance that a known image has a larger score than an unknown one; ties count half.

    Its 95 % interval is that of DeLong et al. (Biometrics 44, 1988).

    Args:
        known, unknown: scores, float (images,), one or more each.
    """
    from scipy.stats import rankdata

    n, m = len(known), len(unknown)
    ranks = rankdata(np.concatenate([known, unknown]))
    # For each known image the share of unknown ones below it, and for each unknown one that of known ones above it.
    above = (ranks[:n] - rankdata(known)) / m
    below = 1 - (ranks[n:] - rankdata(unknown)) / n
    value = float(above.mean())
    variance = (above.var(ddof=1) / n if n > 1 else 0.25) + (below.var(ddof=1) / m if m > 1 else 0.25)
    reach = Z95 * math.sqrt(variance)
    return Score(value, n + m, max(0.0, value - reach), min(1.0, value + reach))


def accepted_at(known: np.ndarray, unknown: np.ndarray, share: float = 0.95) -> Score:
    """Return the share of unknown images that are accepted where `share` of the known ones are (FPR95 at 0.95)."""
    threshold = np.quantile(known, 1 - share, method="lower")
    accepted = int((unknown >= threshold).sum())
    return Score(accepted / len(unknown), len(unknown), *wilson_interval(accepted, len(unknown)))


def calibration_error(probabilities: np.ndarray, correct: np.ndarray, bins: int = 15) -> Score:
    """Return the expected calibration error of the largest probabilities (Guo et al., 2017), in [0, 1].

    Its bins hold equal numbers of images.  The interval is that of 200 bootstrap samples, moved by their mean's
    excess over the value, since resampling adds to the error.

    Args:
        probabilities: float (images,).
        correct: bool (images,).
    """
    count, rng = len(correct), np.random.default_rng(0)
    value = expected_calibration_error(probabilities, correct, bins)
    samples = (rng.integers(count, size=count) for _ in range(200))
    drawn = np.array([expected_calibration_error(probabilities[rows], correct[rows], bins) for rows in samples])
    low, high = np.quantile(drawn, [0.025, 0.975]) - (drawn.mean() - value)
    return Score(value, count, max(0.0, float(low)), min(1.0, float(high)))


def expected_calibration_error(probabilities: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Return the value of `calibration_error` alone."""
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(float(probabilities[part].mean(dtype=np.float64)) - correct[part].mean()) for part in parts]
    return float(np.average(gaps, weights=[len(part) for part in parts]))
