"""Ranks, monotone maps and ridge regression in numpy: what a calibration is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[Any]) -> NDArray[Any]:
    """(N,) ranks from 0, equal values sharing their mean rank."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[inverse.reshape(-1)]


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation of two (N,) arrays; NaN when one of them is constant or there are fewer than three."""
    if len(a) < 3:
        return float("nan")
    first, second = ranks(np.asarray(a)), ranks(np.asarray(b))
    spread = first.std() * second.std()
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread > 0 else float("nan")


def within(a: NDArray[Any], b: NDArray[Any], group: NDArray[Any]) -> float:
    """Mean over groups of the rank correlation inside each, weighted by their sizes; groups below 8 are left out."""
    found = [(spearman(a[group == g], b[group == g]), int((group == g).sum())) for g in np.unique(group)]
    kept = [(value, size) for value, size in found if size >= 8 and not np.isnan(value)]
    return float(np.average([v for v, _ in kept], weights=[n for _, n in kept])) if kept else float("nan")


def interval(
    a: NDArray[Any], b: NDArray[Any], group: NDArray[Any], draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of `spearman` by drawing whole groups with replacement: samples of a scene are not independent."""
    rng, names = np.random.default_rng(seed), np.unique(group)
    rows = {g: np.flatnonzero(group == g) for g in names}
    found = []
    for _ in range(draws):
        chosen = np.concatenate([rows[g] for g in rng.choice(names, len(names))])
        found.append(spearman(a[chosen], b[chosen]))
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def ridge(figures: NDArray[Any], target: NDArray[Any], strength: float = 1.0) -> tuple[NDArray[Any], float]:
    """Weights (K,) and offset of the linear map of standardised figures (N, K) that is nearest to the target (N,)."""
    centre = target.mean()
    gram = figures.T @ figures + strength * np.eye(figures.shape[1])
    return np.linalg.solve(gram, figures.T @ (target - centre)), float(centre)


def monotone(score: NDArray[Any], target: NDArray[Any], knots: int = 12) -> tuple[NDArray[Any], NDArray[Any]]:
    """A rising piecewise linear map score -> target, fitted to bins of equally many samples (isotonic regression).

    Returns:
        (K,) rising scores and (K,) rising targets.
    """
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, min(knots, max(1, len(order) // 8)))
    blocks: list[tuple[float, float, int]] = []
    for part in parts:
        blocks.append((float(score[part].mean()), float(target[part].mean()), len(part)))
        # Pool adjacent violators: one knot for all bins among which the target does not rise.
        while len(blocks) > 1 and (blocks[-2][1] >= blocks[-1][1] or blocks[-2][0] >= blocks[-1][0]):
            (x0, y0, n0), (x1, y1, n1) = blocks[-2:]
            total = n0 + n1
            blocks[-2:] = [((x0 * n0 + x1 * n1) / total, (y0 * n0 + y1 * n1) / total, total)]
    return np.array([x for x, _, _ in blocks]), np.array([y for _, y, _ in blocks])


def reliability(
    trust: NDArray[Any], quality: NDArray[Any], bins: int = 10
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Bins of equally many samples.

    Returns:
        (K,) mean trust, (K,) mean true quality, (K,) its standard deviation inside the bin.
    """
    parts = np.array_split(np.argsort(trust, kind="stable"), min(bins, len(trust)))
    means = [(trust[part].mean(), quality[part].mean(), quality[part].std()) for part in parts]
    return tuple(np.array(column) for column in zip(*means, strict=True))  # type: ignore[return-value]


def calibration_error(trust: NDArray[Any], quality: NDArray[Any], bins: int = 10) -> float:
    """Mean over `reliability` bins of the distance between trust and true quality."""
    mean, true, _ = reliability(trust, quality, bins)
    return float(np.abs(mean - true).mean())
