"""Spool: a night's predictions on disk, until all are known and can be ranked.

In memory stays what ranks need, 17 bytes a candidate.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from abatch import files, memory
from abatch.database.tables import runs
from abatch.errors import DataError, FileError
from abatch.experiment import predictions
from abatch.experiment.assignment import Candidates
from abatch.night import Night

FOLDER_MODE = 0o700  # who is predicted is nobody else's business
N_PARTS = 16  # in which keys are looked through for doubles
MOST_BYTES = 70  # of a candidate on disk: an id of 64 characters, where it ends, and a bucket


class Spool:
    """Predictions that are added in chunks, and read again with their ranks once all are there.

    Parameters
    ----------
    file : to be written
    run_number : of the run that writes them
    model_names : of each variant's model, None where it has none
    """

    def __init__(self, file: Path, run_number: int, model_names: Mapping[str, str | None]) -> None:
        self.file, self.run_number = file, run_number
        self.variants = [*model_names]
        self._model_names = pa.array([*model_names.values()], pa.string())
        # As bytes, which grow where they are: a list of arrays would be copied to make one of it.
        self._predictions, self._selection_keys, self._codes = bytearray(), bytearray(), bytearray()
        self._writer: pa.RecordBatchFileWriter | None = None

    def add(self, candidates: Candidates, prediction: np.ndarray) -> None:
        """Keep a chunk.

        Parameters
        ----------
        prediction : array of float, shape (n,); nan without a model

        Raises
        ------
        FileError
            If the folder cannot be written, or is full.
        """
        code = pd.Categorical(candidates.variant, self.variants).codes
        ids = pa.RecordBatch.from_pydict(
            {
                "candidate_id": pa.array(candidates.ids, pa.string()),
                "bucket": pa.array(candidates.bucket, pa.int16()),
            }
        )
        try:
            if self._writer is None:
                self._writer = pa.ipc.new_file(self.file, ids.schema)
            self._writer.write_batch(ids)
        except OSError as error:
            raise files.cannot_write(self.file, error) from None
        self._predictions += prediction.astype(np.float64).tobytes()
        self._selection_keys += candidates.selection_key.astype(np.uint64).tobytes()
        self._codes += code.astype(np.uint8).tobytes()

    def rank(self, n_selected: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        """Rank all, and return the rows of prediction_rows in the order in which they were added.

        The highest prediction of each variant is the first; equal ones, and those without a model,
        are in the order of their selection keys.

        Parameters
        ----------
        n_selected : how many of each variant are selected

        Raises
        ------
        DataError
            If a candidate is there twice.
        FileError
            If the spool is full.
        """
        if self._writer is None:
            return iter(())
        try:
            self._writer.close()
        except OSError as error:
            raise files.cannot_write(self.file, error) from None
        memory.release()
        self._check_unique()
        return self._make_rows(self._rank(), n_selected)

    def _rank(self) -> np.ndarray:
        """Each row's rank in its variant, from 1; the selection keys are gone then."""
        by_key = self._sort_by_key()
        self._selection_keys = bytearray()
        memory.release()
        prediction = np.frombuffer(self._predictions)
        rank = np.empty(len(prediction), dtype=np.int32)
        for rows in by_key:
            lowest_first = np.nan_to_num(prediction[rows], copy=False)
            np.negative(lowest_first, out=lowest_first)
            best_first = rows[np.argsort(lowest_first, kind="stable")]
            rank[best_first] = np.arange(1, len(rows) + 1, dtype=np.int32)
        return rank

    def _sort_by_key(self) -> list[np.ndarray]:
        """Positions of each variant's rows, in the order of their selection keys."""
        selection_key = np.frombuffer(self._selection_keys, np.uint64)
        code = np.frombuffer(self._codes, np.uint8)
        by_key = []
        for i in range(len(self.variants)):
            rows = np.flatnonzero(code == i).astype(np.int32)
            by_key.append(rows[np.argsort(selection_key[rows])])
        return by_key

    def _make_rows(
        self, rank: np.ndarray, n_selected: Mapping[str, int]
    ) -> Iterator[pa.RecordBatch]:
        prediction, code = np.frombuffer(self._predictions), np.frombuffer(self._codes, np.uint8)
        limits = np.array([n_selected.get(variant, 0) for variant in self.variants])
        variants, start = pa.array(self.variants, pa.string()), 0
        for ids in self._read():
            part = slice(start, start := start + ids.num_rows)
            codes = pa.array(code[part], pa.int8())
            columns = {
                "run_number": pa.repeat(pa.scalar(self.run_number, pa.int32()), ids.num_rows),
                "candidate_id": ids["candidate_id"],
                "variant": variants.take(codes),
                "model_name": self._model_names.take(codes),
                "prediction": pa.array(prediction[part], pa.float64(), from_pandas=True),
                "rank_in_variant": pa.array(rank[part]),
                "selected": pa.array(rank[part] <= limits[code[part]]).cast(pa.int16()),
                "bucket": ids["bucket"],
            }
            yield pa.RecordBatch.from_pydict(columns)

    def _read(self) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self.file)) as source, pa.ipc.open_file(source) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)

    def _check_unique(self) -> None:
        """One candidate has one key; that two share one happens to one night in a million."""
        selection_key = np.frombuffer(self._selection_keys, np.uint64)
        shared = np.concatenate([_find_shared(selection_key, i) for i in range(N_PARTS)])
        if not len(shared):
            return
        ids, start = [], 0
        for batch in self._read():
            keys = selection_key[start : (start := start + batch.num_rows)]
            ids += batch["candidate_id"].filter(pa.array(np.isin(keys, shared))).to_pylist()
        counts = pd.Series(ids).value_counts()
        twice = sorted(counts.index[counts > 1])
        if twice:
            raise DataError(
                f"{len(twice)} candidates are returned more than once, for example {twice[0]!r}."
                " Expected one row per candidate. Look for a join that multiplies rows."
            )


