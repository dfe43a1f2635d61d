"""The output folder of a scored archive: what was asked, the files to read, shards and rejects."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from stance.articles import list_files
from stance.errors import ConfigError, DataError
from stance.tables import InputFile, Position

_MANIFEST, _INPUTS, _REJECTS = "manifest.json", "inputs.jsonl", "rejects.jsonl"
_KEY = b"stance"


@dataclass(frozen=True)
class ArchiveState:
    """Where a run stands, as its last shard tells."""

    n_shards: int = 0
    n_articles: int = 0
    n_sentences: int = 0
    n_rejects: int = 0
    rejects_bytes: int = 0
    seconds: float = 0.0
    position: Position = field(default_factory=Position)

    @classmethod
    def of(cls, values: dict[str, Any]) -> ArchiveState:
        """The state that `asdict` made plain."""
        return cls(**{**values, "position": Position(**values["position"])})


class ArchiveFolder:
    """The output folder. A file in it gets its name when it is complete."""

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
            sync(file)
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

    def state(self, n_shards: int = 0) -> ArchiveState:
        """Where the last shard ends; there must be `n_shards` or more."""
        shards = sorted(self.path.glob("part-*.parquet"), key=lambda p: (len(p.name), p.name))
        expected = [_shard_name(i) for i in range(max(n_shards, len(shards)))]
        if missing := sorted(set(expected) - {p.name for p in shards}):
            raise ConfigError(
                f"{self.path / missing[0]} is missing; bring it back or choose another folder"
            )
        if not shards:
            return ArchiveState()
        try:
            return ArchiveState.of(json.loads(pq.read_metadata(shards[-1]).metadata[_KEY]))
        except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as err:
            raise DataError(
                f"{shards[-1]}: damaged; remove it, and the same command makes it again"
            ) from err

    def open_rejects(self, state: ArchiveState) -> IO[bytes]:
        """The rejects file without what came after the last shard."""
        path = self.path / _REJECTS
        file = path.open("ab")
        if file.tell() < state.rejects_bytes:
            raise DataError(f"{path}: lines are missing; bring it back or choose another folder")
        file.truncate(state.rejects_bytes)
        return file

    def write_shard(self, table: pa.Table, state: ArchiveState) -> None:
        """Write the shard that ends at a state."""
        name = _shard_name(state.n_shards - 1)
        table = table.replace_schema_metadata({_KEY: json.dumps(asdict(state))})
        self._write(name, lambda file: pq.write_table(table, file, compression="zstd"))

    def finish(self, state: ArchiveState) -> dict[str, Any]:
        """Note that all is done; gives the totals."""
        done = {k: v for k, v in asdict(state).items() if k not in ("position", "rejects_bytes")}
        self._write_manifest({**self.manifest(), "finished": done})
        return done

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=2) + "\n"
        self._write(_MANIFEST, lambda file: file.write(text.encode()))

    def _write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file that is seen complete or not at all, also after a power cut."""
        fresh = self.path / f".{name}.new"
        with fresh.open("wb") as file:
            write(file)
            sync(file)
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
        file.write(json_line(asdict(item)))
        n_files += 1
        size += item.size
        mtime_ns = max(mtime_ns, item.mtime_ns)
    return {"path": name, "n_files": n_files, "size": size, "mtime_ns": mtime_ns}


def json_line(value: dict[str, Any]) -> bytes:
    """An object as a line of a JSONL file."""
    return json.dumps(value).encode() + b"\n"


def sync(file: IO[bytes]) -> None:
    """Have the disk hold what was written."""
    file.flush()
    os.fsync(file.fileno())


def _shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"
