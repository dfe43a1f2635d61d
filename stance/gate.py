"""Making a backend for a bundle, and the gate: whether it answers as fp32 does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stance import metrics, quantize
from stance.backends import Backend, OnnxInt8
from stance.bundle import Bundle, load_bundle
from stance.classifier import StanceClassifier
from stance.corpus import Corpus
from stance.encoder import sha256_of
from stance.evaluation import align, matrix_measures
from stance.exports import (
    MAX_NEIGHBOUR_CHANGE,
    Exports,
    GateResult,
    make_backend,
    measure,
    measure_all,
    pick_device,
    timing_inputs,
)

Floats = NDArray[np.float64]
MIN_AGREEMENT = 0.99
MAX_LOSS = 0.005


def compare(
    corpus: Corpus,
    reference: Floats,
    candidate: Floats,
    *,
    neighbour_change: float = 0.0,
    n_resamples: int = 2000,
    seed: int = 13,
) -> GateResult:
    """Compare two backends' probabilities for a corpus, shape (n_sentences, n_classes).

    It is passed with at least 99 % of labels alike, a loss of at most half a point of `f_stance`
    (`macro_f1` for other label sets), and probabilities that neighbours change by 0.001 at most.

    Parameters
    ----------
    neighbour_change : of the candidate, from `stance.exports.measure`.
    """
    answers = (reference.argmax(1), candidate.argmax(1))
    measures = matrix_measures(corpus.classes_)
    name = "f_stance" if "f_stance" in measures else "macro_f1"
    of, n_classes = measures[name], len(corpus.classes_)
    one, other = (metrics.group_confusions(corpus.y, y, corpus.groups, n_classes) for y in answers)
    weights = metrics.bootstrap_weights(len(one), n_resamples, seed)
    loss = float(of(one.sum(0)) - of(other.sum(0)))
    drawn = of(np.tensordot(weights, one, 1)) - of(np.tensordot(weights, other, 1))
    low, high = metrics.interval(drawn)
    agreement = float((answers[0] == answers[1]).mean())
    return GateResult(
        is_passed=agreement >= MIN_AGREEMENT
        and loss <= MAX_LOSS
        and neighbour_change <= MAX_NEIGHBOUR_CHANGE,
        data=corpus.name,
        n_sentences=len(corpus),
        n_articles=len(one),
        agreement=agreement,
        measure=name,
        loss=loss,
        loss_low=low,
        loss_high=high,
        neighbour_change=neighbour_change,
    )


def export_backend(
    folder: Path,
    name: str,
    corpus: Corpus,
    device: str = "auto",
    show: Callable[[str], object] = lambda line: None,
) -> GateResult:
    """Make a backend for a bundle, pass it through the gate and keep what came out.

    Parameters
    ----------
    folder : of the bundle.
    name : `bf16` or `onnx-int8`. For the latter, ways of quantising are tried from the fastest on
        until one passes.
    corpus : labelled sentences to compare on.
    device : as in `stance.load`.
    show : gets a line on each step.

    Returns
    -------
    GateResult : of the last way tried.

    Raises
    ------
    BundleError : no sound bundle, or a cache that is damaged or can't be written.
    DataError : the data has labels that the model does not know.
    MissingPackageError : a package for onnx-int8 is not installed.
    """
    if name == "onnx-int8":
        quantize.check_packages()
    device = pick_device(device, name)
    bundle, exports = load_bundle(folder), Exports(folder)
    exports.gates()  # damage is found before the work

    def probabilities(backend: Backend) -> Floats:
        model = StanceClassifier(*bundle, backend)
        proba = model.predict_proba(corpus.texts, corpus.contexts())
        return align(proba, model.classes_, corpus)

    show(f"fp32 answers {len(corpus)} sentences")
    reference = probabilities(make_backend("fp32", bundle, device=device))
    with tempfile.TemporaryDirectory(prefix="stance-") as work:
        for backend, file, recipe in _candidates(name, bundle, Path(work), device):
            show(f"{name} answers them" + (f" ({recipe})" if recipe else ""))
            speed = measure(backend, timing_inputs(bundle), bundle.spec.temperature)
            found = compare(
                corpus,
                reference,
                probabilities(backend),
                neighbour_change=speed.neighbour_change,
            )
            result = replace(found, recipe=recipe, sha256=sha256_of(file) if file else "")
            if result.is_passed:
                break
        exports.record_gate(name, result, file)
    if result.is_passed:
        show("speeds, side by side")
        measure_all(exports, bundle, device)
    return result


def _candidates(
    name: str, bundle: Bundle, work: Path, device: str
) -> Iterator[tuple[Backend, Path | None, str]]:
    """Backends to try, each with its file and how that was made."""
    if name != "onnx-int8":
        yield make_backend(name, bundle, device=device), None, ""
        return
    whole, file = work / "float32.onnx", work / "int8.onnx"
    quantize.to_onnx(bundle.model, bundle.spec, timing_inputs(bundle), whole)
    for recipe in quantize.RECIPES:
        quantize.quantize(whole, file, recipe)
        yield OnnxInt8(file.read_bytes(), bundle.spec, str(file)), file, recipe
