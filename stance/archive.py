"""Archives of any size to a folder of Parquet files: `score_archive`.

The folder holds `inputs.jsonl` (the files to read), `manifest.json` (what was asked, and the totals
once all is done), `part-00000.parquet` and so on (whole articles, a row a sentence) and
`rejects.jsonl`. A file gets its name when it is complete. Each shard's metadata says where the next
one begins, so a run that was stopped goes on there; what it left beyond is made again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm import tqdm

from stance import __version__
from stance.articles import (
    Fields,
    FoundArticle,
    InputFile,
    Position,
    check_inputs,
    list_files,
    read_articles,
    split_article,
)
from stance.classifier import DEFAULT_MODEL, StanceClassifier, find_bundle, load
from stance.encoder import sha256_of
from stance.errors import ConfigError, DataError, StanceWarning
from stance.records import ArticlePrediction
from stance.segment import SegmentedText

SHARD_SENTENCES = 20_000
_WINDOW_SENTENCES = 4096
_CHARS_PER_SENTENCE = 1000
_MANIFEST, _INPUTS, _REJECTS = "manifest.json", "inputs.jsonl", "rejects.jsonl"
_KEY = b"stance"


@dataclass(frozen=True)
class ArchiveSummary:
    """What came out of an archive, over all its runs.

    `was_finished` says that nothing was left to do.
    """

    folder: Path
    n_articles: int
    n_sentences: int
    n_rejects: int
    n_shards: int
    seconds: float
    was_finished: bool = False

    def __str__(self) -> str:
        rate = self.n_sentences / self.seconds if self.seconds else 0.0
        return (
            f"{self.n_articles:,} articles, {self.n_sentences:,} sentences, "
            f"{self.n_rejects:,} rejects, {self.seconds:.1f} s, {rate:.1f} sentences/s; "
            f"written: {self.folder}"
        )


@dataclass(frozen=True)
class _State:
    """Where a run stands, as its last shard tells."""

    n_shards: int = 0
    n_articles: int = 0
    n_sentences: int = 0
    n_rejects: int = 0
    rejects_bytes: int = 0
    seconds: float = 0.0
    position: Position = field(default_factory=Position)

    @classmethod
    def of(cls, values: dict[str, Any]) -> _State:
        """The state that `asdict` made plain."""
        return cls(**{**values, "position": Position(**values["position"])})


def score_archive(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    backend: str = "auto",
    text_field: str = "text",
    id_field: str = "article_id",
    abstain_below: float = 0.0,
    shard_sentences: int = SHARD_SENTENCES,
    show_progress: bool = False,
) -> ArchiveSummary:
    """Label every sentence of an archive of articles, in constant memory, with restart.

    Called again with the same arguments it goes on after the last complete shard; the result is
    that of an unbroken run. Two articles of the same id are both kept; `source` tells them apart.

    Parameters
    ----------
    inputs : .jsonl, .csv and .parquet files (an article a row), .txt and .html files, and folders
        of them, in any mixture.
    out : folder for `part-*.parquet`, one row a sentence: article_id, source (the path as given,
        with the row), index, text, start, end, label, score, score_<label> for each label, holder,
        holder_score, holder_span, is_truncated. Also for `rejects.jsonl` (source, article_id,
        reason) and `manifest.json`.
    model, backend : as in `load`. A run goes on with the backend with which it began.
    text_field, id_field : columns of the tables. An article without id gets
        ``<file name>:<row>``, a text or HTML file its name.
    abstain_below : as in `StanceClassifier.predict`.
    shard_sentences : a shard ends with the article that brings it to so many sentences, or to a
        thousand times as many characters.
    show_progress : whether to show a progress bar on standard error.

    Raises
    ------
    ConfigError : a setting out of range; inputs that overlap; `out` holds other files, a run with
        other settings, model or inputs, or one that is at work.
    DataError : an input or `out` can't be read or written.
    BundleError : no such model, or a damaged one.
    """
    names = [str(n) for n in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    fields = Fields(text_field, id_field)
    _check_settings(fields, abstain_below, shard_sentences)
    folder = _Folder(Path(out))
    check_inputs(names, folder.path)
    folder.check()
    name = str(model) if model is not None else DEFAULT_MODEL
    manifest = folder.manifest()
    if backend == "auto" and manifest:
        backend = manifest["asked"].get("backend", backend)
    if not manifest.get("finished"):  # a faulty model is refused before anything is written
        backend = load(name, backend=backend).backend
    asked = {
        "stance_version": __version__,
        "model_manifest_sha256": sha256_of(find_bundle(name) / "manifest.json"),
        "text_field": text_field,
        "id_field": id_field,
        "abstain_below": abstain_below,
        "backend": backend,
        "shard_sentences": shard_sentences,
    }
    with folder.locked():
        manifest = folder.claim(asked, names, name)
        if finished := manifest["finished"]:
            folder.state(finished["n_shards"])
            return ArchiveSummary(folder.path, **finished, was_finished=True)
        n_bytes = sum(i["size"] for i in manifest["inputs"])
        run = _Run(folder, load(name, backend=backend), abstain_below, shard_sentences)
        with run, _progress_bar(n_bytes, run.state.position, show_progress) as bar:
            return run.to_end(fields, bar)


def _check_settings(fields: Fields, abstain_below: float, shard_sentences: int) -> None:
    if not 0 <= abstain_below <= 1:
        raise ConfigError(f"abstain_below={abstain_below}; expected a score from 0 to 1")
    if shard_sentences < 1:
        raise ConfigError(f"shard_sentences={shard_sentences}; expected 1 or more")
    if fields.text == fields.article_id:
        raise ConfigError(f"text and id both in column {fields.text!r}; name two columns")


def _progress_bar(n_bytes: int, start: Position, is_shown: bool) -> tqdm:
    return tqdm(
        total=n_bytes,
        initial=start.before + start.offset,
        desc="score",
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=not is_shown,
    )


class _Run:
    """One run over what is left of an archive.

    Windows of articles begin anew with each shard, so a resumed run has those of an unbroken one.
    """

    def __init__(
        self,
        folder: _Folder,
        classifier: StanceClassifier,
        abstain_below: float,
        shard_sentences: int,
    ) -> None:
        self._folder = folder
        self._classifier = classifier
        self._abstain_below = abstain_below
        self._shard_sentences = shard_sentences
        self._schema = _schema(classifier.classes_)
        self.state = folder.state()
        self._rejects = folder.open_rejects(self.state)
        self._window: list[tuple[FoundArticle, SegmentedText]] = []
        self._rows: list[pa.RecordBatch] = []
        self._n_window = self._n_shard = 0
        self._started = time.monotonic() - self.state.seconds

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._rejects.close()

    def to_end(self, fields: Fields, bar: tqdm) -> ArchiveSummary:
        """Score what is left."""
        with self._folder.files(self.state.position.file) as files:
            for article in read_articles(files, self.state.position, fields):
                self._take(article)
                if not self._window:
                    self._show(bar)
        self._classify()
        self._show(bar)
        if self._rows or not self.state.n_shards:
            self._write_shard()
        _sync(self._rejects)
        return self._folder.finish(replace(self.state, seconds=self._seconds()))

    def _show(self, bar: tqdm) -> None:
        rate = self.state.n_articles / max(self._seconds(), 1e-3)
        bar.set_postfix_str(f"{rate:.1f} articles/s", refresh=False)
        bar.update(self.state.position.before + self.state.position.offset - bar.n)

    def _take(self, article: FoundArticle) -> None:
        """Put an article into the window or among the rejects; a full shard is written."""
        self.state = replace(self.state, position=article.after)
        try:
            if article.fault:
                raise DataError(article.fault)
            split = split_article(article.text)
        except DataError as err:
            self._reject(article, str(err))
            return
        self._window.append((replace(article, text=""), split))
        size = max(len(split.sentences), len(split.text) // _CHARS_PER_SENTENCE)
        self._n_window += size
        self._n_shard += size
        is_full = self._n_shard >= self._shard_sentences
        if is_full or self._n_window >= _WINDOW_SENTENCES:
            self._classify()
        if is_full:
            self._write_shard()

    def _reject(self, article: FoundArticle, reason: str) -> None:
        found = {"source": article.source, "article_id": article.article_id, "reason": reason}
        self._rejects.write(_json_line(found))
        self.state = replace(self.state, n_rejects=self.state.n_rejects + 1)

    def _classify(self) -> None:
        """Label the sentences of the window's articles in one call."""
        if not self._window:
            return
        articles, split = zip(*self._window, strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StanceWarning)  # the column is_truncated says it
            made = self._classifier.predict_articles(split, abstain_below=self._abstain_below)
        self._rows.append(_rows(articles, made, self._schema))
        self.state = replace(
            self.state,
            n_articles=self.state.n_articles + len(articles),
            n_sentences=self.state.n_sentences + len(self._rows[-1]),
        )
        self._window.clear()
        self._n_window = 0

    def _write_shard(self) -> None:
        _sync(self._rejects)
        self.state = replace(
            self.state,
            n_shards=self.state.n_shards + 1,
            rejects_bytes=self._rejects.tell(),
            seconds=self._seconds(),
        )
        table = pa.Table.from_batches(self._rows, self._schema)
        self._folder.write_shard(table, self.state)
        self._rows.clear()
        self._n_shard = 0

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)


