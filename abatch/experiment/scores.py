"""Scores: figures per model and counts per variant, by cohort, from sums of the closed nights.

A night is closed when its outcomes are mature and no correction is waited for any more. What closed
nights add up to is kept in `cohort_sums`, by cohort and for all cohorts together, so that a score
run reads the nights that are still open and no others.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import sqlalchemy as sa

from abatch.database import locks
from abatch.database.tables import (
    cohort_sums,
    feature_drift,
    looks,
    runs,
    scores,
    variant_scores,
)
from abatch.database.writing import replace_rows
from abatch.errors import DataError
from abatch.night import Night
from abatch.statistics import drift, metrics, stats
from abatch.statistics.metrics import Metric
from abatch.statistics.references import Reference
from abatch.statistics.sums import add_by_key

ALL = "all"
PUBLISHED = ("done", "superseded")  # of a run: what it wrote has been seen
_DATE_SUFFIX = re.compile(r"_\d{4}-\d\d-\d\d(_\d+)?$")  # of a model_name
S = TypeVar("S", metrics.Histogram, metrics.Ranking, np.ndarray)
REPLACED_BY = {  # columns by which figures are written anew
    scores: ("model_name", "cohort"),
    variant_scores: ("variant", "cohort"),
    feature_drift: ("cohort",),
}


class Key(NamedTuple):
    """By what sums are kept.

    Attributes
    ----------
    cohort : its first day, or ALL
    model_name : dated, or name and version for all dates; empty for the variant itself
    """

    cohort: str
    variant: str
    model_name: str = ""

    @property
    def of_figures(self) -> "Key":
        """The key of its figures: those of a model name no variant."""
        return self._replace(variant="") if self.model_name else self


class Figures(NamedTuple):
    """What a look writes beside its verdicts.

    Attributes
    ----------
    rows : of `scores`, `variant_scores` and `feature_drift`, without experiment and run_id
    keys : of all figures that there are, changed or not
    """

    rows: dict[sa.Table, list[dict[str, Any]]]
    keys: set[Key]

    @property
    def n_rows(self) -> int:
        """How many rows are written."""
        return sum(map(len, self.rows.values()))


@dataclass(frozen=True, eq=False)
class Part:
    """Mature predictions of one variant in one cohort, or of one of its models, condensed.

    Parts add up with +.

    Attributes
    ----------
    counts : array of float, shape (5,): n_mature, n_positive, n_selected, n_selected_positive, sum
        of the outcomes
    histogram : of the model; None for a variant
    bins : array of int, the model's scores per bin of its reference; None without a reference
    ranking : of the model's histogram, or summed over dated models, as `rank_within` adds it
    """

    counts: np.ndarray
    histogram: metrics.Histogram | None = None
    bins: np.ndarray | None = None
    ranking: metrics.Ranking | None = None

    def __add__(self, other: "Part") -> "Part":
        return Part(
            self.counts + other.counts,
            _add(self.histogram, other.histogram),
            _add(self.bins, other.bins),
            _add(self.ranking, other.ranking),
        )


def _add(a: S | None, b: S | None) -> S | None:
    """The sum of what there is."""
    return b if a is None else a if b is None else a + b


def summarise(
    frame: pd.DataFrame, references: Mapping[str, Reference], n_buckets: int
) -> dict[Key, Part]:
    """Condense mature predictions, by cohort and for all cohorts, and by all kinds of `Key`.

    Parameters
    ----------
    frame : cohort, variant, model_name (null without a model), prediction, selected, bucket,
        outcome; one row per prediction
    references : the score reference of each dated model, by model_name
    """
    by = [frame[name].astype("category") for name in ("cohort", "variant")]
    dated = frame["model_name"].astype("category")
    names = [*dated.cat.categories.map(_remove_date), None]
    undated = pd.Series(pd.Categorical(np.array(names, dtype=object)[dated.cat.codes]), frame.index)
    frame = frame[["prediction", "selected", "bucket", "outcome"]]
    frame = frame.assign(positive=(frame["outcome"] > 0).astype(np.int64))
    parts: dict[Key, Part] = {}
    for key, rows in frame.groupby(by, observed=True):
        parts[Key(*key)] = Part(_count(rows))
    for model in (undated, dated):
        # Rows without a model fall out.
        for (cohort, variant, name), rows in frame.groupby([*by, model], observed=True):
            key = Key(cohort, variant, name)
            prediction = rows["prediction"].to_numpy()
            of_all_dates = parts.get(key._replace(model_name=_remove_date(name)))
            if of_all_dates and of_all_dates.counts[0] == len(rows):  # there is no other date
                histogram = of_all_dates.histogram
            else:
                histogram = metrics.make_histogram(
                    prediction, rows["positive"].to_numpy(), rows["bucket"].to_numpy(), n_buckets
                )
            reference = references.get(name)
            bins = drift.count_bins(prediction, reference.edges) if reference else None
            parts[key] = Part(_count(rows), histogram, bins)
    totals: dict[Key, Part] = {}
    for key, part in parts.items():
        totals = add_by_key(totals, {key._replace(cohort=ALL): part})
    return parts | totals


def rank_within(parts: Mapping[Key, Part]) -> dict[Key, Part]:
    """The same parts with the ranking of each dated model, and with their sum for all its dates.

    A histogram of several models would compare the predictions of one with those of another.

    Parameters
    ----------
    parts : closed ones, ranked, to which a reading was added, not ranked: what changed is enough
        to know
    """
    ranked = dict(parts)
    for key, part in parts.items():
        undated = key._replace(model_name=_remove_date(key.model_name))
        if undated != key and part.histogram is not None:
            ranking, total = metrics.rank(part.histogram), ranked[undated]
            change = ranking - part.ranking if part.ranking else ranking
            ranked[key] = replace(part, ranking=ranking)
            ranked[undated] = replace(total, ranking=_add(total.ranking, change))
    return ranked


def _remove_date(model_name: str) -> str:
    return _DATE_SUFFIX.sub("", model_name)


def _count(rows: pd.DataFrame) -> np.ndarray:
    selected, positive = rows["selected"] == 1, rows["positive"]
    counts = (len(rows), positive.sum(), selected.sum(), positive[selected].sum())
    return np.array([*counts, rows["outcome"].sum()], dtype=np.float64)


def pack(part: Part) -> dict[str, np.ndarray]:
    """As arrays by name, to be stored."""
    arrays = {"counts": part.counts}
    if part.histogram is not None:
        arrays |= metrics.pack_histogram(part.histogram)
    if part.ranking is not None:
        arrays |= metrics.pack_ranking(part.ranking)
    if part.bins is not None:
        arrays["bins"] = part.bins
    return arrays


def unpack(arrays: Mapping[str, np.ndarray]) -> Part:
    """The inverse of `pack`."""
    histogram = metrics.unpack_histogram(arrays) if "histogram.counts" in arrays else None
    ranking = metrics.unpack_ranking(arrays) if "ranking.sums" in arrays else None
    return Part(arrays["counts"], histogram, arrays.get("bins"), ranking)


def measure_model(key: Key, part: Part, reference: Reference | None) -> list[dict[str, Any]]:
    """Rows for the table `scores` of one model in one cohort, without experiment and run_id."""
    assert part.histogram is not None
    figures = metrics.measure(part.histogram, part.ranking)
    if reference and part.bins is not None:
        counts = part.bins.tolist()
        for name, compute in (("psi", drift.compute_psi), ("psi_noise", drift.psi_noise)):
            figures[name] = Metric(compute(reference.counts, counts), n_obs=sum(counts))
    return [
        {
            "model_name": key.model_name,
            "cohort": key.cohort,
            "metric": name,
            **figure.to_dict(),
            "n": figure.n_obs,
        }
        for name, figure in figures.items()
        if np.isfinite(figure.value)
    ]


def measure_variant(key: Key, part: Part | None, n_waiting: int) -> dict[str, Any]:
    """The row for the table `variant_scores`, without experiment and run_id.

    The interval is Wilson's.

    Parameters
    ----------
    part : its mature predictions; None if there are none
    n_waiting : those that are not mature
    """
    counts = part.counts if part else np.zeros(5)
    n_mature, n_positive, n_selected, n_selected_positive = (int(n) for n in counts[:4])
    rate = lower = upper = None
    if n_mature:
        rate = n_positive / n_mature
        lower, upper = stats.wilson_interval(n_positive, n_mature)
    return {
        "variant": key.variant,
        "cohort": key.cohort,
        "n_predicted": n_mature + n_waiting,
        "n_mature": n_mature,
        "n_positive": n_positive,
        "n_selected": n_selected,
        "n_selected_positive": n_selected_positive,
        "rate": rate,
        "lower": lower,
        "upper": upper,
        "selected_rate": n_selected_positive / n_selected if n_selected else None,
        "outcome_sum": float(counts[4]),
    }


def check_watermark(
    connection: sa.Connection, experiment: str, mature_date: date | None, *, is_rebuilt: bool
) -> None:
    """Raise DataError if the feed knows less than it did: it is broken, not young or late."""
    closed, c = find_closed_date(connection, experiment), variant_scores.c
    counted = sa.select(c.variant).where(c.experiment == experiment, c.n_mature > 0)
    if mature_date is None and connection.scalar(counted):
        raise DataError(
            "tells no date, but outcomes were complete before. Nothing was changed. Load the feed,"
            " then score."
        )
    if mature_date is not None and mature_date < closed and not is_rebuilt:
        raise DataError(
            f"makes {mature_date} the newest mature night, but {closed} was mature and closed"
            " before. Nothing was changed. Mend the feed, or score the later date that closed it;"
            " if outcomes are really being loaded anew: python score.py --rebuild."
        )


def find_closed_date(connection: sa.Connection, experiment: str) -> date:
    """The newest night whose outcomes are summed up for good; date.min if there is none."""
    query = sa.select(sa.func.max(cohort_sums.c.closed_date))
    return connection.scalar(query.filter_by(experiment=experiment)) or date.min


def drop_sums(connection: sa.Connection, experiment: str, run_date: date = date.min) -> None:
    """Drop all sums, so that the next score reads every night anew.

    With a run_date, only if it lies in the closed part. The units of these nights, which are many,
    are stale without them: nobody reads them any more, and `tallies.remove_stale` deletes them.
    """
    lock_nights(connection, experiment)
    if run_date <= find_closed_date(connection, experiment):
        connection.execute(cohort_sums.delete().filter_by(experiment=experiment))


def load_parts(connection: sa.Connection, experiment: str, keys: Iterable[Key]) -> dict[Key, Part]:
    """The closed parts of these keys, as far as there are any."""
    sums = {key: load(connection, experiment, key) for key in keys}
    return {key: unpack(arrays) for key, arrays in sums.items() if arrays}


def load(connection: sa.Connection, experiment: str, key: Key) -> dict[str, np.ndarray]:
    """The arrays of one row of cohort_sums; none if there is no such row."""
    query = sa.select(cohort_sums.c.content).filter_by(experiment=experiment, **key._asdict())
    content = connection.scalar(query)
    return {} if content is None else dict(open_arrays(content))


def open_arrays(content: bytes) -> Mapping[str, np.ndarray]:
    """The arrays of a row's content, each of which is read anew when it is asked for."""
    arrays: Mapping[str, np.ndarray] = np.load(io.BytesIO(content), allow_pickle=False)
    return arrays


