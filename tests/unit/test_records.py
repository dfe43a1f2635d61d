import sys

import pytest

from stance import ArticlePrediction, MissingPackageError, Prediction


def made(label="none"):
    scores = {"none": 0.7, "optimistic": 0.3}
    return Prediction("Rain fell.", label, 0.7, scores, 0, 10)


def test_results_cannot_be_changed():
    one = made()
    with pytest.raises(AttributeError):
        one.label = "optimistic"
    with pytest.raises(TypeError):
        one.scores["none"] = 0.0


def test_counts_name_every_label():
    article = ArticlePrediction("Rain fell.", (made(), made("optimistic")), ("none", "optimistic"))
    assert article.counts == {"none": 1, "optimistic": 1}
    assert [s.label for s in article.stance_sentences] == ["optimistic"]


def test_frame_without_pandas_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'peace-stance\[pandas\]'"):
        ArticlePrediction("", (), ("none",)).to_pandas()
