import numpy as np
import pytest

from stance.neutrality import (
    is_ukraine_first,
    neutrality,
    original_offsets,
    rename,
    swap_names,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Russia's envoys met in Kyiv.", "Ukraine's envoys met in Moscow."),
        ("Vladimir Putin called Zelenskyy.", "Volodymyr Zelensky called Putin."),
        ("KIEV, December 3. Ukrainians voted.", "MOSCOW, December 3. Russians voted."),
        ("Belarusian officials met in Minsk.", "Belarusian officials met in Minsk."),
        ("The Kremlin and Bankova agreed.", "The Bankova and Kremlin agreed."),
    ],
)
def test_names_are_exchanged_whole(text, expected):
    assert swap_names(text) == expected


class NameReader:
    """A model that judges by names alone: Moscow obstructs, Kyiv does not."""

    classes_ = ("none", "obstructive")

    def predict_proba(self, texts, context=None):
        p = np.array([0.9 if "Moscow" in t else 0.1 for t in texts])
        return np.stack([1 - p, p], 1)


class Blind(NameReader):
    def predict_proba(self, texts, context=None):
        return np.full((len(texts), 2), 0.5)


TEXTS = ["Moscow refused.", "Kyiv refused.", "Rain fell."]


def test_a_model_that_reads_names_is_found_out_and_a_blind_one_is_not():
    biased = neutrality(NameReader(), TEXTS)
    assert biased.n_sentences == 2
    assert biased.flip_rate == 1.0
    assert biased.shift["obstructive"] == pytest.approx(-0.8)
    fair = neutrality(Blind(), TEXTS)
    assert fair.flip_rate == 0.0
    assert fair.shift["obstructive"] == 0.0


def read(text):
    return rename(text, is_ukraine_first(text))


@pytest.mark.parametrize(
    "text",
    [
        "Kiev refuses to talk to Moscow, Zelenskyy said.",
        "Vladimir Putin told Volodymyr Zelenskiy no.",
        "KIEV AND MOSCOW MEET",
        "The Kremlin's envoy met Umerov.",
        "Nobody is named here.",
    ],
)
def test_a_text_and_its_mirror_image_are_read_alike(text):
    assert read(swap_names(text)) == read(text)
    assert read(read(text)) == read(text)


def test_offsets_lead_back_to_the_text_as_it_stands():
    text = "Kiev told Moscow that Zelenskyy agrees."
    changed = rename(text, is_swapped=True)
    assert changed == "Moscow told Kyiv that Putin agrees."
    words = ["Moscow", "told", "Kyiv", "Putin", "agrees"]
    spans = [(changed.index(w), changed.index(w) + len(w)) for w in words]
    found = [text[a:b] for a, b in original_offsets(text, True, spans)]
    assert found == ["Kiev", "told", "Moscow", "Zelenskyy", "agrees"]
    inside = original_offsets(text, True, [(2, 4), (0, 6)])
    assert inside == [(0, 4), (0, 4)]
