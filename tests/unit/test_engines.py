import multiprocessing
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stance import BundleError, ConfigError, DataError, MissingPackageError, WorkerError, articles
from stance.archive import score_archive, windows
from stance.archive.engines import PlainEngine, ProcessEngine
from stance.archive.folder import ArchiveFolder
from stance.archive.windows import ScorerSpec, WindowReader
from stance.encoder import sha256_of
from stance.tables import Fields, Position
from tests.conftest import write_jsonl
from tests.unit.conftest import rejected, rows_of, scored

SMALL = {"shard_sentences": 12}


def windows_of(data: Path, out: Path) -> WindowReader:
    folder = ArchiveFolder(out)
    with folder.locked():
        folder.claim({}, [str(data)], "tiny")
    return WindowReader(folder, Position(), Fields(), 12)


def spec_of(bundle: Path) -> ScorerSpec:
    return ScorerSpec(str(bundle), sha256_of(bundle / "manifest.json"))


def sizes(out: Path) -> list[int]:
    return [pq.read_metadata(p).num_rows for p in sorted(out.glob("*.parquet"))]


def test_windows_after_a_shard_are_those_of_an_unbroken_reading(archive, tmp_path):
    whole = windows_of(archive, tmp_path / "out")
    found = list(whole)
    ends = [i for i, w in enumerate(found) if w.end.is_shard_end]
    assert len(ends) == 6
    for i in ends:
        rest = WindowReader(whole.folder, found[i].end.after, whole.fields, 12)
        assert list(rest) == found[i + 1 :]
    assert sum(w.end.n_articles for w in found) == 21
    assert sum(len(w.end.rejects) for w in found) == 2


def test_a_window_is_bounded_where_every_article_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "_WINDOW_SENTENCES", 10)
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": ""}] * 35)
    found = [len(w.end.rejects) for w in windows_of(data, tmp_path / "out")]
    assert found == [10, 10, 10, 5]


def test_several_processes_write_what_one_writes(archive, tiny_bundle, tmp_path):
    one = score_archive(archive, tmp_path / "one", model=tiny_bundle, **SMALL)
    two = score_archive(archive, tmp_path / "two", model=tiny_bundle, workers=2, **SMALL)
    for row, wanted in zip(scored(tmp_path / "two"), scored(tmp_path / "one"), strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    assert rejected(tmp_path / "two") == rejected(tmp_path / "one")
    assert sizes(tmp_path / "two") == sizes(tmp_path / "one")
    assert (two.n_articles, two.n_rejects, two.n_shards) == (21, 2, one.n_shards)
    assert not multiprocessing.active_children()


def test_an_empty_archive_is_scored_by_several_processes_too(tiny_bundle, tmp_path):
    (tmp_path / "t.jsonl").write_text("")
    done = score_archive(tmp_path / "t.jsonl", tmp_path / "out", model=tiny_bundle, workers=2)
    assert (done.n_articles, done.n_shards) == (0, 1)


def test_few_windows_are_under_way_at_a_time(archive, tiny_bundle, tmp_path):
    reader = windows_of(archive, tmp_path / "out")
    n_read = 0

    class Counted:
        def __iter__(self):
            nonlocal n_read
            for window in list(reader) * 5:
                n_read += 1
                yield window

    with closing(ProcessEngine(spec_of(tiny_bundle), 1).map(Counted())) as made:
        for n_out, _ in enumerate(made, 1):
            assert n_read - n_out <= 2
    assert n_out == 35


def test_a_worker_that_dies_is_one_error_and_the_run_goes_on(tiny_bundle, tmp_path):
    data = write_jsonl(tmp_path / "t.jsonl", rows_of(range(200)))
    out = tmp_path / "out"

    def kill_one() -> None:
        while len(list(out.glob("part-*"))) < 3:
            time.sleep(0.001)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(WorkerError, match="the same command goes on where it stopped"):
        score_archive(data, out, model=tiny_bundle, workers=2, **SMALL)
    assert not multiprocessing.active_children()
    n_kept = len(list(out.glob("part-*")))
    assert 3 <= n_kept < 80
    done = score_archive(data, out, model=tiny_bundle, **SMALL)
    score_archive(data, tmp_path / "whole", model=tiny_bundle, **SMALL)
    assert done.n_articles == 200 and done.n_shards > n_kept
    for row, wanted in zip(scored(out), scored(tmp_path / "whole"), strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    assert sizes(out) == sizes(tmp_path / "whole")


def test_an_error_while_reading_ends_the_workers(
    archive,
    tiny_bundle,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(articles, "_READERS", dict(articles._READERS))
    articles._READERS[".txt"] = lambda file, *_: Path("gone").read_bytes()
    with pytest.raises(DataError, match=r"d\.txt: No such file"):
        score_archive(archive, tmp_path / "out", model=tiny_bundle, workers=2, **SMALL)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("engine", [PlainEngine, lambda spec: ProcessEngine(spec, 2)])
def test_a_model_that_was_changed_meanwhile_is_refused(engine, tiny_bundle, archive, tmp_path):
    with pytest.raises(BundleError, match="is another model than where the run was started"):
        list(
            engine(ScorerSpec(str(tiny_bundle), "0" * 64)).map(windows_of(archive, tmp_path / "o"))
        )


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"workers": 0}, ConfigError, "workers=0; expected 1 or more"),
        ({"engine": "spark"}, ConfigError, "expected one of local, ray"),
        ({"ray_address": "auto"}, ConfigError, "without the engine ray"),
        ({"engine": "ray"}, MissingPackageError, r"pip install 'peace-stance\[ray\]'"),
        ({"workers": 2, "model": "none"}, BundleError, "no model 'none'"),
    ],
)
def test_engines_that_cannot_be_are_refused_before_anything_is_written(
    options,
    error,
    expected,
    archive,
    tiny_bundle,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr("stance.archive.ray_engine.find_spec", lambda _: None)
    with pytest.raises(error, match=expected):
        score_archive(archive, tmp_path / "out", **{"model": tiny_bundle, **options})
    assert not (tmp_path / "out").exists()


def test_an_address_where_nothing_answers_is_refused_at_once():
    from stance.archive.ray_engine import require_answer

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster at {address}"):
            require_answer(address)
        taken.listen()
        require_answer(address)
        require_answer(f"ray://{address}")
    require_answer("auto")
