"""What the package carries: its models, their cards, its data."""

import pytest

from stance import HOLDERS, LABELS, load
from stance.bundle import find_bundle
from stance.config import resource_dir
from stance.corpus import load_corpus
from stance.neutrality import swap_names
from stance.predictions import read_predictions
from stance.prepare import load_for_training
from tests.conftest import train_config


def test_the_accurate_model_is_mpnet_and_both_are_small_enough_for_git():
    assert find_bundle("accurate") == find_bundle("mpnet")
    for name in ("minilm", "mpnet"):
        size = sum(p.stat().st_size for p in find_bundle(name).iterdir())
        assert size <= 25 * 2**20, name


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_cards_give_figures_with_intervals_and_a_command(name):
    card = (find_bundle(name) / "README.md").read_text(encoding="utf-8")
    assert "| f_stance | 0." in card and "Belligerents' names swapped" in card
    assert f"`stance train experiment={name}" in card
    assert "/work" not in card and "/home" not in card


def test_the_default_model_says_label_holder_and_risk():
    model = load()
    assert set(model.classes_) == set(LABELS)
    assert model.spec.holders == HOLDERS
    found = model.predict("Moscow will sign nothing that leaves foreign troops in Ukraine.")
    assert (found.label, found.holder) == ("obstructive", "russia")
    assert found.holder_span in found.text
    assert 0.25 < model.threshold_for(risk=0.1) < 1


def test_swapping_the_belligerents_swaps_the_holder_and_nothing_else():
    corpus = load_corpus(resource_dir("data") / "peace_talks").split("validation")
    texts = [t for t in corpus.texts if swap_names(t) != t][:60]
    model = load()
    before, after = model.predict(texts), model.predict([swap_names(t) for t in texts])
    assert [p.scores for p in after] == [p.scores for p in before]
    mirror = {"russia": "ukraine", "ukraine": "russia"}
    assert [mirror.get(p.holder, p.holder) for p in after] == [p.holder for p in before]
    assert {"russia", "ukraine"} <= {p.holder for p in before}


def test_the_teacher_answers_every_sentence_that_the_recipe_trains_on():
    config = train_config("experiment=minilm")
    corpus = load_for_training(config.data, config.seed).split("train")
    proba = read_predictions(resource_dir("data") / config.trainer.teachers[0], corpus)
    assert proba.shape == (len(corpus), len(LABELS))


@pytest.mark.parametrize("name", ["contrast/pairs.jsonl", "behaviour/cases.jsonl"])
def test_sets_of_single_sentences_keep_a_second_readers_votes(name):
    corpus = load_corpus(resource_dir("data") / name)
    assert all(len(s.votes) == 2 for s in corpus.sentences)
    assert all(corpus.articles[s.article_id].ruling for s in corpus.sentences)
