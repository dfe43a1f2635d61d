import pytest
import torch

from stance import ConfigError
from stance.parallel import Ranks, join


def test_the_parts_of_all_processes_are_the_whole():
    rows = list(range(17))
    parts = [rows[Ranks(rank, 3, torch.device("cpu")).part] for rank in range(3)]
    assert sorted(row for part in parts for row in part) == rows
    assert max(map(len, parts)) - min(map(len, parts)) == 1


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join("cpu")
    assert (ranks.rank, ranks.size, ranks.is_main) == (0, 1, True)


def test_another_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 but torchrun did not start this"):
        join("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes but 1 GPUs"):
        join("auto")
