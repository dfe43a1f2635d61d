"""The classifier network, its inputs, and bundles: the folders in which models live.

Inputs are ``[CLS] sentence [SEP] context [SEP]``; the sentence's own token vectors are averaged and
classified, so context informs the answer but is never itself classified.

A bundle is a folder of safetensors and JSON: `bundle.json` (what the model is),
`weights.safetensors`, `tokenizer.json`, `README.md` (model card) and `manifest.json` (SHA-256 of
the others). Tensors that equal those of an installed base package are left out and taken from
there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from stance import __version__
from stance.encoder import (
    PACKAGED,
    Base,
    base_weights,
    build_encoder,
    find_base,
    load_tokenizer,
    read_tensors,
    sha256_of,
)
from stance.errors import BundleError
from stance.segment import clean_text

FORMAT_VERSION = 1
_FILES = ("README.md", "bundle.json", "tokenizer.json", "weights.safetensors")
_MAX_JSON_BYTES = 1_000_000
_LEFT, _RIGHT = ".left", ".right"


@dataclass(frozen=True)
class ModelSpec:
    """What a model is; stored as `bundle.json`.

    Attributes
    ----------
    classes_ : labels in column order.
    base, base_sha256, base_revision : the encoder it was tuned from.
    encoder : configuration of the encoder.
    cls_id, sep_id, pad_id : special token ids.
    max_length_tokens : longest input, context included.
    n_context : sentences before the target that are read, 0 to 3.
    has_headline : whether the article's first sentence is always among the context.
    temperature : divides the logits (calibration).
    training : how it was made; free JSON.
    """

    classes_: tuple[str, ...]
    base: str
    base_sha256: str
    encoder: dict[str, Any]
    cls_id: int
    sep_id: int
    pad_id: int
    base_revision: str | None = None
    max_length_tokens: int = 160
    n_context: int = 0
    has_headline: bool = False
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)


def new_spec(
    classes: tuple[str, ...],
    base: Base,
    encoder: dict[str, Any],
    tokenizer: Tokenizer,
    **settings: Any,
) -> ModelSpec:
    """The spec of a model that is yet to be trained; `settings` are further fields."""
    start, end = tokenizer.encode("", add_special_tokens=True).ids[:2]
    return ModelSpec(
        classes_=classes,
        base=base.name,
        base_sha256=base.sha256,
        encoder=encoder,
        cls_id=start,
        sep_id=end,
        pad_id=int(encoder.get("pad_token_id") or 0),
        **settings,
    )


@dataclass(frozen=True)
class Encoded:
    """One model input: token ids, how many of them (from 1 on) are the sentence's, truncation."""

    ids: list[int]
    n_sentence: int
    is_truncated: bool


# Quotation marks and dashes come in house styles; the model should not see them.
_PLAIN = str.maketrans(
    {**dict.fromkeys("“”„‟«»", '"'), **dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("–—―‑", "-")}
)
_MAX_CHARS = 20_000


