"""What train and evaluate share: from arguments to a checked dataclass, by Hydra."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stance.config import TrainConfig, check_config, config_dir
from stance.errors import ConfigError, StanceError

C = TypeVar("C")
_MAX_ALIASES = 20
_FLAGS_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
)


def run(
    name: str,
    schema: type[C],
    task: Callable[[C, Path], None],
    argv: list[str],
    paths: dict[str, str],
    groups: tuple[str, ...] = (),
) -> int:
    """Compose the config `name`, check it, and run `task(config, run_dir)`, once or as multirun.

    Parameters
    ----------
    paths : keys that take a path, and the setting it goes to.
    groups : those of them whose plain words are choices of a config group instead.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    directory = str(config_dir())
    argv = [_path_override(a, paths, groups, "-m" in argv or "--multirun" in argv) for a in argv]
    _check(name, argv, directory)

    @hydra.main(version_base="1.3", config_path=directory, config_name=name)
    def job(cfg: DictConfig) -> None:
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        try:
            task(_checked(cfg), run_dir)
        except StanceError as err:
            print(f"stance {name}: error: {err}", file=sys.stderr)
            raise SystemExit(1) from err

    sys.argv = [f"stance {name}", *argv]
    job()
    return 0


def compose_train(overrides: list[str]) -> TrainConfig:
    """The settings of `stance train` with these overrides, from inside another command's job."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    quoted = [_path_override(o, {"data.path": "data.path"}, (), False) for o in overrides]
    try:
        config: TrainConfig = _checked(compose("train", quoted))
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(f"{overrides}: {str(err).strip().splitlines()[0]}") from err
    return config


def _checked(cfg: DictConfig) -> Any:
    config = OmegaConf.to_object(cfg)
    if "_target_" in str(OmegaConf.to_container(cfg)):
        raise ConfigError("a config can't name code to run; remove _target_")
    check_config(config)
    return config


def _path_override(
    argument: str, paths: dict[str, str], groups: tuple[str, ...], is_sweep: bool
) -> str:
    """Quote a path for Hydra's grammar, and send it where it belongs."""
    key, equals, value = argument.partition("=")
    if not equals or key not in paths:
        return argument
    parts = value.split(",") if is_sweep else [value]
    if key in groups and all(re.fullmatch(r"\w+", p) for p in parts):
        return argument
    quoted = ["'" + p.replace("\\", "\\\\").replace("'", "\\'") + "'" for p in parts]
    return f"{paths[key]}={','.join(quoted)}"


def _check(name: str, argv: list[str], directory: str) -> None:
    """Raise `ConfigError` for what Hydra would answer with a traceback or a page of hints."""
    overrides, flags, user_dir = [], [], None
    rest = iter(argv)
    for argument in rest:
        if argument in _FLAGS_WITH_VALUE:
            value = next(rest, "")
            if argument in ("--config-dir", "-cd"):
                user_dir = Path(value)
            flags.append(argument)
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    if user_dir is not None:
        _check_user_yaml(user_dir)
        return
    if any(
        f in flags for f in ("-m", "--multirun", "-h", "--help", "--hydra-help", "--info", "-i")
    ):
        return
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
        except HydraException as err:
            raise ConfigError(f"{override!r} is not KEY=VALUE; see stance {name} --help") from err
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(directory, version_base="1.3"):
            config = compose(name, overrides)
            _checked(config)
    except (HydraException, OmegaConfBaseException) as err:
        cause = err.__cause__ or err
        first = str(err).strip().splitlines()[0]
        detail = str(cause).strip().splitlines()[0]
        message = first if detail in first else f"{first} ({detail})"
        raise ConfigError(f"{message}; see stance {name} --help") from err
    finally:
        GlobalHydra.instance().clear()


def _check_user_yaml(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    for path in folder.rglob("*.y*ml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        n_aliases = len(re.findall(r"(?:^|[\s\[{,:-])\*\w", text))
        if len(text) > 1_000_000 or n_aliases > _MAX_ALIASES:
            raise ConfigError(
                f"{path}: {n_aliases} YAML aliases in {len(text)} characters; such files can hang "
                f"the reader, write the values out (at most {_MAX_ALIASES} aliases)"
            )
