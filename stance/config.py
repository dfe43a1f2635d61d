"""Settings as dataclasses: Hydra's schema, the library's arguments and the docs in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from stance.errors import ConfigError


def resource_dir(name: str) -> Path:
    """A folder that travels with the package: `configs`, `data` or `models`.

    In a wheel it lies beside this module, in a checkout or editable install one level up.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the package's {name!r} folder is missing; reinstall peace-stance")


def config_dir() -> Path:
    """The folder of Hydra configs."""
    return resource_dir("configs")


@dataclass
class DataConfig:
    """Which sentences, and how missing splits are made."""

    path: str = "peace_talks"
    text_field: str = "text"
    label_field: str = "label"
    extra_train: list[str] = field(default_factory=list)
    validation_share: float = 0.15
    test_share: float = 0.0
    train_share: float = 1.0
    made: str = ""
    allow_leakage: bool = False


@dataclass
class ModelConfig:
    """The encoder and what it reads."""

    base: str = "minilm"
    revision: str | None = None
    max_length_tokens: int = 160
    n_context: int = 0
    has_headline: bool = False
    is_neutral: bool = True
    dropout: float = 0.1
    encoder_dropout: float = 0.1
    train_word_embeddings: bool = False
    has_gate: bool = False


@dataclass
class TrainerConfig:
    """The optimisation; keys as in transformers where they exist there."""

    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    num_train_epochs: int = 5
    train_batch_size: int = 16
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    label_smoothing_factor: float = 0.0
    soft_label_weight: float = 0.5
    class_weight_power: float = 0.0
    context_dropout: float = 0.3
    ema_decay: float = 0.998
    early_stopping_patience: int = 2
    save_steps: int = 250
    precision: str = "auto"
    device: str = "auto"
    calibrate: bool = True
    first_look: bool = True
    bundle_dtype: str = "float32"
    bundle_rank: int = 0
    teachers: list[str] = field(default_factory=list)
    teacher_weight: float = 0.5
    holder_weight: float = 0.2
    focal_gamma: float = 0.0
    r_drop_weight: float = 0.0
    lora_rank: int = 0


@dataclass
class TrainConfig:
    """`stance train`."""

    name: str = "train"
    seed: int = 13
    output_dir: str = "runs/${name}"
    resume: bool = False
    evaluate_test: bool = True
    example: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class BundleConfig:
    """Which trained model."""

    path: str = "minilm"


@dataclass
class EvaluateConfig:
    """`stance evaluate`; on its command line `model=X` and `data=X` stand for their paths."""

    name: str = "evaluate"
    seed: int = 13
    model: BundleConfig = field(default_factory=BundleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    split: str = "auto"
    predictions: str = ""
    n_resamples: int = 2000
    output_dir: str = "runs/${name}"


@dataclass
class SystemConfig:
    """One system of a benchmark.

    `kind` is majority, tfidf, frozen (source: its encoder), setfit (few-shot; source: its encoder),
    train (overrides: settings of `stance train`), bundle (source: its folder or name), predictions
    (source: a file) or annotator (source: whose votes).
    """

    kind: str = "train"
    source: str = ""
    overrides: list[str] = field(default_factory=list)


@dataclass
class EvaluationSetConfig:
    """A set to measure on."""

    path: str = "peace_talks"
    split: str = "auto"


@dataclass
class BenchmarkConfig:
    """`stance benchmark`.

    `systems` and `tests` map names to settings of `SystemConfig` and `EvaluationSetConfig`; plain
    mappings, as a command line gives them, are turned into those.
    """

    name: str = "benchmark"
    seeds: list[int] = field(default_factory=lambda: [13])
    leading: str = "f_stance"
    n_resamples: int = 2000
    behaviour: bool = True
    output_dir: str = "runs/${name}"
    data: DataConfig = field(default_factory=DataConfig)
    systems: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.systems = _typed(SystemConfig, self.systems, "systems")
        self.tests = _typed(EvaluationSetConfig, self.tests, "tests")


def _typed(kind: type, given: Any, where: str) -> Any:
    """Mappings as settings of a kind; anything but a dict of them is left alone."""
    if not isinstance(given, dict):
        return given
    known = {f.name for f in fields(kind)}
    made = {}
    for name, value in given.items():
        if isinstance(value, dict):
            if odd := sorted(set(value) - known):
                raise ConfigError(
                    f"{where}.{name}.{odd[0]} is unknown; expected {', '.join(sorted(known))}"
                )
            value = kind(**value)
        if not isinstance(value, kind):
            raise ConfigError(f"{where}.{name} is {value!r}; expected {', '.join(sorted(known))}")
        made[name] = value
    return made


_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "validation_share": (0.01, 0.5),
    "test_share": (0, 0.5),
    "train_share": (0.001, 1),
    "max_length_tokens": (16, 512),
    "n_context": (0, 3),
    "dropout": (0, 0.9),
    "encoder_dropout": (0, 0.9),
    "learning_rate": (0, 1),
    "head_learning_rate": (0, 1),
    "num_train_epochs": (1, 1000),
    "train_batch_size": (1, 4096),
    "weight_decay": (0, 1),
    "warmup_ratio": (0, 1),
    "max_grad_norm": (1e-6, 1e6),
    "label_smoothing_factor": (0, 0.5),
    "soft_label_weight": (0, 1),
    "class_weight_power": (0, 1),
    "context_dropout": (0, 1),
    "ema_decay": (0, 0.99999),
    "early_stopping_patience": (0, 1000),
    "bundle_rank": (0, 10_000),
    "teacher_weight": (0, 1),
    "holder_weight": (0, 100),
    "focal_gamma": (0, 10),
    "r_drop_weight": (0, 100),
    "lora_rank": (0, 384),
    "save_steps": (1, 10**9),
    "n_resamples": (10, 100_000),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
    "bundle_dtype": ("float32", "float16"),
    "kind": (
        "majority",
        "tfidf",
        "frozen",
        "setfit",
        "train",
        "bundle",
        "predictions",
        "annotator",
    ),
    "split": ("auto", "train", "validation", "test", "all"),
}


def check_config(config: Any, prefix: str = "") -> None:
    """Raise `ConfigError` naming the first setting that is out of range."""
    for item in fields(config):
        name, value = item.name, getattr(config, item.name)
        if is_dataclass(value):
            check_config(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, member in value.items():
                check_config(member, f"{prefix}{name}.{key}.")
        elif name in _RANGES:
            low, high = _RANGES[name]
            if not low <= value <= high:
                raise ConfigError(f"{prefix}{name}={value} is out of range; give {low} to {high}")
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise ConfigError(
                f"{prefix}{name}={value} is unknown; give one of {', '.join(_CHOICES[name])}"
            )
        elif name in ("name", "output_dir", "path", "base") and not str(value).strip():
            raise ConfigError(f"{prefix}{name} is empty")


def find_data(name: str) -> Path:
    """A data path: as given, or one inside the data folder that travels with the package."""
    shipped = resource_dir("data") / name
    return shipped if not Path(name).exists() and shipped.exists() else Path(name)
