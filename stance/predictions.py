"""Predictions files: anyone's probabilities for the sentences of a corpus, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stance.corpus import Corpus
from stance.errors import DataError
from stance.rows import read_rows, short

Floats = NDArray[np.float64]


def write_predictions(path: Path, corpus: Corpus, proba: Floats) -> None:
    """Write probabilities, shape (n_sentences, n_classes), as a predictions file."""
    lines = []
    for sentence, row in zip(corpus.sentences, proba, strict=True):
        scores = {c: round(float(p), 6) for c, p in zip(corpus.classes_, row, strict=True)}
        label = corpus.classes_[int(row.argmax())]
        found = {
            "article_id": sentence.article_id,
            "index": sentence.index,
            "label": label,
            "scores": scores,
        }
        lines.append(json.dumps(found, ensure_ascii=False) + "\n")
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(path)


def read_predictions(path: Path, corpus: Corpus) -> Floats:
    """Probabilities of a predictions file for every sentence of a corpus.

    The file (.jsonl, or .csv without scores) has article_id, index, label and, optionally, scores
    (an object over all labels).

    Raises
    ------
    DataError : a line that is not understood, or a sentence without prediction.
    """
    column = {c: i for i, c in enumerate(corpus.classes_)}
    found: dict[tuple[str, int], Floats] = {}
    for number, row in read_rows(path):
        try:
            key = (str(row["article_id"]), int(row["index"]))
            scores = row.get("scores") or {row["label"]: 1.0}
            proba = np.zeros(len(column))
            for label, score in scores.items():
                proba[column[label]] = float(score)
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise DataError(
                f"{path}:{number}: {err!r} in {short(row)}; expected article_id, index, label "
                f"(one of {', '.join(column)}) and optionally scores"
            ) from err
        if key in found:
            raise DataError(f"{path}:{number}: a second prediction for {key[0]}:{key[1]}")
        if not np.isfinite(proba).all() or proba.min() < 0 or proba.sum() <= 0:
            raise DataError(f"{path}:{number}: scores must be probabilities, got {scores}")
        found[key] = proba / proba.sum()
    try:
        return np.array([found[(s.article_id, s.index)] for s in corpus.sentences])
    except KeyError as err:
        article_id, index = err.args[0]
        raise DataError(f"{path}: no prediction for sentence {article_id}:{index}") from err
