"""What is scored together: articles to windows, windows to rows of a shard.

A window begins anew with each shard and depends on the archive alone, so a run that was resumed, or
shared out in another way, has the windows of an unbroken one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from stance.archive.folder import ArchiveFolder
from stance.articles import FoundArticle, read_articles, split_article
from stance.bundle import find_bundle, load_bundle
from stance.classifier import StanceClassifier, load
from stance.encoder import sha256_of
from stance.errors import BundleError, DataError, StanceWarning
from stance.records import ArticlePrediction
from stance.segment import SegmentedText
from stance.tables import Fields, Position

_WINDOW_SENTENCES = 2048
_CHARS_PER_SENTENCE = 1000


@dataclass(frozen=True, slots=True)
class SplitArticle:
    """An article in sentences, and where it was found."""

    article_id: str
    source: str
    text: SegmentedText


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """What is noted of a window besides its sentences.

    `after` is the place in the archive where it ends; a shard may end there too.
    """

    n_articles: int
    rejects: tuple[dict[str, str], ...]
    after: Position
    is_shard_end: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Articles in the order of the archive."""

    articles: tuple[SplitArticle, ...]
    end: WindowEnd


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """The sentences of a window as rows of a shard."""

    rows: pa.RecordBatch
    end: WindowEnd


@dataclass(frozen=True)
class WindowReader:
    """The windows of what is left of an archive; each iteration reads anew.

    A shard ends with the article that brings it to `shard_sentences` sentences, or to a thousand
    times as many characters.
    """

    folder: ArchiveFolder
    start: Position
    fields: Fields
    shard_sentences: int

    def __iter__(self) -> Iterator[Window]:
        articles: list[SplitArticle] = []
        rejects: list[dict[str, str]] = []
        after, n_window, n_shard = self.start, 0, 0

        def window(is_shard_end: bool) -> Window:
            end = WindowEnd(len(articles), tuple(rejects), after, is_shard_end)
            return Window(tuple(articles), end)

        with self.folder.files(self.start.file) as files:
            for found in read_articles(files, self.start, self.fields):
                after = found.after
                try:
                    articles.append(_split(found))
                    size = _size(articles[-1].text)
                    n_shard += size
                except DataError as err:
                    rejects.append(_reject(found, str(err)))
                    size = 1
                n_window += size
                is_full = n_shard >= self.shard_sentences
                if is_full or n_window >= _WINDOW_SENTENCES:
                    yield window(is_full)
                    articles, rejects, n_window = [], [], 0
                    n_shard = 0 if is_full else n_shard
        yield window(is_shard_end=False)


def _split(found: FoundArticle) -> SplitArticle:
    if found.fault:
        raise DataError(found.fault)
    return SplitArticle(found.article_id, found.source, split_article(found.text))


def _size(text: SegmentedText) -> int:
    return max(len(text.sentences), len(text.text) // _CHARS_PER_SENTENCE)


def _reject(found: FoundArticle, reason: str) -> dict[str, str]:
    return {"source": found.source, "article_id": found.article_id, "reason": reason}


@dataclass(frozen=True)
class ScorerSpec:
    """How to make a `Scorer`, wherever it is to run; a model is loaded there, never sent.

    `model` is a name or an absolute path.
    """

    model: str
    manifest_sha256: str
    abstain_below: float = 0.0
    first_look: bool = True
    backend: str = "fp32"

    def check(self) -> None:
        """Refuse a faulty model, and keep nothing of it in memory."""
        load_bundle(find_bundle(self.model))

    def load(self) -> Scorer:
        """Load the model, unless it is another one than was asked for.

        Raises
        ------
        BundleError : no such model, a damaged one, or another one than on the machine that asks.
        """
        folder = find_bundle(self.model)
        if sha256_of(folder / "manifest.json") != self.manifest_sha256:
            raise BundleError(
                f"{folder} is another model than where the run was started; put the same in place"
            )
        return Scorer(
            load(folder, backend=self.backend, first_look=self.first_look), self.abstain_below
        )


def share_cores(n_processes: int) -> None:
    """Keep this process to its share of the threads that it would have alone."""
    n_threads = max(1, torch.get_num_threads() // n_processes)
    torch.set_num_threads(n_threads)
    os.environ["RAYON_NUM_THREADS"] = str(n_threads)  # read by tokenizers


class Scorer:
    """A loaded model that turns windows into rows of a shard."""

    def __init__(self, classifier: StanceClassifier, abstain_below: float) -> None:
        self._classifier = classifier
        self._abstain_below = abstain_below
        self._schema = _schema(classifier.classes_)

    def __call__(self, window: Window) -> ScoredWindow:
        """Label the sentences of a window's articles in one call."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StanceWarning)  # the column is_truncated says it
            made = self._classifier.predict_articles(
                [a.text for a in window.articles], abstain_below=self._abstain_below
            )
        return ScoredWindow(_rows(window.articles, made, self._schema), window.end)


def _schema(classes: Sequence[str]) -> pa.Schema:
    kinds = {
        "article_id": pa.string(),
        "source": pa.string(),
        "index": pa.int32(),
        "text": pa.string(),
        "start": pa.int32(),
        "end": pa.int32(),
        "label": pa.string(),
        "score": pa.float32(),
        **{f"score_{label}": pa.float32() for label in classes},
        "holder": pa.string(),
        "holder_score": pa.float32(),
        "holder_span": pa.string(),
        "is_truncated": pa.bool_(),
        "is_skipped": pa.bool_(),
    }
    return pa.schema(list(kinds.items()))


def _rows(
    articles: Sequence[SplitArticle], made: Sequence[ArticlePrediction], schema: pa.Schema
) -> pa.RecordBatch:
    rows = [
        (
            *(article.article_id, article.source, index),
            *(s.text, s.start, s.end, s.label, s.score, *s.scores.values()),
            *(s.holder, s.holder_score, s.holder_span, s.is_truncated, s.is_skipped),
        )
        for article, answer in zip(articles, made, strict=True)
        for index, s in enumerate(answer.sentences)
    ]
    columns = zip(*rows, strict=True) if rows else [() for _ in schema]
    arrays = [pa.array(c, kind) for c, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
