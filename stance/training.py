"""A fine-tuning run from a split corpus to a calibrated model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from tokenizers import Tokenizer

from stance import metrics
from stance.calibration import Calibration
from stance.classifier import softmax
from stance.config import TrainConfig
from stance.corpus import Corpus, require_classes
from stance.encoder import Base, encoder_config, find_base, load_tokenizer
from stance.errors import ConfigError
from stance.holders import UNKNOWN, holder_classes
from stance.labels import NONE
from stance.loop import Loop
from stance.model import InputBuilder, ModelSpec, StanceModel, new_model, new_spec
from stance.parallel import join
from stance.run import Run
from stance.training_set import TrainingSet

Floats = NDArray[np.float64]
_DROPOUTS = {"hidden_dropout_prob", "dropout"}
# Drawing a mask for every attention weight takes longer on a CPU than the attention itself.
_ATTENTION_DROPOUTS = {"attention_probs_dropout_prob", "attention_dropout"}


@dataclass(frozen=True)
class TrainResult:
    """A trained model, ready for `save_bundle`."""

    model: StanceModel
    spec: ModelSpec
    tokenizer: Tokenizer
    calibration: Calibration
    history: tuple[dict[str, Any], ...]
    elapsed_s: float


def train(config: TrainConfig, corpus: Corpus, run_dir: Path) -> TrainResult:
    """Fine-tune on the train split, stopping early on the validation split's `macro_f1`.

    What is validated and kept is the running average of the weights, not their last value. Where
    `torchrun` started several processes, each calls this, works on its part of every batch and
    returns the same; the first alone writes to `run_dir`, which all must see.

    Parameters
    ----------
    corpus : every article with a split (`stance.splits.with_splits`).
    run_dir : gets config.json, environment.json, metrics.jsonl and the checkpoint.

    Raises
    ------
    ConfigError : `run_dir` holds another or an unfinished run, see `resume`.
    DataError : fewer than two labels in train.
    """
    parts = {name: corpus.split(name) for name in ("train", "validation")}
    for name, part in parts.items():
        require_classes(part, f"split {name!r}")
    ranks = join(config.trainer.device)
    with ranks.main_first():
        run = Run(config, run_dir, corpus.fingerprint, is_main=ranks.is_main)
        base = find_base(config.model.base, config.model.revision)
        taught = run.teach(parts["train"]) if config.trainer.teachers else None
    tokenizer = load_tokenizer(base.folder)
    holders = holder_classes(parts["train"]) if config.trainer.holder_weight else ()
    spec = _new_spec(config, corpus.classes_, holders, base, tokenizer)
    inputs = InputBuilder(tokenizer, spec)
    weight = config.trainer.soft_label_weight
    train_set = TrainingSet(
        parts["train"],
        inputs,
        weight,
        taught,
        config.trainer.teacher_weight,
    )
    validation = TrainingSet(parts["validation"], inputs, weight)
    torch.manual_seed(config.seed)
    model = new_model(base, spec, config.model.dropout)
    # Short inputs: plain attention has the faster backward pass.
    model.encoder.set_attn_implementation("eager")  # type: ignore[operator]
    if not config.model.train_word_embeddings:
        model.encoder.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
    if config.trainer.lora_rank:
        add_lora(model.encoder, config.trainer.lora_rank)
    loop = Loop(config, model.to(ranks.device), train_set, validation, run, ranks)
    loop.run_to_end()
    if config.trainer.lora_rank:
        merge_lora(model.encoder)
    label, holder = loop.logits(validation)
    if config.trainer.calibrate:
        if NONE in spec.classes_:
            column = spec.classes_.index(NONE)
            offset = none_offset(label, validation.y, column)
            label[:, column] += offset
            with torch.no_grad():
                model.head.bias[column] += offset
        spec = _calibrated(spec, label, holder, validation)
    groups = np.unique(parts["validation"].groups, return_inverse=True)[1].astype(np.int64)
    calibration = Calibration(softmax(label / spec.temperature), validation.y, groups)
    made = {
        "seed": config.seed,
        "trainer": asdict(config.trainer),
        "n_train_sentences": len(train_set),
        "n_validation_sentences": len(validation),
        "n_articles": {k: len(v.articles) for k, v in parts.items()},
        "best_epoch": loop.progress.best_epoch,
        "validation_macro_f1": loop.progress.best_score,
        "precision": loop.progress.precision,
    }
    spec = replace(spec, training=made)
    history = tuple(loop.progress.history)
    return TrainResult(
        model.cpu().eval(), spec, tokenizer, calibration, history, loop.progress.elapsed_s
    )


class _LowRank(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.down = torch.nn.Parameter(torch.randn(rank, weight.shape[1]) / rank)
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def _linears(encoder: torch.nn.Module) -> list[torch.nn.Module]:
    return [m for m in encoder.encoder.modules() if isinstance(m, torch.nn.Linear)]


def add_lora(encoder: torch.nn.Module, rank: int) -> None:
    """Freeze an encoder and give its linear layers low-rank changes (Hu et al. 2021)."""
    encoder.requires_grad_(False)
    for linear in _linears(encoder):
        register_parametrization(linear, "weight", _LowRank(linear.weight, rank))


def merge_lora(encoder: torch.nn.Module) -> None:
    """Make the low-rank changes part of the weights."""
    for linear in _linears(encoder):
        remove_parametrizations(linear, "weight")


def none_offset(logits: Floats, y: NDArray[np.int64], none: int) -> float:
    """What to add to the logit of `none` so that it is predicted as often as it is true.

    The likeliest label is `none` too often where most sentences are: adjusting the logit to the
    prior lets counts stand for what is there, and finds more stances (Menon et al. 2021).

    Parameters
    ----------
    logits, y : of a validation split, shapes (n, n_classes) and (n,).
    none : its column.
    """
    margin = np.sort(logits[:, none] - np.delete(logits, none, 1).max(1))
    n_stances = int((y != none).sum())
    if not 0 < n_stances < len(y):
        return 0.0
    return float(-(margin[n_stances - 1] + margin[n_stances]) / 2)


def _calibrated(
    spec: ModelSpec, label: Floats, holder: Floats | None, part: TrainingSet
) -> ModelSpec:
    spec = replace(spec, temperature=fit_temperature(label, part.y))
    known = part.holders[0].holder != UNKNOWN
    if holder is None or not known.any():
        return spec
    of_holder = fit_temperature(holder[known], part.holders[0].holder[known])
    return replace(spec, holder_temperature=of_holder)


def _new_spec(
    config: TrainConfig,
    classes: tuple[str, ...],
    holders: tuple[str, ...],
    base: Base,
    tokenizer: Tokenizer,
) -> ModelSpec:
    encoder = encoder_config(base.folder)
    encoder.update(dict.fromkeys(_DROPOUTS & set(encoder), config.model.encoder_dropout))
    encoder.update(dict.fromkeys(_ATTENTION_DROPOUTS & set(encoder), 0.0))
    limit = int(encoder.get("max_position_embeddings", 512))
    if encoder["model_type"] in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        limit -= 2  # positions start after the padding id
    if config.model.max_length_tokens > limit:
        raise ConfigError(
            f"model.max_length_tokens={config.model.max_length_tokens} is more than the "
            f"{limit} that {base.name} reads"
        )
    return new_spec(
        classes,
        base,
        encoder,
        tokenizer,
        holders=holders,
        base_revision=config.model.revision,
        max_length_tokens=config.model.max_length_tokens,
        n_context=config.model.n_context,
        has_headline=config.model.has_headline,
        is_neutral=config.model.is_neutral,
        has_gate=config.model.has_gate,
    )


def fit_temperature(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """The temperature with the least log loss, within [0.05, 20]. Source: Guo et al. 2017."""
    target = np.eye(logits.shape[1])[y]

    def loss(log_temperature: float) -> float:
        proba = softmax(logits / np.exp(log_temperature))
        return float(metrics.cross_entropy(target, proba).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
