import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stance import BundleError, DataError, score_archive
from stance.archive.folder import ArchiveFolder
from stance.archive.ray_engine import RayEngine
from stance.archive.windows import ScorerSpec, WindowReader
from stance.encoder import sha256_of
from stance.tables import Fields, Position
from tests.integration.test_score import archive_of, result_of

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one processor each, as far as Ray can tell."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def actors_of(node) -> list[int]:
    """The processes on a machine that hold a model."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == raylet and name.startswith(b"ray::MapWorker"):
            found.append(int(folder.name))
    return found


def wait_for_shards(out: Path, n: int, process: subprocess.Popen) -> int:
    while (found := len(list(out.glob("part-*")))) < n and process.poll() is None:
        time.sleep(0.01)
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds a process by /proc")
def test_a_killed_run_and_a_killed_worker_on_two_machines_lose_and_double_nothing(
    cluster, tiny_bundle, tmp_path
):
    data = archive_of(400, tmp_path / "in.jsonl")
    options = {"model": tiny_bundle, "shard_sentences": 100}
    whole = score_archive(data, tmp_path / "whole", **options)
    out = tmp_path / "cut"
    command = [
        *(sys.executable, "-m", "stance", "score", str(data), str(out), "--quiet"),
        *("--model", str(tiny_bundle), "--shard-sentences", "100"),
        *("--engine", "ray", "--ray-address", cluster.address),
    ]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_shards(out, 3, run)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert 3 <= len(before) < whole.n_shards
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    at_kill = wait_for_shards(out, len(before) + 3, run)
    both = [actors_of(node) for node in cluster.list_all_nodes()]
    assert [len(b) for b in both] == [1, 1]
    os.kill(both[1][0], signal.SIGKILL)
    printed, errors = run.communicate()
    assert run.returncode == 0, errors.decode()
    assert at_kill < whole.n_shards
    assert result_of(out) == result_of(tmp_path / "whole")
    articles = {(r["article_id"], r["source"]) for r in result_of(out)[0]}
    assert len(articles) == whole.n_articles == 360
    sizes = [
        [pq.read_metadata(p).num_rows for p in sorted(folder.glob("part-*"))]
        for folder in (out, tmp_path / "whole")
    ]
    assert sizes[0] == sizes[1]
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*") if p.name in before}
    assert kept == before
    assert printed.decode().startswith("360 articles, 5,760 sentences, 40 rejects, ")


def windows_of(data: Path, out: Path) -> WindowReader:
    folder = ArchiveFolder(out)
    with folder.locked():
        folder.claim({}, [str(data)], "tiny")
    return WindowReader(folder, Position(), Fields(), 100)


def test_an_error_on_a_machine_comes_out_as_it_was_raised(
    cluster, tiny_bundle, tmp_path, monkeypatch
):
    data = archive_of(20, tmp_path / "in.jsonl")
    windows = windows_of(data, tmp_path / "out")
    engine = RayEngine(ScorerSpec(str(tiny_bundle), "0" * 64), 1, cluster.address)
    with pytest.raises(BundleError, match="is another model than where the run was started"):
        list(engine.map(windows))
    data.unlink()
    spec = ScorerSpec(str(tiny_bundle), sha256_of(tiny_bundle / "manifest.json"))
    with pytest.raises(DataError, match=r"in\.jsonl: No such file .*; once it can be read"):
        list(RayEngine(spec, 1, cluster.address).map(windows))
