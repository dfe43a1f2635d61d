"""Fine-tuning: a plain loop whose every random choice is a function of seed and step.

That makes it resume exactly: a checkpoint holds weights, optimizer state and counters, no generator
state, and a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from tokenizers import Tokenizer
from tqdm import tqdm

from stance import metrics
from stance.calibration import Calibration
from stance.config import TrainConfig, TrainerConfig
from stance.corpus import Corpus, require_classes
from stance.encoder import Base, encoder_config, find_base, load_tokenizer, read_tensors
from stance.errors import ConfigError
from stance.holders import UNKNOWN, HolderTargets, holder_classes, holder_loss
from stance.metrics import softmax
from stance.model import (
    Encoded,
    InputBuilder,
    ModelSpec,
    StanceModel,
    batches_by_tokens,
    collate,
    new_model,
    new_spec,
)
from stance.neutrality import swap_names
from stance.run import Progress, Run

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
_MEGABATCH = 50
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


class TrainingSet:
    """Token ids of a corpus, computed once, and what is needed to draw inputs from them."""

    def __init__(
        self,
        corpus: Corpus,
        inputs: InputBuilder,
        soft_weight: float,
        taught: NDArray[np.float64] | None = None,
        teacher_weight: float = 0.0,
    ) -> None:
        self.ids = inputs.token_ids(corpus.texts)
        self.swapped = inputs.token_ids([swap_names(t) for t in corpus.texts])
        self.inputs = inputs
        self.first = _first_rows(corpus.groups)
        hard = np.eye(len(corpus.classes_))[corpus.y]
        self.target = (1 - soft_weight) * hard + soft_weight * corpus.soft_labels()
        if taught is not None:
            self.target = (1 - teacher_weight) * self.target + teacher_weight * taught
        self.y = corpus.y
        self.holders = [HolderTargets(corpus, inputs, is_swapped=s) for s in (False, True)]

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, row: int, *, is_bare: bool = False, is_swapped: bool = False) -> Encoded:
        """The input of one row: without its context, with the belligerents' names swapped."""
        ids = self.swapped if is_swapped else self.ids
        first = self.first[row]
        chosen = [] if is_bare else self.inputs.choose_context(row - first)
        return self.inputs.join(ids[row], [ids[first + i] for i in chosen])


def _first_rows(groups: Sequence[str]) -> list[int]:
    first: list[int] = []
    for row, group in enumerate(groups):
        first.append(first[-1] if row and groups[row - 1] == group else row)
    return first


