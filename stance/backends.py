"""How the network is run: a batch of inputs to logits.

`fp32` is the model as it is. `bf16` keeps the encoder's weights and activations in bfloat16, the
heads in float32. `onnx-int8` runs an exported file whose matrix products are of 8-bit integers, on
a CPU. With each of them an input's answer is the same whichever inputs are beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import linear

from stance.errors import BundleError, MissingPackageError
from stance.model import (
    Encoded,
    ModelSpec,
    Outputs,
    StanceModel,
    batches_by_tokens,
    collate_arrays,
)

BACKENDS = ("fp32", "bf16", "onnx-int8")
_GPU_TOKENS = 4096
_BF16_STEP, _BF16_TERMS = 16, 384
Floats = NDArray[np.float64]


class Logits(NamedTuple):
    """Logits of n inputs: (n, n_classes), (n, n_holders) and (n, length, 2); see `Outputs`."""

    label: Floats
    holder: Floats | None
    span: Floats | None


class Backend(Protocol):
    """A way to run a model. Threads may share it."""

    name: str

    def batches(self, lengths: Sequence[int]) -> Iterable[list[int]]:
        """Which rows, of inputs of so many tokens, are best run together."""
        ...

    def run(self, inputs: Sequence[Encoded]) -> Logits:
        """The logits of one batch."""
        ...


class Fp32:
    """PyTorch in float32, on the device where the model is."""

    name = "fp32"
    _cpu_tokens = 1024  # the activations of more fall out of a processor's cache

    def __init__(self, model: StanceModel, spec: ModelSpec) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._budget = _GPU_TOKENS if self._device.type == "cuda" else self._cpu_tokens
        self._spec = spec

    def batches(self, lengths: Sequence[int]) -> Iterable[list[int]]:
        """Like lengths together."""
        return batches_by_tokens(lengths, self._budget)

    def run(self, inputs: Sequence[Encoded]) -> Logits:
        """The logits of one batch."""
        batch = self._on_device(collate_arrays(inputs, self._spec.pad_id))
        with torch.inference_mode():
            return _logits(self._model(batch))

    def _on_device(self, arrays: dict[str, NDArray[np.int64]]) -> dict[str, torch.Tensor]:
        return {k: torch.from_numpy(v).to(self._device) for k, v in arrays.items()}


class Bf16(Fp32):
    """PyTorch with the encoder in bfloat16.

    A number has 8 bits there, so whatever changes the order of a sum changes the answer in the
    third digit. Each input is therefore padded by its own length alone, and sums are cut where a
    library would choose the order by the size of the batch.
    """

    name = "bf16"
    _cpu_tokens = 2048

    def __init__(self, model: StanceModel, spec: ModelSpec) -> None:
        model = copy.deepcopy(model)
        _cut_sums(model.encoder.to(torch.bfloat16))
        super().__init__(model, spec)

    def batches(self, lengths: Sequence[int]) -> Iterable[list[int]]:
        """Only inputs of the same padded length together."""
        padded = [self._padded(n) for n in lengths]
        for length in sorted(set(padded), reverse=True):
            rows = [r for r, n in enumerate(padded) if n == length]
            size = max(1, self._budget // length)
            yield from (rows[i : i + size] for i in range(0, len(rows), size))

    def run(self, inputs: Sequence[Encoded]) -> Logits:
        """The logits of one batch."""
        length = self._padded(max(len(e.ids) for e in inputs))
        batch = self._on_device(collate_arrays(inputs, self._spec.pad_id, length))
        with torch.inference_mode():
            hidden = self._model.token_vectors(batch).float()
            return _logits(self._model.heads(hidden, batch))

    def _padded(self, n: int) -> int:
        return min(-(-n // _BF16_STEP) * _BF16_STEP, self._spec.max_length_tokens)


class OnnxInt8:
    """An exported model in onnxruntime, on the CPU, with as many threads as torch has.

    The range of an activation's 8 bits is taken over the whole batch, so each input goes alone.

    Raises
    ------
    MissingPackageError : onnxruntime is not installed.
    BundleError : `data` is not a model that it can run.
    """

    name = "onnx-int8"

    def __init__(self, data: bytes, spec: ModelSpec, where: str) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise MissingPackageError(
                "the onnx-int8 backend needs onnxruntime: pip install 'peace-stance[onnx]'"
            ) from err
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as err:  # the library's errors have no common base
            raise BundleError(f"{where}: onnxruntime can't load it ({err})") from err
        self._read = [i.name for i in self._session.get_inputs()]
        self._spec = spec

    def batches(self, lengths: Sequence[int]) -> Iterable[list[int]]:
        """Each alone."""
        return ([row] for row in range(len(lengths)))

    def run(self, inputs: Sequence[Encoded]) -> Logits:
        """The logits of one batch."""
        batch = collate_arrays(inputs, self._spec.pad_id)
        made = self._session.run(None, {name: batch[name] for name in self._read})
        label, holder, span = [a.astype(np.float64) for a in made] + [None] * (3 - len(made))
        return Logits(label, holder, span)


def _logits(outputs: Outputs) -> Logits:
    label, holder, span = (None if t is None else t.double().cpu().numpy() for t in outputs)
    assert label is not None
    return Logits(label, holder, span)


class _CutLinear(nn.Module):
    """A linear layer that sums a few hundred products at a time, in order.

    oneDNN splits a longer sum at places that depend on how many rows there are.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = layer.bias
        parts = layer.weight.detach().split(_BF16_TERMS, 1)
        self.parts = nn.ParameterList(p.contiguous() for p in parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (first, weight), *others = zip(
            x.flatten(0, -2).split(_BF16_TERMS, -1), self.parts, strict=True
        )
        made = linear(first, weight, self.bias)
        for columns, weight in others:
            made = torch.addmm(made, columns, weight.t())
        return made.unflatten(0, x.shape[:-1])


def _cut_sums(module: nn.Module) -> None:
    """Replace the wide linear layers inside a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and child.in_features > _BF16_TERMS:
            setattr(module, name, _CutLinear(child))
        else:
            _cut_sums(child)
