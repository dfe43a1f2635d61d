"""Who scores: an engine maps windows to scored windows, in order, a bounded number at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Protocol

from stance.archive.windows import (
    ScoredWindow,
    Scorer,
    ScorerSpec,
    Window,
    WindowReader,
    share_cores,
)
from stance.errors import WorkerError

_DIED = (
    "a worker process died (killed, or out of memory?); the same command goes on where it stopped, "
    "and fewer workers need less memory. A script that calls score_archive(workers=...) must do so "
    'below `if __name__ == "__main__":`'
)


class Engine(Protocol):
    """Maps windows to scored windows, same order; what it takes depends on the archive alone."""

    def check(self) -> None:
        """Refuse what can't work before anything is written."""

    def map(self, windows: WindowReader) -> Generator[ScoredWindow]:
        """Score windows. To be closed, since it may hold processes."""


@dataclass(frozen=True)
class PlainEngine:
    """Scores in this process."""

    spec: ScorerSpec

    def check(self) -> None:
        """Refuse a faulty model."""
        self.spec.load()

    def map(self, windows: WindowReader) -> Generator[ScoredWindow]:
        """Score windows one after another."""
        yield from map(self.spec.load(), windows)


@dataclass(frozen=True)
class ProcessEngine:
    """Scores in processes of this machine, each with its own model and share of the cores.

    The archive is read here. Two windows a process are under way, so memory does not grow with the
    archive.
    """

    spec: ScorerSpec
    n_workers: int

    def check(self) -> None:
        """Refuse a faulty model."""
        self.spec.check()

    def map(self, windows: WindowReader) -> Generator[ScoredWindow]:
        """Score windows; where this process ends in any way, so do the workers.

        Raises
        ------
        WorkerError : a worker died.
        """
        context = multiprocessing.get_context("spawn")
        lifeline, held = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(
            self.n_workers, context, _start_worker, (lifeline, self.n_workers)
        )
        pending: deque[Future[ScoredWindow]] = deque()
        try:
            for window in windows:
                pending.append(pool.submit(_score, self.spec, window))
                while pending and (pending[0].done() or len(pending) > 2 * self.n_workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as err:
            raise WorkerError(_DIED) from err
        finally:
            if pending:
                held.close()  # what they are at is not wanted any more
            pool.shutdown(cancel_futures=True)
            held.close()
            lifeline.close()


def _start_worker(lifeline: Connection, n_workers: int) -> None:
    """End the process when the other end of the pipe is closed, if by the death of its holder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    share_cores(n_workers)
    threading.Thread(target=watch, daemon=True).start()


@cache
def _scorer(spec: ScorerSpec) -> Scorer:
    return spec.load()


def _score(spec: ScorerSpec, window: Window) -> ScoredWindow:
    return _scorer(spec)(window)
