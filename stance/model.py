"""The classifier network and its inputs.

Inputs are ``[CLS] sentence [SEP] context [SEP]``; the sentence's own token vectors are averaged and
classified, so context informs the answer but is never itself classified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import nn

from stance.encoder import Base, base_weights, build_encoder
from stance.neutrality import is_ukraine_first, original_offsets, rename
from stance.segment import clean_text


@dataclass(frozen=True)
class ModelSpec:
    """What a model is; stored as `bundle.json`.

    Attributes
    ----------
    classes_ : labels in column order.
    base, base_sha256, base_revision : the encoder it was tuned from.
    encoder : configuration of the encoder.
    cls_id, sep_id, pad_id : special token ids.
    max_length_tokens : longest input, context included.
    n_context : sentences before the target that are read, 0 to 3.
    has_headline : whether the article's first sentence is always among the context.
    is_neutral : whether belligerents' names are read as `stance.neutrality.rename` gives them.
    temperature : divides the logits (calibration).
    holders : classes of the head that says whose stance it is; empty without such a head.
    holder_temperature : divides that head's logits.
    training : how it was made; free JSON.
    """

    classes_: tuple[str, ...]
    base: str
    base_sha256: str
    encoder: dict[str, Any]
    cls_id: int
    sep_id: int
    pad_id: int
    base_revision: str | None = None
    max_length_tokens: int = 160
    n_context: int = 0
    has_headline: bool = False
    is_neutral: bool = True
    has_gate: bool = False
    temperature: float = 1.0
    holders: tuple[str, ...] = ()
    holder_temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)


def new_spec(
    classes: tuple[str, ...],
    base: Base,
    encoder: dict[str, Any],
    tokenizer: Tokenizer,
    **settings: Any,
) -> ModelSpec:
    """The spec of a model that is yet to be trained; `settings` are further fields."""
    start, end = tokenizer.encode("", add_special_tokens=True).ids[:2]
    return ModelSpec(
        classes_=classes,
        base=base.name,
        base_sha256=base.sha256,
        encoder=encoder,
        cls_id=start,
        sep_id=end,
        pad_id=int(encoder.get("pad_token_id") or 0),
        **settings,
    )


@dataclass(frozen=True)
class Encoded:
    """One model input.

    Attributes
    ----------
    ids : token ids.
    n_sentence : how many of them, from 1 on, are the sentence's.
    is_truncated : whether the sentence is cut.
    is_swapped : whether the belligerents' names are exchanged.
    """

    ids: list[int]
    n_sentence: int
    is_truncated: bool
    is_swapped: bool = False


# Quotation marks and dashes come in house styles; the model should not see them.
_PLAIN = str.maketrans(
    {**dict.fromkeys("“”„‟«»", '"'), **dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("–—―‑", "-")}
)
_MAX_CHARS = 20_000


def _plain(texts: Sequence[str]) -> list[str]:
    return [clean_text(t[:_MAX_CHARS]).translate(_PLAIN) for t in texts]


class InputBuilder:
    """Texts to token ids. Holds no mutable state, so threads may share it."""

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        self._tokenizer = tokenizer
        self._spec = spec
        self.pad_id = spec.pad_id
        self.max_sentence_tokens = spec.max_length_tokens - 2

    def is_swapped(self, *texts: str) -> bool:
        """Whether texts that are read together, the sentence first, have their names exchanged."""
        return self._spec.is_neutral and is_ukraine_first(*texts)

    def token_ids(self, texts: Sequence[str], swapped: Sequence[bool]) -> list[list[int]]:
        """Ids of each text, without special tokens, names exchanged in those that are `swapped`."""
        read = self._read(_plain(texts), swapped)
        encoded = self._tokenizer.encode_batch_fast(read, add_special_tokens=False)
        return [e.ids for e in encoded]

    def token_offsets(
        self, texts: Sequence[str], swapped: Sequence[bool]
    ) -> list[list[tuple[int, int]]]:
        """Where each token of `token_ids` begins and ends in `clean_text` of its text."""
        plain = _plain(texts)
        encoded = self._tokenizer.encode_batch(self._read(plain, swapped), add_special_tokens=False)
        if not self._spec.is_neutral:
            return [e.offsets for e in encoded]
        return [
            original_offsets(text, is_swapped, e.offsets)
            for text, is_swapped, e in zip(plain, swapped, encoded, strict=True)
        ]

    def _read(self, plain: Sequence[str], swapped: Sequence[bool]) -> list[str]:
        if not self._spec.is_neutral:
            return list(plain)
        return [rename(t, s) for t, s in zip(plain, swapped, strict=True)]

    def choose_context(self, n_before: int) -> list[int]:
        """Which of the `n_before` sentences before the target are read, in reading order."""
        chosen = list(range(max(0, n_before - self._spec.n_context), n_before))
        if self._spec.has_headline and n_before and 0 not in chosen:
            chosen.insert(0, 0)
        return chosen

    def encode(
        self, texts: Sequence[str], context: Sequence[Sequence[str]] | None = None
    ) -> list[Encoded]:
        """Inputs of texts, each with the sentences before it; every distinct text once."""
        read = [
            [before[i] for i in self.choose_context(len(before))]
            for before in (context if context is not None else [()] * len(texts))
        ]
        swapped = [self.is_swapped(t, *part) for t, part in zip(texts, read, strict=True)]
        rows = list(zip(texts, read, swapped, strict=True))
        distinct = list(dict.fromkeys((t, s) for text, part, s in rows for t in (text, *part)))
        made = self.token_ids([t for t, _ in distinct], [s for _, s in distinct])
        ids = dict(zip(distinct, made, strict=True))
        return [
            self.join(ids[text, s], [ids[t, s] for t in part], len(text) > _MAX_CHARS, s)
            for text, part, s in rows
        ]

    def join(
        self,
        sentence: list[int],
        context: Sequence[list[int]],
        is_cut: bool = False,
        is_swapped: bool = False,
    ) -> Encoded:
        """One input; where sentence and context don't fit, the oldest context goes first."""
        spec = self._spec
        room = spec.max_length_tokens - 2
        kept = sentence[:room]
        ids = [spec.cls_id, *kept, spec.sep_id]
        space = room - len(kept) - 1
        before = [i for part in context for i in part]
        if before and space > 0:
            ids += [*before[-space:], spec.sep_id]
        return Encoded(ids, len(kept), is_cut or len(kept) < len(sentence), is_swapped)


