"""Which backends a bundle may run on: what `stance export` made and checked.

Bundles are read-only, so this is kept in the user's cache, in a folder named by the bundle's
manifest: `backends.json` (each backend's gate result, and how fast each one is on which machine)
and exported files, checked by SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from stance.backends import BACKENDS, Backend, Bf16, Fp32, OnnxInt8
from stance.bundle import Bundle
from stance.config import resource_dir
from stance.encoder import cache_dir, sha256_of
from stance.errors import BundleError, ConfigError
from stance.metrics import softmax
from stance.model import Encoded, InputBuilder
from stance.segment import split_sentences

FORMAT_VERSION = 1
MAX_NEIGHBOUR_CHANGE = 1e-3
_RECORD, _ONNX = "backends.json", "onnx-int8.onnx"
_N_TIMED = 3


@dataclass(frozen=True)
class GateResult:
    """How a backend compares with fp32 on labelled sentences.

    Attributes
    ----------
    agreement : share of sentences with the same label.
    loss : of `measure`, in points of 0 to 1, from fp32 to the backend; `loss_low` and `loss_high`
        bound its 95 % interval, from a bootstrap over articles.
    neighbour_change : largest change of a probability that other inputs in the batch made.
    recipe : how the exported file was made; empty without one.
    sha256 : of the exported file; empty without one.
    """

    is_passed: bool
    data: str
    n_sentences: int
    n_articles: int
    agreement: float
    measure: str
    loss: float
    loss_low: float
    loss_high: float
    neighbour_change: float
    recipe: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Speed:
    """What a backend does on one machine."""

    sentences_per_s: float
    neighbour_change: float


class Exports:
    """The cache of one bundle.

    Raises
    ------
    BundleError : from any method, where what is there is damaged.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.folder = cache_dir() / "exports" / sha256_of(bundle / "manifest.json")[:16]

    def gates(self) -> dict[str, GateResult]:
        """The gate result of each backend that was tried."""
        return self._read()[0]

    def speeds(self) -> dict[str, dict[str, Speed]]:
        """What was measured on each machine (see `machine_name`), by backend."""
        return self._read()[1]

    def onnx(self) -> bytes:
        """The exported file."""
        path = self.folder / _ONNX
        gate = self.gates().get("onnx-int8")
        try:
            data = path.read_bytes()
        except OSError as err:
            raise self._damage(path, err.strerror or str(err)) from err
        if gate is None or hashlib.sha256(data).hexdigest() != gate.sha256:
            raise self._damage(path, "not the file that was checked")
        return data

    def record_gate(self, name: str, result: GateResult, file: Path | None = None) -> None:
        """Keep a gate result; `file` is the exported file, copied here if it passed."""
        with self._locked():
            gates, _ = self._read()
            if file is not None and result.is_passed:
                fresh = self.folder / f".{_ONNX}.new"
                shutil.copyfile(file, fresh)
                fresh.replace(self.folder / _ONNX)
            self._write({**gates, name: result}, {})

    def record_speeds(self, machine: str, found: dict[str, Speed]) -> None:
        """Keep what was measured on a machine."""
        with self._locked():
            gates, speeds = self._read()
            self._write(gates, {**speeds, machine: found})

    def _locked(self) -> FileLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise BundleError(
                f"{self.folder}: cannot be made ({err.strerror}); name another cache folder in "
                "STANCE_CACHE"
            ) from err
        return FileLock(self.folder / ".lock")

    def _read(self) -> tuple[dict[str, GateResult], dict[str, dict[str, Speed]]]:
        path = self.folder / _RECORD
        if not path.exists():
            return {}, {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {values['format_version']!r}")
            gates = {k: _typed(GateResult, v) for k, v in values["gates"].items()}
            speeds = {
                machine: {k: _typed(Speed, v) for k, v in found.items()}
                for machine, found in values["speeds"].items()
            }
        except (OSError, LookupError, TypeError, AttributeError, ValueError) as err:
            raise self._damage(path, str(err)) from err
        except RecursionError as err:
            raise self._damage(path, "nested too deeply") from err
        return gates, speeds

    def _write(self, gates: dict[str, GateResult], speeds: dict[str, dict[str, Speed]]) -> None:
        values = {
            "format_version": FORMAT_VERSION,
            "gates": {k: asdict(v) for k, v in gates.items()},
            "speeds": {m: {k: asdict(v) for k, v in s.items()} for m, s in speeds.items()},
        }
        fresh = self.folder / f".{_RECORD}.new"
        fresh.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.folder / _RECORD)

    def _damage(self, path: Path, what: str) -> BundleError:
        return BundleError(
            f"{path}: damaged ({what}); remove {self.folder} and run stance export again"
        )


def _typed(kind: Callable[..., Any], values: dict[str, Any]) -> Any:
    """A record from JSON; `TypeError` where a value is of another type."""
    made = kind(**values)
    kinds: dict[str, Any] = {"bool": bool, "str": str, "int": int, "float": (int, float)}
    for item in fields(made):
        if not isinstance(getattr(made, item.name), kinds[str(item.type)]):
            raise TypeError(f"{item.name} is {getattr(made, item.name)!r}")
    return made


