"""A metric: the fraction of images whose class is among the three most probable."""

from rp2k_lab.evaluation.metric_registry import fraction, metric


@metric("top3", "top-3")
def top3(result):
    """Return the score of a split."""
    predictions = result.predictions
    right = (predictions.top_labels[:, :3] == predictions.labels[:, None]).any(1)
    return fraction(right.sum(), len(right))
