"""Archives of any size to a folder of Parquet files: `score_archive`.

The folder holds `inputs.jsonl` (the files to read), `manifest.json` (what was asked, and the totals
once all is done), `part-00000.parquet` and so on (whole articles, a row a sentence) and
`rejects.jsonl`. A file gets its name when it is complete. Each shard's metadata says where the next
one begins, so a run that was stopped goes on there; what it left beyond is made again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from tqdm import tqdm

from stance import __version__
from stance.archive.engines import Engine, PlainEngine, ProcessEngine
from stance.archive.folder import ArchiveFolder, ArchiveState, json_line, sync
from stance.archive.ray_engine import RayEngine
from stance.archive.windows import ScoredWindow, ScorerSpec, WindowReader
from stance.articles import check_inputs
from stance.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from stance.encoder import sha256_of
from stance.errors import ConfigError
from stance.exports import Exports, choose_backend, pick_device
from stance.tables import Fields, Position

SHARD_SENTENCES = 20_000
ENGINES = ("local", "ray")


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
    first_look: bool = True,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
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
        holder_score, holder_span, is_truncated, is_skipped. Also for `rejects.jsonl` (source,
        article_id, reason) and `manifest.json`.
    model, backend : as in `load`. A run goes on with the backend with which it began.
    text_field, id_field : columns of the tables. An article without id gets
        ``<file name>:<row>``, a text or HTML file its name.
    abstain_below : as in `StanceClassifier.predict`.
    shard_sentences : a shard ends with the article that brings it to so many sentences, or to a
        thousand times as many characters.
    first_look : whether sentences that are surely `none` may be skipped, see
        `StanceClassifier.predict_articles`.
    workers : how many processes score, each with its own model; None for this process alone, with
        ray for all processors of the cluster. The result does not depend on it, so a run may go on
        with another number or engine.
    engine : `local`, or `ray` for a cluster (`pip install 'peace-stance[ray]'`); then the inputs
        and `out` need only be here, but every machine needs this package and the model, a folder
        at the same path.
    ray_address : as in `ray.init`; None for a cluster that this machine is part of, else one of
        this machine alone.
    show_progress : whether to show a progress bar on standard error.

    Raises
    ------
    ConfigError : a setting out of range; inputs that overlap; `out` holds other files, a run with
        other settings, model or inputs, or one that is at work.
    DataError : an input or `out` can't be read or written.
    BundleError : no such model, or a damaged one.
    MissingPackageError : ray is not installed.
    WorkerError : a process that scores died; the same call goes on.
    """
    names = [str(n) for n in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    fields = Fields(text_field, id_field)
    _check_settings(fields, abstain_below, shard_sentences)
    folder = ArchiveFolder(Path(out))
    check_inputs(names, folder.path)
    folder.check()
    name = str(model) if model is not None else DEFAULT_MODEL
    bundle = find_bundle(name)
    sha256 = sha256_of(bundle / "manifest.json")
    where = str(bundle) if Path(name).is_dir() else name
    backend = _backend(bundle, backend, folder.manifest())
    spec = ScorerSpec(where, sha256, abstain_below, first_look, backend)
    scoring = _engine(engine, spec, workers, ray_address)
    asked = {
        "stance_version": __version__,
        "model_manifest_sha256": sha256,
        "text_field": text_field,
        "id_field": id_field,
        "abstain_below": abstain_below,
        "shard_sentences": shard_sentences,
        "first_look": first_look,
        "backend": backend,
    }
    if not folder.manifest().get("finished"):
        scoring.check()
    with folder.locked():
        manifest = folder.claim(asked, names, name)
        state = folder.state((manifest["finished"] or {}).get("n_shards", 0))
        if finished := manifest["finished"]:
            return ArchiveSummary(folder.path, **finished, was_finished=True)
        n_bytes = sum(i["size"] for i in manifest["inputs"])
        windows = WindowReader(folder, state.position, fields, shard_sentences)
        with (
            folder.open_rejects(state) as rejects,
            closing(scoring.map(windows)) as scored,
            _progress_bar(n_bytes, state.position, show_progress) as bar,
        ):
            return _Run(folder, state, rejects).to_end(scored, bar)


def _backend(bundle: Path, asked: str, manifest: dict[str, Any]) -> str:
    """The backend that is meant: one run keeps to one, whatever is the fastest meanwhile."""
    if asked == "auto" and manifest:
        return str(manifest["asked"]["backend"])
    if asked == "auto":
        device = pick_device("auto", asked)
        return choose_backend(Exports(bundle), device, lambda: load_bundle(bundle))
    return asked


def _engine(engine: str, spec: ScorerSpec, workers: int | None, ray_address: str | None) -> Engine:
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine!r}; expected one of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}; expected 1 or more")
    if engine == "ray":
        return RayEngine(spec, workers, ray_address)
    if ray_address is not None:
        raise ConfigError(f"ray_address={ray_address!r} without the engine ray; ask for it")
    return ProcessEngine(spec, workers) if workers and workers > 1 else PlainEngine(spec)


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
    """One run over what is left of an archive: scored windows to shards and rejects."""

    def __init__(self, folder: ArchiveFolder, state: ArchiveState, rejects: IO[bytes]) -> None:
        self._folder = folder
        self._state = state
        self._rejects = rejects
        self._rows: list[pa.RecordBatch] = []
        self._started = time.monotonic() - state.seconds

    def to_end(self, scored: Iterator[ScoredWindow], bar: tqdm) -> ArchiveSummary:
        """Write what is left."""
        for window in scored:
            self._take(window)
            self._show(bar)
        if any(self._rows) or not self._state.n_shards:
            self._write_shard()
        sync(self._rejects)
        done = self._folder.finish(replace(self._state, seconds=self._seconds()))
        return ArchiveSummary(self._folder.path, **done)

    def _show(self, bar: tqdm) -> None:
        rate = self._state.n_articles / max(self._seconds(), 1e-3)
        bar.set_postfix_str(f"{rate:.1f} articles/s", refresh=False)
        bar.update(self._state.position.before + self._state.position.offset - bar.n)

    def _take(self, window: ScoredWindow) -> None:
        for reject in window.end.rejects:
            self._rejects.write(json_line(reject))
        self._rows.append(window.rows)
        self._state = replace(
            self._state,
            n_articles=self._state.n_articles + window.end.n_articles,
            n_sentences=self._state.n_sentences + len(window.rows),
            n_rejects=self._state.n_rejects + len(window.end.rejects),
            position=window.end.after,
        )
        if window.end.is_shard_end:
            self._write_shard()

    def _write_shard(self) -> None:
        sync(self._rejects)
        self._state = replace(
            self._state,
            n_shards=self._state.n_shards + 1,
            rejects_bytes=self._rejects.tell(),
            seconds=self._seconds(),
        )
        self._folder.write_shard(pa.Table.from_batches(self._rows), self._state)
        self._rows.clear()

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)