def make_backend(
    name: str, bundle: Bundle, exports: Exports | None = None, device: str = "cpu"
) -> Backend:
    """A backend of a loaded bundle; `exports` is where onnx-int8 finds its file."""
    if name == "onnx-int8":
        assert exports is not None
        return OnnxInt8(exports.onnx(), bundle.spec, str(exports.folder / _ONNX))
    return {"fp32": Fp32, "bf16": Bf16}[name](bundle.model.to(device), bundle.spec)


def check_backend(name: str, device: str, exports: Exports) -> str:
    """Refuse a backend that is unknown, unfit for the device, or has not passed its gate.

    Returns
    -------
    str : SHA-256 of its exported file, empty without one.

    Raises
    ------
    ConfigError : unknown, or not for this device.
    BundleError : it has not passed its gate for this bundle.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}; expected auto, {', '.join(BACKENDS)}")
    if name == "fp32":
        return ""
    if name == "onnx-int8" and device != "cpu":
        raise ConfigError(f"onnx-int8 runs on the CPU; give device='cpu', not {device!r}")
    gate = exports.gates().get(name)
    if gate is None:
        raise BundleError(
            f"{name} has not been checked for this model; run: stance export {exports.bundle} "
            f"--backend {name}"
        )
    if not gate.is_passed:
        raise BundleError(
            f"{name} failed its check for this model (label agreement {gate.agreement:.1%}); use "
            "fp32"
        )
    return gate.sha256


def choose_backend(exports: Exports, device: str, load: Callable[[], Bundle]) -> str:
    """The fastest backend that passed its gate; fp32 where none did.

    Speeds are measured once a machine and kept.
    """
    passed = _passed(exports, device)
    if not passed:
        return "fp32"
    speeds = exports.speeds().get(machine_name(device), {})
    if not speeds.keys() >= {"fp32", *passed}:
        speeds = measure_all(exports, load(), device)
    sound = [n for n in passed if speeds[n].neighbour_change <= MAX_NEIGHBOUR_CHANGE]
    return max(("fp32", *sound), key=lambda n: speeds[n].sentences_per_s)


def measure_all(exports: Exports, bundle: Bundle, device: str) -> dict[str, Speed]:
    """Measure fp32 and what passed its gate, one after the other, and keep the speeds."""
    inputs = timing_inputs(bundle)
    speeds = {}
    for name in ("fp32", *_passed(exports, device)):
        backend = make_backend(name, bundle, exports, device)
        speeds[name] = measure(backend, inputs, bundle.spec.temperature)
    exports.record_speeds(machine_name(device), speeds)
    return speeds


def pick_device(device: str, backend: str) -> str:
    """The device that `auto` stands for: a GPU where there is one that the backend can use."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() and backend != "onnx-int8" else "cpu"


def _passed(exports: Exports, device: str) -> list[str]:
    gates = exports.gates()
    return [n for n, gate in gates.items() if gate.is_passed and _can_run(n, device)]


def _can_run(name: str, device: str) -> bool:
    return name != "onnx-int8" or (device == "cpu" and find_spec("onnxruntime") is not None)


def machine_name(device: str) -> str:
    """What decides how fast a backend is here: processor, threads, version of torch."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}; torch {torch.__version__}"
    kind = f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{kind}; {torch.get_num_threads()} threads; torch {torch.__version__}"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if os.name == "posix" and path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def timing_inputs(bundle: Bundle) -> list[Encoded]:
    """The same batch of sentences for every backend: the example article, four times."""
    path = resource_dir("data") / "example_article.txt"
    texts = [s.text for s in split_sentences(path.read_text(encoding="utf-8")).sentences]
    inputs = InputBuilder(bundle.tokenizer, bundle.spec)
    return inputs.encode(texts, [texts[:i] for i in range(len(texts))]) * 4


def measure(backend: Backend, inputs: Sequence[Encoded], temperature: float = 1.0) -> Speed:
    """How fast a backend is, and how far an input's neighbours change its probabilities."""
    together = _probabilities(backend, inputs, temperature)
    alone = np.concatenate([_probabilities(backend, [e], temperature) for e in inputs])
    times = []
    for _ in range(_N_TIMED):
        started = time.perf_counter()
        _probabilities(backend, inputs, temperature)
        times.append(time.perf_counter() - started)
    return Speed(len(inputs) / min(times), float(np.abs(together - alone).max()))


def _probabilities(
    backend: Backend, inputs: Sequence[Encoded], temperature: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows: list[int] = []
    found = []
    batches: Iterable[list[int]] = backend.batches([len(e.ids) for e in inputs])
    for batch in batches:
        rows += batch
        found.append(backend.run([inputs[r] for r in batch]).label)
    return softmax(np.concatenate(found) / temperature)[np.argsort(rows)]
