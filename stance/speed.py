"""How fast models answer on this machine: `stance benchmark speed`.

Engines are timed in turn, round after round in one process, so that what else the machine does
falls on all alike; figures are medians of the rounds.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from stance.backends import Fp32
from stance.bundle import Bundle, find_bundle, load_bundle
from stance.classifier import StanceClassifier, load
from stance.corpus import Corpus
from stance.errors import StanceError
from stance.model import InputBuilder, StanceModel, collate
from stance.neutrality import is_ukraine_first, rename
from stance.report import markdown_table

log = logging.getLogger(__name__)
Labels = list[str]


@dataclass(frozen=True)
class Engine:
    """A way to get labels: texts in, labels out."""

    model: str
    name: str
    run: Callable[[Sequence[str]], Labels]
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class SpeedReport:
    """Tables of rows by name; `machine` says where."""

    machine: dict[str, Any]
    engines: list[dict[str, Any]]
    latency: list[dict[str, Any]] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)
    archive: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


class PlainModel(PreTrainedModel):
    """A stance model in the shape that `transformers.pipeline` takes: one sentence, no context."""

    _supports_sdpa = True

    def __init__(self, model: StanceModel, classes: Sequence[str], temperature: float) -> None:
        super().__init__(model.encoder.config)
        self.config.id2label = dict(enumerate(classes))
        self.config.num_labels = len(classes)
        self.stance, self.temperature = model, temperature

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits, shape (n, n_classes), of `[CLS] sentence [SEP]` inputs of shape (n, length)."""
        sentence = attention_mask.clone()
        sentence[torch.arange(len(sentence)), attention_mask.sum(1) - 1] = 0
        sentence[:, 0] = 0
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": torch.zeros_like(input_ids),
            "sentence_mask": sentence,
        }
        return SequenceClassifierOutput(logits=self.stance(batch).label / self.temperature)


def pipeline_engine(name: str, bundle: Bundle, batch_size: int) -> Engine:
    """`transformers.pipeline("text-classification")` over the same weights, in float32.

    It gets the names as the model reads them (`stance.neutrality.rename`).
    """
    from transformers import pipeline
    from transformers.utils import logging as transformers_logging

    spec = bundle.spec
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bundle.tokenizer,
        pad_token=bundle.tokenizer.id_to_token(spec.pad_id),
        model_max_length=spec.max_length_tokens,
    )
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # it doesn't know the class
    try:
        pipe = pipeline(
            "text-classification",
            model=PlainModel(bundle.model, spec.classes_, spec.temperature).eval(),
            tokenizer=tokenizer,
            device="cpu",
        )
    finally:
        transformers_logging.set_verbosity(before)

    def run(texts: Sequence[str]) -> Labels:
        read = [rename(t, is_ukraine_first(t)) for t in texts] if spec.is_neutral else list(texts)
        return [a["label"] for a in pipe(read, batch_size=batch_size, truncation=True)]

    return Engine(name, f"pipeline, batch {batch_size}", run)


def engines(
    name: str, bundle: Bundle, backends: Sequence[str], failed: dict[str, str]
) -> Iterator[Engine]:
    """The pipeline and our backends, each with and without the first look."""
    for batch_size in (1, 32):
        yield pipeline_engine(name, bundle, batch_size)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for backend in backends:
        for first_look in (False, True) if bundle.first_look else (False,):
            try:
                model = load(name, device="cpu", backend=backend, first_look=first_look)
            except StanceError as err:
                failed[f"{name} {backend}"] = str(err)
                continue

            def run(texts: Sequence[str], model: StanceClassifier = model) -> Labels:
                return [p.label for p in model.predict_articles([list(texts)])[0].sentences]

            label = f"{backend}, first look" if first_look else backend
            yield Engine(name, label, run, None if first_look else dtypes.get(backend))


