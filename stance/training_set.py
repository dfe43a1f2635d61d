"""A corpus as token ids, and the inputs that training and validation draw from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stance.corpus import Corpus
from stance.holders import HolderTargets
from stance.model import Encoded, InputBuilder


class TrainingSet:
    """Token ids of a corpus, computed once, and what is needed to draw inputs from them."""

    def __init__(
        self,
        corpus: Corpus,
        inputs: InputBuilder,
        soft_weight: float,
        taught: NDArray[np.float64] | None = None,
        teacher_weight: float = 0.0,
    ) -> None:
        n = len(corpus)
        self.ids = [
            inputs.token_ids(corpus.texts, [is_swapped] * n) for is_swapped in (False, True)
        ]
        self.texts, self.inputs = corpus.texts, inputs
        self.first = _first_rows(corpus.groups)
        hard = np.eye(len(corpus.classes_))[corpus.y]
        self.target = (1 - soft_weight) * hard + soft_weight * corpus.soft_labels()
        if taught is not None:
            self.target = (1 - teacher_weight) * self.target + teacher_weight * taught
        self.y = corpus.y
        self.holders = [HolderTargets(corpus, inputs, is_swapped=s) for s in (False, True)]

    def __len__(self) -> int:
        return len(self.texts)

    def encode(self, row: int, *, is_bare: bool = False) -> Encoded:
        """The input of one row, without its context where `is_bare`."""
        first = self.first[row]
        before = [] if is_bare else [first + i for i in self.inputs.choose_context(row - first)]
        is_swapped = self.inputs.is_swapped(*(self.texts[i] for i in (row, *before)))
        ids = self.ids[is_swapped]
        return self.inputs.join(ids[row], [ids[i] for i in before], is_swapped=is_swapped)


def _first_rows(groups: Sequence[str]) -> list[int]:
    first: list[int] = []
    for row, group in enumerate(groups):
        first.append(first[-1] if row and groups[row - 1] == group else row)
    return first
