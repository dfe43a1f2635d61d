import json
import pickle
import threading

import numpy as np
import pytest

from stance import InputError, StanceWarning, backends, load, split_sentences
from stance.model import batches_by_tokens

TEXT = "Talks on item 4 are deadlocked. The plan has 5 points and an annex. A deal is within reach."
ODD = {
    "empty": "",
    "spaces": " \n\t ",
    "no letters": "123 -- !?",
    "emoji": "\U0001f54a\ufe0f\U0001f91d",
    "controls": "\x00\x01\x02\x1b[31m",
    "lone surrogate": "Talks \ud800 stall.",
    "right to left": "المحادثات وصلت إلى طريق مسدود.",
    "combining": "e\u0301" * 50,
    "one letter": "x",
    "newlines": "Talks\nstall\r\nagain.",
}


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return load(tiny_bundle)


def test_a_string_gives_one_result_and_a_list_gives_a_list(model):
    one = model.predict("Talks stall.")
    assert one.label in model.classes_
    assert sum(one.scores.values()) == pytest.approx(1)
    assert one.score == max(one.scores.values()) == one.scores[one.label]
    assert [p.label for p in model.predict(["Talks stall."])] == [one.label]
    assert model.predict([]) == []
    assert model.predict_proba([]).shape == (0, 4)


@pytest.mark.parametrize("name", ODD)
def test_odd_text_gets_an_answer(model, name):
    made = model.predict(ODD[name])
    assert made.text == ODD[name]
    assert sum(made.scores.values()) == pytest.approx(1)
    if not any(c.isalpha() for c in ODD[name]):
        assert (made.label, made.score) == ("none", 1.0)


@pytest.mark.parametrize(
    "value",
    [None, 3, 2.5, b"Talks.", [None], ["a", 3], [["a"]], [b"a"], {"a": 1}.values(), object()],
)
def test_anything_else_is_one_input_error(model, value):
    with pytest.raises(InputError, match=r"expected (a )?str"):
        model.predict(value)
    with pytest.raises(InputError):
        model.predict_article(value)


def test_a_million_characters_are_cut_with_a_warning_never_silently(model):
    with pytest.warns(StanceWarning, match="predict_article"):
        made = model.predict("Talks stall again. " * 52_632)
    assert made.is_truncated


def test_context_must_fit_the_texts(model):
    with pytest.raises(InputError, match="1 texts but 2 contexts"):
        model.predict_proba(["a"], [[], []])


def test_article_offsets_slice_the_text_and_order_is_kept(model):
    made = model.predict_article(TEXT)
    assert len(made.sentences) == 3
    assert all(made.text[s.start : s.end] == s.text for s in made.sentences)
    assert sum(made.counts.values()) == 3
    assert set(made.counts) == set(model.classes_)
    assert made.stance_sentences == tuple(s for s in made.sentences if s.label != "none")
    json.dumps(made.to_dict())


def test_given_sentences_come_back_one_for_one(model):
    given = ["Share", "Talks stall.", "", "Talks stall."]
    made = model.predict_article(given)
    assert [s.text for s in made.sentences] == given
    assert all(made.text[s.start : s.end] == s.text for s in made.sentences)


def test_empty_article_has_no_sentences(model):
    made = model.predict_article(" \n ")
    assert made.sentences == ()
    assert made.counts == dict.fromkeys(model.classes_, 0)


def test_article_and_proba_with_context_agree(model):
    texts = [s.text for s in model.predict_article(TEXT).sentences]
    proba = model.predict_proba(texts, [texts[:i] for i in range(3)])
    scores = [list(s.scores.values()) for s in model.predict_article(texts).sentences]
    assert np.allclose(proba, scores, atol=1e-6)


def test_articles_together_get_what_each_gets_alone(model):
    articles = [TEXT, "", "Talks stall.", ["Share", "Talks stall.", "", "Talks stall."], TEXT]
    articles.append(split_sentences(TEXT.replace("deadlocked", "moving")))
    together = model.predict_articles(articles)
    alone = [model.predict_article(a) for a in articles[:-1]]
    alone.append(model.predict_article(articles[-1].text))
    for ours, theirs in zip(together, alone, strict=True):
        assert (ours.text, ours.counts, ours.dropped) == (
            theirs.text,
            theirs.counts,
            theirs.dropped,
        )
        for a, b in zip(ours.sentences, theirs.sentences, strict=True):
            assert (a.text, a.label, a.start, a.end) == (b.text, b.label, b.start, b.end)
            assert list(a.scores.values()) == pytest.approx(list(b.scores.values()), abs=1e-6)
    assert model.predict_articles([]) == []


@pytest.mark.parametrize("value", [TEXT, None, 3, [None], [b"Talks."]])
def test_several_articles_are_a_list_of_texts(model, value):
    with pytest.raises(InputError, match="expected a"):
        model.predict_articles(value)


def test_inputs_that_are_alike_go_through_the_model_once(model, monkeypatch):
    n_rows = []
    collate = backends.collate_arrays
    monkeypatch.setattr(
        backends, "collate_arrays", lambda x, pad: n_rows.append(len(x)) or collate(x, pad)
    )
    context = [["Head."], ["Head."], ["Other."], ["Head."]]
    proba = model.predict_proba(["Talks stall.", "Talks stall.", "Talks stall.", "12"], context)
    assert sum(n_rows) == 3
    assert (proba[0] == proba[1]).all() and not (proba[0] == proba[2]).all()


def test_results_do_not_depend_on_neighbours(model):
    texts = [f"The envoy offered to drop demand {i}. " * (1 + i % 4) for i in range(64)]
    together = model.predict_proba(texts)
    alone = np.concatenate([model.predict_proba([t]) for t in texts])
    assert np.abs(together - alone).max() < 1e-3


def test_quotes_and_dashes_of_every_house_style_are_the_same(model):
    plain = model.predict_proba(['"We won\'t sign," he said - again.'])
    curly = model.predict_proba(["“We won’t sign,” he said – again."])
    assert np.allclose(plain, curly)


def test_pandas_frame_has_a_row_a_sentence(model):
    frame = model.predict_article(TEXT).to_pandas()
    assert len(frame) == 3
    assert {"label", "score", "score_none", "start"} <= set(frame)


def test_results_pickle(model):
    made = model.predict_article(TEXT)
    assert pickle.loads(pickle.dumps(made)) == made


def test_batches_keep_the_budget_and_every_row():
    lengths = [5, 100, 7, 300, 8, 8, 90]
    batches = list(batches_by_tokens(lengths, 200))
    assert sorted(r for b in batches for r in b) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[r] for r in b) <= 200 for b in batches)


def test_sixteen_threads_give_the_serial_answers(model):
    calls = [f"The ministry rejected point {i} outright. " * (1 + i % 5) for i in range(500)]
    serial = {text: model.predict_proba([text])[0] for text in calls}
    serial_article = [list(s.scores.values()) for s in model.predict_article(TEXT).sentences]
    wrong: list[str] = []

    def work(offset: int) -> None:
        for i in range(500):
            text = calls[(i * 7 + offset) % 500]
            if i % 10 == 0:
                made = [list(s.scores.values()) for s in model.predict_article(TEXT).sentences]
                if not np.allclose(made, serial_article, atol=1e-5):
                    wrong.append("article")
            elif not np.allclose(model.predict_proba([text])[0], serial[text], atol=1e-5):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(n * 31,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
