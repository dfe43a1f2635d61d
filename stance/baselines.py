"""Reference systems, which any model must beat."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from stance.corpus import Corpus
from stance.encoder import base_weights, build_encoder, encoder_config, find_base, load_tokenizer
from stance.errors import MissingPackageError
from stance.model import InputBuilder, batches_by_tokens, collate, mean_of_sentence, new_spec

# Inverse strengths of regularisation to choose from on validation.
_STRENGTHS = (0.1, 1.0, 10.0, 100.0)
_N_SHOTS = 16


class Baseline:
    """A scikit-learn estimator of texts, in the form in which models are measured."""

    def __init__(self, estimator: Any, classes: tuple[str, ...]) -> None:
        self.classes_ = classes
        self._estimator = estimator

    def predict_proba(
        self, texts: Sequence[str], context: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float64]:
        """Probabilities, shape (n_texts, n_classes); context is not read."""
        proba = np.zeros((len(texts), len(self.classes_)))
        proba[:, self._estimator.classes_] = self._estimator.predict_proba(list(texts))
        return proba


def majority(corpus: Corpus) -> Baseline:
    """The label shares of the train split, whatever the text."""
    train = corpus.split("train")
    return Baseline(DummyClassifier(strategy="prior").fit(train.texts, train.y), corpus.classes_)


def tfidf(corpus: Corpus) -> Baseline:
    """Logistic regression on words and word pairs, regularised as validation likes best."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return _best_of(
        corpus,
        lambda c: make_pipeline(features, _regression(c)),
    )


def frozen(corpus: Corpus, base: str) -> Baseline:
    """Logistic regression on the sentence vectors of an encoder that is not tuned."""
    encode = FunctionTransformer(SentenceVectors(base))
    return _best_of(corpus, lambda c: make_pipeline(encode, _regression(c)))


def setfit(corpus: Corpus, base: str, seed: int) -> Baseline:
    """SetFit (Tunstall et al. 2022) at its defaults on 16 train sentences a label.

    Raises
    ------
    MissingPackageError : the extra `setfit` is not installed.
    """
    try:
        from setfit import SetFitModel, Trainer, TrainingArguments
    except ImportError as err:
        raise MissingPackageError(
            "SetFit is not installed: pip install 'peace-stance[setfit]'"
        ) from err
    from datasets import Dataset

    train = corpus.split("train")
    rng = np.random.default_rng(seed)
    by_label = [
        rng.permutation(np.flatnonzero(train.y == k))[:_N_SHOTS] for k in np.unique(train.y)
    ]
    rows = np.concatenate(by_label).tolist()
    shots = Dataset.from_dict(
        {"text": [train.texts[r] for r in rows], "label": [int(train.y[r]) for r in rows]}
    )
    model = SetFitModel.from_pretrained(str(find_base(base).folder))
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder, seed=seed, save_strategy="no", report_to="none"
        )
        Trainer(model=model, args=options, train_dataset=shots).train()
    return Baseline(_SetFit(model, np.unique(train.y)), corpus.classes_)


class _SetFit:
    """A SetFit model as a scikit-learn estimator."""

    def __init__(self, model: Any, classes: NDArray[np.int64]) -> None:
        self.classes_ = classes
        self._model = model

    def predict_proba(self, texts: list[str]) -> NDArray[np.float64]:
        return np.asarray(self._model.predict_proba(texts, as_numpy=True), np.float64)


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)


def _best_of(corpus: Corpus, make: Callable[[float], Any]) -> Baseline:
    train, validation = corpus.split("train"), corpus.split("validation")
    fitted = [make(c).fit(train.texts, train.y) for c in _STRENGTHS]
    scores = [
        f1_score(validation.y, e.predict(validation.texts), average="macro", zero_division=0)
        for e in fitted
    ]
    return Baseline(fitted[int(np.argmax(scores))], corpus.classes_)


class SentenceVectors:
    """Texts to the unit-length mean of their token vectors by an untuned encoder."""

    def __init__(self, base: str) -> None:
        found = find_base(base)
        tokenizer = load_tokenizer(found.folder)
        config = encoder_config(found.folder)
        self._encoder = build_encoder(config, base_weights(found), found.folder).eval()
        self._inputs = InputBuilder(tokenizer, new_spec((), found, config, tokenizer))
        self._known: dict[str, NDArray[np.float64]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Vectors, shape (n_texts, hidden_size); a text seen before is not run again."""
        fresh = [t for t in dict.fromkeys(texts) if t not in self._known]
        encoded = self._inputs.encode(fresh)
        for rows in batches_by_tokens([len(e.ids) for e in encoded], 4096):
            batch = collate([encoded[r] for r in rows], self._inputs.pad_id)
            with torch.inference_mode():
                hidden = self._encoder(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
                ).last_hidden_state
                vectors = torch.nn.functional.normalize(
                    mean_of_sentence(hidden, batch["sentence_mask"]), dim=1
                )
            self._known.update(zip([fresh[r] for r in rows], vectors.double().numpy(), strict=True))
        return np.array([self._known[t] for t in texts])
