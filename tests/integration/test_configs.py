from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from stance.cli._hydra import compose_train
from stance.config import BenchmarkConfig, EvaluateConfig, TrainConfig, check_config, config_dir

CHOICES = {
    f"{folder.name}={path.stem}": "\nsystems:" in path.read_text()
    for folder in sorted(config_dir().iterdir())
    if folder.is_dir()
    for path in sorted(folder.glob("*.yaml"))
}
GROUPS = [choice for choice, is_benchmark in CHOICES.items() if not is_benchmark]
BENCHMARKS = [choice for choice, is_benchmark in CHOICES.items() if is_benchmark]


@pytest.mark.parametrize("override", GROUPS)
def test_every_choice_composes_to_a_valid_config(override):
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    overrides = [override, *(["data.path=x.jsonl"] if override == "data=file" else [])]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_object(compose("train", overrides))
    assert isinstance(config, TrainConfig)
    check_config(config)


@pytest.mark.parametrize("override", BENCHMARKS)
def test_every_benchmark_composes_with_the_systems_it_trains(override):
    ConfigStore.instance().store(name="benchmark_schema", node=BenchmarkConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_object(compose("benchmark", [override]))
        check_config(config)
        for system in config.systems.values():
            if system.kind == "train":
                compose_train(system.overrides)


def test_evaluate_composes():
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        check_config(OmegaConf.to_object(compose("evaluate")))


def test_configs_run_no_code():
    for path in Path(config_dir()).rglob("*.yaml"):
        assert "_target_" not in path.read_text()
