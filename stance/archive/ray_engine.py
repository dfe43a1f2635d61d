"""Scoring on a cluster: Ray Data streams windows through actors that hold the model.

One task on the machine of the driver reads the archive, so inputs need not be shared; a window is a
block, and Ray keeps their order and holds back the reading. What dies is started again by Ray and
its windows are scored anew; the driver writes the shards, so a run that stops goes on as any other.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Generator, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stance.archive.windows import (
    ScoredWindow,
    Scorer,
    ScorerSpec,
    Window,
    WindowReader,
    share_cores,
)
from stance.errors import ConfigError, MissingPackageError, StanceError, WorkerError

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True)
class RayEngine:
    """Scores on a cluster; an actor takes a GPU where there are any, else a processor."""

    spec: ScorerSpec
    n_workers: int | None = None
    address: str | None = None

    def check(self) -> None:
        """Refuse a faulty model, a Python without Ray, and an address where nothing answers."""
        if find_spec("ray") is None:
            raise MissingPackageError("ray is not installed; pip install 'peace-stance[ray]'")
        if self.address is not None:
            require_answer(self.address)
        self.spec.check()

    def map(self, windows: WindowReader) -> Generator[ScoredWindow]:
        """Score windows.

        Raises
        ------
        ConfigError : no cluster at the address.
        WorkerError : the cluster fails beyond what Ray mends.
        """
        import ray

        is_ours = not ray.is_initialized()
        if is_ours:
            _connect(self.address)
        try:
            dataset = self._dataset(windows)
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for value in _values(block):
                    if isinstance(value, StanceError):
                        raise value
                    yield value
        except ray.exceptions.RayError as err:
            raise WorkerError(f"Ray failed ({err}); the same command goes on") from err
        finally:
            if is_ours:
                ray.shutdown()

    def _dataset(self, windows: WindowReader) -> Dataset:
        import ray

        n_gpus = int(ray.cluster_resources().get("GPU", 0))
        n_cpus = int(ray.cluster_resources().get("CPU", 1))
        context = ray.data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # bytes: a block a row, and a row is a window
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        with ray.data.DataContext.current(context):
            return ray.data.read_datasource(
                _source(partial(_read, windows, Path.cwd())), override_num_blocks=1, num_cpus=0
            ).map_batches(
                _Actor,
                fn_constructor_args=(self.spec,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=self.n_workers or n_gpus or n_cpus),
                num_cpus=0 if n_gpus else 1,
                num_gpus=1 if n_gpus else 0,
            )


class _Actor:
    """Holds the model. Errors are handed on as answers: Ray would leave their text alone."""

    def __init__(self, spec: ScorerSpec) -> None:
        share_cores(1)  # of those that Ray leaves to an actor
        self._spec = spec

    @cached_property
    def _scorer(self) -> Scorer:
        return self._spec.load()

    def __call__(self, block: pa.Table) -> pa.Table:
        (window,) = _values(block)
        try:
            return _block(window if isinstance(window, StanceError) else self._scorer(window))
        except StanceError as err:
            return _block(err)


def _read(windows: WindowReader, folder: Path) -> Iterator[pa.Table]:
    try:
        with chdir(folder):  # paths are as the user gave them
            yield from map(_block, windows)
    except StanceError as err:
        yield _block(err)


def _block(value: Window | ScoredWindow | StanceError) -> pa.Table:
    return pa.table({"window": pa.array([pickle.dumps(value)], pa.large_binary())})


def _values(block: pa.Table) -> Iterator[Any]:
    return (pickle.loads(value.as_py()) for value in block["window"])


def _source(read: Any) -> Any:
    """What Ray Data reads from: one task, on the machine of the driver."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Windows(Datasource):
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
            return [ReadTask(read, BlockMetadata(None, None, None, None))]

    return Windows()


def require_answer(address: str, timeout_s: float = 10.0) -> None:
    """Refuse a host and port that take no connection; Ray would try for minutes.

    Raises
    ------
    ConfigError : nothing answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # a word, such as `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, OverflowError) as err:
        raise ConfigError(f"no Ray cluster at {address} ({err}); see ray status") from err


def _connect(address: str | None) -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")

    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as err:
        raise ConfigError(f"no Ray cluster at {address or 'this machine'} ({err})") from err
