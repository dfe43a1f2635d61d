"""The predict API: load a model once, classify sentences or whole articles."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stance.backends import Backend, Fp32
from stance.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from stance.calibration import Calibration, Share, label_shares
from stance.errors import BundleError, InputError, StanceWarning
from stance.exports import Exports, check_backend, choose_backend, make_backend, pick_device
from stance.first_look import FirstLook
from stance.holders import best_span, other_side
from stance.labels import ABSTAINED, NONE
from stance.metrics import softmax
from stance.model import Encoded, InputBuilder, ModelSpec, StanceModel
from stance.records import ArticlePrediction, Prediction, Sentence
from stance.segment import SegmentedText, clean_text, split_sentences

_NOBODY: tuple[str | None, float | None, str] = (None, None, "")


class StanceClassifier:
    """A loaded model. Threads may share it.

    Attributes
    ----------
    classes_ : labels, in the column order of `predict_proba`.
    spec : what the model is.
    calibration : its answers on its validation split; None where the bundle holds none.
    first_look : what skips sentences that are surely `none` in `predict_articles`, or None.
    looks_first : whether it does.
    backend : how the network is run: `fp32`, `bf16` or `onnx-int8`.
    """

    def __init__(
        self,
        model: StanceModel,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        calibration: Calibration | None = None,
        first_look: FirstLook | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.spec = spec
        self.calibration = calibration
        self.first_look = first_look
        self.looks_first = first_look is not None
        self.classes_ = spec.classes_
        self._backend = backend or Fp32(model, spec)
        self._inputs = InputBuilder(tokenizer, spec)

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    @overload
    def predict(self, texts: str, *, abstain_below: float = 0.0) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, texts: Iterable[str], *, abstain_below: float = 0.0) -> list[Prediction]: ...
    def predict(
        self, texts: str | Iterable[str], *, abstain_below: float = 0.0
    ) -> Prediction | list[Prediction]:
        """Classify one sentence, or several independent ones.

        Parameters
        ----------
        texts : a string gives one `Prediction`; an iterable of strings gives a list, same order.
        abstain_below : where the score is lower, the label is `abstained`; `threshold_for` gives
            the score for a wanted error rate.

        Notes
        -----
        A text without any letter is `none` with score 1. A text longer than the model reads is
        judged by its beginning, marked `is_truncated` and warned of (`StanceWarning`); for whole
        articles there is `predict_article`.

        Raises
        ------
        InputError : anything but strings.
        """
        made = self._predictions(_as_texts(texts), None, abstain_below)
        return made[0] if isinstance(texts, str) else made

    def predict_in_context(
        self, texts: Iterable[str], context: Sequence[Sequence[str]]
    ) -> list[Prediction]:
        """Classify sentences of known context (see `predict_proba`), same order."""
        rows = _as_texts(texts)
        return self._predictions(rows, _as_contexts(rows, context))

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
        return self._run(rows, None if context is None else _as_contexts(rows, context)).proba

    def threshold_for(self, risk: float) -> float:
        """The score from which on at most `risk` of the answers on validation were wrong.

        Raises
        ------
        BundleError : the bundle holds no calibration.
        InputError : no score is that safe.
        """
        return self._calibrated().threshold_for(risk)

    def label_shares(self, articles: Sequence[ArticlePrediction]) -> dict[str, Share]:
        """The share of each label in a set of articles, corrected for known errors.

        Where sentences were skipped, the errors are those of first look and model together. See
        `stance.calibration.label_shares`.

        Raises
        ------
        BundleError : the bundle holds no calibration.
        InputError : no sentences.
        """
        is_skipped = any(s.is_skipped for a in articles for s in a.sentences)
        if is_skipped and self.first_look is not None:
            return label_shares(articles, self.first_look.calibration)
        return label_shares(articles, self._calibrated())

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise BundleError("this bundle holds no calibration; train it anew with stance train")
        return self.calibration

    def predict_article(
        self, article: str | Iterable[str], *, abstain_below: float = 0.0
    ) -> ArticlePrediction:
        """Classify every sentence of an article, each read with its context, none skipped.

        Parameters
        ----------
        article : plain text or HTML (site furniture is dropped), or the sentences in reading
            order, headline first where there is one; then as many come back.
        abstain_below : as in `predict`.

        Raises
        ------
        InputError : neither text nor strings.
        DataError : HTML without article text.
        """
        return self._articles([article], abstain_below, looks_first=False)[0]

    def predict_articles(
        self,
        articles: Iterable[str | SegmentedText | Iterable[str]],
        *,
        abstain_below: float = 0.0,
    ) -> list[ArticlePrediction]:
        """Classify the sentences of many articles together, which is faster than one by one.

        Where the bundle holds a first look, sentences that are surely `none` are not read: they
        are `is_skipped` and share one answer, how often each label was true of such sentences on
        validation. `load(..., first_look=False)` reads them all.

        Parameters
        ----------
        articles : each as in `predict_article`, or as `split_sentences` gives it.
        abstain_below : as in `predict`.

        Returns
        -------
        list of ArticlePrediction : one an article, same order; what `predict_article` gives for
            each, skipped sentences apart, scores to within rounding.

        Raises
        ------
        InputError : an article is neither text nor strings.
        DataError : HTML without article text.
        """
        if isinstance(articles, str) or not isinstance(articles, Iterable):
            raise InputError(f"expected a list of articles, got {type(articles).__name__}")
        return self._articles(articles, abstain_below, self.looks_first)

    def _articles(
        self,
        articles: Iterable[str | SegmentedText | Iterable[str]],
        abstain_below: float,
        looks_first: bool,
    ) -> list[ArticlePrediction]:
        split = [_as_segmented(a) for a in articles]
        by_article = [[s.text for s in a.sentences] for a in split]
        texts = [t for part in by_article for t in part]
        chosen = self._inputs.choose_context
        context = [[p[j] for j in chosen(i)] for p in by_article for i in range(len(p))]
        made = iter(self._predictions(texts, context, abstain_below, looks_first, stacklevel=4))
        return [
            ArticlePrediction(
                article.text,
                tuple(replace(next(made), start=s.start, end=s.end) for s in article.sentences),
                self.classes_,
                article.dropped,
            )
            for article in split
        ]

    def _predictions(
        self,
        texts: Sequence[str],
        context: Sequence[Sequence[str]] | None,
        abstain_below: float = 0.0,
        looks_first: bool = False,
        stacklevel: int = 3,
    ) -> list[Prediction]:
        answers = self._run(texts, context, looks_first)
        best = answers.proba.argmax(1)
        rows = [r for r in range(len(texts)) if self.classes_[best[r]] != NONE]
        holders = self._holders(texts, rows, answers) if self.spec.holders else {}
        made = []
        for row, (text, item) in enumerate(zip(texts, answers.encoded, strict=True)):
            if item.is_truncated:
                warnings.warn(
                    f"only the first {item.n_sentence} tokens of a text of {len(text)} characters "
                    "were read; predict_article() takes whole articles",
                    StanceWarning,
                    stacklevel=stacklevel,
                )
            proba = answers.proba[row].tolist()
            score = proba[best[row]]
            made.append(
                Prediction(
                    text,
                    self.classes_[best[row]] if score >= abstain_below else ABSTAINED,
                    score,
                    dict(zip(self.classes_, proba, strict=True)),
                    None,
                    None,
                    item.is_truncated,
                    *(holders.get(row, _NOBODY) if score >= abstain_below else _NOBODY),
                    row in answers.skipped,
                )
            )
        return made

    def _holders(
        self, texts: Sequence[str], rows: Sequence[int], answers: _Answers
    ) -> dict[int, tuple[str | None, float | None, str]]:
        """Holder, its probability and the words that name it, for some rows."""
        clean = [clean_text(texts[r]) for r in rows]
        swapped = [answers.encoded[r].is_swapped for r in rows]
        offsets = self._inputs.token_offsets(clean, swapped)
        found: dict[int, tuple[str | None, float | None, str]] = {}
        for row, text, tokens in zip(rows, clean, offsets, strict=True):
            best = int(answers.holder[row].argmax())
            named = answers.spans[row]
            span = text[tokens[named[0] - 1][0] : tokens[named[1] - 1][1]] if named else ""
            found[row] = (self.spec.holders[best], float(answers.holder[row, best]), span)
        return found

    def _run(
        self,
        texts: Sequence[str],
        context: Sequence[Sequence[str]] | None,
        looks_first: bool = False,
    ) -> _Answers:
        """Answers for texts; inputs that are alike go through the model once."""
        encoded = self._inputs.encode(texts, context)
        first: dict[tuple[int, ...], int] = {}
        same = [first.setdefault((e.n_sentence, *e.ids), row) for row, e in enumerate(encoded)]
        skipped = self._skipped(encoded, list(first.values())) if looks_first else set()
        distinct = [row for row in first.values() if row not in skipped]
        label = np.zeros((len(texts), len(self.classes_)))
        holder = np.zeros((len(texts), len(self.spec.holders)))
        spans: list[tuple[int, int] | None] = [None] * len(texts)
        lengths = [len(encoded[r].ids) for r in distinct]
        for part in self._backend.batches(lengths):
            rows = [distinct[i] for i in part]
            out = self._backend.run([encoded[r] for r in rows])
            label[rows] = out.label
            if out.holder is not None and out.span is not None:
                holder[rows] = out.holder
                for row, logits in zip(rows, out.span, strict=True):
                    spans[row] = best_span(logits[: encoded[row].n_sentence + 1])
        label, holder, spans = label[same], holder[same], [spans[r] for r in same]
        proba = softmax(label / self.spec.temperature)
        if self.first_look is not None:
            skipped = {row for row, original in enumerate(same) if original in skipped}
            proba[list(skipped)] = self.first_look.proba
        if NONE in self.classes_:
            wordless = [i for i, t in enumerate(texts) if not any(c.isalpha() for c in t)]
            proba[wordless] = [float(c == NONE) for c in self.classes_]
            skipped.difference_update(wordless)
        if self.spec.holders:
            holder = softmax(holder / self.spec.holder_temperature)
            swapped = [r for r, e in enumerate(encoded) if e.is_swapped]
            names = self.spec.holders
            mirrored = [
                names.index(other_side(h)) if other_side(h) in names else i
                for i, h in enumerate(names)
            ]
            holder[swapped] = holder[swapped][:, mirrored]
        return _Answers(proba, holder, spans, encoded, skipped)

    def _skipped(self, encoded: Sequence[Encoded], rows: Sequence[int]) -> set[int]:
        """Those of some rows that need not be read."""
        if self.first_look is None:
            return set()
        sentences = [encoded[r].ids[: encoded[r].n_sentence + 2] for r in rows]
        return {r for r, s in zip(rows, self.first_look.skips(sentences), strict=True) if s}


@dataclass(frozen=True)
class _Answers:
    """A row a text: label and holder probabilities, positions of the span, the input.

    `skipped` are the rows that the first look answered.
    """

    proba: NDArray[np.float64]
    holder: NDArray[np.float64]
    spans: list[tuple[int, int] | None]
    encoded: list[Encoded]
    skipped: set[int]


def _joined(rows: Sequence[str]) -> tuple[Sentence, ...]:
    starts = np.cumsum([0, *(len(r) + 1 for r in rows)])
    return tuple(Sentence(r, int(a), int(a) + len(r)) for r, a in zip(rows, starts, strict=False))


def _as_segmented(article: str | SegmentedText | Iterable[str]) -> SegmentedText:
    if isinstance(article, SegmentedText):
        return article
    if isinstance(article, str):
        return split_sentences(article)
    rows = _as_texts(article)
    return SegmentedText("\n".join(rows), _joined(rows))


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


def _as_contexts(rows: Sequence[str], context: Sequence[Sequence[str]]) -> list[list[str]]:
    contexts = [_as_texts(c) for c in context]
    if len(contexts) != len(rows):
        raise InputError(f"{len(rows)} texts but {len(contexts)} contexts")
    return contexts


_loaded: dict[tuple[Path, str], StanceClassifier] = {}
_lock = threading.Lock()


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    backend: str = "auto",
    first_look: bool = True,
) -> StanceClassifier:
    """Load a model; the same folder is loaded once a process.

    Parameters
    ----------
    model : folder of a bundle, or name of a shipped one (`accurate` is `mpnet`); None for the
        shipped default.
    device : `cpu`, `cuda`, or `auto` for a GPU where there is one.
    first_look : whether `predict_articles` may skip sentences that are surely `none`.
    backend : `fp32`, `bf16`, `onnx-int8`, or `auto` for the fastest on this machine of those that
        `stance export` has made and checked for this model; without any, fp32.

    Notes
    -----
    All backends use as many threads as PyTorch does: all cores, or what `OMP_NUM_THREADS` or
    `torch.set_num_threads` says.

    Raises
    ------
    BundleError : no such model, or one that is damaged, unsafe or of another kind; a backend that
        has not passed its check, or whose exported file is damaged.
    ConfigError : no such backend, or not for this device.
    MissingPackageError : onnx-int8 without onnxruntime.
    """
    folder = find_bundle(str(model) if model is not None else DEFAULT_MODEL)
    exports = Exports(folder)
    device = pick_device(device, backend)
    with _lock:
        if backend == "auto":
            backend = choose_backend(exports, device, lambda: load_bundle(folder))
        sha256 = check_backend(backend, device, exports)
        stamp = (folder / "manifest.json").stat().st_mtime_ns
        key = (folder, f"{device}:{backend}:{stamp}:{sha256}")
        if key not in _loaded:
            found = load_bundle(folder)
            made = make_backend(backend, found, exports, device)
            _loaded[key] = StanceClassifier(*found, made)
        loaded = _loaded[key]
    if not first_look:
        loaded = copy.copy(loaded)
        loaded.looks_first = False
    return loaded


@overload
def predict(texts: str, *, abstain_below: float = 0.0) -> Prediction: ...  # type: ignore[overload-overlap]
@overload
def predict(texts: Iterable[str], *, abstain_below: float = 0.0) -> list[Prediction]: ...
def predict(
    texts: str | Iterable[str], *, abstain_below: float = 0.0
) -> Prediction | list[Prediction]:
    """Classify sentences with the shipped default model; see `StanceClassifier.predict`."""
    return load().predict(texts, abstain_below=abstain_below)


def predict_article(
    article: str | Iterable[str], *, abstain_below: float = 0.0
) -> ArticlePrediction:
    """Classify an article with the shipped default; see `StanceClassifier.predict_article`."""
    return load().predict_article(article, abstain_below=abstain_below)
