"""The codebook's symmetry rule: swap the names of the belligerents, and a label must not change.

Neutral models keep it by construction. They read every text with one spelling a name and with the
side that is named first under Russia's names (`rename`), so a text and its mirror image are one
input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Each name and what stands for it on the other side; longer names first.
_PAIRS = (
    ("Vladimir Putin", "Volodymyr Zelensky"),
    ("Russian Federation", "Republic of Ukraine"),
    ("Sergei Lavrov", "Andrii Sybiha"),
    ("Sergey Lavrov", "Andriy Sybiha"),
    ("Dmitry Peskov", "Serhii Nykyforov"),
    ("Vladimir Medinsky", "Rustem Umerov"),
    ("Yuri Ushakov", "Andriy Yermak"),
    ("Russians", "Ukrainians"),
    ("Russian", "Ukrainian"),
    ("Russia", "Ukraine"),
    ("Moscow", "Kyiv"),
    ("Putin", "Zelensky"),
    ("Lavrov", "Sybiha"),
    ("Peskov", "Nykyforov"),
    ("Medinsky", "Umerov"),
    ("Ushakov", "Yermak"),
    ("Kremlin", "Bankova"),
)
_OTHER_SPELLINGS = {
    "Volodymyr Zelenskyy": "Vladimir Putin",
    "Volodymyr Zelenskiy": "Vladimir Putin",
    "Vladimir Zelensky": "Vladimir Putin",
    "Zelenskyy": "Putin",
    "Zelenskiy": "Putin",
    "Selenskyj": "Putin",
    "Kiev": "Moscow",
}
_SWAP = {
    **dict(_PAIRS),
    **{b: a for a, b in _PAIRS},
    **_OTHER_SPELLINGS,
    **{a.upper(): b.upper() for a, b in _PAIRS},
    **{b.upper(): a.upper() for a, b in _PAIRS},
    "KIEV": "MOSCOW",
}


def pattern_of(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of some names as whole words, longer ones first."""
    return re.compile(
        r"\b(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + r")\b"
    )


_NAMES = pattern_of(_SWAP)
_RUSSIAN = frozenset(name for a, _ in _PAIRS for name in (a, a.upper()))


class Classifier(Protocol):
    """What measuring a model needs of it."""

    classes_: tuple[str, ...]

    def predict_proba(
        self, texts: Sequence[str], context: Sequence[Sequence[str]] | None = None
    ) -> NDArray[np.float64]:
        """Probabilities, shape (n_texts, n_classes)."""
        ...


@dataclass(frozen=True)
class NeutralityReport:
    """What swapping names changes.

    Attributes
    ----------
    n_sentences : sentences that name a belligerent.
    flip_rate : share of them whose label changes when the names are swapped.
    flip_rate_by_side : the same where only one side is named; the larger one is the worse.
    shift : by label, mean change of its probability when Russia's names become Ukraine's, over
        sentences that name Russia alone; 0 is neutral.
    """

    n_sentences: int
    flip_rate: float
    flip_rate_by_side: dict[str, float]
    shift: dict[str, float]
    n_one_sided: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return asdict(self)


def swap_names(text: str) -> str:
    """The text with the names of Russia's and Ukraine's side exchanged.

    `Russia's envoys met in Kyiv` becomes `Ukraine's envoys met in Moscow`. Spellings of one name
    become one, so swapping twice need not give the very same text.
    """
    return rename(text, is_swapped=True)


def is_ukraine_first(*texts: str) -> bool:
    """Whether the first belligerent that some texts name, in their order, is Ukraine's side."""
    for text in texts:
        if found := _NAMES.search(text):
            return found[0] not in _RUSSIAN
    return False


def rename(text: str, is_swapped: bool) -> str:
    """The text with one spelling a name, and with the sides exchanged where `is_swapped`."""
    return _NAMES.sub(lambda match: _renamed(match[0], is_swapped), text)


def _renamed(name: str, is_swapped: bool) -> str:
    return _SWAP[name] if is_swapped else _SWAP[_SWAP[name]]


def original_offsets(
    text: str, is_swapped: bool, offsets: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Where parts of `rename(text, is_swapped)` stand in `text`, first and past-the-last character.

    A part that begins or ends inside a name begins or ends with the whole name.
    """
    edits, grown = [], 0
    for match in _NAMES.finditer(text):
        start = match.start() + grown
        grown += len(_renamed(match[0], is_swapped)) - len(match[0])
        edits.append((start, match.end() + grown, *match.span()))

    def back(position: int, is_end: bool) -> int:
        shift = 0
        for start, end, old_start, old_end in edits:
            if position <= start:
                break
            if position < end:
                return old_end if is_end else old_start
            shift = old_end - end
        return position + shift

    return [(back(a, False), back(b, True)) for a, b in offsets]


def neutrality(model: Classifier, texts: Sequence[str]) -> NeutralityReport:
    """Classify sentences before and after the swap, each alone.

    Sentences that name nobody of either side are left out. Neutral models read by the same list of
    names and change nothing here, whatever they make of names that the list lacks.
    """
    named = [t for t in texts if _NAMES.search(t)]
    if not named:
        return NeutralityReport(0, 0.0, {}, dict.fromkeys(model.classes_, 0.0), 0)
    before = model.predict_proba(named)
    after = model.predict_proba([swap_names(t) for t in named])
    sides = np.array([_side(t) for t in named])
    one_sided = sides == "russia"
    flips = before.argmax(1) != after.argmax(1)
    change = (after - before)[one_sided]
    return NeutralityReport(
        len(named),
        float(flips.mean()),
        {
            side: float(flips[sides == side].mean())
            for side in ("russia", "ukraine")
            if (sides == side).any()
        },
        {
            c: float(change[:, i].mean()) if len(change) else 0.0
            for i, c in enumerate(model.classes_)
        },
        int(one_sided.sum()),
    )


def _side(text: str) -> str:
    found = {match[0] in _RUSSIAN for match in _NAMES.finditer(text)}
    return "both" if len(found) == 2 else "russia" if found == {True} else "ukraine"
