"""Bundles: the folders in which models live.

A bundle is a folder of safetensors and JSON: `bundle.json` (what the model is),
`weights.safetensors`, `tokenizer.json`, `README.md` (model card) and `manifest.json` (SHA-256 of
the others). Tensors that equal those of an installed base package are left out and taken from
there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from stance import __version__
from stance.calibration import Calibration
from stance.encoder import (
    PACKAGED,
    base_weights,
    build_encoder,
    find_base,
    load_tokenizer,
    read_tensors,
    sha256_of,
)
from stance.errors import BundleError
from stance.first_look import MAX_WEIGHTS, N_PAIRS, FirstLook
from stance.labels import HOLDERS, NONE
from stance.model import ModelSpec, StanceModel

FORMAT_VERSION = 3
_FILES = ("README.md", "bundle.json", "tokenizer.json", "weights.safetensors")
_MAX_JSON_BYTES = 1_000_000
_LEFT, _RIGHT = ".left", ".right"
_CALIBRATION = "calibration."
_FIRST_LOOK = "first_look."


class Bundle(NamedTuple):
    """What a bundle holds."""

    model: StanceModel
    spec: ModelSpec
    tokenizer: Tokenizer
    calibration: Calibration | None
    first_look: FirstLook | None


def bundle_tensors(
    model: StanceModel, spec: ModelSpec, dtype: torch.dtype = torch.float32, rank: int = 0
) -> dict[str, torch.Tensor]:
    """What a bundle stores of a model: the tensors that differ from an installed base's.

    Parameters
    ----------
    rank : with a positive rank the change of each matrix is stored as the product of two thin ones,
        its best approximation of that rank (Eckart and Young 1936), where that is smaller.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    base: dict[str, torch.Tensor] = {}
    if spec.base in PACKAGED:
        base = _encoder_names(base_weights(find_base(spec.base)), model)
    stored = {}
    for name, tensor in state.items():
        if name in base and torch.equal(tensor, base[name]):
            continue
        if name in base and tensor.dim() == 2 and 0 < rank * sum(tensor.shape) < tensor.numel():
            left, scale, right = torch.linalg.svd(tensor - base[name], full_matrices=False)
            root = scale[:rank].sqrt()
            stored[name + _LEFT] = (left[:, :rank] * root).contiguous()
            stored[name + _RIGHT] = (root[:, None] * right[:rank]).contiguous()
        else:
            stored[name] = tensor
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in stored.items()}


