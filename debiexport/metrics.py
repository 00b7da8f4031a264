"""What is measured when two results are compared. The definitions here hold for every figure of debiexport.

relative error   max|a - b| / max|reference|
PSNR             20 log10(max|reference| / rms(a - b)), in dB; infinite where nothing differs
cosine           of the flattened results of one image, the smallest of all images
noise floor      relative error of the reference in float32 against the same in float64 with the same routes
route agreement  share of regions whose top-k set is equal
margin           gap between the k-th and the (k+1)-th affinity over the spread (max - min) of that row
"""

from __future__ import annotations

import math

import numpy as np

from debiexport.runtimes.base import Array


def relative_error(a: Array, reference: Array) -> float:
    """max|a - b| / max|reference|; infinite if `a` is not finite."""
    if not np.isfinite(a).all():
        return math.inf
    wide = reference.astype(np.float64)
    scale = float(np.abs(wide).max())
    error = float(np.abs(a.astype(np.float64) - wide).max())
    return error / scale if scale > 0 else (0.0 if error == 0 else math.inf)


def psnr_db(a: Array, reference: Array) -> float:
    """20 log10(max|reference| / rms(a - b)) in dB."""
    if not np.isfinite(a).all():
        return -math.inf
    wide = reference.astype(np.float64)
    rms = float(np.sqrt(np.mean((a.astype(np.float64) - wide) ** 2)))
    peak = float(np.abs(wide).max())
    if rms == 0:
        return math.inf
    return 20 * math.log10(peak / rms) if peak > 0 else -math.inf


def cosine(a: Array, reference: Array) -> float:
    """Cosine of the two flattened arrays; NaN if one of them is zero or not finite."""
    x, y = a.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else math.nan


def top_classes(logits: Array, k: int) -> Array:
    """Indices (N, min(k, classes)) of the largest logits (N, classes), largest first, ties by index."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def top_agreement(a: Array, reference: Array, k: int) -> float:
    """Share of images whose sets of k best classes are equal."""
    same = np.sort(top_classes(a, k), axis=1) == np.sort(top_classes(reference, k), axis=1)
    return float(same.all(axis=1).mean())
