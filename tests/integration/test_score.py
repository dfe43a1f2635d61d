import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import small_rows, write_jsonl
from tests.integration.test_cli import ARTICLE, stance


def archive_of(n_articles: int, path: Path) -> Path:
    """A table of articles, every tenth of them unusable."""
    texts: dict[str, list[str]] = {}
    for row in small_rows(n_articles):
        texts.setdefault(row["article_id"], []).append(row["text"])
    rows = [{"article_id": k, "text": "\n\n".join(t)} for k, t in texts.items()]
    for row in rows[::10]:
        row["text"] = ""
    return write_jsonl(path, rows)


def result_of(out: Path) -> tuple[list[dict], str]:
    shards = [pq.read_table(p) for p in sorted(out.glob("*.parquet"))]
    return [row for s in shards for row in s.to_pylist()], (out / "rejects.jsonl").read_text()


def test_score_prints_one_line_and_goes_on_with_nothing(tiny_bundle, tmp_path):
    archive_of(20, tmp_path / "in.jsonl")
    options = ("in.jsonl", "out", "--model", tiny_bundle)
    done = stance("score", *options, cwd=tmp_path)
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith("18 articles, 288 sentences, 2 rejects, ")
    assert line.endswith(" sentences/s; written: out")
    assert "articles/s" in done.stderr.decode()
    again = stance("score", *options, "--quiet", cwd=tmp_path)
    assert again.stdout.decode() == f"nothing to do; {line}\n"
    assert again.stderr == b""


def test_score_and_predict_agree(tiny_bundle, tmp_path):
    (tmp_path / "a.txt").write_text(ARTICLE)
    model = ("--model", tiny_bundle)
    stance("score", "a.txt", "out", *model, "--quiet", cwd=tmp_path)
    printed = stance("predict", "a.txt", "--format", "jsonl", *model, cwd=tmp_path).stdout
    for row, line in zip(result_of(tmp_path / "out")[0], printed.splitlines(), strict=True):
        wanted = json.loads(line)
        assert [row[k] for k in ("text", "label", "start")] == [
            wanted[k] for k in ("text", "label", "start")
        ]
        assert row["score"] == pytest.approx(wanted["score"], abs=1e-6)


def test_score_fails_with_one_error(tiny_bundle, tmp_path):
    model = ("--model", tiny_bundle)
    write_jsonl(tmp_path / "in.jsonl", [{"body": "Talks stall."}])
    done = stance("score", "none.jsonl", "out", *model, cwd=tmp_path, code=1)
    assert done.stderr.decode().startswith("stance score: error: none.jsonl: no such file")
    done = stance("score", "in.jsonl", "out", *model, "--quiet", cwd=tmp_path, code=1)
    assert b"every article was rejected" in done.stderr
    stance("score", "in.jsonl", "out", *model, "--abstain-below", "x", cwd=tmp_path, code=2)
    stance("score", "in.jsonl", cwd=tmp_path, code=2)
    assert b"usage: stance score" in stance("score", "--help", cwd=tmp_path).stdout


def test_killed_runs_go_on_without_loss_or_double(tiny_bundle, tmp_path):
    """One archive killed after some of its shards; scripts/kill_score.py does it at any moment."""
    data = archive_of(400, tmp_path / "in.jsonl")

    def command(out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "stance", "score", str(data), str(out), "--quiet"),
            *("--model", str(tiny_bundle), "--shard-sentences", "100"),
        ]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    out, rng = tmp_path / "cut", random.Random(5)
    found = []
    for n_shards in (1, 5, 12):
        process = subprocess.Popen(
            command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(list(out.glob("part-*"))) < n_shards and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found.append(len(list(out.glob("part-*"))))
    assert 1 <= found[0] < found[1] < found[2] < 29
    subprocess.run(command(out), check=True, capture_output=True)
    assert result_of(out) == result_of(tmp_path / "whole")
    assert len(result_of(out)[0]) == 360 * 16 and result_of(out)[1].count("\n") == 40


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")
def test_workers_end_with_a_killed_run_and_the_next_goes_on(tiny_bundle, tmp_path):
    data, out = archive_of(200, tmp_path / "in.jsonl"), tmp_path / "out"
    options = ("--quiet", "--model", str(tiny_bundle), "--shard-sentences", "100")
    command = [sys.executable, "-m", "stance", "score", str(data), str(out), *options]
    command += ["--workers", "2"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("part-*"))) < 3 and run.poll() is None:
        time.sleep(0.001)
    tasks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [
        Path("/proc", t) for t in tasks if b"spawn_main" in Path("/proc", t, "cmdline").read_bytes()
    ]
    run.kill()
    run.wait()
    assert len(workers) == 2
    while any(w.exists() and ") Z" not in (w / "stat").read_text() for w in workers):
        time.sleep(0.05)
    n_kept = len(list(out.glob("part-*")))
    assert 3 <= n_kept < 15
    subprocess.run(command, check=True, capture_output=True)
    stance("score", data, "whole", *options, cwd=tmp_path)
    rows, rejects = result_of(tmp_path / "whole")
    assert result_of(out) == ([pytest.approx(r, abs=1e-6) for r in rows], rejects)
    assert len(rows) == 180 * 16
