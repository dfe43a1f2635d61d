"""Whose stance it is: training targets and loss of the holder heads, and reading their answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stance.corpus import Corpus
from stance.labels import HOLDERS
from stance.model import InputBuilder, Outputs
from stance.segment import clean_text

UNKNOWN = -1
_OTHER_SIDE = {"russia": "ukraine", "ukraine": "russia"}


def holder_classes(corpus: Corpus) -> tuple[str, ...]:
    """The codebook's holders where the corpus names any, else nothing."""
    return HOLDERS if any(s.holder for s in corpus.sentences) else ()


def other_side(holder: str) -> str:
    """The holder class where the belligerents are exchanged."""
    return _OTHER_SIDE.get(holder, holder)


class HolderTargets:
    """What the holder heads should answer for each row of a corpus.

    `holder` has shape (n,): class ids, `UNKNOWN` for sentences without a stance or a named holder
    class. `span` has shape (n, 2): input positions of the first and last token that name the
    holder, 0 where the sentence does not name it, `UNKNOWN` where that is not known.
    """

    def __init__(self, corpus: Corpus, inputs: InputBuilder, *, is_swapped: bool) -> None:
        """Targets of inputs in which the belligerents' names are exchanged, or are not."""
        n = len(corpus)
        self.holder = np.full(n, UNKNOWN)
        self.span = np.full((n, 2), UNKNOWN)
        rows = [i for i, s in enumerate(corpus.sentences) if s.holder]
        texts = [clean_text(corpus.sentences[i].text) for i in rows]
        offsets = inputs.token_offsets(texts, [is_swapped] * len(texts))
        for row, text, tokens in zip(rows, texts, offsets, strict=True):
            sentence = corpus.sentences[row]
            holder = str(sentence.holder)
            self.holder[row] = HOLDERS.index(other_side(holder) if is_swapped else holder)
            found = _tokens_of(text, clean_text(sentence.span), tokens)
            if found is not None and max(found) <= inputs.max_sentence_tokens:
                self.span[row] = found


def _tokens_of(text: str, span: str, tokens: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Input positions of a span's first and last token; (0, 0) for no span, None if not found."""
    if not span:
        return 0, 0
    start = text.find(span)
    if start < 0:
        return None
    inside = [i for i, (a, b) in enumerate(tokens) if a < start + len(span) and b > start]
    return (inside[0] + 1, inside[-1] + 1) if inside else None


def holder_loss(
    outputs: Outputs,
    holder: NDArray[np.int64],
    span: NDArray[np.int64],
    part: slice = slice(None),
) -> torch.Tensor:
    """Mean cross-entropy of holder, first and last token over the rows where each is known.

    Parameters
    ----------
    outputs : for the rows `part` of a batch.
    holder, span : targets of the whole batch, shapes (n,) and (n, 2), as in `HolderTargets`.
    part : the losses of parts add up to the batch's.
    """
    device = outputs.label.device
    assert outputs.holder is not None and outputs.span is not None
    parts = (
        (outputs.holder, holder),
        (outputs.span[..., 0], span[:, 0]),
        (outputs.span[..., 1], span[:, 1]),
    )
    loss = torch.zeros((), device=device)
    for logits, target in parts:
        n_known = max(1, int((target != UNKNOWN).sum()))
        loss = loss + (
            torch.nn.functional.cross_entropy(
                logits,
                torch.tensor(target[part], device=device),
                ignore_index=UNKNOWN,
                reduction="sum",
            )
            / n_known
        )
    return loss


def best_span(logits: NDArray[np.float64], max_tokens: int = 12) -> tuple[int, int] | None:
    """First and last input position of the best span, None where "not named" is better.

    Parameters
    ----------
    logits : of one input, shape (length, 2), the first position standing for "not named".
    """
    begins, ends = logits[1:, 0], logits[1:, 1]
    if not len(begins):
        return None
    n = len(begins)
    is_short = np.triu(np.tril(np.ones((n, n), bool), max_tokens - 1))
    scores = np.where(is_short, begins[:, None] + ends[None, :], -np.inf)
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    if scores[first, last] <= logits[0].sum():
        return None
    return int(first) + 1, int(last) + 1
