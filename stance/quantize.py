"""A model to an ONNX file whose matrix products are of 8-bit integers.

onnxruntime takes one scale for all activations of a product. A few tokens' are far larger than the
rest, whose digits that scale would round away, so each token's activations are divided by their
largest before a product and multiplied by it after. Word embeddings stay in float32: they cost
accuracy and no time.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import linear

from stance.errors import MissingPackageError
from stance.model import Encoded, ModelSpec, StanceModel, collate

# Ways to quantise, from the fastest on.
RECIPES = ("every linear layer", "linear layers but the wide ones")
_MIN_PEAK = 1e-6


def check_packages() -> None:
    """Raise `MissingPackageError` where a package for exporting is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise MissingPackageError(
            "exporting needs onnx, onnxscript and onnxruntime: pip install 'peace-stance[onnx]'"
        ) from err


def to_onnx(model: StanceModel, spec: ModelSpec, path: Path) -> None:
    """Write a model that is ready to be quantised, in float32.

    Its inputs are those of `collate`, its outputs those of `Outputs`; batch and length are free.
    """
    example = collate([Encoded([spec.cls_id, 5, 6, spec.sep_id], 2, False)] * 2, spec.pad_id)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    names = ("label", "holder", "span") if spec.holders else ("label",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on its own inner workings
        torch.onnx.export(
            _ByName(model),
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(names),
            dynamic_shapes={name: {0: batch, 1: length} for name in example},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def quantize(source: Path, target: Path, recipe: str) -> None:
    """Quantise what `to_onnx` wrote; `recipe` is one of `RECIPES`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source).graph
    shapes = {w.name: tuple(w.dims) for w in graph.initializer}
    wide = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and (shape := shapes.get(node.input[1])) and shape[0] > shape[1]
    ]
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[] if recipe == RECIPES[0] else wide,
    )


class _ByName(nn.Module):
    """A model with named arguments and without empty outputs, as the exporter wants it."""

    def __init__(self, model: StanceModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        _scale_tokens(self.model.encoder)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        sentence_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        made = self.model(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "token_type_ids": token_type_ids,
                "sentence_mask": sentence_mask,
            }
        )
        return tuple(t for t in made if t is not None)


class _TokenScaled(nn.Module):
    """A linear layer that reads each token's activations divided by their largest magnitude."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        peak = x.abs().amax(-1, keepdim=True).clamp(min=_MIN_PEAK)
        made = linear(x / peak, self.weight) * peak
        return made if self.bias is None else made + self.bias


def _scale_tokens(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _TokenScaled(child))
        else:
            _scale_tokens(child)
