"""What goes in and what comes out, as frozen dataclasses."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stance.errors import MissingPackageError
from stance.labels import ABSTAINED, NONE

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and where it stands: ``article_text[start:end] == text`` (characters)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Article:
    """What is known of an article beside its sentences; empty strings where unknown.

    `event` is what must not be torn apart by a split; the sentences of a minimal pair share theirs,
    and `ruling` names the rule that the pair tests.
    """

    article_id: str
    title: str = ""
    date: str = ""
    genre: str = ""
    process: str = ""
    event: str = ""
    made: str = ""
    split: str = ""
    ruling: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """One annotator's answer; `confidence` in [0, 1]."""

    annotator: str
    label: str
    confidence: float = 1.0
    label2: str | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class LabeledSentence:
    """One sentence of an article with its adjudicated label and every vote kept."""

    article_id: str
    index: int
    text: str
    label: str
    holder: str | None = None
    span: str = ""
    source: str | None = None
    certainty: str | None = None
    outlook: str | None = None
    mixed: bool = False
    needs_context: bool = False
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one sentence.

    Attributes
    ----------
    text : the sentence as read.
    label : the most probable label, or `abstained` where that was asked for and its score is low.
    score : its calibrated probability, in [0, 1].
    scores : probability of every label; they sum to 1.
    start, end : character offsets into the article's text; None without an article.
    is_truncated : True where the text was longer than the model reads (a warning says so too).
    holder : whose stance it is (`stance.HOLDERS`); None for `none`, or if the model can't say.
    holder_score : the probability of that holder, in [0, 1].
    holder_span : the words of the text that name the holder; empty where it does not name it.
    is_skipped : True where a first look judged the sentence `none` and the model did not read it.
    """

    text: str
    label: str
    score: float
    scores: Mapping[str, float] = field(hash=False)
    start: int | None = None
    end: int | None = None
    is_truncated: bool = False
    holder: str | None = None
    holder_score: float | None = None
    holder_span: str = ""
    is_skipped: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", MappingProxyType(dict(self.scores)))

    @property
    def label_of_scores(self) -> str:
        """The most probable label, also where the model abstained."""
        return max(self.scores, key=self.scores.__getitem__)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.text, self.label, self.score, dict(self.scores))
        holder = (self.holder, self.holder_score, self.holder_span)
        rest = (self.start, self.end, self.is_truncated, *holder, self.is_skipped)
        return (type(self), (*fields, *rest))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return {
            "text": self.text,
            "label": self.label,
            "score": self.score,
            "scores": dict(self.scores),
            "start": self.start,
            "end": self.end,
            "is_truncated": self.is_truncated,
            "holder": self.holder,
            "holder_score": self.holder_score,
            "holder_span": self.holder_span,
            "is_skipped": self.is_skipped,
        }


@dataclass(frozen=True, slots=True)
class ArticlePrediction:
    """The answers for one article, in reading order.

    `text` is the text that the offsets of `sentences` slice; `classes_` are the model's labels;
    `dropped` holds the lines that were left out as site furniture.
    """

    text: str
    sentences: tuple[Prediction, ...]
    classes_: tuple[str, ...]
    dropped: tuple[Sentence, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of sentences by label, every label of the model present."""
        counted = Counter(s.label for s in self.sentences)
        return {label: counted[label] for label in self.classes_} | dict(counted)

    @property
    def stance_sentences(self) -> tuple[Prediction, ...]:
        """The sentences whose label is neither `none` nor `abstained`."""
        return tuple(s for s in self.sentences if s.label not in (NONE, ABSTAINED))

    def by_holder(self) -> dict[str, tuple[Prediction, ...]]:
        """The stance sentences of each holder, most frequent holder first."""
        found: dict[str, list[Prediction]] = defaultdict(list)
        for sentence in self.stance_sentences:
            if sentence.holder:
                found[sentence.holder].append(sentence)
        return {h: tuple(s) for h, s in sorted(found.items(), key=lambda item: -len(item[1]))}

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return {
            "text": self.text,
            "counts": self.counts,
            "sentences": [s.to_dict() for s in self.sentences],
            "dropped": [asdict(s) for s in self.dropped],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row a sentence. Raises `MissingPackageError` where pandas is not installed."""
        try:
            import pandas
        except ImportError as err:
            raise MissingPackageError(
                "to_pandas() needs pandas: pip install 'peace-stance[pandas]'"
            ) from err
        rows = []
        for index, sentence in enumerate(self.sentences):
            row = sentence.to_dict()
            scores = row.pop("scores")
            rows.append({"index": index, **row, **{f"score_{k}": v for k, v in scores.items()}})
        return pandas.DataFrame(rows)
