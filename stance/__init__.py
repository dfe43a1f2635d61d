"""Sentence-level stance toward peace talks: optimistic, obstructive, conciliatory or none.

    import stance
    stance.predict("Talks are stuck on territory, the envoy said.")
    stance.predict_article(open("article.txt").read())

Names are resolved on first use, so importing the package loads neither torch nor hydra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stance.archive import score_archive
    from stance.classifier import StanceClassifier, load, predict, predict_article
    from stance.errors import (
        BundleError,
        ConfigError,
        DataError,
        InputError,
        LeakageError,
        MissingPackageError,
        StanceError,
        StanceWarning,
        WorkerError,
    )
    from stance.labels import HOLDERS, LABELS, NONE, STANCES
    from stance.records import ArticlePrediction, Prediction
    from stance.segment import split_sentences

__version__ = "0.1.0"

_HOME = {
    "archive": ("score_archive",),
    "classifier": ("StanceClassifier", "load", "predict", "predict_article"),
    "errors": (
        "BundleError",
        "ConfigError",
        "DataError",
        "InputError",
        "LeakageError",
        "MissingPackageError",
        "StanceError",
        "StanceWarning",
        "WorkerError",
    ),
    "labels": ("HOLDERS", "LABELS", "NONE", "STANCES"),
    "records": ("ArticlePrediction", "Prediction"),
    "segment": ("split_sentences",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "HOLDERS",
    "LABELS",
    "NONE",
    "STANCES",
    "ArticlePrediction",
    "BundleError",
    "ConfigError",
    "DataError",
    "InputError",
    "LeakageError",
    "MissingPackageError",
    "Prediction",
    "StanceClassifier",
    "StanceError",
    "StanceWarning",
    "WorkerError",
    "__version__",
    "load",
    "predict",
    "predict_article",
    "score_archive",
    "split_sentences",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'stance' has no attribute {name!r}")
    return getattr(import_module(f"stance.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