def save_bundle(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    spec: ModelSpec,
    tokenizer: Tokenizer,
    card: str,
    calibration: Calibration | None = None,
) -> None:
    """Write a bundle; under its name there is only ever a complete one (see `replace_folder`)."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    if calibration is not None:
        tensors = {**tensors, **_calibration_tensors(calibration, _CALIBRATION)}
    try:
        fresh.chmod(0o755)
        save_file(tensors, fresh / "weights.safetensors")
        tokenizer.save(str(fresh / "tokenizer.json"), pretty=False)
        meta = {"format_version": FORMAT_VERSION, "stance_version": __version__, **asdict(spec)}
        _write_json(fresh / "bundle.json", meta)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        _write_json(fresh / "manifest.json", {name: sha256_of(fresh / name) for name in _FILES})
        for path in fresh.iterdir():
            path.chmod(0o644)
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def put_first_look(folder: Path, first_look: FirstLook | None) -> None:
    """Give a bundle another first look, or take it away; nothing else of it changes.

    Raises
    ------
    BundleError : the folder holds no bundle, or a damaged one.
    """
    from safetensors.torch import save_file

    _check_manifest(folder)
    tensors = read_tensors(folder / "weights.safetensors")
    tensors = {k: v for k, v in tensors.items() if not k.startswith(_FIRST_LOOK)}
    if first_look is not None:
        kept = {
            "weights": torch.from_numpy(first_look.weights).half(),
            "threshold": torch.tensor([first_look.threshold], dtype=torch.float32),
            "proba": torch.from_numpy(first_look.proba).float(),
            **_calibration_tensors(first_look.calibration, _CALIBRATION),
        }
        tensors.update({_FIRST_LOOK + name: tensor for name, tensor in kept.items()})
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        save_file(tensors, fresh / "weights.safetensors")
        (fresh / "weights.safetensors").chmod(0o644)
        _write_json(fresh / "manifest.json", {name: sha256_of(fresh / name) for name in _FILES})
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _calibration_tensors(calibration: Calibration, prefix: str) -> dict[str, torch.Tensor]:
    found = {f.name: getattr(calibration, f.name) for f in fields(calibration)}
    kept = {prefix + name: torch.from_numpy(array) for name, array in found.items()}
    return {**kept, prefix + "proba": kept[prefix + "proba"].float()}


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a finished folder in place of another.

    A stop between the two renames leaves both whole, but the older one in a hidden folder beside.
    """
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
        folder.replace(old / folder.name)
        fresh.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        fresh.replace(folder)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _encoder_names(
    tensors: Mapping[str, torch.Tensor], model: StanceModel
) -> dict[str, torch.Tensor]:
    prefix = f"{model.encoder.base_model_prefix}."
    return {f"encoder.{k.removeprefix(prefix)}": v for k, v in tensors.items()}


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle after checking its files against the manifest.

    Raises
    ------
    BundleError : a missing, altered, unexpected or unsafe file; a newer format; tensors that don't
        fit. Nothing in a bundle is ever unpickled or run.
    MissingPackageError : the package with its base weights is not installed.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such model folder")
    _check_manifest(folder)
    spec = _read_spec(folder)
    tensors = read_tensors(folder / "weights.safetensors")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    calibration = _calibration(_taken(tensors, _CALIBRATION), folder)
    first_look = _first_look(_taken(tensors, _FIRST_LOOK), spec, folder)
    state = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    if spec.base in PACKAGED:
        base = find_base(spec.base)
        if base.sha256 != spec.base_sha256:
            raise BundleError(f"{folder}: made for other base weights ({spec.base_sha256[:12]}...)")
        prefix = f"{spec.encoder.get('model_type')}."
        known = {k.removeprefix(prefix): v for k, v in base_weights(base).items()}
        state = {**known, **_whole(state, known, folder)}
    encoder = build_encoder(spec.encoder, state, folder)
    model = StanceModel(encoder, len(spec.classes_), len(spec.holders), has_gate=spec.has_gate)
    heads = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    if {k: v.shape for k, v in heads.items()} != wanted:
        raise BundleError(f"{folder}: the head does not fit {len(spec.classes_)} labels")
    model.load_state_dict(heads, strict=False)
    model.eval()
    tokenizer = load_tokenizer(folder)
    n_rows = model.encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if tokenizer.get_vocab_size() > n_rows:
        raise BundleError(f"{folder}: the tokenizer has more tokens than the model, {n_rows}")
    return Bundle(model, spec, tokenizer, calibration, first_look)