class InputBuilder:
    """Texts to token ids. Holds no mutable state, so threads may share it."""

    def __init__(self, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        self._tokenizer = tokenizer
        self._spec = spec
        self.pad_id = spec.pad_id

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        plain = [clean_text(t[:_MAX_CHARS]).translate(_PLAIN) for t in texts]
        encoded = self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        return [e.ids for e in encoded]

    def choose_context(self, n_before: int) -> list[int]:
        """Which of the `n_before` sentences before the target are read, in reading order."""
        chosen = list(range(max(0, n_before - self._spec.n_context), n_before))
        if self._spec.has_headline and n_before and 0 not in chosen:
            chosen.insert(0, 0)
        return chosen

    def encode(
        self, texts: Sequence[str], context: Sequence[Sequence[str]] | None = None
    ) -> list[Encoded]:
        """Inputs of texts, each with the sentences before it; every distinct text once."""
        read = [
            [before[i] for i in self.choose_context(len(before))]
            for before in (context if context is not None else [()] * len(texts))
        ]
        distinct = list(dict.fromkeys([*texts, *(t for part in read for t in part)]))
        ids = dict(zip(distinct, self.token_ids(distinct), strict=True))
        return [
            self.join(ids[text], [ids[t] for t in part], len(text) > _MAX_CHARS)
            for text, part in zip(texts, read, strict=True)
        ]

    def join(
        self, sentence: list[int], context: Sequence[list[int]], is_cut: bool = False
    ) -> Encoded:
        """One input; where sentence and context don't fit, the oldest context goes first."""
        spec = self._spec
        room = spec.max_length_tokens - 2
        kept = sentence[:room]
        ids = [spec.cls_id, *kept, spec.sep_id]
        space = room - len(kept) - 1
        before = [i for part in context for i in part]
        if before and space > 0:
            ids += [*before[-space:], spec.sep_id]
        return Encoded(ids, len(kept), is_cut or len(kept) < len(sentence))


class StanceModel(nn.Module):
    """Encoder, mean over the sentence's tokens, dropout, linear layer."""

    def __init__(self, encoder: nn.Module, n_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        hidden = int(encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.has_segments = int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, n_classes)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits, shape (n, n_classes), from `collate`'s tensors of shape (n, length)."""
        arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if self.has_segments:
            arguments["token_type_ids"] = batch["token_type_ids"]
        hidden = self.encoder(**arguments).last_hidden_state
        return self.head(self.dropout(mean_of_sentence(hidden, batch["sentence_mask"]))).float()


def mean_of_sentence(hidden: torch.Tensor, sentence_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the sentence's tokens: (n, length, hidden) and (n, length) -> (n, hidden)."""
    mask = sentence_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def collate(inputs: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad inputs to one batch: four integer tensors of shape (n, longest)."""
    longest = max(len(e.ids) for e in inputs)
    shape = (len(inputs), longest)
    ids = torch.full(shape, pad_id)
    attention = torch.zeros(shape, dtype=torch.long)
    segment = torch.zeros(shape, dtype=torch.long)
    sentence = torch.zeros(shape, dtype=torch.long)
    for row, item in enumerate(inputs):
        n = len(item.ids)
        ids[row, :n] = torch.tensor(item.ids)
        attention[row, :n] = 1
        segment[row, item.n_sentence + 2 : n] = 1
        sentence[row, 1 : item.n_sentence + 1] = 1
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "token_type_ids": segment,
        "sentence_mask": sentence,
    }


def new_model(base: Base, spec: ModelSpec, dropout: float) -> StanceModel:
    """A model with the base's weights and a fresh head (draws from torch's global generator)."""
    encoder = build_encoder(spec.encoder, base_weights(base), base.folder)
    return StanceModel(encoder, len(spec.classes_), dropout)


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
) -> None:
    """Write a bundle; under its name there is only ever a complete one (see `replace_folder`)."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
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


def load_bundle(folder: Path) -> tuple[StanceModel, ModelSpec, Tokenizer]:
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
    state = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    if spec.base in PACKAGED:
        base = find_base(spec.base)
        if base.sha256 != spec.base_sha256:
            raise BundleError(f"{folder}: made for other base weights ({spec.base_sha256[:12]}...)")
        prefix = f"{spec.encoder.get('model_type')}."
        known = {k.removeprefix(prefix): v for k, v in base_weights(base).items()}
        state = {**known, **_whole(state, known, folder)}
    model = StanceModel(build_encoder(spec.encoder, state, folder), len(spec.classes_))
    try:
        model.head.load_state_dict({k: tensors[f"head.{k}"] for k in ("weight", "bias")})
    except (KeyError, RuntimeError) as err:
        raise BundleError(f"{folder}: the head does not fit {len(spec.classes_)} labels") from err
    model.eval()
    tokenizer = load_tokenizer(folder)
    n_rows = model.encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if tokenizer.get_vocab_size() > n_rows:
        raise BundleError(f"{folder}: the tokenizer has more tokens than the model, {n_rows}")
    return model, spec, tokenizer


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
    if not 8 <= values["max_length_tokens"] <= 8192 or not values["temperature"] > 0:
        raise BundleError(f"{path}: max_length_tokens or temperature out of range")
    return ModelSpec(**{**values, "classes_": tuple(classes)})
