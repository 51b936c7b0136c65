"""The verdict on a table with equal seeds, by plain loops; rp2k_lab/ablation/significance.py must equal it."""

import numpy as np


def cell_variances(accuracies, prior=(0.0, 0.0)):
    """Return (variance of a cell for each level, its degrees of freedom) from (levels, seeds)."""
    levels, seeds = accuracies.shape
    rest = np.empty_like(accuracies)
    for i in range(levels):
        for j in range(seeds):
            rest[i, j] = accuracies[i, j] - accuracies[i].mean() - accuracies[:, j].mean() + accuracies.mean()
    pooled = (rest**2).sum() / ((levels - 1) * (seeds - 1))
    borrowed = min(6, (levels - 2) * (seeds - 1))
    freedom = borrowed + prior[0] + seeds - 1
    variances = []
    for i in range(levels):
        own = levels / (levels - 1) * (rest[i] ** 2).sum() / (seeds - 1)
        variances.append((borrowed * pooled + prior[0] * prior[1] + (seeds - 1) * own) / freedom)
    return np.array(variances), freedom


def image_covariance(correct):
    """Return the covariance of the levels' mean correctness, (levels, levels), without the rest."""
    levels, seeds, images = correct.shape
    means = correct.mean(axis=1)
    covariance = np.empty((levels, levels))
    for i in range(levels):
        for j in range(levels):
            product = (means[i] - means[i].mean()) * (means[j] - means[j].mean())
            covariance[i, j] = product.sum() / (images - 1)
        rest = 0.0
        for run in correct[i]:
            rest += ((run - run.mean() - means[i] + means[i].mean()) ** 2).sum()
        covariance[i, i] -= rest / ((seeds - 1) * (images - 1)) / seeds
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(np.maximum(eigenvalues, 0)) @ vectors.T


def judge(correct, rows, margin=None, alpha=0.05, prior=(0.0, 0.0)):
    """Return [(difference, low, high, adjusted p, word)] of rows (level, baseline).

    correct: (levels, seeds, images).
    """
    levels, seeds, images = correct.shape
    variances, freedom = cell_variances(correct.mean(axis=2), prior)
    contrasts = np.array([(np.arange(levels) == a) * 1.0 - (np.arange(levels) == b) for a, b in rows])
    of_seeds = contrasts @ np.diag(variances / seeds) @ contrasts.T
    of_images = contrasts @ image_covariance(correct) @ contrasts.T / images
    covariance, values = of_seeds + of_images, contrasts @ correct.mean(axis=(1, 2))
    errors = np.sqrt(np.diag(covariance))
    spread = np.diag(of_seeds) ** 2 / freedom + np.diag(of_images) ** 2 / (images - 1)
    least = (np.diag(covariance) ** 2 / spread).min()
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(errors, errors))
    rng = np.random.default_rng(0)
    normal = vectors @ np.diag(np.sqrt(np.maximum(eigenvalues, 0))) @ rng.standard_normal((len(rows), 20000))
    draws = np.abs(normal) / np.sqrt(rng.chisquare(least, 20000) / least)
    quantile, t = np.quantile(draws.max(axis=0), 1 - alpha), np.abs(values) / errors
    p, worst = np.empty(len(rows)), 0.0
    for place, row in enumerate(np.argsort(-t)):
        left = np.argsort(-t)[place:]
        p[row] = worst = max(worst, (1 + (draws[left].max(axis=0) >= t[row]).sum()) / 20001)
    found = []
    for value, error, each in zip(values, errors, p, strict=True):
        low, high = value - quantile * error, value + quantile * error
        word = "better" if value > 0 else "worse"
        if each > alpha:
            word = "equal" if margin and -margin < low and high < margin else "inconclusive"
        found.append((value, low, high, each, word))
    return found
