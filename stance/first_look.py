"""A first look: a linear rule over token ids that skips sentences which are surely `none`.

Most sentences of an archive convey no stance. A sum of one weight for each token and each pair of
neighbouring tokens says so of many of them at next to no cost, and the model reads the rest.
`stance.distill` fits the weights to a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stance.calibration import Calibration

N_PAIRS = 2**17
MAX_WEIGHTS = 2**18
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


@dataclass(frozen=True)
class FirstLook:
    """What a bundle holds of a first look.

    Attributes
    ----------
    weights : of the tokens, then of the hashed pairs, shape (n_words + N_PAIRS,).
    threshold : sentences that score less are skipped.
    proba : the answer for a skipped sentence, shape (n_classes,): how often each label was true of
        the skipped sentences of validation.
    calibration : answers on the validation split where the first look came before the model.
    """

    weights: NDArray[np.float32]
    threshold: float
    proba: NDArray[np.float64]
    calibration: Calibration

    def scores(self, sentences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """How much a stance is to be expected, shape (n,); `sentences` as in `features`."""
        return features(sentences, len(self.weights) - N_PAIRS) @ self.weights

    def skips(self, sentences: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Which sentences need not be read, shape (n,)."""
        return self.scores(sentences) < self.threshold


def features(sentences: Sequence[Sequence[int]], n_words: int) -> sparse.csr_matrix:
    """Counts of tokens and of hashed pairs, shape (n, n_words + N_PAIRS).

    Each row is divided by the fourth root of its number of features: between the sum, which grows
    with length, and the mean, which forgets a cue in a long sentence.

    Parameters
    ----------
    sentences : token ids of each, the special tokens before and after it included.
    """
    lengths = np.array([len(s) for s in sentences], dtype=np.int64)
    ids = np.fromiter((i for s in sentences for i in s), np.uint64, int(lengths.sum()))
    rows = np.repeat(np.arange(len(sentences)), lengths)
    is_inner = rows[:-1] == rows[1:]
    mixed = (ids[:-1] * _MIX[0]) ^ (ids[1:] * _MIX[1])
    pairs = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(N_PAIRS) + np.uint64(n_words)
    columns = np.concatenate([ids % np.uint64(n_words), pairs[is_inner]]).astype(np.int64)
    rows = np.concatenate([rows, rows[:-1][is_inner]])
    n_features = np.maximum(1, 2 * lengths - 1).astype(np.float32)
    values = (n_features**-0.25)[rows]
    shape = (len(sentences), n_words + N_PAIRS)
    return sparse.csr_matrix((values, (rows, columns)), shape, dtype=np.float32)
