"""What people write in place of predict.py, and the least that the same work can cost.

None of them keeps a promise: ranks, checks, a ledger, nights that are whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa

PART_ROWS = 50_000


def predict(models: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """Assign candidates by a hash, and predict each by its variant's pipeline."""
    hashed = pd.util.hash_array(frame["candidate_id"].to_numpy()) / 2.0**64
    variant = np.where(hashed < 0.45, "A", np.where(hashed < 0.9, "B", "control"))
    prediction = np.full(len(frame), np.nan)
    model_name = np.full(len(frame), None, dtype=object)
    X = frame.drop(columns="candidate_id")
    for name, model in models.items():
        prediction[variant == name] = model.predict_proba(X[variant == name])[:, 1]
        model_name[variant == name] = f"model{name}_v1.0_2026-10-01"
    columns = {"variant": variant, "model_name": model_name, "prediction": prediction}
    return pd.DataFrame({"run_id": 1, "candidate_id": frame["candidate_id"], **columns})


def plain(url: str, query: str, files: Sequence[str], chunk_rows: int | None = None) -> None:
    """The script that people write: read_sql, predict_proba, to_sql; whole or in chunks."""
    import sqlalchemy as sa

    models = dict(zip("AB", map(joblib.load, files), strict=True))
    options = {"fast_executemany": True} if url.startswith("mssql+pyodbc") else {}
    engine = sa.create_engine(url, **options)
    with engine.begin() as connection:
        connection.execute(sa.text("drop table if exists plain_predictions"))
    frames: Any = pd.read_sql(sa.text(query), engine, chunksize=chunk_rows)
    for frame in frames if chunk_rows else [frames]:
        written = predict(models, frame)
        written.to_sql("plain_predictions", engine, if_exists="append", index=False)


def limit(path: str, query: str, files: Sequence[str], n_jobs: int) -> None:
    """The floor on SQLite: workers that read Arrow and predict, one writer.

    All by ADBC: with a second SQLite in the process (Python's own) it ends in a bus error.
    """
    import adbc_driver_sqlite.dbapi as adbc

    with adbc.connect(path) as connection, connection.cursor() as cursor:
        cursor.execute(f"select max(candidate_id) from ({query})")
        ((n_rows,),) = cursor.fetchall()
        cursor.execute("drop table if exists limit_predictions")
        workers = joblib.Parallel(n_jobs, return_as="generator_unordered")
        parts = (
            joblib.delayed(_predict_part)(path, f"select * from ({query})", tuple(files), first)
            for first in range(1, n_rows + 1, PART_ROWS)
        )
        for rows in workers(parts):
            cursor.adbc_ingest("limit_predictions", rows, mode="create_append")
        connection.commit()


_opened: dict[str, Any] = {}  # in a worker


def _predict_part(path: str, query: str, files: Sequence[str], first: int) -> Any:
    import adbc_driver_sqlite.dbapi as adbc

    if not _opened:
        _opened["connection"] = adbc.connect(path)
        _opened["models"] = dict(zip("AB", map(joblib.load, files), strict=True))
    with _opened["connection"].cursor() as cursor:
        span = f"candidate_id between {first} and {first + PART_ROWS - 1}"
        cursor.execute(f"{query} where {span}")
        frame = cursor.fetch_arrow_table().to_pandas()
    return pa.Table.from_pandas(predict(_opened["models"], frame), preserve_index=False)
