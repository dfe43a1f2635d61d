import json

import numpy as np
import pytest

from stance import BundleError, load
from stance.corpus import load_corpus
from stance.evaluation import matrix_measures
from stance.exports import Exports
from stance.gate import compare, export_backend
from stance.metrics import confusion
from tests.conftest import write_jsonl


@pytest.fixture(scope="module")
def corpus(small_data):
    return load_corpus(small_data)


def answers(corpus, changed=()):
    """The true labels, some of them changed."""
    y = corpus.y.copy()
    y[list(changed)] = (y[list(changed)] + 1) % 4
    return np.eye(4)[y]


def test_equal_answers_pass_without_loss(corpus):
    found = compare(corpus, answers(corpus), answers(corpus))
    assert found.is_passed and found.agreement == 1.0
    assert (found.measure, found.loss, found.loss_low, found.loss_high) == ("f_stance", 0, 0, 0)
    assert (found.n_sentences, found.n_articles) == (192, 24)


def test_more_than_one_label_in_a_hundred_fails(corpus):
    reference = answers(corpus, range(8))  # wrong ones, so that there is no loss
    assert compare(corpus, reference, answers(corpus, range(1, 8))).is_passed
    found = compare(corpus, reference, answers(corpus, range(2, 8)))
    assert found.agreement < 0.99 and found.loss < 0 and not found.is_passed


def test_a_loss_of_more_than_half_a_point_fails_and_is_that_of_the_measure(corpus):
    stance = np.flatnonzero(corpus.y > 0)[:1]
    found = compare(corpus, answers(corpus), answers(corpus, stance))
    f_stance = matrix_measures(corpus.classes_)["f_stance"]
    wanted = 1 - f_stance(confusion(corpus.y, answers(corpus, stance).argmax(1), 4))
    assert found.agreement > 0.99 and not found.is_passed
    assert found.loss == pytest.approx(wanted) and found.loss > 0.005
    assert found.loss_low <= found.loss <= found.loss_high


def test_answers_that_neighbours_change_fail(corpus):
    given = answers(corpus)
    assert not compare(corpus, given, given, neighbour_change=2e-3).is_passed


def test_other_label_sets_are_compared_by_macro_f1(tmp_path):
    rows = [{"text": f"Rates rose {i}.", "label": "ab"[i % 2]} for i in range(20)]
    corpus = load_corpus(write_jsonl(tmp_path / "other.jsonl", rows))
    assert compare(corpus, np.eye(2)[corpus.y], np.eye(2)[corpus.y]).measure == "macro_f1"


def test_a_backend_that_fails_is_kept_with_its_figures_and_refused(
    tiny_bundle, corpus, monkeypatch, tmp_path
):
    monkeypatch.setenv("STANCE_CACHE", str(tmp_path))
    monkeypatch.setattr("stance.gate.MIN_AGREEMENT", 1.1)
    result = export_backend(tiny_bundle, "bf16", corpus, device="cpu")
    assert not result.is_passed
    assert Exports(tiny_bundle).gates() == {"bf16": result}
    assert load(tiny_bundle, device="cpu").backend == "fp32"
    with pytest.raises(BundleError, match="bf16 failed its check"):
        load(tiny_bundle, device="cpu", backend="bf16")


@pytest.mark.parametrize("name", ["bf16", "onnx-int8"])
def test_a_backend_that_passes_can_be_loaded_by_name(
    tiny_bundle, corpus, monkeypatch, tmp_path, name
):
    if name == "onnx-int8":
        pytest.importorskip("onnxruntime")
    monkeypatch.setenv("STANCE_CACHE", str(tmp_path))
    monkeypatch.setattr("stance.gate.MIN_AGREEMENT", 0.0)
    monkeypatch.setattr("stance.gate.MAX_LOSS", 1.0)
    lines: list[str] = []
    assert export_backend(tiny_bundle, name, corpus, "cpu", lines.append).is_passed
    assert len(lines) >= 3
    made = load(tiny_bundle, device="cpu", backend=name)
    assert made.backend == name
    texts = corpus.texts[:40]
    wanted = load(tiny_bundle, device="cpu", backend="fp32").predict_proba(texts)
    assert np.abs(made.predict_proba(texts) - wanted).max() < 0.05
    (speeds,) = Exports(tiny_bundle).speeds().values()
    assert set(speeds) == {"fp32", name}
    folder = Exports(tiny_bundle).folder
    wanted_files = {"backends.json", ".lock"} | ({"onnx-int8.onnx"} if name != "bf16" else set())
    assert {p.name for p in folder.iterdir()} == wanted_files
    json.loads((folder / "backends.json").read_text())
