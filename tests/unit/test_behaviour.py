import numpy as np

from stance.behaviour import invariances

TEXTS = [
    'The envoy said: "Talks in Istanbul are stalled," and Turkey\'s minister agreed yesterday.',
    "Nothing whatever was decided.",
]


class Capitals:
    """A model that is moved by case alone."""

    classes_ = ("none", "obstructive")

    def predict_proba(self, texts, context=None):
        p = np.array([0.9 if t.isupper() else 0.1 for t in texts])
        return np.stack([1 - p, p], 1)


def test_each_change_is_counted_where_it_alters_a_text_and_shows_what_moves_a_model():
    found = invariances(Capitals(), TEXTS)
    assert found["upper case"].n == 2 and found["upper case"].rate == 0.0
    assert found["third parties swapped"].n == 1 and found["third parties swapped"].rate == 1.0
    assert found["other quotation marks"].n == 1
    assert found["source line at the end"].n == 2
    assert "belligerents swapped" not in found


def test_a_typo_moves_two_letters_of_one_word_and_is_the_same_each_time():
    seen = []

    class Spy(Capitals):
        def predict_proba(self, texts, context=None):
            seen.append(list(texts))
            return super().predict_proba(texts)

    invariances(Spy(), TEXTS, seed=5)
    first = [list(s) for s in seen]
    seen.clear()
    invariances(Spy(), TEXTS, seed=5)
    assert seen == first
    changed = [
        t for part in first for t in part if t not in TEXTS and sorted(t) == sorted(TEXTS[1])
    ]
    assert len(changed) == 1


def test_sides_that_no_list_names_show_what_a_model_makes_of_them():
    class Baku(Capitals):
        """A model that reads Russia and Ukraine alike, but not Baku and Yerevan."""

        def predict_proba(self, texts, context=None):
            p = np.array([0.9 if t.startswith("Baku") else 0.1 for t in texts])
            return np.stack([1 - p, p], 1)

    texts = ["Moscow rejected Kyiv's offer.", "KYIV waits for Moscow.", "Nobody came."]
    found = invariances(Baku(), texts)
    assert found["belligerents swapped"].rate == 1.0
    assert found["Azerbaijan and Armenia swapped"].n == 2
    assert found["Azerbaijan and Armenia swapped"].rate == 0.5