def _schema(classes: Sequence[str]) -> pa.Schema:
    kinds = {
        "article_id": pa.string(),
        "source": pa.string(),
        "index": pa.int32(),
        "text": pa.string(),
        "start": pa.int32(),
        "end": pa.int32(),
        "label": pa.string(),
        "score": pa.float32(),
        **{f"score_{label}": pa.float32() for label in classes},
        "holder": pa.string(),
        "holder_score": pa.float32(),
        "holder_span": pa.string(),
        "is_truncated": pa.bool_(),
    }
    return pa.schema(list(kinds.items()))


def _rows(
    articles: Sequence[FoundArticle], made: Sequence[ArticlePrediction], schema: pa.Schema
) -> pa.RecordBatch:
    """The sentences of some articles as rows of a shard."""
    rows = [
        (
            *(article.article_id, article.source, index),
            *(s.text, s.start, s.end, s.label, s.score, *s.scores.values()),
            *(s.holder, s.holder_score, s.holder_span, s.is_truncated),
        )
        for article, answer in zip(articles, made, strict=True)
        for index, s in enumerate(answer.sentences)
    ]
    columns = zip(zip(*rows, strict=True), schema.types, strict=True)
    return pa.RecordBatch.from_arrays([pa.array(c, kind) for c, kind in columns], schema=schema)


