"""A corpus as token ids, and the inputs that training and validation draw from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stance.corpus import Corpus
from stance.holders import HolderTargets
from stance.model import Encoded, InputBuilder
from stance.neutrality import swap_names


class TrainingSet:
    """Token ids of a corpus, computed once, and what is needed to draw inputs from them.

    With `is_swapped` also those of its sentences with the belligerents' names swapped.
    """

    def __init__(
        self,
        corpus: Corpus,
        inputs: InputBuilder,
        soft_weight: float,
        taught: NDArray[np.float64] | None = None,
        teacher_weight: float = 0.0,
        *,
        is_swapped: bool = False,
    ) -> None:
        self.ids = inputs.token_ids(corpus.texts)
        self.inputs = inputs
        self.first = _first_rows(corpus.groups)
        hard = np.eye(len(corpus.classes_))[corpus.y]
        self.target = (1 - soft_weight) * hard + soft_weight * corpus.soft_labels()
        if taught is not None:
            self.target = (1 - teacher_weight) * self.target + teacher_weight * taught
        self.y = corpus.y
        self.holders = [HolderTargets(corpus, inputs, is_swapped=False)]
        if is_swapped:
            self.swapped = inputs.token_ids([swap_names(t) for t in corpus.texts])
            self.holders.append(HolderTargets(corpus, inputs, is_swapped=True))

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, row: int, *, is_bare: bool = False, is_swapped: bool = False) -> Encoded:
        """The input of one row: without its context, with the belligerents' names swapped."""
        ids = self.swapped if is_swapped else self.ids
        first = self.first[row]
        chosen = [] if is_bare else self.inputs.choose_context(row - first)
        return self.inputs.join(ids[row], [ids[first + i] for i in chosen])


def _first_rows(groups: Sequence[str]) -> list[int]:
    first: list[int] = []
    for row, group in enumerate(groups):
        first.append(first[-1] if row and groups[row - 1] == group else row)
    return first
