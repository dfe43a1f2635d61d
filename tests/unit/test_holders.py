import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from stance import HOLDERS
from stance.bundle import bundle_tensors, load_bundle, save_bundle
from stance.classifier import StanceClassifier
from stance.corpus import load_corpus
from stance.encoder import encoder_config, find_base, load_tokenizer
from stance.evaluation import evaluate, holders_right
from stance.holders import UNKNOWN, HolderTargets, best_span, holder_loss
from stance.model import InputBuilder, Outputs, new_spec
from stance.records import Prediction
from stance.training import train
from tests.conftest import write_jsonl

PLACES = {"Moscow": "russia", "Kyiv": "ukraine"}


def rows(n_articles=12):
    made = []
    for article in range(n_articles):
        split = ("train", "train", "train", "validation")[article % 4]
        for index in range(8):
            place = list(PLACES)[index // 2 % 2]
            if index % 2:
                row = {"text": f"On day {article} {place} rejected point {index}.", "span": place}
                row |= {"label": "obstructive", "holder": PLACES[place], "certainty": "stated"}
            else:
                row = {"text": f"{place} saw rain on day {article} {index}.", "label": "none"}
            made.append({"article_id": f"a{article}", "index": index, "split": split, **row})
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_jsonl(tmp_path_factory.mktemp("h") / "h.jsonl", rows()))


@pytest.fixture(scope="module")
def inputs():
    base = find_base("minilm")
    tokenizer = load_tokenizer(base.folder)
    return InputBuilder(tokenizer, new_spec((), base, encoder_config(base.folder), tokenizer))


@pytest.mark.parametrize("is_swapped", [False, True])
def test_targets_point_at_the_words_that_name_the_holder(corpus, inputs, is_swapped):
    targets = HolderTargets(corpus, inputs, is_swapped=is_swapped)
    row = next(i for i, s in enumerate(corpus.sentences) if s.span == "Kyiv")
    assert HOLDERS[targets.holder[row]] == ("russia" if is_swapped else "ukraine")
    assert targets.span[row].tolist() == [4, 4]  # [CLS] on day 1 kyiv
    none = next(i for i, s in enumerate(corpus.sentences) if s.label == "none")
    assert targets.holder[none] == UNKNOWN and targets.span[none].tolist() == [UNKNOWN] * 2


def test_best_span_is_ordered_short_and_better_than_not_named():
    logits = np.zeros((6, 2))
    logits[3, 0] = logits[4, 1] = 2.0
    assert best_span(logits) == (3, 4)
    logits[0] = 3.0
    assert best_span(logits) is None
    logits[0] = 0.0
    logits[4, 0] = logits[2, 1] = 5.0  # an end before its beginning
    assert best_span(logits) == (4, 4)
    assert best_span(np.zeros((1, 2))) is None
    long = np.zeros((40, 2))
    long[1, 0] = long[39, 1] = 9.0
    first, last = best_span(long, max_tokens=12)
    assert last - first < 12


def test_loss_leaves_out_what_is_not_known():
    outputs = Outputs(torch.zeros(2, 4), torch.randn(2, 3), torch.randn(2, 5, 2))
    known = holder_loss(outputs, np.array([1, UNKNOWN]), np.array([[2, 3], [UNKNOWN] * 2]))
    first = Outputs(*(t[:1] for t in outputs))
    alone = holder_loss(first, np.array([1]), np.array([[2, 3]]))
    assert known.item() == pytest.approx(alone.item())
    nothing = holder_loss(outputs, np.array([UNKNOWN] * 2), np.full((2, 2), UNKNOWN))
    assert nothing.item() == 0.0


def test_a_model_learns_whose_stance_it_is_and_which_words_say_so(corpus, tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.trainer.num_train_epochs = 60
    config.trainer.early_stopping_patience = 60
    config.trainer.learning_rate = 1e-2
    config.trainer.holder_weight = 3.0
    config.trainer.ema_decay = 0.0
    config.model.n_context, config.model.has_headline = 0, False
    result = train(config, corpus, tmp_path)
    save_bundle(
        tmp_path / "b", bundle_tensors(result.model, result.spec), result.spec, result.tokenizer, ""
    )
    model = StanceClassifier(*load_bundle(tmp_path / "b"))
    found = model.predict("On day 3 Kyiv rejected point 5.")
    assert (found.label, found.holder, found.holder_span) == ("obstructive", "ukraine", "Kyiv")
    assert found.holder_score > 0.5
    dull = model.predict("Kyiv saw rain on day 3 2.")
    assert (dull.label, dull.holder, dull.holder_score) == ("none", None, None)
    article = model.predict_article(
        ["Moscow rejected point 3.", "On day 2 Moscow rejected point 1."]
    )
    assert set(article.by_holder()) <= set(HOLDERS)
    assert sum(map(len, article.by_holder().values())) == len(article.stance_sentences)
    report = evaluate(model, corpus, split="validation", n_resamples=20)
    assert report.holders["accuracy"] > 0.9 and report.holders["span_f1"] > 0.8


def test_a_corpus_without_holders_gives_a_model_without_that_head(tiny_bundle):
    _, spec, *_ = load_bundle(tiny_bundle)
    assert spec.holders == ()
    assert StanceClassifier(*load_bundle(tiny_bundle)).predict("Talks stall.").holder is None


def test_holders_count_only_where_a_stance_was_found(corpus):
    part = corpus.split("validation")
    proba = {"none": 0.5, "obstructive": 0.5}
    made = [
        Prediction(s.text, s.label, 0.5, proba, holder=s.holder, holder_span=s.span)
        for s in part.sentences
    ]
    assert holders_right(part, made) == {
        "n_found": 12,
        "accuracy": 1.0,
        "n_named": 12,
        "span_f1": 1.0,
    }
    nobody = [Prediction(s.text, "none", 0.5, proba) for s in part.sentences]
    assert holders_right(part, nobody) is None


def test_a_span_of_punctuation_alone_names_nobody(corpus):
    part = corpus.split("validation")
    first, *rest = part.sentences[1::2]
    part = replace(part, sentences=(first, *(replace(s, span="") for s in rest)))
    made = [
        Prediction(s.text, s.label, 0.5, {}, holder=s.holder, holder_span=s.span or ",")
        for s in part.sentences
    ]
    assert holders_right(part, made)["span_f1"] == pytest.approx(1 / len(part))
