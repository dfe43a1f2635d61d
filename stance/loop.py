"""The optimisation: a plain loop whose every random choice is a function of seed and step.

That makes it resume exactly: a checkpoint holds weights, optimizer state and counters, no generator
state, and a run that was killed and resumed ends with the same bits as one that was not. Of several
processes each works out its part of a batch's loss and gradient; the parts add up to the whole.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stance import metrics
from stance.classifier import batches_by_tokens, softmax
from stance.config import TrainConfig, TrainerConfig
from stance.encoder import read_tensors
from stance.holders import holder_loss
from stance.model import Encoded, StanceModel, collate
from stance.parallel import Ranks
from stance.run import Progress, Run
from stance.training_set import TrainingSet

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
_MEGABATCH = 50
_RECORDED_EVERY = 10
_AVERAGED_EVERY = 4


class Loop:
    """The optimisation, from wherever its run's checkpoint stands to the end."""

    def __init__(
        self,
        config: TrainConfig,
        model: StanceModel,
        train_set: TrainingSet,
        validation: TrainingSet,
        run: Run,
        ranks: Ranks,
    ) -> None:
        self.config = config
        self.options: TrainerConfig = config.trainer
        self.model, self.train_set, self.validation, self.run = model, train_set, validation, run
        self.ranks, self.device = ranks, ranks.device
        if self.device.type == "cpu":
            model.encoder.embeddings.register_forward_hook(  # type: ignore[union-attr]
                _in_lower_precision
            )
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
        target = torch.tensor(train_set.target, dtype=torch.float32, device=self.device)
        smooth = self.options.label_smoothing_factor
        self.target = (1 - smooth) * target + smooth / target.shape[1]
        weights = class_weights(train_set.y, target.shape[1], self.options)
        self.weights = weights.to(self.device)
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
            disable=not self.ranks.is_main,
        )
        with bar:
            while self.progress.step < self.n_steps and not self._is_stopped():
                epoch, position = divmod(self.progress.step, self.n_epoch_steps)
                for rows in self.epoch_batches(epoch)[position:]:
                    loss = self._step(epoch, rows)
                    self.progress.step += 1
                    bar.update()
                    if self.progress.step % _RECORDED_EVERY == 0:
                        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                        self._record(epoch, float(loss))
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
        length = [len(ids) for ids in self.train_set.ids[0]]
        batches: list[list[int]] = []
        for start in range(0, len(order), size * _MEGABATCH):
            chunk = sorted(
                order[start : start + size * _MEGABATCH].tolist(), key=length.__getitem__
            )
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _inputs(self, epoch: int, rows: Sequence[int]) -> list[Encoded]:
        """The inputs of some rows, a share of them without context."""
        made = []
        for row in rows:
            rng = np.random.default_rng([self.config.seed, epoch, 1, row])
            is_bare = bool(rng.random() < self.options.context_dropout)
            made.append(self.train_set.encode(row, is_bare=is_bare))
        return made

    def _loss(self, epoch: int, rows: Sequence[int], precision: str) -> torch.Tensor:
        """This process's share of a batch's loss; divisors are those of the whole batch."""
        part = self.ranks.part
        if not rows[part]:
            return torch.zeros((), device=self.device, requires_grad=True)
        encoded = self._inputs(epoch, rows)
        batch = collate(encoded[part], self.train_set.inputs.pad_id)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs = self.model({k: v.to(self.device) for k, v in batch.items()})
        weighted = self.target[list(rows)] * self.weights
        log_p = torch.log_softmax(outputs.label, 1)
        easy = (1 - log_p.exp()) ** self.options.focal_gamma if self.options.focal_gamma else 1.0
        loss = -(weighted[part] * easy * log_p).sum() / weighted.sum()
        if self.options.r_drop_weight:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                other = self.model({k: v.to(self.device) for k, v in batch.items()})
            log_q = torch.log_softmax(other.label, 1)
            loss = (loss - (weighted[part] * log_q).sum() / weighted.sum()) / 2
            apart = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2
            loss = loss + self.options.r_drop_weight * apart
        if outputs.holder is not None:
            wanted = [self.train_set.holders[e.is_swapped] for e in encoded]
            holder = np.array([w.holder[r] for w, r in zip(wanted, rows, strict=True)])
            span = np.array([w.span[r] for w, r in zip(wanted, rows, strict=True)])
            loss = loss + self.options.holder_weight * holder_loss(outputs, holder, span, part)
        return loss

    def _step(self, epoch: int, rows: Sequence[int]) -> torch.Tensor:
        seed = self.config.seed * 1_000_003 + self.progress.step
        torch.manual_seed(seed + (self.ranks.rank << 52))  # masks of their own in each process
        self.model.train()
        loss = self._loss(epoch, rows, self.progress.precision)
        loss.backward()
        loss = loss.detach()
        self._sum_gradients(loss)
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.options.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._schedule(self.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        return loss

    def _sum_gradients(self, loss: torch.Tensor) -> None:
        if self.ranks.size == 1:
            return
        for parameter in self.trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self.ranks.sum([loss, *gradients])

    def _average(self) -> None:
        """Move the averaged weights toward the new ones, faster in the first steps.

        Every few steps, and where an epoch ends, they make up for the steps between; each time
        costs half as much as the optimizer. Source: Tarvainen and Valpola 2017 (mean teacher),
        with the usual warm-up of the decay.
        """
        step = self.progress.step
        position = step % self.n_epoch_steps + 1
        if position % _AVERAGED_EVERY and position < self.n_epoch_steps:
            return
        n_steps = position % _AVERAGED_EVERY or _AVERAGED_EVERY
        decay = min(self.options.ema_decay, (1 + step) / (10 + step)) ** n_steps
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
        taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
        self.model.train()
        for _ in range(5):  # in turn, and the best of each, so that a busy moment hits both
            for precision in taken:
                start = time.perf_counter()
                self._loss(0, rows, precision).backward()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                taken[precision].append(time.perf_counter() - start)
                self.optimizer.zero_grad(set_to_none=True)
        best = torch.tensor([min(t) for t in taken.values()], device=self.device)
        self.ranks.sum([best])
        fp32, bf16 = (best / self.ranks.size).tolist()
        chosen = "bf16" if bf16 < 0.9 * fp32 else "fp32"
        log.info(
            "precision %s: a step takes %.0f ms in bf16, %.0f ms in fp32",
            chosen,
            1000 * bf16,
            1000 * fp32,
        )
        return chosen

    def logits(self, part: TrainingSet) -> tuple[Floats, Floats | None]:
        """Label and holder logits of a set with full context, a row a sentence."""
        encoded = [part.encode(row) for row in range(len(part))]
        n_holders = self.model.holder_head.out_features if self.model.holder_head else 0
        label = torch.zeros((len(part), self.target.shape[1]), dtype=torch.float64)
        holder = torch.zeros((len(part), n_holders), dtype=torch.float64)
        self.model.eval()
        batches = list(batches_by_tokens([len(e.ids) for e in encoded], 4096))
        for rows in batches[self.ranks.part]:
            batch = collate([encoded[r] for r in rows], part.inputs.pad_id)
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.progress.precision == "bf16"
                ),
            ):
                made = self.model({k: v.to(self.device) for k, v in batch.items()})
            label[rows] = made.label.double().cpu()
            if made.holder is not None:
                holder[rows] = made.holder.double().cpu()
        found = [label.to(self.device), holder.to(self.device)]
        self.ranks.sum(found)  # each row is one process's, and zero in all others
        of_label, of_holder = (t.cpu().numpy() for t in found)
        return of_label, of_holder if n_holders else None

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
        self.progress.history.append({"step": self.progress.step, "epoch": epoch + 1, "loss": loss})
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


def _in_lower_precision(_: object, __: object, hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states as autocast wants them at every product; else it casts them at each anew."""
    return hidden.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else hidden


def class_weights(y: NDArray[np.int64], n_classes: int, options: TrainerConfig) -> torch.Tensor:
    """Weight of each label, shape (n_classes,): (n / (n_classes * n_label)) ** power."""
    counts = np.bincount(y, minlength=n_classes).clip(min=1)
    power = options.class_weight_power
    return torch.tensor((len(y) / (n_classes * counts)) ** power, dtype=torch.float32)
