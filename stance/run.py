"""The files of a training run: settings, environment, metrics, checkpoint."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from stance.bundle import find_bundle, replace_folder
from stance.classifier import load
from stance.config import TrainConfig, find_data
from stance.corpus import Corpus
from stance.encoder import read_tensors, sha256_of
from stance.errors import ConfigError
from stance.predictions import read_predictions

# What may differ between the start of a run and its resumption.
_NOT_IDENTITY = ("resume", "name", "output_dir", "example", "evaluate_test")


@dataclass
class Progress:
    """Counters of a run, stored in its checkpoint."""

    step: int = 0
    best_score: float = -1.0
    best_epoch: int = -1
    n_stale: int = 0
    elapsed_s: float = 0.0
    precision: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """The files of a run: what it was asked, its metrics, its checkpoint.

    Of several processes that train together the main one writes, and the others read.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, data_sha256: str, *, is_main: bool = True
    ) -> None:
        self.folder, self.is_main = folder, is_main
        self.teachers = config.trainer.teachers
        if is_main:
            self._begin(config, data_sha256)

    def _begin(self, config: TrainConfig, data_sha256: str) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".checkpoint-*"):
            shutil.rmtree(stale, ignore_errors=True)
        asked = {k: v for k, v in asdict(config).items() if k not in _NOT_IDENTITY}
        asked["data_sha256"] = data_sha256
        asked["teachers_sha256"] = [sha256_of(_teacher_file(t)) for t in self.teachers]
        path = folder / "config.json"
        if self.checkpoint() and not config.resume:
            if not (folder / "bundle" / "manifest.json").is_file():
                raise ConfigError(
                    f"{folder} holds an unfinished run; go on with resume=true, or remove the "
                    "folder, or choose another output_dir"
                )
            self.clear()
        if config.resume and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != asked:
                key = next(k for k in asked if before.get(k) != asked[k])
                raise ConfigError(
                    f"{folder} holds a run with another {key}: {before.get(key)} there, "
                    f"{asked[key]} now; resume needs the same settings"
                )
        write_atomically(path, json.dumps(asked, indent=2) + "\n")
        write_atomically(folder / "environment.json", json.dumps(_environment(), indent=2) + "\n")

    def teach(self, corpus: Corpus) -> NDArray[np.float64]:
        """The teachers' mean probabilities for a corpus, shape (n, n_classes), computed once."""
        path = self.folder / "taught.safetensors"
        if not path.is_file():
            proba = np.mean([taught_by(t, corpus) for t in self.teachers], 0)
            fresh = path.with_name(f".{path.name}.new")
            save_file({"proba": torch.tensor(proba)}, fresh)
            fresh.replace(path)
        return read_tensors(path)["proba"].numpy()

    def clear(self) -> None:
        """Forget an earlier run of this folder."""
        for path in self.folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        (self.folder / "taught.safetensors").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "bundle", ignore_errors=True)
        (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def checkpoint(self) -> Path | None:
        """The newest checkpoint; each is complete, since it got its name last."""
        found = sorted(
            self.folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])
        )
        return found[-1] if found else None

    def save(
        self,
        progress: Progress,
        model: dict[str, torch.Tensor],
        optimizer: dict[str, torch.Tensor],
        best: dict[str, torch.Tensor],
        averaged: dict[str, torch.Tensor],
    ) -> None:
        """Write a checkpoint, then remove older ones."""
        if not self.is_main:
            return
        older = list(self.folder.glob("checkpoint-*"))
        target = self.folder / f"checkpoint-{progress.step}"
        fresh = Path(tempfile.mkdtemp(dir=self.folder, prefix=".checkpoint-"))
        parts = {"model": model, "optimizer": optimizer, "best": best, "averaged": averaged}
        for name, tensors in parts.items():
            save_file(tensors, fresh / f"{name}.safetensors")
        (fresh / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        replace_folder(fresh, target)
        for path in older:
            if path != target:
                shutil.rmtree(path, ignore_errors=True)

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Bring metrics.jsonl in line with the history."""
        if not self.is_main:
            return
        lines = "".join(json.dumps(row) + "\n" for row in history)
        write_atomically(self.folder / "metrics.jsonl", lines)


def taught_by(teacher: str, corpus: Corpus) -> NDArray[np.float64]:
    """Probabilities of one teacher, columns as the corpus's labels."""
    if teacher.endswith(".jsonl"):
        return read_predictions(find_data(teacher), corpus)
    model = load(teacher, backend="fp32")
    if set(model.classes_) != set(corpus.classes_):
        raise ConfigError(f"teacher {teacher} knows {model.classes_}, not {corpus.classes_}")
    proba = model.predict_proba(corpus.texts, corpus.contexts())
    return proba[:, [model.classes_.index(c) for c in corpus.classes_]]


def _teacher_file(teacher: str) -> Path:
    if teacher.endswith(".jsonl"):
        path = find_data(teacher)
        if not path.is_file():
            raise ConfigError(f"trainer.teachers: no predictions file {teacher}")
        return path
    return find_bundle(teacher) / "manifest.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is seen complete or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _environment() -> dict[str, Any]:
    names = ("peace-stance", "torch", "transformers", "tokenizers", "numpy", "scikit-learn")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "n_threads": torch.get_num_threads(),
        "n_processes": int(os.environ.get("WORLD_SIZE", "1")),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in names},
    }
