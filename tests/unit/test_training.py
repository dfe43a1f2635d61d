import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stance import ConfigError, DataError, load
from stance.corpus import load_corpus
from stance.encoder import read_tensors
from stance.loop import class_weights
from stance.predictions import write_predictions
from stance.run import Run, taught_by
from stance.training import fit_temperature, none_offset, train
from tests.conftest import small_rows, write_jsonl


def weights(result) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def same(a, b) -> bool:
    return all(torch.equal(t, weights(b)[n]) for n, t in weights(a).items())


def test_same_seed_same_bits_and_another_seed_others(tiny_config, small_data, tmp_path):
    corpus = load_corpus(small_data)
    one = train(tiny_config, corpus, tmp_path / "1")
    two = train(tiny_config, corpus, tmp_path / "2")
    assert same(one, two)
    other = train(replace(tiny_config, seed=4), corpus, tmp_path / "3")
    assert not same(one, other)


@pytest.mark.parametrize("n_steps", [1, 3, 4, 11, 12, 13, 20])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(
    n_steps, tiny_config, small_data, tmp_path, monkeypatch
):
    corpus = load_corpus(small_data)
    whole = train(tiny_config, corpus, tmp_path / "whole")

    class Stop(Exception):
        pass

    from stance.loop import Loop

    step, taken = Loop._step, []

    def counted(self, epoch, rows):
        if len(taken) == n_steps:
            raise Stop
        taken.append(epoch)
        return step(self, epoch, rows)

    monkeypatch.setattr(Loop, "_step", counted)
    with pytest.raises(Stop):
        train(tiny_config, corpus, tmp_path / "cut")
    monkeypatch.setattr(Loop, "_step", step)
    resumed = train(replace(tiny_config, resume=True), corpus, tmp_path / "cut")
    assert same(whole, resumed)
    steps = [r["step"] for r in resumed.history]
    assert steps == [r["step"] for r in whole.history]
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == steps


def test_an_unfinished_run_is_not_overwritten(tiny_config, small_data, tmp_path):
    corpus = load_corpus(small_data)
    train(tiny_config, corpus, tmp_path)
    with pytest.raises(ConfigError, match="resume=true"):
        train(tiny_config, corpus, tmp_path)


def test_resume_refuses_other_settings(tiny_config, small_data, tmp_path):
    corpus = load_corpus(small_data)
    train(tiny_config, corpus, tmp_path)
    with pytest.raises(ConfigError, match="another seed"):
        train(replace(tiny_config, seed=9, resume=True), corpus, tmp_path)


def test_resume_refuses_other_data_under_the_same_name(tiny_config, tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", small_rows(24))
    train(tiny_config, load_corpus(path), tmp_path / "run")
    write_jsonl(path, small_rows(24, seed=1))
    with pytest.raises(ConfigError, match="another data_sha256"):
        train(replace(tiny_config, resume=True), load_corpus(path), tmp_path / "run")


def test_stale_half_written_checkpoint_is_ignored(tiny_config, small_data, tmp_path):
    (tmp_path / ".checkpoint-abc").mkdir()
    run = Run(tiny_config, tmp_path, "0")
    assert run.checkpoint() is None
    assert not (tmp_path / ".checkpoint-abc").exists()


def test_one_label_in_train_is_refused(tiny_config, tmp_path):
    rows = [r if r["split"] != "train" else {**r, "label": "none"} for r in small_rows(24)]
    corpus = load_corpus(write_jsonl(tmp_path / "d.jsonl", rows))
    with pytest.raises(DataError, match="split 'train' holds only"):
        train(tiny_config, corpus, tmp_path / "run")


def test_the_tiny_model_learns_what_can_be_learnt(tiny_config, small_data, tmp_path):
    config = replace(
        tiny_config,
        trainer=replace(
            tiny_config.trainer,
            num_train_epochs=60,
            learning_rate=3e-3,
            head_learning_rate=1e-2,
            early_stopping_patience=60,
        ),
    )
    result = train(config, load_corpus(small_data), tmp_path)
    assert result.spec.training["validation_macro_f1"] > 0.8


def test_the_average_holds_the_last_steps_of_an_epoch(tiny_config, small_data, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.trainer.train_batch_size = 9  # eleven steps
    config.trainer.ema_decay = 0.0
    train(config, load_corpus(small_data), tmp_path)
    averaged, model = (
        read_tensors(tmp_path / "checkpoint-22" / f"{part}.safetensors")
        for part in ("averaged", "model")
    )
    assert all(torch.equal(t, averaged[n]) for n, t in model.items())


def test_class_weights_follow_the_formula(tiny_config):
    y = np.array([0, 0, 0, 1])
    options = replace(tiny_config.trainer, class_weight_power=1.0)
    assert class_weights(y, 2, options).tolist() == pytest.approx([4 / 6, 2.0])
    assert class_weights(y, 2, tiny_config.trainer).tolist() == [1.0, 1.0]


def test_temperature_undoes_a_known_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, 3))
    proba = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = np.array([rng.choice(3, p=p) for p in proba])
    assert fit_temperature(3 * logits, y) == pytest.approx(3, rel=0.1)


def test_a_student_learns_its_teachers_probabilities(
    tiny_config, tiny_bundle, small_data, tmp_path
):
    corpus = load_corpus(small_data)
    config = copy.deepcopy(tiny_config)
    config.trainer.teachers = [str(tiny_bundle)]
    config.trainer.teacher_weight = 1.0
    train(config, corpus, tmp_path / "taught")
    proba = read_tensors(tmp_path / "taught" / "taught.safetensors")["proba"].numpy()
    part = corpus.split("train")
    expected = load(tiny_bundle).predict_proba(part.texts, part.contexts())
    assert proba == pytest.approx(expected)
    write_predictions(tmp_path / "teacher.jsonl", part, expected)
    assert taught_by(str(tmp_path / "teacher.jsonl"), part) == pytest.approx(expected, abs=1e-5)
    config.trainer.teacher_weight = 0.0
    untaught = train(config, corpus, tmp_path / "untaught")
    assert same(untaught, train(tiny_config, corpus, tmp_path / "plain"))


def test_a_teacher_of_other_labels_is_refused(tiny_config, tiny_bundle, tmp_path):
    rows = [{**r, "label": {"none": "hawk"}.get(r["label"], "dove")} for r in small_rows(8)]
    config = copy.deepcopy(tiny_config)
    config.trainer.teachers = [str(tiny_bundle)]
    with pytest.raises(ConfigError, match=r"teacher .* knows"):
        train(config, load_corpus(write_jsonl(tmp_path / "d.jsonl", rows)), tmp_path / "run")


def test_none_is_predicted_as_often_as_it_is_true():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(500) < 0.7, 0, rng.integers(1, 4, 500))
    logits = rng.normal(size=(500, 4)) + 0.8 * np.eye(4)[y]
    logits[:, 0] += 2
    assert (logits.argmax(1) != 0).sum() < (y != 0).sum()
    logits[:, 0] += none_offset(logits, y, 0)
    assert (logits.argmax(1) != 0).sum() == (y != 0).sum()
    assert none_offset(logits, np.zeros(500, np.int64), 0) == 0
