import sys

import numpy as np
import pytest
import torch

from stance import BundleError, MissingPackageError
from stance.backends import Bf16, Fp32, OnnxInt8, _CutLinear
from stance.bundle import load_bundle
from stance.exports import measure
from stance.model import InputBuilder
from stance.quantize import RECIPES, quantize, to_onnx

TEXTS = [
    "Talks on item {i} are deadlocked. " * (1 + i % 7) + "More words follow" * (i % 3)
    for i in range(48)
]


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def inputs(bundle):
    return InputBuilder(bundle.tokenizer, bundle.spec).encode(TEXTS, [TEXTS[:i] for i in range(48)])


@pytest.fixture(scope="module")
def backends(bundle, inputs, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    work = tmp_path_factory.mktemp("onnx")
    to_onnx(bundle.model, bundle.spec, inputs[:8], work / "whole.onnx")
    quantize(work / "whole.onnx", work / "int8.onnx", RECIPES[0])
    return {
        "fp32": Fp32(bundle.model, bundle.spec),
        "bf16": Bf16(bundle.model, bundle.spec),
        "onnx-float": OnnxInt8((work / "whole.onnx").read_bytes(), bundle.spec, "whole.onnx"),
        "onnx-int8": OnnxInt8((work / "int8.onnx").read_bytes(), bundle.spec, "int8.onnx"),
    }


@pytest.mark.parametrize("name", ["fp32", "bf16", "onnx-int8"])
def test_an_answer_does_not_depend_on_its_neighbours(backends, inputs, name):
    assert measure(backends[name], inputs).neighbour_change < 1e-3


@pytest.mark.parametrize("name", ["fp32", "bf16", "onnx-int8"])
def test_batches_hold_every_row_once(backends, inputs, name):
    lengths = [len(e.ids) for e in inputs]
    assert sorted(r for b in backends[name].batches(lengths) for r in b) == list(range(48))
    assert list(backends[name].batches([])) == []


@pytest.mark.parametrize(
    ("name", "tolerance"), [("bf16", 0.05), ("onnx-float", 1e-4), ("onnx-int8", 0.1)]
)
def test_logits_are_near_those_of_fp32(backends, inputs, name, tolerance):
    for rows in ([0], [40], *([[3, 10]] if name != "onnx-int8" else [])):
        wanted = backends["fp32"].run([inputs[r] for r in rows]).label
        made = backends[name].run([inputs[r] for r in rows]).label
        assert np.abs(made - wanted).max() < tolerance


def test_bf16_leaves_the_given_model_alone(bundle):
    Bf16(bundle.model, bundle.spec)
    assert {p.dtype for p in bundle.model.parameters()} == {torch.float32}


def test_bf16_batches_have_one_padded_length_within_what_the_model_reads(backends, bundle):
    longest = bundle.spec.max_length_tokens
    lengths = [3, 16, 17, 40, longest - 1, longest, 16]
    batches = [[lengths[r] for r in b] for b in backends["bf16"].batches(lengths)]
    assert all(len({-(-n // 16) for n in batch}) == 1 for batch in batches)
    assert max(map(backends["bf16"]._padded, lengths)) == longest


def test_a_cut_layer_is_the_layer():
    layer, x = torch.nn.Linear(1000, 7), torch.randn(3, 5, 1000)
    assert len(_CutLinear(layer).parts) == 3
    assert torch.allclose(_CutLinear(layer)(x), layer(x), atol=1e-5)


def test_without_onnxruntime_the_error_names_the_extra(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'peace-stance\[onnx\]'"):
        OnnxInt8(b"", bundle.spec, "x.onnx")


def test_bytes_that_are_no_model_are_one_error(bundle):
    pytest.importorskip("onnxruntime")
    with pytest.raises(BundleError, match=r"x\.onnx: onnxruntime can't load it"):
        OnnxInt8(b"nonsense", bundle.spec, "x.onnx")