def train(config: TrainConfig, corpus: Corpus, run_dir: Path) -> TrainResult:
    """Fine-tune on the train split, stopping early on the validation split's `macro_f1`.

    What is validated and kept is the running average of the weights, not their last value.

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
    run = Run(config, run_dir, corpus.fingerprint)
    base = find_base(config.model.base, config.model.revision)
    tokenizer = load_tokenizer(base.folder)
    holders = holder_classes(parts["train"]) if config.trainer.holder_weight else ()
    spec = _new_spec(config, corpus.classes_, holders, base, tokenizer)
    inputs = InputBuilder(tokenizer, spec)
    weight = config.trainer.soft_label_weight
    taught = run.teach(parts["train"]) if config.trainer.teachers else None
    train_set = TrainingSet(parts["train"], inputs, weight, taught, config.trainer.teacher_weight)
    validation = TrainingSet(parts["validation"], inputs, weight)
    torch.manual_seed(config.seed)
    model = new_model(base, spec, config.model.dropout)
    # Short inputs: plain attention has the faster backward pass.
    model.encoder.set_attn_implementation("eager")  # type: ignore[operator]
    if not config.model.train_word_embeddings:
        model.encoder.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
    device = _device(config.trainer.device)
    loop = Loop(config, model.to(device), train_set, validation, run)
    loop.run_to_end()
    label, holder = loop.logits(validation)
    if config.trainer.calibrate:
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
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda but torch finds no GPU; use auto or cpu")
    return torch.device(name)


class Loop:
    """The optimisation, from wherever its run's checkpoint stands to the end."""

    def __init__(
        self,
        config: TrainConfig,
        model: StanceModel,
        train_set: TrainingSet,
        validation: TrainingSet,
        run: Run,
    ) -> None:
        self.config = config
        self.options: TrainerConfig = config.trainer
        self.model, self.train_set, self.validation, self.run = model, train_set, validation, run
        self.device = next(model.parameters()).device
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        head = [p for n, p in self.trained.items() if not n.startswith("encoder.")]
        body = [p for n, p in self.trained.items() if n.startswith("encoder.")]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": body, "peak": self.options.learning_rate},
                {"params": head, "peak": self.options.head_learning_rate},
            ],
            weight_decay=self.options.weight_decay,
            fused=True,
        )
        self.target = torch.tensor(train_set.target, dtype=torch.float32)
        self.weights = class_weights(train_set.y, train_set.target.shape[1], self.options)
        self.n_epoch_steps = -(-len(train_set) // self.options.train_batch_size)
        self.n_steps = self.n_epoch_steps * self.options.num_train_epochs
        self.progress = Progress()
        self.best = self._copy()
        self.averaged = self._copy()
        self._restore()

    def run_to_end(self) -> None:
        """Train to the last epoch or the early stop, and leave the best weights in the model."""
        if not self.progress.precision:
            self.progress.precision = self._choose_precision()
        started = time.monotonic() - self.progress.elapsed_s
        bar = tqdm(
            total=self.n_steps,
            initial=self.progress.step,
            desc="train",
            unit="step",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        with bar:
            while self.progress.step < self.n_steps and not self._is_stopped():
                epoch, position = divmod(self.progress.step, self.n_epoch_steps)
                for rows in self.epoch_batches(epoch)[position:]:
                    loss = self._step(epoch, rows)
                    self.progress.step += 1
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    self._record(epoch, loss)
                    is_end = self.progress.step % self.n_epoch_steps == 0
                    if is_end:
                        self._validate(epoch)
                    if is_end or self.progress.step % self.options.save_steps == 0:
                        self.progress.elapsed_s = time.monotonic() - started
                        self._save()
        self._load_trained(self.best)

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """Rows of each batch of an epoch: shuffled, like lengths together."""
        rng = np.random.default_rng([self.config.seed, epoch, 0])
        order = rng.permutation(len(self.train_set))
        size = self.options.train_batch_size
        length = [len(ids) for ids in self.train_set.ids]
        batches: list[list[int]] = []
        for start in range(0, len(order), size * _MEGABATCH):
            chunk = sorted(
                order[start : start + size * _MEGABATCH].tolist(), key=length.__getitem__
            )
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _inputs(self, epoch: int, rows: Sequence[int]) -> tuple[list[Encoded], list[bool]]:
        """The inputs of some rows, and in which of them names are swapped."""
        made, swapped = [], []
        for row in rows:
            rng = np.random.default_rng([self.config.seed, epoch, 1, row])
            is_bare = bool(rng.random() < self.options.context_dropout)
            swapped.append(bool(rng.random() < self.options.swap_share))
            made.append(self.train_set.encode(row, is_bare=is_bare, is_swapped=swapped[-1]))
        return made, swapped

    def _loss(self, epoch: int, rows: Sequence[int], precision: str) -> torch.Tensor:
        encoded, swapped = self._inputs(epoch, rows)
        batch = collate(encoded, self.train_set.inputs.pad_id)
        target = self.target[list(rows)].to(self.device)
        smooth = self.options.label_smoothing_factor
        target = (1 - smooth) * target + smooth / target.shape[1]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs = self.model({k: v.to(self.device) for k, v in batch.items()})
        weighted = target * self.weights.to(self.device)
        loss = -(weighted * torch.log_softmax(outputs.label, 1)).sum() / weighted.sum()
        if outputs.holder is not None:
            wanted = [self.train_set.holders[s] for s in swapped]
            holder = np.array([w.holder[r] for w, r in zip(wanted, rows, strict=True)])
            span = np.array([w.span[r] for w, r in zip(wanted, rows, strict=True)])
            loss = loss + self.options.holder_weight * holder_loss(outputs, holder, span)
        return loss

    def _step(self, epoch: int, rows: Sequence[int]) -> float:
        torch.manual_seed(self.config.seed * 1_000_003 + self.progress.step)
        self.model.train()
        loss = self._loss(epoch, rows, self.progress.precision)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.options.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._schedule(self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        return float(loss.detach())

    def _average(self) -> None:
        """Move the averaged weights toward the new ones, faster in the first steps.

        Source: Tarvainen and Valpola 2017 (mean teacher), with the usual warm-up of the decay.
        """
        step = self.progress.step
        decay = min(self.options.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.averaged[name].lerp_(parameter, 1 - decay)

    def _schedule(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        n_warmup = int(self.options.warmup_ratio * self.n_steps)
        if step < n_warmup:
            return (step + 1) / n_warmup
        return (self.n_steps - step) / max(1, self.n_steps - n_warmup)

    def _choose_precision(self) -> str:
        """The asked precision; for `auto` the one whose step is measured faster on this device."""
        if self.options.precision != "auto":
            return self.options.precision
        rows = self.epoch_batches(0)[0]
        taken = {"fp32": np.inf, "bf16": np.inf}
        self.model.train()
        for _ in range(5):  # in turn, and the best of each, so that a busy moment hits both
            for precision in taken:
                start = time.perf_counter()
                self._loss(0, rows, precision).backward()
                taken[precision] = min(taken[precision], time.perf_counter() - start)
                self.optimizer.zero_grad(set_to_none=True)
        chosen = "bf16" if taken["bf16"] < 0.9 * taken["fp32"] else "fp32"
        log.info(
            "precision %s: a step takes %.0f ms in bf16, %.0f ms in fp32",
            chosen,
            1000 * taken["bf16"],
            1000 * taken["fp32"],
        )
        return chosen

    def logits(self, part: TrainingSet) -> tuple[Floats, Floats | None]:
        """Label and holder logits of a set with full context, a row a sentence."""
        encoded = [part.encode(row) for row in range(len(part))]
        label = np.zeros((len(part), self.target.shape[1]))
        holder = None
        self.model.eval()
        for rows in batches_by_tokens([len(e.ids) for e in encoded], 4096):
            batch = collate([encoded[r] for r in rows], part.inputs.pad_id)
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.progress.precision == "bf16"
                ),
            ):
                made = self.model({k: v.to(self.device) for k, v in batch.items()})
            label[rows] = made.label.double().cpu().numpy()
            if made.holder is not None:
                found = made.holder.double().cpu().numpy()
                holder = np.zeros((len(part), found.shape[1])) if holder is None else holder
                holder[rows] = found
        return label, holder

    def _validate(self, epoch: int) -> None:
        current = self._copy()
        self._load_trained(self.averaged)
        logits, _ = self.logits(self.validation)
        self._load_trained(current)
        matrix = metrics.confusion(self.validation.y, logits.argmax(1), logits.shape[1])
        loss = metrics.cross_entropy(self.validation.target, softmax(logits)).mean()
        score = float(metrics.macro_f1(matrix))
        self.progress.history.append(
            {
                "step": self.progress.step,
                "epoch": epoch + 1,
                "validation_loss": float(loss),
                "validation_macro_f1": score,
            }
        )
        if score > self.progress.best_score:
            self.progress.best_score, self.progress.best_epoch = score, epoch + 1
            self.progress.n_stale = 0
            self.best = {n: t.clone() for n, t in self.averaged.items()}
        else:
            self.progress.n_stale += 1
        log.info("epoch %d: validation macro_f1 %.4f, loss %.4f", epoch + 1, score, loss)

    def _record(self, epoch: int, loss: float) -> None:
        if self.progress.step % 10 == 0:
            self.progress.history.append(
                {"step": self.progress.step, "epoch": epoch + 1, "loss": loss}
            )
            self.run.write_metrics(self.progress.history)

    def _is_stopped(self) -> bool:
        return self.progress.n_stale > self.options.early_stopping_patience

    def _save(self) -> None:
        optimizer = {
            f"{key}/{name}": value.detach().cpu().contiguous()
            for name, parameter in self.trained.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        model = {n: p.detach().cpu().contiguous() for n, p in self.trained.items()}
        best = {n: p.cpu().contiguous() for n, p in self.best.items()}
        averaged = {n: p.cpu().contiguous() for n, p in self.averaged.items()}
        self.run.save(self.progress, model, optimizer, best, averaged)
        self.run.write_metrics(self.progress.history)

    def _restore(self) -> None:
        folder = self.run.checkpoint()
        if folder is None:
            return
        self.progress = Progress(**json.loads((folder / "progress.json").read_text("utf-8")))
        self._load_trained(read_tensors(folder / "model.safetensors"))
        self.best = read_tensors(folder / "best.safetensors")
        averaged = read_tensors(folder / "averaged.safetensors")
        self.averaged = {n: t.to(self.device) for n, t in averaged.items()}
        saved = read_tensors(folder / "optimizer.safetensors")
        for name, parameter in self.trained.items():
            self.optimizer.state[parameter] = {
                key.partition("/")[0]: value if key.startswith("step/") else value.to(self.device)
                for key, value in saved.items()
                if key.partition("/")[2] == name
            }
        log.info("resumed at step %d of %d", self.progress.step, self.n_steps)

    def _copy(self) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for n, p in self.trained.items()}

    def _load_trained(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])


def class_weights(y: NDArray[np.int64], n_classes: int, options: TrainerConfig) -> torch.Tensor:
    """Weight of each label, shape (n_classes,): (n / (n_classes * n_label)) ** power."""
    counts = np.bincount(y, minlength=n_classes).clip(min=1)
    power = options.class_weight_power
    return torch.tensor((len(y) / (n_classes * counts)) ** power, dtype=torch.float32)


def fit_temperature(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """The temperature with the least log loss, within [0.05, 20]. Source: Guo et al. 2017."""
    target = np.eye(logits.shape[1])[y]

    def loss(log_temperature: float) -> float:
        proba = softmax(logits / np.exp(log_temperature))
        return float(metrics.cross_entropy(target, proba).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
