"""A model to an ONNX file whose matrix products are of 8-bit integers.

onnxruntime takes one scale for all activations of a product, and those of a few tokens and
dimensions are far larger than the rest, whose digits that scale would round away. So each dimension
is divided by a factor by which its weights are multiplied (SmoothQuant, Xiao et al. 2023, eq. 4,
alpha 0.5), and each token by its largest activation, by which the product is multiplied. Word
embeddings stay in float32: quantised they cost accuracy and save no time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import linear

from stance.errors import MissingPackageError
from stance.model import Encoded, ModelSpec, StanceModel, collate

# Ways to quantise, from the fastest on; "wide" are layers with more inputs than outputs.
RECIPES = ("linear layers but the first wide one", "linear layers but the wide ones")
_TINY = 1e-6


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


def to_onnx(model: StanceModel, spec: ModelSpec, inputs: Sequence[Encoded], path: Path) -> None:
    """Write a model that is ready to be quantised, in float32.

    Its inputs are those of `collate`, its outputs those of `Outputs`; batch and length are free.

    Parameters
    ----------
    inputs : on which each dimension's largest activation is found.
    """
    model = copy.deepcopy(model).cpu().eval()
    for name, peak in _peaks(model, spec, inputs).items():
        parent, _, child = name.rpartition(".")
        owner = model.encoder.get_submodule(parent)
        setattr(owner, child, _Scaled(owner.get_submodule(child), peak))
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
        nodes_to_exclude=wide[:1] if recipe == RECIPES[0] else wide,
    )


class _ByName(nn.Module):
    """A model with named arguments and without empty outputs, as the exporter wants it."""

    def __init__(self, model: StanceModel) -> None:
        super().__init__()
        self.model = model

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


class _Scaled(nn.Module):
    """A linear layer whose activations are scaled by dimension and by token; it answers the same.

    Parameters
    ----------
    peak : largest magnitude of each input, shape (in_features,).
    """

    def __init__(self, layer: nn.Module, peak: torch.Tensor) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.detach()
        factor = (peak.clamp(min=_TINY) / weight.abs().amax(0).clamp(min=_TINY)).sqrt()
        self.scale = nn.Parameter(1 / factor)
        self.weight = nn.Parameter(weight * factor)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        peak = x.abs().amax(-1, keepdim=True).clamp(min=_TINY)
        made = linear(x / peak, self.weight) * peak
        return made if self.bias is None else made + self.bias


def _peaks(
    model: StanceModel, spec: ModelSpec, inputs: Sequence[Encoded]
) -> dict[str, torch.Tensor]:
    """The largest magnitude of each input of each of the encoder's linear layers."""
    peaks: dict[str, torch.Tensor] = {}

    def note(name: str, x: torch.Tensor) -> None:
        peak = x.abs().flatten(0, -2).amax(0)
        peaks[name] = torch.maximum(peaks.get(name, peak), peak)

    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in model.encoder.named_modules():
            if isinstance(layer, nn.Linear):
                hook = layer.register_forward_pre_hook(lambda _, x, name=name: note(name, x[0]))
                hooks.callback(hook.remove)
        for item in inputs:
            model(collate([item], spec.pad_id))
    return {name: peak.clone() for name, peak in peaks.items()}
