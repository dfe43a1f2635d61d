"""Checks of what must not change a label.

Source of the method: Ribeiro et al. 2020 (CheckList), invariance tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stance.neutrality import Classifier, pattern_of, rename, swap_names

# Third parties that could stand in each other's place in a story about somebody else's talks.
_BYSTANDERS = (
    ("Turkey", "Qatar"),
    ("Turkish", "Qatari"),
    ("Istanbul", "Doha"),
    ("France", "Germany"),
    ("French", "German"),
    ("Macron", "Merz"),
    ("Paris", "Berlin"),
    ("Witkoff", "Kushner"),
    ("Rubio", "Vance"),
    ("Geneva", "Vienna"),
    ("Saudi Arabia", "Egypt"),
    ("Riyadh", "Cairo"),
)
_OTHER = {**dict(_BYSTANDERS), **{b: a for a, b in _BYSTANDERS}}
_OTHER_NAMES = pattern_of(_OTHER)
# Two sides of another conflict for Russia's and Ukraine's names: names that no model reads alike.
_ELSEWHERE = {
    **{"Vladimir Putin": "Ilham Aliyev", "Volodymyr Zelensky": "Nikol Pashinyan"},
    **{"Putin": "Aliyev", "Zelensky": "Pashinyan", "Moscow": "Baku", "Kyiv": "Yerevan"},
    **{
        "Russian Federation": "Republic of Azerbaijan",
        "Republic of Ukraine": "Republic of Armenia",
    },
    **{"Russians": "Azerbaijanis", "Ukrainians": "Armenians"},
    **{"Russian": "Azerbaijani", "Ukrainian": "Armenian", "Russia": "Azerbaijan"},
    **{"Ukraine": "Armenia", "Lavrov": "Bayramov", "Sybiha": "Mirzoyan"},
    **{"Peskov": "Hajizada", "Nykyforov": "Badalyan", "Medinsky": "Hajiyev"},
    **{"Umerov": "Grigoryan", "Kremlin": "Zagulba", "Bankova": "Baghramyan"},
}
_ELSEWHERE |= {a.upper(): b.upper() for a, b in _ELSEWHERE.items()}
_HERE = pattern_of(_ELSEWHERE)
_SOURCES = (" (Reuters)", " — TASS", " Source: Ukrinform")


@dataclass(frozen=True)
class Capability:
    """How a model does at one thing: `rate` of `n` texts, 1 is perfect."""

    n: int
    rate: float


def _swap_bystanders(text: str, _: np.random.Generator) -> str:
    return _OTHER_NAMES.sub(lambda match: _OTHER[match[0]], text)


def _elsewhere(text: str) -> str:
    return _HERE.sub(lambda match: _ELSEWHERE[match[0]], text)


def _typo(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters inside one longer word change places."""
    words = text.split(" ")
    long_words = [i for i, w in enumerate(words) if len(w) > 5 and w.isalpha() and w.islower()]
    if not long_words:
        return text
    index = int(rng.choice(long_words))
    word = words[index]
    at = int(rng.integers(1, len(word) - 2))
    words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _other_quotes(text: str, _: np.random.Generator) -> str:
    if "“" in text or "’" in text:
        return text.translate(str.maketrans("“”‘’", "\"\"''"))
    parts = text.split('"')
    curly = "".join(p + "“”"[i % 2] for i, p in enumerate(parts[:-1])) + parts[-1]
    return curly.replace("'", "’")


_CHANGES: dict[str, Callable[[str, np.random.Generator], str]] = {
    "belligerents swapped": lambda text, _: swap_names(text),
    "third parties swapped": _swap_bystanders,
    "a typo": _typo,
    "other quotation marks": _other_quotes,
    "upper case": lambda text, _: text.upper(),
    "source line at the end": lambda text, rng: text + _SOURCES[int(rng.integers(len(_SOURCES)))],
}


def invariances(model: Classifier, texts: Sequence[str], seed: int = 13) -> dict[str, Capability]:
    """Share of labels that stay, for each change that must not matter; each sentence alone.

    Only texts that a change alters are counted. "Azerbaijan and Armenia swapped" puts those two
    sides into Russia's and Ukraine's places, one way and the other, and compares the two: of
    models that read Russia's and Ukraine's names alike it shows what they make of other sides.
    """
    before = model.predict_proba(texts).argmax(1)
    found = {}
    for name, change in _CHANGES.items():
        rng = np.random.default_rng(seed)
        changed = [change(t, rng) for t in texts]
        rows = [i for i, (a, b) in enumerate(zip(texts, changed, strict=True)) if a != b]
        if rows:
            after = model.predict_proba([changed[i] for i in rows]).argmax(1)
            found[name] = Capability(len(rows), float((after == before[rows]).mean()))
    moved = [[_elsewhere(rename(t, s)) for t in texts if swap_names(t) != t] for s in (False, True)]
    if moved[0]:
        one, other = (model.predict_proba(m).argmax(1) for m in moved)
        found["Azerbaijan and Armenia swapped"] = Capability(len(one), float((one == other).mean()))
    return found
