"""Systems x seeds x test sets: run what is missing, keep every prediction, compare.

A cell is one system with one seed. Its predictions and costs go to a folder named by everything
that they depend on, so a finished cell is never run twice and a changed one never taken for done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stance import metrics
from stance.audit import only_in_test
from stance.behaviour import invariances
from stance.config import BenchmarkConfig, SystemConfig, TrainConfig, find_data
from stance.corpus import Corpus, load_corpus
from stance.errors import ConfigError, DataError, StanceError
from stance.evaluation import (
    Measure,
    align,
    choose_split,
    matrix_measures,
    resampled_measures,
    rulings_right,
)
from stance.neutrality import Classifier, neutrality
from stance.predictions import read_predictions, write_predictions
from stance.prepare import load_for_training
from stance.run import write_atomically

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
SEEDED = ("train", "setfit")
_N_CHANGED = 1000  # texts that are changed in every way; names are swapped in all
_COSTS = ("train_minutes", "sentences_per_s", "size_mb")


@dataclass(frozen=True)
class Row:
    """One system on one test set, over all its seeds.

    Attributes
    ----------
    measures : means over seeds, with intervals of that mean by bootstrap over articles.
    by_seed : the leading measure of each seed.
    p_against_best : Holm-corrected p of the difference in the leading measure to the best system;
        None for the best itself.
    slices : leading measure and count of parts of the data.
    rulings : by ruling, count and share right of minimal pairs (or single sentences).
    """

    system: str
    test: str
    n_sentences: int
    measures: dict[str, Measure]
    by_seed: dict[int, float]
    p_against_best: float | None = None
    slices: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    rulings: dict[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkReport:
    """All rows, the costs and behaviour of each system, and what failed (system/seed: why).

    `neutrality` is that of a system's first seed (`stance.neutrality`).
    """

    name: str
    leading: dict[str, str]
    rows: list[Row]
    costs: dict[str, dict[str, float]]
    behaviour: dict[str, dict[str, tuple[int, float]]]
    neutrality: dict[str, dict[str, Any]]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return asdict(self)


class Benchmark:
    """A benchmark on disk."""

    def __init__(
        self, config: BenchmarkConfig, trained: Mapping[str, TrainConfig], folder: Path
    ) -> None:
        """Read the test sets.

        Parameters
        ----------
        trained : for each system of kind `train`, how it is trained.
        """
        self.config, self.trained, self.folder = config, trained, folder
        self.tests: dict[str, Corpus] = {}
        for name, test in config.tests.items():
            corpus = load_corpus(find_data(test.path))
            self.tests[name], _ = choose_split(corpus, test.split)
        if not self.tests or not config.systems:
            raise ConfigError("a benchmark needs systems and tests")

    def run(self) -> BenchmarkReport:
        """Run the cells that are missing, and report on all."""
        done: dict[str, dict[int, Path]] = {name: {} for name in self.config.systems}
        failed = {}
        for name, seed in self._cells():
            try:
                folder = self._cell_folder(name, seed)
                if not (folder / "cell.json").is_file():
                    log.info("cell %s, seed %d", name, seed)
                    self._run_cell(name, seed, folder)
                done[name][seed] = folder
            except (StanceError, RuntimeError, ValueError, OSError) as err:
                log.warning("cell %s, seed %d failed: %s", name, seed, err, exc_info=True)
                failed[f"{name}/{seed}"] = str(err)
        return self._report({k: v for k, v in done.items() if v}, failed)

    def _cells(self) -> Iterator[tuple[str, int]]:
        for name, system in self.config.systems.items():
            seeds = self.config.seeds if system.kind in SEEDED else self.config.seeds[:1]
            for seed in seeds:
                yield name, seed

    def _train_config(self, name: str, seed: int, folder: Path) -> TrainConfig:
        return replace(self.trained[name], seed=seed, output_dir=str(folder), resume=True)

    def _cell_folder(self, name: str, seed: int) -> Path:
        system = self.config.systems[name]
        parts: list[Any] = [asdict(system), seed, self.config.behaviour]
        parts += [[k, c.fingerprint] for k, c in self.tests.items()]
        if system.kind == "train":
            config = asdict(self.trained[name])
            parts.append({k: v for k, v in config.items() if k not in ("name", "output_dir")})
            parts.append(load_for_training(self.trained[name].data, seed).fingerprint)
        elif system.kind in ("majority", "tfidf", "frozen"):
            parts.append(load_for_training(self.config.data, seed).fingerprint)
        elif system.kind == "bundle":
            from stance.bundle import find_bundle

            parts.append((find_bundle(system.source) / "manifest.json").read_text(encoding="utf-8"))
        elif system.kind == "predictions":
            parts.append(Path(system.source).read_text(encoding="utf-8"))
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.folder / "cells" / f"{name}-{seed}-{digest[:10]}"

    def _run_cell(self, name: str, seed: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        system = self.config.systems[name]
        cell: dict[str, Any] = {"system": name, "seed": seed}
        if system.kind in ("annotator", "predictions"):
            for test, corpus in self._voted(system).items():
                write_predictions(folder / f"{test}.jsonl", corpus, _given(system, corpus))
        else:
            started = time.monotonic()
            model, size = self._make(name, seed, folder)
            if system.kind != "bundle":
                cell["train_minutes"] = (time.monotonic() - started) / 60
            if size:
                cell["size_mb"] = size / 1e6
            n, started = 0, time.monotonic()
            for test, corpus in self.tests.items():
                proba = model.predict_proba(corpus.texts, corpus.contexts())
                proba = align(proba, model.classes_, corpus)
                write_predictions(folder / f"{test}.jsonl", corpus, proba)
                n += len(corpus)
            cell["sentences_per_s"] = n / (time.monotonic() - started)
            if self.config.behaviour:
                texts = list(dict.fromkeys(t for c in self.tests.values() for t in c.texts))
                cell["neutrality"] = neutrality(model, texts).to_dict()
                drawn = np.random.default_rng(13).permutation(len(texts))[:_N_CHANGED]
                found = invariances(model, [texts[i] for i in drawn])
                cell["behaviour"] = {k: asdict(v) for k, v in found.items()}
        write_atomically(folder / "cell.json", json.dumps(cell, indent=2) + "\n")

    def _voted(self, system: SystemConfig) -> dict[str, Corpus]:
        """The test sets that a system is measured on: an annotator, where they voted."""
        if system.kind != "annotator":
            return self.tests
        voted = {
            test: corpus
            for test, corpus in self.tests.items()
            if any(v.annotator == system.source for s in corpus.sentences for v in s.votes)
        }
        if not voted:
            raise DataError(f"no test set has a vote of annotator {system.source!r}")
        return voted

    def _make(self, name: str, seed: int, folder: Path) -> tuple[Classifier, int]:
        """A classifier and the bytes of its folder, 0 where it has none."""
        system = self.config.systems[name]
        if system.kind == "bundle":
            from stance.bundle import find_bundle
            from stance.classifier import load

            path = find_bundle(system.source)
            return load(path, backend="fp32"), _size(path)
        if system.kind == "train":
            import torch

            from stance.bundle import bundle_tensors, save_bundle
            from stance.classifier import load
            from stance.training import train

            config = self._train_config(name, seed, folder / "run")
            result = train(config, load_for_training(config.data, seed), folder / "run")
            options = config.trainer
            dtype = getattr(torch, options.bundle_dtype)
            tensors = bundle_tensors(result.model, result.spec, dtype, options.bundle_rank)
            card = "Made by a benchmark.\n"
            path = folder / "bundle"
            save_bundle(path, tensors, result.spec, result.tokenizer, card, result.calibration)
            return load(path, backend="fp32"), _size(path)
        from stance import baselines

        corpus = load_for_training(self.config.data, seed)
        if system.kind == "frozen":
            return baselines.frozen(corpus, system.source or "minilm"), 0
        if system.kind == "setfit":
            return baselines.setfit(corpus, system.source or "minilm", seed), 0
        return {"majority": baselines.majority, "tfidf": baselines.tfidf}[system.kind](corpus), 0

    def _report(
        self, done: Mapping[str, Mapping[int, Path]], failed: Mapping[str, str]
    ) -> BenchmarkReport:
        rows, leading = [], {}
        for test, corpus in self.tests.items():
            named = matrix_measures(corpus.classes_)
            leading[test] = self.config.leading if self.config.leading in named else "macro_f1"
            rows += self._rows(test, corpus, done, leading[test])
        cells = {
            name: [json.loads((f / "cell.json").read_text("utf-8")) for f in folders.values()]
            for name, folders in done.items()
        }
        return BenchmarkReport(
            self.config.name,
            leading,
            rows,
            {
                name: {k: float(np.mean([c[k] for c in found])) for k in _COSTS if k in found[0]}
                for name, found in cells.items()
            },
            {name: _behaviour(found) for name, found in cells.items() if "behaviour" in found[0]},
            {name: f[0]["neutrality"] for name, f in cells.items() if "neutrality" in f[0]},
            dict(failed),
        )

    def _rows(
        self, test: str, corpus: Corpus, done: Mapping[str, Mapping[int, Path]], leading: str
    ) -> list[Row]:
        n_classes = len(corpus.classes_)
        n_articles = len(set(corpus.groups))
        weights = metrics.bootstrap_weights(n_articles, self.config.n_resamples, 13)
        of = matrix_measures(corpus.classes_)[leading]
        rows, confusions = [], {}
        measured = {
            k: v
            for k, v in done.items()
            if all((f / f"{test}.jsonl").is_file() for f in v.values())
        }
        for system, folders in measured.items():
            probas = [read_predictions(f / f"{test}.jsonl", corpus) for f in folders.values()]
            each = [resampled_measures(corpus, p, weights) for p in probas]
            confusions[system] = np.stack(
                [
                    metrics.group_confusions(corpus.y, p.argmax(1), corpus.groups, n_classes)
                    for p in probas
                ]
            )
            measures = {
                m: Measure(
                    float(np.mean([e[m][0] for e in each])),
                    *metrics.interval(np.mean([e[m][1] for e in each], 0)),
                )
                for m in each[0]
            }
            by_seed = {s: e[leading][0] for s, e in zip(folders, each, strict=True)}
            y_preds = [p.argmax(1) for p in probas]
            rows.append(
                Row(
                    system,
                    test,
                    len(corpus),
                    measures,
                    by_seed,
                    slices=self._slices(corpus, y_preds, of),
                    rulings=_rulings(corpus, y_preds),
                )
            )
        compared = [r for r in rows if self.config.systems[r.system].kind != "annotator"]
        if len(compared) < 2:
            return rows
        best = max(compared, key=lambda r: r.measures[leading].value)
        others = [r for r in compared if r is not best]
        p_values = metrics.holm(
            [
                metrics.permutation_p(of, *_paired(confusions[best.system], confusions[r.system]))
                for r in others
            ]
        )
        corrected = {r.system: p for r, p in zip(others, p_values, strict=True)}
        return [replace(r, p_against_best=corrected.get(r.system)) for r in rows]

    def _slices(
        self, corpus: Corpus, y_preds: Sequence[NDArray[np.int64]], of: Any
    ) -> dict[str, dict[str, tuple[int, float]]]:
        held_out = self._only_in_test
        articles = [corpus.articles[s.article_id] for s in corpus.sentences]
        columns = {
            "genre": [a.genre for a in articles],
            "process": [a.process for a in articles],
            "process held out": [
                ("yes" if a.process in held_out["processes"] else "no") if a.process else ""
                for a in articles
            ],
            "latest months": [
                ("yes" if a.date[:4] in held_out["years"] else "no") if a.date else ""
                for a in articles
            ],
            "needs context": ["yes" if s.needs_context else "no" for s in corpus.sentences],
        }
        slices: dict[str, dict[str, tuple[int, float]]] = {}
        for name, column in columns.items():
            values = np.array(column)
            found = sorted(v for v in set(column) if v and (values == v).sum() >= 20)
            if len(found) < 2:
                continue
            slices[name] = {}
            for value in found:
                rows = values == value
                shares = [
                    of(metrics.confusion(corpus.y[rows], p[rows], len(corpus.classes_)))
                    for p in y_preds
                ]
                slices[name][value] = (int(rows.sum()), float(np.mean(shares)))
        return slices

    @cached_property
    def _only_in_test(self) -> dict[str, list[str]]:
        corpus = load_corpus(find_data(self.config.data.path))
        if not corpus.splits:
            return {"processes": [], "years": []}
        found = only_in_test(corpus)
        newest = max((a.date[:4] for a in corpus.articles.values()), default="")
        return {**found, "years": [y for y in found["years"] if y == newest]}


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())


def _given(system: SystemConfig, corpus: Corpus) -> Floats:
    """Predictions that stand in a file, or are an annotator's votes."""
    if system.kind == "predictions":
        return read_predictions(Path(system.source), corpus)
    column = {c: i for i, c in enumerate(corpus.classes_)}
    proba = np.zeros((len(corpus), len(column)))
    for row, sentence in enumerate(corpus.sentences):
        vote = next((v for v in sentence.votes if v.annotator == system.source), None)
        if vote is None:
            raise DataError(
                f"{corpus.path}: {sentence.article_id}:{sentence.index} has no vote of annotator "
                f"{system.source!r}"
            )
        proba[row, column[vote.label]] = 1.0
    return proba


def _rulings(corpus: Corpus, y_preds: Sequence[NDArray[np.int64]]) -> dict[str, tuple[int, float]]:
    each = [rulings_right(corpus, p) for p in y_preds]
    return {
        ruling: (int(found["n"]), float(np.mean([e[ruling]["right"] for e in each])))
        for ruling, found in each[0].items()
    }


def _behaviour(cells: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    return {
        name: (found["n"], float(np.mean([c["behaviour"][name]["rate"] for c in cells])))
        for name, found in cells[0]["behaviour"].items()
    }


def _paired(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both with as many seeds; a system without seeds stands against each seed of the other."""
    n = max(len(one), len(other))
    return np.resize(one, (n, *one.shape[1:])), np.resize(other, (n, *other.shape[1:]))