def measure_engines(
    found: Sequence[Engine], bundle: Bundle, texts: Sequence[str], n_rounds: int
) -> list[dict[str, Any]]:
    """Throughput of the engines of one model, a row each.

    `agreement` is the share of labels that equal the first fp32 engine's; `peak_share` what of the
    matrix-product rate measured in the same rounds goes into the encoder's products over real
    tokens, by 24 h^2 + 4 h L operations a token and layer.
    """
    seconds: dict[str, list[float]] = {e.name: [] for e in found}
    labels: dict[str, Labels] = {}
    peaks: dict[torch.dtype, list[float]] = {e.dtype: [] for e in found if e.dtype}
    lengths = [len(e.ids) for e in InputBuilder(bundle.tokenizer, bundle.spec).encode(texts)]
    n_layers, hidden = (int(bundle.spec.encoder[k]) for k in ("num_hidden_layers", "hidden_size"))
    work = operations(lengths, n_layers, hidden)
    for engine in found:
        engine.run(texts[:32])
    for number in range(n_rounds):
        for dtype in peaks:
            peaks[dtype].append(gemm_rate(dtype, hidden))
        for engine in found:
            started = time.perf_counter()
            labels[engine.name] = engine.run(texts)
            seconds[engine.name].append(time.perf_counter() - started)
        log.info("%s: round %d of %d", found[0].model, number + 1, n_rounds)
    reference = labels.get("fp32") or next(iter(labels.values()))
    base, batched = (median(seconds[e.name]) for e in found[:2])
    rows = []
    for engine in found:
        took = median(seconds[engine.name])
        agreement = np.mean([a == b for a, b in zip(labels[engine.name], reference, strict=True)])
        peak = median(peaks[engine.dtype]) if engine.dtype else None
        rows.append(
            {
                "model": engine.model,
                "engine": engine.name,
                "sentences_per_s": len(texts) / took,
                "spread": (max(seconds[engine.name]) - min(seconds[engine.name])) / took,
                "times_pipeline": base / took,
                "times_batch_32": batched / took,
                "agreement": float(agreement),
                "peak_share": work / took / peak if peak else None,
            }
        )
    return rows


def operations(lengths: Sequence[int], n_layers: int, hidden: int) -> float:
    """Floating-point operations of an encoder's products over inputs of some lengths in tokens."""
    n = np.asarray(lengths, np.float64)
    return float((n_layers * (24 * hidden**2 * n + 4 * hidden * n**2)).sum())