def _find_shared(selection_key: np.ndarray, i: int) -> np.ndarray:
    """Keys that are there again, of those in one of N_PARTS spans: so few are sorted at a time."""
    first, last = (np.uint64(2**64 // N_PARTS * k - (k > i)) for k in (i, i + 1))
    ordered = np.sort(selection_key[(selection_key >= first) & (selection_key <= last)])
    return ordered[1:][ordered[1:] == ordered[:-1]]


@contextmanager
def open_spool(night: Night, model_names: Mapping[str, str | None]) -> Iterator[Spool]:
    """A spool in a folder of the run's own, which is gone at the end.

    A dry run's is among the system's temporary files.

    Raises
    ------
    FileError
        If the folder cannot be made, or has no room for a night as the newest was.
    """
    own = _choose_folder(night) / night.run_id
    try:
        own.mkdir(FOLDER_MODE, parents=True)
    except OSError as error:
        raise files.cannot_write(own.parent, error) from None
    try:
        _require_room(night, own)
        yield Spool(own / "ids.arrow", night.run_number, model_names)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _choose_folder(night: Night) -> Path:
    if not night.dry_run:
        return night.experiment.environment.spool_dir
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise FileError(f"{error.strerror}. Name one that can be written as TMPDIR.") from None


def _require_room(night: Night, own: Path) -> None:
    sizes = night.read(predictions.read_sizes, night.experiment.name, night.run_date, 1)
    need, free = MOST_BYTES * max(sizes.values(), default=0), shutil.disk_usage(own).free
    if free < need:
        raise FileError(
            f"{own.parent}: has {free / 1e6:,.1f} MB of room, and a night as large as the newest"
            f" needs up to {need / 1e6:,.1f} MB. Make room, or name another folder as spool_dir."
        )


def remove_dead(night: Night) -> None:
    """Remove what runs left that have ended: their rows that nobody has seen, and their spools."""
    predictions.remove_dead(night)
    folder = night.experiment.environment.spool_dir
    names = [path.name for path in folder.glob("*") if path.is_dir()]
    for name in night.read(_find_ended, names) if names else ():
        shutil.rmtree(folder / name, ignore_errors=True)


def _find_ended(connection: sa.Connection, run_ids: Sequence[str]) -> Sequence[str]:
    query = sa.select(runs.c.run_id).where(runs.c.run_id.in_(run_ids), runs.c.status != "running")
    return connection.scalars(query).all()
