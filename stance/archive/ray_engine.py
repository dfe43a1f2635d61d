"""Scoring on a cluster: Ray Data streams windows through actors that hold the model.

One task on the machine of the driver reads the archive, so inputs need not be shared; a window is a
block, and Ray keeps their order and holds back the reading. What dies is started again by Ray and
its windows are scored anew; the driver writes the shards, so a run that stops goes on as any other.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Generator, Iterable
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stance.archive.windows import ScoredWindow, ScorerSpec, WindowReader, share_cores
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
        """Refuse a faulty model, and a Python without Ray."""
        if find_spec("ray") is None:
            raise MissingPackageError("ray is not installed; pip install 'peace-stance[ray]'")
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
                for value in block["window"]:
                    yield pickle.loads(value.as_py())
        except ray.exceptions.RayError as err:
            raise _cause(err) from err
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
                concurrency=self.n_workers or n_gpus or n_cpus,
                num_cpus=0 if n_gpus else 1,
                num_gpus=1 if n_gpus else 0,
            )


class _Actor:
    def __init__(self, spec: ScorerSpec) -> None:
        share_cores(1)
        self._scorer = spec.load()

    def __call__(self, block: pa.Table) -> pa.Table:
        return _block(self._scorer(pickle.loads(block["window"][0].as_py())))


def _block(window: object) -> pa.Table:
    return pa.table({"window": pa.array([pickle.dumps(window)], pa.large_binary())})


def _read(windows: WindowReader, folder: Path) -> Iterable[pa.Table]:
    with chdir(folder):  # paths are as the user gave them
        yield from map(_block, windows)


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


def _connect(address: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as err:
        raise ConfigError(f"no Ray cluster at {address or 'this machine'} ({err})") from err


def _cause(err: BaseException) -> StanceError:
    """The error of this package behind one of Ray's."""
    found: BaseException | None = err
    while found is not None:
        if isinstance(found, StanceError):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return WorkerError(f"Ray gave up ({err}); the same command goes on where it stopped")
