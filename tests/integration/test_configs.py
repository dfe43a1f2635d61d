from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from stance.config import EvaluateConfig, TrainConfig, check_config, config_dir

GROUPS = [
    f"{folder.name}={path.stem}"
    for folder in sorted(config_dir().iterdir())
    if folder.is_dir()
    for path in sorted(folder.glob("*.yaml"))
]


@pytest.mark.parametrize("override", GROUPS)
def test_every_choice_composes_to_a_valid_config(override):
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    overrides = [override, *(["data.path=x.jsonl"] if override == "data=file" else [])]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = OmegaConf.to_object(compose("train", overrides))
    assert isinstance(config, TrainConfig)
    check_config(config)


def test_evaluate_composes():
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        check_config(OmegaConf.to_object(compose("evaluate")))


def test_configs_run_no_code():
    for path in Path(config_dir()).rglob("*.yaml"):
        assert "_target_" not in path.read_text()
