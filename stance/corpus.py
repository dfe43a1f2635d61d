"""Labelled articles: JSONL or CSV to validated records, soft labels, contexts and splits.

Two forms load. The full one is a folder with `articles.jsonl` and `sentences.jsonl`; the short one
is a JSONL or CSV file with `text` and `label`, and optionally `article_id`, `index` and any other
field of the two record types.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stance.errors import DataError
from stance.labels import CERTAINTIES, HOLDERS, LABELS, NONE, SPLITS, STANCES
from stance.records import Article, LabeledSentence, Vote
from stance.rows import read_rows, short

if TYPE_CHECKING:
    import datasets

ADJUDICATOR = "adjudicator"
_ARTICLE_FIELDS = tuple(f.name for f in fields(Article) if f.name != "article_id")
_MAX_TEXT = 20_000


@dataclass(frozen=True)
class Corpus:
    """Articles and their labelled sentences, sentences of an article together and in order."""

    articles: Mapping[str, Article]
    sentences: tuple[LabeledSentence, ...]
    classes_: tuple[str, ...]
    path: Path

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def name(self) -> str:
        """The corpus folder's name, or the file's."""
        return self.path.parent.name if self.path.name == "sentences.jsonl" else self.path.name

    @cached_property
    def y(self) -> NDArray[np.int64]:
        """Label ids, shape (n_sentences,)."""
        id_of = {label: i for i, label in enumerate(self.classes_)}
        return np.array([id_of[s.label] for s in self.sentences], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of texts, labels and splits, as hex."""
        digest = hashlib.sha256()
        for s in self.sentences:
            split = self.articles[s.article_id].split
            digest.update(repr((s.article_id, split, s.text, s.label, s.votes)).encode())
        return digest.hexdigest()

    @property
    def texts(self) -> list[str]:
        """The sentences' texts in order."""
        return [s.text for s in self.sentences]

    @property
    def groups(self) -> list[str]:
        """The article id of each sentence."""
        return [s.article_id for s in self.sentences]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits present, in the usual order."""
        present = {a.split for a in self.articles.values()}
        return tuple(s for s in SPLITS if s in present)

    def soft_labels(self) -> NDArray[np.float64]:
        """Label distribution of the votes, shape (n_sentences, n_classes); rows sum to 1.

        A vote with label a, confidence c and second choice b is c on a and 1-c on b (without b,
        1-c evenly over the others); the mean over the annotators, adjudicator left out. Without
        votes: one-hot. Source: codebook, section 8.
        """
        id_of = {label: i for i, label in enumerate(self.classes_)}
        n_classes = len(self.classes_)
        soft = np.eye(n_classes)[self.y]
        for row, sentence in enumerate(self.sentences):
            votes = [v for v in sentence.votes if v.annotator != ADJUDICATOR]
            if not votes:
                continue
            soft[row] = 0.0
            for vote in votes:
                rest = 1.0 - vote.confidence
                if vote.label2 is None:
                    spread = np.full(n_classes, rest / max(1, n_classes - 1))
                    spread[id_of[vote.label]] = vote.confidence if n_classes > 1 else 1.0
                else:
                    spread = np.zeros(n_classes)
                    spread[id_of[vote.label]] = vote.confidence
                    spread[id_of[vote.label2]] = rest
                soft[row] += spread / len(votes)
        return soft

    def contexts(self) -> list[tuple[str, ...]]:
        """For each sentence, all sentences before it in its article, in reading order."""
        out: list[tuple[str, ...]] = []
        before: list[str] = []
        article_id = None
        for sentence in self.sentences:
            if sentence.article_id != article_id:
                article_id, before = sentence.article_id, []
            out.append(tuple(before))
            before.append(sentence.text)
        return out

    def subset(self, article_ids: Iterable[str]) -> Corpus:
        """The corpus restricted to some articles."""
        keep = set(article_ids)
        return replace(
            self,
            articles={k: a for k, a in self.articles.items() if k in keep},
            sentences=tuple(s for s in self.sentences if s.article_id in keep),
        )

    def split(self, name: str) -> Corpus:
        """The articles of one split (train, validation or test)."""
        return self.subset(k for k, a in self.articles.items() if a.split == name)

    def to_datasets(self) -> datasets.DatasetDict:
        """One `datasets.Dataset` a split (`all` where no split is named) with columns
        article_id, index, text, label (a ClassLabel), context (list of str), soft_label.
        """
        import datasets

        features = datasets.Features(
            {
                "article_id": datasets.Value("string"),
                "index": datasets.Value("int32"),
                "text": datasets.Value("string"),
                "label": datasets.ClassLabel(names=list(self.classes_)),
                "context": datasets.Sequence(datasets.Value("string")),
                "soft_label": datasets.Sequence(datasets.Value("float64")),
            }
        )
        parts = {name: self.split(name) for name in self.splits} or {"all": self}
        return datasets.DatasetDict(
            {
                name: datasets.Dataset.from_dict(
                    {
                        "article_id": part.groups,
                        "index": [s.index for s in part.sentences],
                        "text": part.texts,
                        "label": part.y.tolist(),
                        "context": [list(c) for c in part.contexts()],
                        "soft_label": part.soft_labels().tolist(),
                    },
                    features=features,
                )
                for name, part in parts.items()
            }
        )


def load_corpus(
    path: str | Path, *, text_field: str = "text", label_field: str = "label"
) -> Corpus:
    """Load and validate labelled sentences.

    Parameters
    ----------
    path : folder with sentences.jsonl (and articles.jsonl), or one .jsonl or .csv file.
    text_field, label_field : column names of a foreign file.

    Raises
    ------
    DataError : the first fault found, as ``file:line: what is wrong; what to do``.
    """
    path = Path(path)
    if path.is_dir():
        source = path / "sentences.jsonl"
        if not source.is_file():
            raise DataError(f"{path}: no sentences.jsonl in this folder; name the file itself")
    else:
        source = path
    rows = list(read_rows(source))
    if not rows:
        raise DataError(f"{source}: no rows; expected one sentence a line with text and label")
    names = source.with_name("articles.jsonl")
    known = _articles(names) if names.is_file() and source.name == "sentences.jsonl" else {}
    sentences, articles = _records(source, rows, known, text_field, label_field)
    labels = {s.label for s in sentences}
    classes = LABELS if labels <= set(LABELS) else tuple(sorted(labels))
    return Corpus(articles, tuple(sentences), classes, source)


def _articles(path: Path) -> dict[str, Article]:
    articles: dict[str, Article] = {}
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        article_id = _string(row, "article_id", where)
        if not article_id:
            raise DataError(f"{where}: no article_id")
        if article_id in articles:
            raise DataError(f"{where}: article_id {article_id!r} stands twice; ids must be unique")
        articles[article_id] = _article(article_id, row, where)
    return articles


def _article(article_id: str, row: dict[str, Any], where: str) -> Article:
    values = {name: _string(row, name, where) or "" for name in _ARTICLE_FIELDS}
    if values["split"] and values["split"] not in SPLITS:
        raise DataError(f"{where}: unknown split {values['split']!r}; expected {_list(SPLITS)}")
    values["event"] = values["event"] or _string(row, "pair_id", where) or ""
    return Article(article_id, **values)


def _list(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names))


def _string(row: dict[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and name == "article_id":
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {short(value)}; expected a string")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{where}: {name} holds a lone surrogate; save the text as valid Unicode")
    return unicodedata.normalize("NFC", value).strip()


def _choice(row: dict[str, Any], name: str, allowed: Iterable[str], where: str) -> str | None:
    value = _string(row, name, where)
    if value and value not in allowed:
        raise DataError(f"{where}: unknown {name} {value!r}; expected {_list(allowed)}")
    return value or None


def _records(
    source: Path,
    rows: list[tuple[int, dict[str, Any]]],
    known: dict[str, Article],
    text_field: str,
    label_field: str,
) -> tuple[list[LabeledSentence], dict[str, Article]]:
    found = {row.get(label_field) for _, row in rows if isinstance(row.get(label_field), str)}
    allowed = LABELS if found & set(STANCES) or found <= set(LABELS) else None
    voted = allowed or tuple(sorted(map(str, found)))
    by_article: dict[str, list[tuple[int, LabeledSentence]]] = defaultdict(list)
    articles: dict[str, Article] = {}
    for number, row in rows:
        where = f"{source}:{number}"
        article_id = _string(row, "article_id", where) or f"row-{number:06d}"
        if known and article_id not in known:
            raise DataError(f"{where}: article_id {article_id!r} is not in articles.jsonl")
        if not known:
            article = _article(article_id, row, where)
            if articles.setdefault(article_id, article).split != article.split:
                raise DataError(
                    f"{where}: article {article_id!r} is in split {article.split!r} and "
                    f"{articles[article_id].split!r}; keep an article in one split"
                )
        index = row.get("index", len(by_article[article_id]))
        if isinstance(index, str) and index.isdecimal():
            index = int(index)
        if not isinstance(index, int) or isinstance(index, bool):
            raise DataError(f"{where}: index is {short(index)}; expected 0, 1, 2, ...")
        sentence = _sentence(row, article_id, index, where, text_field, label_field, allowed, voted)
        by_article[article_id].append((number, sentence))
    sentences = []
    for numbered in by_article.values():
        for expected, (number, sentence) in enumerate(sorted(numbered, key=lambda p: p[1].index)):
            if sentence.index != expected:
                what = "stands twice" if sentence.index < expected else "follows a gap"
                raise DataError(
                    f"{source}:{number}: index {sentence.index} of article "
                    f"{sentence.article_id!r} {what}; indices must run 0, 1, 2, ..."
                )
            sentences.append(sentence)
    for article_id in known:
        if article_id not in by_article:
            raise DataError(f"{source}: no sentence of article {article_id!r} of articles.jsonl")
    return sentences, known or articles


def _sentence(
    row: dict[str, Any],
    article_id: str,
    index: int,
    where: str,
    text_field: str,
    label_field: str,
    allowed: tuple[str, ...] | None,
    voted: tuple[str, ...],
) -> LabeledSentence:
    text = _string(row, text_field, where)
    if text is None:
        raise DataError(f"{where}: no {text_field!r} in {_list(map(str, row)) if row else 'it'}")
    if not text:
        raise DataError(f"{where}: the text is empty; drop the row")
    if len(text) > _MAX_TEXT:
        raise DataError(
            f"{where}: a text of {len(text)} characters; a row is one sentence, split the article"
        )
    label = _string(row, label_field, where)
    if not label:
        raise DataError(f"{where}: no {label_field!r}; label every sentence, 'none' included")
    if allowed and label not in allowed:
        raise DataError(f"{where}: unknown label {label!r}; expected {_list(allowed)}")
    holder = _choice(row, "holder", HOLDERS, where)
    if holder and label == NONE:
        raise DataError(f"{where}: holder {holder!r} on a 'none' sentence; leave it out")
    span = _string(row, "span", where) or ""
    if span and span not in text:
        raise DataError(f"{where}: span {span!r} is not in the text")
    return LabeledSentence(
        article_id=article_id,
        index=index,
        text=text,
        label=label,
        holder=holder,
        span=span,
        source=_choice(row, "source", HOLDERS, where),
        certainty=_choice(row, "certainty", CERTAINTIES, where),
        outlook=_string(row, "outlook", where) or None,
        mixed=_flag(row, "mixed", where),
        needs_context=_flag(row, "needs_context", where),
        votes=tuple(_votes(row.get("votes"), where, voted)),
    )


def _flag(row: dict[str, Any], name: str, where: str) -> bool:
    value = row.get(name, False)
    if value in ("true", "false"):
        value = value == "true"
    if not isinstance(value, bool):
        raise DataError(f"{where}: {name} is {short(value)}; expected true or false")
    return value


def _votes(votes: Any, where: str, allowed: tuple[str, ...]) -> Iterator[Vote]:
    """Votes as objects, or as plain labels in annotator order."""
    if votes is None:
        return
    if not isinstance(votes, list):
        raise DataError(f"{where}: votes is {short(votes)}; expected a list")
    for number, vote in enumerate(votes):
        if isinstance(vote, str):
            vote = {"annotator": f"annotator_{number + 1}", "label": vote}
        if not isinstance(vote, dict):
            raise DataError(f"{where}: vote {short(vote)}; expected an object or a label")
        label, label2 = _string(vote, "label", where), _string(vote, "label2", where) or None
        for value in (label, label2):
            if value is not None and value not in allowed:
                raise DataError(f"{where}: vote for {value!r}; expected {_list(allowed)}")
        if not label or label == label2:
            raise DataError(f"{where}: vote {short(vote)} needs a label and another label2")
        confidence = vote.get("confidence", 1.0)
        if (
            isinstance(confidence, bool)
            or not isinstance(confidence, int | float)
            or not 0 <= confidence <= 1
        ):
            raise DataError(f"{where}: confidence {short(confidence)}; expected 0 to 1")
        yield Vote(
            annotator=_string(vote, "annotator", where) or f"annotator_{number + 1}",
            label=label,
            confidence=float(confidence),
            label2=label2,
            holder=_choice(vote, "holder", HOLDERS, where),
        )


def require_classes(corpus: Corpus, what: str) -> None:
    """Raise `DataError` where a corpus has fewer than two labels, so nothing can be learnt."""
    present = {s.label for s in corpus.sentences}
    if len(present) < 2:
        raise DataError(
            f"{corpus.path}: {what} holds only {sorted(present)}; at least two labels are needed"
        )
