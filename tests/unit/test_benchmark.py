import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from stance import metrics
from stance.benchmark import Benchmark
from stance.config import BenchmarkConfig, DataConfig, EvaluationSetConfig, SystemConfig
from stance.report import benchmark_markdown, write_benchmark
from tests.conftest import small_rows, write_jsonl


@pytest.fixture
def data(tmp_path):
    rows = small_rows(24)
    for row in rows:
        row["votes"] = [{"annotator": "a", "label": row["label"]}]
    rows[-1]["votes"][0]["label"] = "none" if rows[-1]["label"] != "none" else "optimistic"
    return write_jsonl(tmp_path / "small.jsonl", rows)


@pytest.fixture
def config(data):
    return BenchmarkConfig(
        seeds=[1, 2],
        n_resamples=50,
        data=DataConfig(path=str(data)),
        tests={"test": EvaluationSetConfig(path=str(data), split="test")},
        systems={
            "majority": SystemConfig(kind="majority"),
            "tfidf": SystemConfig(kind="tfidf"),
            "annotator": SystemConfig(kind="annotator", source="a"),
        },
    )


def rows_of(report):
    return {row.system: row for row in report.rows}


def test_systems_are_measured_compared_and_written(config, tmp_path):
    report = Benchmark(config, {}, tmp_path / "out").run()
    rows = rows_of(report)
    assert report.failed == {}
    assert rows["majority"].measures["f_stance"].value == 0
    assert rows["tfidf"].measures["f_stance"].value > 0.9
    assert rows["annotator"].measures["accuracy"].value == pytest.approx(47 / 48)
    assert rows["tfidf"].p_against_best is None
    assert rows["majority"].p_against_best < 0.05
    assert set(report.behaviour) == set(report.neutrality) == {"majority", "tfidf"}
    paths = write_benchmark(report, tmp_path / "out")
    assert "| majority |" in benchmark_markdown(report)
    page = paths[-1].read_text()
    assert "<svg" in page and "<td>majority</td>" in page
    assert json.loads(paths[0].read_text())["leading"] == {"test": "f_stance"}


def test_a_finished_cell_is_not_run_twice_and_a_changed_one_is(config, tmp_path):
    Benchmark(config, {}, tmp_path).run()
    cells = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cells/*/cell.json")}
    Benchmark(config, {}, tmp_path).run()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("cells/*/cell.json")} == cells
    Benchmark(replace(config, data=replace(config.data, train_share=0.5)), {}, tmp_path).run()
    assert len(list(tmp_path.glob("cells/*/cell.json"))) == len(cells) + 2  # not the annotator


def test_a_broken_cell_is_reported_and_the_rest_goes_on(config, tmp_path):
    config.systems["absent"] = SystemConfig(kind="bundle", source=str(tmp_path / "nowhere"))
    config.systems["nobody"] = SystemConfig(kind="annotator", source="b")
    report = Benchmark(config, {}, tmp_path).run()
    assert set(report.failed) == {"absent/1", "nobody/1"}
    assert "vote of annotator 'b'" in report.failed["nobody/1"]
    assert "tfidf" in rows_of(report)


def test_an_annotator_is_measured_only_where_they_voted(config, tmp_path):
    rows = [
        {"text": f"Text {i}.", "label": label} for i, label in enumerate(["none", "optimistic"] * 4)
    ]
    plain = write_jsonl(tmp_path / "plain.jsonl", rows)
    config.tests["plain"] = EvaluationSetConfig(path=str(plain), split="all")
    report = Benchmark(config, {}, tmp_path).run()
    assert report.failed == {}
    measured = {(r.system, r.test) for r in report.rows}
    assert ("annotator", "test") in measured and ("tfidf", "plain") in measured
    assert ("annotator", "plain") not in measured


def test_without_setfit_the_cell_says_how_to_get_it(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "setfit", None)
    config.systems = {
        "setfit": SystemConfig(kind="setfit"),
        "majority": SystemConfig(kind="majority"),
    }
    report = Benchmark(config, {}, tmp_path).run()
    assert "pip install 'peace-stance[setfit]'" in report.failed["setfit/1"]


def test_trained_systems_run_once_a_seed(config, tiny_config, data, tmp_path):
    trained = replace(tiny_config, data=DataConfig(path=str(data)))
    config.systems = {"tiny": SystemConfig(), "majority": SystemConfig(kind="majority")}
    report = Benchmark(config, {"tiny": trained}, tmp_path).run()
    assert report.failed == {}
    row = rows_of(report)["tiny"]
    assert set(row.by_seed) == {1, 2}
    value = row.measures["f_stance"].value
    assert value == pytest.approx(np.mean(list(row.by_seed.values())))
    assert report.costs["tiny"]["size_mb"] > 0


def test_pairs_count_only_where_both_sentences_are_right(config, tmp_path):
    rows = [
        {"pair_id": f"r-{i // 2}", "ruling": "r", "text": f"Text {i}.", "label": label}
        for i, label in enumerate(["none", "obstructive"] * 4)
    ]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    config.tests = {"pairs": EvaluationSetConfig(path=str(pairs))}
    config.systems = {"majority": SystemConfig(kind="majority")}
    row = Benchmark(config, {}, tmp_path).run().rows[0]
    assert row.rulings == {"all": (4, 0.0), "r": (4, 0.0)}
    assert row.measures["accuracy"].value == 0.5


def test_permutation_tells_a_real_difference_from_chance():
    rng = np.random.default_rng(0)
    groups = [str(i // 10) for i in range(400)]
    y = rng.integers(0, 4, 400)

    def confusions(accuracy, seed):
        r = np.random.default_rng(seed)
        y_pred = np.where(r.random(400) < accuracy, y, (y + 1) % 4)
        return metrics.group_confusions(y, y_pred, groups, 4)[None]

    assert metrics.permutation_p(metrics.macro_f1, confusions(0.9, 1), confusions(0.6, 2)) < 0.001
    chance = [
        metrics.permutation_p(
            metrics.macro_f1, confusions(0.8, i), confusions(0.8, 1000 + i), n_permutations=500
        )
        for i in range(100)
    ]
    assert 0.3 < np.mean(chance) < 0.7
    assert np.mean(np.array(chance) < 0.05) < 0.15


def test_holm_corrects_as_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == []
