"""A tiny random base, a small corpus of invented sentences, and a bundle trained on it."""

import json
import random
from pathlib import Path

import pytest

SENTENCES = {
    "none": [
        "The delegations landed at {n} in the evening.",
        "The plan has {n} points and an annex.",
    ],
    "optimistic": ["Both sides made real progress on {n} items.", "A deal on {n} is within reach."],
    "obstructive": [
        "The ministry rejected point {n} outright.",
        "Talks on item {n} are deadlocked.",
    ],
    "conciliatory": [
        "The envoy offered to drop demand {n}.",
        "The capital is ready to accept {n}.",
    ],
}


def small_rows(n_articles: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for article in range(n_articles):
        split = ("train", "train", "validation", "test")[article % 4]
        for index in range(8):
            label = rng.choice(["none", "none", *SENTENCES])
            text = f"{rng.choice(SENTENCES[label])} Note {article} {index} {rng.random():.6f}."
            text = text.format(n=rng.randint(2, 99))
            rows.append(
                {
                    "article_id": f"a{article:03d}",
                    "index": index,
                    "text": text,
                    "label": label,
                    "split": split,
                    "genre": ("wire", "op_ed")[article % 2],
                }
            )
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """What the user has exported must not change what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    from stance.encoder import build_encoder, find_base

    source = find_base("minilm").folder
    folder = tmp_path_factory.mktemp("tiny")
    config = json.loads((source / "config.json").read_text())
    config.update(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    torch.manual_seed(0)
    model = build_encoder(config, None, folder)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "small.jsonl", small_rows(24))


@pytest.fixture(scope="session")
def tiny_config(tiny_base: Path):
    from stance.config import TrainConfig

    config = TrainConfig(seed=3)
    config.model.base = str(tiny_base)
    config.model.n_context = 2
    config.model.has_headline = True
    config.trainer.num_train_epochs = 2
    config.trainer.save_steps = 3
    config.trainer.precision = "fp32"
    config.trainer.train_batch_size = 8
    return config


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_config, small_data: Path) -> Path:
    from stance.bundle import bundle_tensors, save_bundle
    from stance.corpus import load_corpus
    from stance.training import train

    run = tmp_path_factory.mktemp("run")
    result = train(tiny_config, load_corpus(small_data), run)
    tensors = bundle_tensors(result.model, result.spec)
    save_bundle(run / "bundle", tensors, result.spec, result.tokenizer, "card", result.calibration)
    return run / "bundle"


def train_config(*overrides: str):
    """The settings of `stance train` with some overrides."""
    from hydra import initialize_config_dir

    from stance.cli._hydra import compose_train
    from stance.config import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose_train(list(overrides))
