"""The predict API: load a model once, classify sentences or whole articles."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stance.config import resource_dir
from stance.errors import BundleError, InputError, StanceWarning
from stance.labels import NONE
from stance.model import Encoded, InputBuilder, ModelSpec, StanceModel, collate, load_bundle
from stance.records import ArticlePrediction, Prediction, Sentence
from stance.segment import split_sentences

DEFAULT_MODEL = "minilm"
_TOKENS_PER_BATCH = 4096


class StanceClassifier:
    """A loaded model. Threads may share it.

    Attributes
    ----------
    classes_ : labels, in the column order of `predict_proba`.
    spec : what the model is.
    """

    def __init__(self, model: StanceModel, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self.classes_ = spec.classes_
        self.device = next(model.parameters()).device
        self._model = model.eval()
        self._inputs = InputBuilder(tokenizer, spec)

    @overload
    def predict(self, texts: str) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, texts: Iterable[str]) -> list[Prediction]: ...
    def predict(self, texts: str | Iterable[str]) -> Prediction | list[Prediction]:
        """Classify one sentence, or several independent ones.

        Parameters
        ----------
        texts : a string gives one `Prediction`; an iterable of strings gives a list, same order.

        Notes
        -----
        A text without any letter is `none` with score 1. A text longer than the model reads is
        judged by its beginning, marked `is_truncated` and warned of (`StanceWarning`); for whole
        articles there is `predict_article`.

        Raises
        ------
        InputError : anything but strings.
        """
        rows = _as_texts(texts)
        proba, encoded = self._run(rows, None)
        made = [self._prediction(t, p, e) for t, p, e in zip(rows, proba, encoded, strict=True)]
        return made[0] if isinstance(texts, str) else made

    def predict_proba(
        self, texts: Iterable[str], context: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float64]:
        """Probabilities, shape (n_texts, n_classes), columns as `classes_`; rows sum to 1.

        Parameters
        ----------
        texts : sentences; a single string counts as one.
        context : for each sentence the sentences before it in its article, in reading order; the
            model picks those it was trained to read.
        """
        rows = _as_texts(texts)
        if context is not None:
            context = [_as_texts(c) for c in context]
            if len(context) != len(rows):
                raise InputError(f"{len(rows)} texts but {len(context)} contexts")
        return self._run(rows, context)[0]

    def predict_article(self, article: str | Iterable[str]) -> ArticlePrediction:
        """Classify every sentence of an article, each read with its context.

        Parameters
        ----------
        article : plain text or HTML (site furniture is dropped), or the sentences in reading
            order, headline first where there is one; then as many come back.

        Raises
        ------
        InputError : neither text nor strings.
        DataError : HTML without article text.
        """
        if isinstance(article, str):
            split = split_sentences(article)
            text, sentences, dropped = split.text, split.sentences, split.dropped
        else:
            rows, dropped = _as_texts(article), ()
            text, sentences = "\n".join(rows), _joined(rows)
        texts = [s.text for s in sentences]
        context = [texts[:i] for i in range(len(texts))]
        proba, encoded = self._run(texts, context)
        return ArticlePrediction(
            text,
            tuple(
                self._prediction(s.text, p, e, s)
                for s, p, e in zip(sentences, proba, encoded, strict=True)
            ),
            self.classes_,
            dropped,
        )

    def _prediction(
        self, text: str, proba: NDArray[np.float64], item: Encoded, at: Sentence | None = None
    ) -> Prediction:
        best = int(proba.argmax())
        if item.is_truncated:
            warnings.warn(
                f"only the first {item.n_sentence} tokens of a text of {len(text)} characters "
                "were read; predict_article() takes whole articles",
                StanceWarning,
                stacklevel=3,
            )
        return Prediction(
            text,
            self.classes_[best],
            float(proba[best]),
            {label: float(p) for label, p in zip(self.classes_, proba, strict=True)},
            at.start if at else None,
            at.end if at else None,
            item.is_truncated,
        )

    def _run(
        self, texts: Sequence[str], context: Sequence[Sequence[str]] | None
    ) -> tuple[NDArray[np.float64], list[Encoded]]:
        encoded = self._inputs.encode(texts, context)
        logits = np.zeros((len(texts), len(self.classes_)))
        for rows in batches_by_tokens([len(e.ids) for e in encoded], _TOKENS_PER_BATCH):
            batch = collate([encoded[r] for r in rows], self.spec.pad_id)
            with torch.inference_mode():
                out = self._model({k: v.to(self.device) for k, v in batch.items()})
            logits[rows] = out.double().cpu().numpy()
        proba = softmax(logits / self.spec.temperature)
        if NONE in self.classes_:
            wordless = [i for i, t in enumerate(texts) if not any(c.isalpha() for c in t)]
            proba[wordless] = [float(c == NONE) for c in self.classes_]
        return proba, encoded


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows to probabilities, shape (n, n_classes)."""
    shifted = np.exp(logits - logits.max(1, keepdims=True)) if len(logits) else logits
    return shifted / shifted.sum(1, keepdims=True)


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterable[list[int]]:
    """Rows grouped so that rows x longest stays within a token budget; like lengths together."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _joined(rows: Sequence[str]) -> tuple[Sentence, ...]:
    starts = np.cumsum([0, *(len(r) + 1 for r in rows)])
    return tuple(Sentence(r, int(a), int(a) + len(r)) for r, a in zip(rows, starts, strict=False))


def _as_texts(texts: str | Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise InputError(f"expected a str or a list of str, got {type(texts).__name__}")
    rows = list(texts)
    for position, text in enumerate(rows):
        if not isinstance(text, str):
            raise InputError(f"item {position} is {type(text).__name__}, expected str")
    return [str(t) for t in rows]


_loaded: dict[tuple[Path, str], StanceClassifier] = {}
_lock = threading.Lock()


def load(model: str | Path | None = None, *, device: str = "auto") -> StanceClassifier:
    """Load a model; the same folder is loaded once a process.

    Parameters
    ----------
    model : folder of a bundle, or name of a shipped one; None for the shipped default.
    device : `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises
    ------
    BundleError : no such model, or one that is damaged, unsafe or of another kind.
    """
    folder = find_bundle(str(model) if model is not None else DEFAULT_MODEL)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _lock:
        key = (folder, f"{device}:{(folder / 'manifest.json').stat().st_mtime_ns}")
        if key not in _loaded:
            network, spec, tokenizer = load_bundle(folder)
            _loaded[key] = StanceClassifier(network.to(device), spec, tokenizer)
        return _loaded[key]


def find_bundle(name: str) -> Path:
    """The folder of a bundle: as given, in a run's folder, or shipped; `BundleError` if none."""
    for folder in (Path(name), Path(name) / "bundle", resource_dir("models") / name):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    if Path(name).is_dir():
        raise BundleError(f"{name}: no manifest.json; this is not a model bundle")
    shipped = sorted(p.parent.name for p in resource_dir("models").glob("*/manifest.json"))
    raise BundleError(f"no model {name!r}; give a bundle's folder or one of {', '.join(shipped)}")


@overload
def predict(texts: str) -> Prediction: ...  # type: ignore[overload-overlap]
@overload
def predict(texts: Iterable[str]) -> list[Prediction]: ...
def predict(texts: str | Iterable[str]) -> Prediction | list[Prediction]:
    """Classify sentences with the shipped default model; see `StanceClassifier.predict`."""
    return load().predict(texts)


def predict_article(article: str | Iterable[str]) -> ArticlePrediction:
    """Classify an article with the shipped default; see `StanceClassifier.predict_article`."""
    return load().predict_article(article)