def _taken(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin so, without the prefix; `tensors` loses them."""
    names = [k for k in tensors if k.startswith(prefix)]
    return {k.removeprefix(prefix): tensors.pop(k) for k in names}


def _calibration(found: dict[str, torch.Tensor], folder: Path) -> Calibration | None:
    if not found:
        return None
    try:
        arrays = {k: v.numpy() for k, v in found.items()}
        made = Calibration(**{**arrays, "proba": arrays["proba"].astype("float64")})
        if not len(made.proba) == len(made.y) == len(made.group) or made.proba.ndim != 2:
            raise ValueError("lengths differ")
    except (KeyError, TypeError, ValueError) as err:
        raise BundleError(f"{folder}: damaged calibration ({err})") from err
    return made


def _first_look(found: dict[str, torch.Tensor], spec: ModelSpec, folder: Path) -> FirstLook | None:
    if not found:
        return None
    calibration = _calibration(_taken(found, _CALIBRATION), folder)
    n_classes = len(spec.classes_)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    of_weights = shapes.pop("weights", ())
    is_sound = (
        shapes == {"threshold": (1,), "proba": (n_classes,)}
        and len(of_weights) == 1
        and N_PAIRS < of_weights[0] <= MAX_WEIGHTS
        and all(t.is_floating_point() and bool(t.isfinite().all()) for t in found.values())
        and calibration is not None
        and calibration.proba.shape[1] == n_classes
    )
    if not is_sound or calibration is None:
        raise BundleError(f"{folder}: damaged first look, or one of another version; remove it")
    proba = found["proba"].double().numpy()
    if (proba < 0).any() or abs(proba.sum() - 1) > 1e-3 or spec.classes_[proba.argmax()] != NONE:
        raise BundleError(f"{folder}: damaged first look; its answer is {proba.tolist()}")
    weights, threshold = found["weights"].numpy(), float(found["threshold"][0])
    return FirstLook(weights, threshold, proba / proba.sum(), calibration)


def _whole(
    state: dict[str, torch.Tensor], base: dict[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """The stored tensors with changes of low rank added to the base's."""
    whole = {}
    for name, tensor in state.items():
        if name.endswith(_LEFT):
            stem = name.removesuffix(_LEFT)
            try:
                whole[stem] = base[stem] + tensor @ state[stem + _RIGHT]
            except (KeyError, RuntimeError) as err:
                raise BundleError(f"{folder}: {stem!r} does not fit the base weights") from err
        elif not name.endswith(_RIGHT):
            whole[name] = tensor
    return whole


def _check_manifest(folder: Path) -> None:
    manifest = _read_json(folder / "manifest.json")
    if set(manifest) != set(_FILES):
        raise BundleError(
            f"{folder / 'manifest.json'}: lists {sorted(manifest)}, expected {list(_FILES)}"
        )
    present = {p.name for p in folder.iterdir()} - {"manifest.json"}
    if extra := sorted(present - set(_FILES)):
        raise BundleError(f"{folder}: unexpected file {extra[0]!r}; a bundle holds no other files")
    for name in _FILES:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: missing or not a plain file; fetch the bundle again")
        if sha256_of(path) != manifest[name]:
            raise BundleError(f"{path}: altered since it was saved; fetch the bundle again")


def _read_json(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: missing; this is not a complete model bundle")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise BundleError(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path}: not readable as JSON ({err})") from err
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected an object")
    return value


def _read_spec(folder: Path) -> ModelSpec:
    path = folder / "bundle.json"
    values = _read_json(path)
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format {version!r}, this version reads {FORMAT_VERSION}; "
            "upgrade with: pip install -U peace-stance"
        )
    values.pop("stance_version", None)
    known = {f.name: f for f in fields(ModelSpec)}
    if odd := sorted(set(values) ^ set(known)):
        raise BundleError(f"{path}: missing or unknown field {odd[0]!r}")
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    for name, value in values.items():
        kind = kinds.get(str(known[name].type))
        if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise BundleError(f"{path}: {name} is {value!r}, expected {known[name].type}")
    classes = values["classes_"]
    if (
        not isinstance(classes, list)
        or len(classes) < 2
        or not all(isinstance(c, str) for c in classes)
        or len(set(classes)) != len(classes)
    ):
        raise BundleError(f"{path}: classes_ is {classes!r}, expected at least two labels")
    holders = values["holders"]
    if not isinstance(holders, list) or not set(holders) <= set(HOLDERS):
        raise BundleError(f"{path}: holders is {holders!r}, expected some of {', '.join(HOLDERS)}")
    if not values["holder_temperature"] > 0:
        raise BundleError(f"{path}: holder_temperature out of range")
    if not 8 <= values["max_length_tokens"] <= 8192 or not values["temperature"] > 0:
        raise BundleError(f"{path}: max_length_tokens or temperature out of range")
    return ModelSpec(**{**values, "classes_": tuple(classes), "holders": tuple(holders)})
