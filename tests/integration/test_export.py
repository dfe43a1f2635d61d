"""`stance export` with the shipped model, on a few articles."""

import json
import subprocess
import sys

import numpy as np
import pytest

from stance import BundleError, load
from stance.config import find_data
from stance.corpus import load_corpus
from tests.integration.test_cli import stance


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Eight validation articles as a file, and their sentences."""
    validation = load_corpus(find_data("peace_talks")).split("validation")
    part = validation.subset(list(validation.articles)[:8])
    path = tmp_path_factory.mktemp("few") / "few.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for s in part.sentences:
            row = {"article_id": s.article_id, "index": s.index, "text": s.text, "label": s.label}
            file.write(json.dumps(row) + "\n")
    return path, part


def passes(command, folder):
    done = subprocess.run(
        [sys.executable, "-m", "stance", *map(str, command)], cwd=folder, capture_output=True
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("backend", ["bf16", "onnx-int8"])
def test_a_backend_of_the_shipped_model_answers_as_fp32_does_or_is_refused(
    few, tmp_path, monkeypatch, backend
):
    if backend == "onnx-int8":
        pytest.importorskip("onnxruntime")
    monkeypatch.setenv("STANCE_CACHE", str(tmp_path))
    path, part = few
    command = ("export", "minilm", "--backend", backend, "--data", path)
    if backend == "onnx-int8" and not passes(command, tmp_path):  # few sentences: one may decide
        with pytest.raises(BundleError, match="failed its check"):
            load("minilm", device="cpu", backend=backend)
        return
    done = stance(*command, cwd=tmp_path)
    assert b"passed; kept: " in done.stdout and b"loss of f_stance: " in done.stdout
    texts = part.texts[:40]
    wanted = load("minilm", device="cpu", backend="fp32").predict_proba(texts)
    found = load("minilm", device="cpu", backend=backend).predict_proba(texts)
    assert np.abs(found - wanted).mean() < 0.02
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9
    (tmp_path / "a.txt").write_text("\n\n".join(texts[:10]))
    printed = stance("predict", "a.txt", "--backend", backend, cwd=tmp_path).stdout
    assert b"sentences: " in printed
    stance("score", "a.txt", "out", "--backend", backend, "--quiet", cwd=tmp_path)
    asked = json.loads((tmp_path / "out" / "manifest.json").read_text())["asked"]
    assert asked["backend"] == backend