class _Folder:
    """The output folder: what was asked, the files to read, shards and rejects."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Refuse a folder that holds anything but such a run; hidden files don't count."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; the last argument is the folder to write")
        names = {p.name for p in self.path.glob("[!.]*")} if not self.manifest() else set()
        if other := sorted(names - {_INPUTS}):
            raise ConfigError(f"{self.path} holds other files ({other[0]}); choose another folder")

    def manifest(self) -> dict[str, Any]:
        """The manifest, empty before the first run."""
        path = self.path / _MANIFEST
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise ConfigError(f"{path}: damaged ({err}); choose another folder") from err
        if not isinstance(found, dict) or set(found) != {"asked", "model", "inputs", "finished"}:
            raise ConfigError(f"{path} is not one of stance score; choose another folder")
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out, and turn a full disk and the like into one clear error."""
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with lock.acquire(timeout=0):
                yield
        except Timeout as err:
            raise ConfigError(
                f"another stance score is at work in {self.path}; wait for it"
            ) from err
        except OSError as err:
            raise DataError(
                f"{self.path}: cannot be written ({err.strerror or err}); once it can, the same "
                "command goes on"
            ) from err

    def claim(self, asked: dict[str, Any], names: Sequence[str], model: str) -> dict[str, Any]:
        """The manifest, written if there is none, else compared with what is asked."""
        for stale in self.path.glob(".*.new"):
            stale.unlink()
        manifest = self.manifest()
        there = manifest.get("asked", asked)
        for key, value in asked.items():
            if there.get(key) != value:
                raise ConfigError(
                    f"{self.path} holds a run with another {key}: {there.get(key)} there, "
                    f"{value} now; ask for the same or choose another folder"
                )
        fresh = self.path / f".{_INPUTS}.new"
        with fresh.open("wb") as file:
            inputs = [_list_input(name, self.path, file) for name in names]
            _sync(file)
        if manifest:
            self._compare_inputs(fresh)
            fresh.unlink()
            return manifest
        self._put(fresh, _INPUTS)
        manifest = {"asked": asked, "model": model, "inputs": inputs, "finished": None}
        self._write_manifest(manifest)
        return manifest

    def _compare_inputs(self, fresh: Path) -> None:
        with (self.path / _INPUTS).open("rb") as there, fresh.open("rb") as now:
            for pair in zip_longest(there, now):
                if pair[0] != pair[1]:
                    was, found = (json.loads(x)["path"] if x else "no further file" for x in pair)
                    what = f"{was} there, {found} now" if was != found else f"{was} has changed"
                    raise ConfigError(
                        f"{self.path} holds a run over other inputs ({what}); give the same or "
                        "choose another folder"
                    )

    @contextmanager
    def files(self, start: int) -> Iterator[Iterator[InputFile]]:
        """The files to read, from a number on."""
        with (self.path / _INPUTS).open("rb") as lines:
            yield (InputFile(**json.loads(line)) for line in islice(lines, start, None))

    def state(self, n_shards: int = 0) -> _State:
        """Where the last shard ends; there must be `n_shards` or more."""
        shards = sorted(self.path.glob("part-*.parquet"), key=lambda p: (len(p.name), p.name))
        expected = [_shard_name(i) for i in range(max(n_shards, len(shards)))]
        if missing := sorted(set(expected) - {p.name for p in shards}):
            raise ConfigError(
                f"{self.path / missing[0]} is missing; bring it back or choose another folder"
            )
        if not shards:
            return _State()
        try:
            return _State.of(json.loads(pq.read_metadata(shards[-1]).metadata[_KEY]))
        except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as err:
            raise DataError(
                f"{shards[-1]}: damaged; remove it, and the same command makes it again"
            ) from err

    def open_rejects(self, state: _State) -> IO[bytes]:
        """The rejects file without what came after the last shard."""
        path = self.path / _REJECTS
        file = path.open("ab")
        if file.tell() < state.rejects_bytes:
            raise DataError(f"{path}: lines are missing; bring it back or choose another folder")
        file.truncate(state.rejects_bytes)
        return file

    def write_shard(self, table: pa.Table, state: _State) -> None:
        """Write the shard that ends at a state."""
        name = _shard_name(state.n_shards - 1)
        table = table.replace_schema_metadata({_KEY: json.dumps(asdict(state))})
        self._write(name, lambda file: pq.write_table(table, file, compression="zstd"))

    def finish(self, state: _State) -> ArchiveSummary:
        """Note that all is done."""
        done = {k: v for k, v in asdict(state).items() if k not in ("position", "rejects_bytes")}
        self._write_manifest({**self.manifest(), "finished": done})
        return ArchiveSummary(self.path, **done)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=2) + "\n"
        self._write(_MANIFEST, lambda file: file.write(text.encode()))

    def _write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file that is seen complete or not at all, also after a power cut."""
        fresh = self.path / f".{name}.new"
        with fresh.open("wb") as file:
            write(file)
            _sync(file)
        self._put(fresh, name)

    def _put(self, fresh: Path, name: str) -> None:
        fresh.replace(self.path / name)
        if os.name == "posix":
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _list_input(name: str, out: Path, file: IO[bytes]) -> dict[str, Any]:
    """Write an input's files to a list; gives what the manifest says of the input."""
    n_files = size = mtime_ns = 0
    for item in list_files(name, out):
        file.write(_json_line(asdict(item)))
        n_files += 1
        size += item.size
        mtime_ns = max(mtime_ns, item.mtime_ns)
    return {"path": name, "n_files": n_files, "size": size, "mtime_ns": mtime_ns}


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"
