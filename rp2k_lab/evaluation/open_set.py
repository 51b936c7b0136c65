"""Known or unknown: calibrated probabilities, a threshold that refuses an asked share of known images, its measures.

Pure NumPy.  The threshold is split conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005).
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np


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