def save(
    connection: sa.Connection,
    night: Night,
    sums: Mapping[Key, Mapping[str, np.ndarray]],
    closed_date: date,
) -> None:
    """Write rows of cohort_sums, arrays by name, in the place of those of the same keys."""
    for key, arrays in sums.items():
        row = {"closed_date": closed_date, "content": _compress(arrays)}
        same = {"experiment": night.experiment.name, **key._asdict()}
        replace_rows(connection, cohort_sums, [row], night.run_id, **same)


def _compress(arrays: Mapping[str, np.ndarray]) -> bytes:
    """As numpy's .npz, lightly: its own way takes three times as long to save a tenth more."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def lock_nights(connection: sa.Connection, experiment: str) -> None:
    """Let whoever else changes the experiment's nights or sums wait for this transaction, or wait.

    Whoever writes nights and whoever writes sums calls this first.
    """
    locks.lock_in_transaction(connection, f"nights-{experiment}")


def find_keys(connection: sa.Connection, experiment: str) -> dict[Key, bool]:
    """All keys of cohort_sums, and whether the run that wrote the sums published their figures."""
    c = cohort_sums.c
    query = sa.select(c.cohort, c.variant, c.model_name, runs.c.status)
    query = query.outerjoin_from(cohort_sums, runs, c.run_id == runs.c.run_id)
    rows = connection.execute(query.where(c.experiment == experiment))
    return {Key(*key): status in PUBLISHED for *key, status in rows}


def mark_published(connection: sa.Connection, night: Night) -> None:
    """Say that the figures of all sums are written, by a run that is about to be done."""
    experiment = night.experiment.name
    done = sa.select(runs.c.run_id).filter_by(experiment=experiment)
    done = done.where(runs.c.status.in_(PUBLISHED))
    unpublished = cohort_sums.update().where(cohort_sums.c.run_id.not_in(done))
    connection.execute(unpublished.filter_by(experiment=experiment).values(run_id=night.run_id))


def find_published(connection: sa.Connection, experiment: str, run_date: date) -> dict[Key, int]:
    """Mature predictions behind the figures of the newest look, by `Key.of_figures`."""
    c, m, v, nothing = looks.c, scores.c, variant_scores.c, sa.literal("")
    last = sa.select(c.run_id).where(c.experiment == experiment, c.run_date <= run_date)
    run_id = connection.scalar(last.order_by(c.run_date.desc()).limit(1))
    of_models = sa.select(m.cohort, nothing, m.model_name, m.n).where(m.metric == "n")
    of_variants = sa.select(v.cohort, v.variant, nothing, v.n_mature)
    return {
        Key(*key): n
        for query in (of_models, of_variants)
        for *key, n in connection.execute(query.filter_by(experiment=experiment, run_id=run_id))
    }


def write_figures(connection: sa.Connection, night: Night, figures: Figures) -> None:
    """Write figures in the place of those that are equal in the columns `REPLACED_BY`.

    Figures of models, variants and cohorts that are no longer there, for their nights were
    predicted again, are removed.
    """
    experiment = night.experiment.name
    for table, names in REPLACED_BY.items():
        present = {tuple(getattr(key, name) for name in names) for key in figures.keys}
        query = sa.select(*(table.c[name] for name in names)).filter_by(experiment=experiment)
        written = {tuple(row) for row in connection.execute(query.distinct())}
        common = {"experiment": experiment, "run_id": night.run_id}
        rows = [{**row, **common} for row in figures.rows[table]]
        replaced = {tuple(row[name] for name in names) for row in rows}
        for key in sorted(replaced | written - present):
            same = dict(zip(names, key, strict=True))
            connection.execute(table.delete().filter_by(experiment=experiment, **same))
        if rows:
            connection.execute(table.insert(), rows)
