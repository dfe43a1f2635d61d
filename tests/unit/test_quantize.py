import sys

import pytest
import torch

from stance import MissingPackageError
from stance.bundle import load_bundle
from stance.model import InputBuilder
from stance.quantize import RECIPES, _Scaled, check_packages, quantize, to_onnx


def test_a_scaled_layer_answers_the_same():
    layer = torch.nn.Linear(6, 4)
    x = torch.randn(2, 3, 6) * torch.tensor([1.0, 100, 1, 0.01, 1, 0])
    scaled = _Scaled(layer, x.abs().amax((0, 1)))
    assert torch.allclose(scaled(x), layer(x), rtol=1e-4, atol=1e-4)
    assert scaled(torch.zeros(1, 6)).isfinite().all()


@pytest.mark.parametrize(("recipe", "n_whole"), [(RECIPES[0], 1), (RECIPES[1], 2)])
def test_a_recipe_leaves_wide_layers_whole(tiny_bundle, tmp_path, recipe, n_whole):
    onnx = pytest.importorskip("onnx")
    model, spec, tokenizer, *_ = load_bundle(tiny_bundle)
    inputs = InputBuilder(tokenizer, spec).encode(["Talks stall."])
    to_onnx(_deeper(model), spec, inputs, tmp_path / "whole.onnx")
    quantize(tmp_path / "whole.onnx", tmp_path / "int8.onnx", recipe)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    shapes = {w.name: list(w.dims) for w in graph.initializer}
    whole = [
        shapes[n.input[1]] for n in graph.node if n.op_type == "MatMul" and n.input[1] in shapes
    ]
    assert whole.count([32, 16]) == n_whole


def _deeper(model):
    """Two layers, the second the first again."""
    model.encoder.encoder.layer.append(model.encoder.encoder.layer[0])
    return model


def test_exporting_without_its_packages_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'peace-stance\[onnx\]'"):
        check_packages()