def gemm_rate(dtype: torch.dtype, hidden: int, n_tokens: int = 4096) -> float:
    """Operations a second of the feed-forward product in a dtype, the best of five."""
    left = torch.randn(n_tokens, hidden).to(dtype)
    right = torch.randn(4 * hidden, hidden).to(dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(6):
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            best = min(best, time.perf_counter() - started)
    return 2 * n_tokens * hidden * 4 * hidden / best


def padding_efficiency(bundle: Bundle, texts: Sequence[str]) -> float:
    """Real tokens as a share of those in the batches that the fp32 backend runs."""
    encoded = InputBuilder(bundle.tokenizer, bundle.spec).encode(texts)
    lengths = [len(e.ids) for e in encoded]
    batches = Fp32(bundle.model, bundle.spec).batches(lengths)
    padded = sum(
        collate([encoded[i] for i in rows], bundle.spec.pad_id)["input_ids"].numel()
        for rows in batches
    )
    return sum(lengths) / padded


def latency(name: str, backend: str, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of `predict` of one sentence."""
    model = load(name, device="cpu", backend=backend)
    model.predict(texts[0])
    took = []
    for text in texts:
        started = time.perf_counter()
        model.predict(text)
        took.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {"model": name, "backend": backend, "p50_ms": float(p50), "p99_ms": float(p99)}


def start_times(n_rounds: int) -> list[dict[str, Any]]:
    """Seconds of fresh processes: bare Python, `import stance`, `stance predict` of a sentence."""
    sentence = "Talks are stuck on territory, the envoy said.\n"
    commands = {
        "python -c pass": ["-c", "pass"],
        "import stance": ["-c", "import stance"],
        "stance predict -": ["-m", "stance", "predict", "-"],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(n_rounds):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                input=sentence,
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            took[name].append(time.perf_counter() - started)
    return [
        {"process": k, "median_s": median(v), "min_s": min(v), "max_s": max(v)}
        for k, v in took.items()
    ]


_SCORE = """
import json, resource, sys
from stance.archive import score_archive
source, out, workers, model = sys.argv[1:]
done = score_archive(source, out, workers=int(workers), model=model)
of = [resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"n_sentences": done.n_sentences, "seconds": done.seconds, "peak_kb": of}))
"""


def archive_rows(
    texts: Sequence[str], sizes: Sequence[int], workers: Sequence[int], model: str
) -> Iterator[dict[str, Any]]:
    """`stance score` of archives of some sizes in sentences; every sentence is another one."""
    for size in sizes:
        for n_workers in workers:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "articles.jsonl"
                with source.open("w", encoding="utf-8") as file:
                    file.writelines(_articles(texts, size))
                command = [
                    sys.executable,
                    "-c",
                    _SCORE,
                    str(source),
                    f"{folder}/out",
                    str(n_workers),
                    model,
                ]
                found = json.loads(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout
                )
            yield {
                "n_sentences": found["n_sentences"],
                "workers": n_workers,
                "seconds": found["seconds"],
                "ms_per_sentence": 1000 * found["seconds"] / found["n_sentences"],
                "peak_mb": found["peak_kb"][0] / 1024,
                "peak_mb_worker": found["peak_kb"][1] / 1024 if n_workers > 1 else None,
            }


def _articles(texts: Sequence[str], n_sentences: int, length: int = 20) -> Iterator[str]:
    """JSON lines of articles of `length` sentences; a running number makes each sentence new."""
    for start in range(0, n_sentences, length):
        rows = [
            f"{texts[i % len(texts)].rstrip()[:-1]}, item {i}."
            for i in range(start, min(start + length, n_sentences))
        ]
        yield json.dumps({"article_id": str(start), "text": "\n".join(rows)}) + "\n"


@contextmanager
def _noted(failed: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except (StanceError, subprocess.CalledProcessError) as err:
        failed[what] = str(getattr(err, "stderr", None) or err)


def measure_speed(
    corpus: Corpus,
    models: Sequence[str],
    backends: Sequence[str],
    n_texts: int = 512,
    n_rounds: int = 5,
    sizes: Sequence[int] = (1000, 10_000),
    workers: Sequence[int] = (1, 2),
) -> SpeedReport:
    """Measure everything on sentences drawn from a corpus, in reading order of its articles."""
    texts = list(dict.fromkeys(corpus.texts))
    drawn = sorted(np.random.default_rng(13).permutation(len(texts))[:n_texts])
    texts = [texts[i] for i in drawn]
    failed: dict[str, str] = {}
    rows, waits = [], []
    for name in models:
        with _noted(failed, name):
            bundle = load_bundle(find_bundle(name))
            rows += measure_engines(
                list(engines(name, bundle, backends, failed)), bundle, texts, n_rounds
            )
            rows[-1]["padding_efficiency"] = padding_efficiency(bundle, texts)
            sound = [b for b in backends if f"{name} {b}" not in failed]
            waits += [latency(name, backend, texts[:200]) for backend in sound]
    starts = start_times(n_rounds)
    archives: list[dict[str, Any]] = []
    with _noted(failed, "archive"):
        archives += archive_rows(texts, sizes, workers, models[0])
    return SpeedReport(machine(), rows, waits, starts, archives, failed)


def speed_markdown(report: SpeedReport) -> str:
    """The tables as Markdown."""
    where = ", ".join(f"{k} {v}" for k, v in report.machine.items())
    parts = ["# Speed", f"Medians of rounds in one run. {where}."]
    for title, rows in (
        ("Engines", report.engines),
        ("One sentence", report.latency),
        ("Fresh processes", report.start),
        ("Archives", report.archive),
    ):
        if rows:
            columns = list(dict.fromkeys(k for row in rows for k in row))
            cells = [["" if row.get(c) is None else row[c] for c in columns] for row in rows]
            parts += [f"## {title}", markdown_table(columns, cells)]
    if report.failed:
        parts += ["## Failed", *(f"* {what}: {why}" for what, why in report.failed.items())]
    return "\n\n".join(parts) + "\n"
