"""`stance benchmark`: systems x seeds x test sets to one table."""

from __future__ import annotations

from pathlib import Path

from stance.benchmark import Benchmark
from stance.cli import _hydra
from stance.config import BenchmarkConfig
from stance.report import benchmark_markdown, write_benchmark


def main(argv: list[str]) -> int:
    """Run what is missing, print the table; 1 where a cell failed. `speed`: time instead."""
    if argv[:1] == ["speed"]:
        from stance.cli import _speed

        return _speed.main(argv[1:])
    failed: dict[str, str] = {}

    def task(config: BenchmarkConfig, run_dir: Path) -> None:
        trained = {
            name: _hydra.compose_train([f"data.path={config.data.path}", *system.overrides])
            for name, system in config.systems.items()
            if system.kind == "train"
        }
        report = Benchmark(config, trained, run_dir).run()
        print(benchmark_markdown(report))
        print("written:", *write_benchmark(report, run_dir), sep="\n  ")
        failed.update(report.failed)

    _hydra.run("benchmark", BenchmarkConfig, task, argv, {"data": "data.path"})
    return 1 if failed else 0