class Outputs(NamedTuple):
    """Logits of a batch of n inputs.

    `label` has shape (n, n_classes) and `holder` (n, n_holders). `span` has shape (n, length, 2):
    for each token how well it begins and ends the words that name the holder; the first token of
    the input stands for "not named". The latter two are None without a holder head.
    """

    label: torch.Tensor
    holder: torch.Tensor | None
    span: torch.Tensor | None


class StanceModel(nn.Module):
    """Encoder, mean over the sentence's tokens, dropout, linear heads."""

    def __init__(
        self,
        encoder: nn.Module,
        n_classes: int,
        n_holders: int = 0,
        dropout: float = 0.1,
        has_gate: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.has_gate = has_gate
        hidden = int(encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.has_segments = int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, n_classes)
        self.holder_head = nn.Linear(hidden, n_holders) if n_holders else None
        self.span_head = nn.Linear(hidden, 2) if n_holders else None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> Outputs:
        """Logits from `collate`'s tensors of shape (n, length)."""
        arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if self.has_segments:
            arguments["token_type_ids"] = batch["token_type_ids"]
        hidden = self.encoder(**arguments).last_hidden_state
        mean = self.dropout(mean_of_sentence(hidden, batch["sentence_mask"]))
        label = self.head(mean).float()
        if self.has_gate:
            label = gated(label)
        if self.holder_head is None or self.span_head is None:
            return Outputs(label, None, None)
        allowed = batch["sentence_mask"].bool()
        allowed[:, 0] = True
        span = self.span_head(self.dropout(hidden)).float()
        span = span.masked_fill(~allowed.unsqueeze(-1), -1e4)
        return Outputs(label, self.holder_head(mean).float(), span)


def gated(label: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of a gate (the first column: `none` or a stance) times a softmax of rest."""
    gate, rest = label[:, :1], torch.log_softmax(label[:, 1:], 1)
    return torch.cat([nn.functional.logsigmoid(gate), nn.functional.logsigmoid(-gate) + rest], 1)


def mean_of_sentence(hidden: torch.Tensor, sentence_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the sentence's tokens: (n, length, hidden) and (n, length) -> (n, hidden)."""
    mask = sentence_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def collate(inputs: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad inputs to one batch: four integer tensors of shape (n, longest)."""
    longest = max(len(e.ids) for e in inputs)
    shape = (len(inputs), longest)
    ids = torch.full(shape, pad_id)
    attention = torch.zeros(shape, dtype=torch.long)
    segment = torch.zeros(shape, dtype=torch.long)
    sentence = torch.zeros(shape, dtype=torch.long)
    for row, item in enumerate(inputs):
        n = len(item.ids)
        ids[row, :n] = torch.tensor(item.ids)
        attention[row, :n] = 1
        segment[row, item.n_sentence + 2 : n] = 1
        sentence[row, 1 : item.n_sentence + 1] = 1
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "token_type_ids": segment,
        "sentence_mask": sentence,
    }


def new_model(base: Base, spec: ModelSpec, dropout: float) -> StanceModel:
    """A model with the base's weights and a fresh head (draws from torch's global generator)."""
    encoder = build_encoder(spec.encoder, base_weights(base), base.folder)
    return StanceModel(encoder, len(spec.classes_), len(spec.holders), dropout, spec.has_gate)
