"""Scores: figures per model and cohort, and counts per variant and cohort, gathered cohort by cohort."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from scipy import stats

from abatch import drift, metrics
from abatch.errors import DataError
from abatch.tables import DATE_SUFFIX, scores, variant_scores

ALL = "all"
COUNTS = ("n_predicted", "n_mature", "n_positive", "n_selected", "n_selected_positive")


class Tally:
    """Adds up cohorts; memory grows with the number of models and cohorts, not with rows.

    Parameters
    ----------
    references : the score reference of each dated model, by model_name
    n_buckets : number of jackknife buckets
    """

    def __init__(self, references: Mapping[str, drift.Reference], n_buckets: int) -> None:
        self._references = references
        self._n_buckets = n_buckets
        self._rows: list[dict[str, Any]] = []  # of the cohorts
        self._histograms: dict[str, metrics.Histogram] = {}  # of all cohorts, by model
        self._bins: dict[str, np.ndarray] = {}
        self._variants: dict[tuple[str, str], np.ndarray] = {}

    def add(self, cohort: str, frame: pd.DataFrame) -> None:
        """Add one cohort, whole: a label comes once.

        Parameters
        ----------
        cohort : its label
        frame : variant, model_name (null without a model), prediction, selected, bucket, mature (bool), outcome (0 or 1,
            of no meaning where not mature); one row per prediction
        """
        mature = frame[frame["mature"]]
        for variant, rows in frame.groupby("variant"):
            closed = rows[rows["mature"]]
            selected = closed[closed["selected"] == 1]
            figures = [len(rows), len(closed), closed["outcome"].sum(), len(selected), selected["outcome"].sum()]
            for label in (cohort, ALL):
                self._variants[variant, label] = self._variants.get((variant, label), 0) + np.array(figures, dtype=np.int64)
        undated = mature["model_name"].map(lambda name: DATE_SUFFIX.sub("", name), na_action="ignore")
        for names in (mature["model_name"], undated):
            for name, rows in mature.groupby(names):  # rows without a model fall out
                prediction = rows["prediction"].to_numpy()
                histogram = metrics.make_histogram(prediction, rows["outcome"].to_numpy(), rows["bucket"].to_numpy(), self._n_buckets)
                bins = drift.count_bins(prediction, self._references[name].edges) if name in self._references else None
                self._rows += self._measure(name, cohort, histogram, bins)
                known = self._histograms.get(name)
                self._histograms[name] = histogram if known is None else metrics.merge_histograms([known, histogram])
                if bins is not None:
                    self._bins[name] = self._bins.get(name, 0) + bins

    def model_rows(self) -> list[dict[str, Any]]:
        """Rows for the table `scores`, without experiment and run_id: per dated model, and per name and version for all dates."""
        total = [self._measure(name, ALL, histogram, self._bins.get(name)) for name, histogram in self._histograms.items()]
        return self._rows + [row for rows in total for row in rows]

    def _measure(self, model_name: str, cohort: str, histogram: metrics.Histogram, bins: np.ndarray | None) -> list[dict[str, Any]]:
        found = metrics.measure(histogram)
        if bins is not None:
            found += self._drift(model_name, bins)
        row = {"model_name": model_name, "cohort": cohort}
        return [
            {**row, "metric": name, "value": value, "lower": _null(lower), "upper": _null(upper), "n": n}
            for name, value, lower, upper, n in found
            if np.isfinite(value)
        ]

    def _drift(self, model_name: str, bins: np.ndarray) -> Iterable[metrics.Metric]:
        reference, n = self._references[model_name], int(bins.sum())
        noise = drift.psi_noise(sum(reference.counts), n, len(bins))
        yield metrics.Metric("psi", drift.compute_psi(reference.counts, bins.tolist()), np.nan, np.nan, n)
        yield metrics.Metric("psi_noise", noise, np.nan, np.nan, n)

    def variant_rows(self) -> list[dict[str, Any]]:
        """Rows for the table `variant_scores`, without experiment and run_id; intervals are Wilson's."""
        rows = []
        for (variant, cohort), figures in self._variants.items():
            _, n_mature, n_positive, n_selected, n_selected_positive = counts = figures.tolist()
            interval = stats.binomtest(n_positive, n_mature).proportion_ci(method="wilson") if n_mature else None
            rows.append(
                {
                    "variant": variant,
                    "cohort": cohort,
                    **dict(zip(COUNTS, counts, strict=True)),
                    "rate": n_positive / n_mature if n_mature else None,
                    "lower": interval.low if interval else None,
                    "upper": interval.high if interval else None,
                    "selected_rate": n_selected_positive / n_selected if n_selected else None,
                }
            )
        return rows


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def check_none_mature(connection: sa.Connection, experiment: str, place: str) -> None:
    """Raise DataError if there are figures already: a feed that tells no date now is broken rather than young."""
    mature = sa.select(variant_scores.c.variant).where(variant_scores.c.experiment == experiment, variant_scores.c.n_mature > 0)
    if connection.execute(mature).first() is not None:
        raise DataError(f"{place}: tells no date, but outcomes were complete before. Nothing was changed. Load the feed, then score.")


def replace_scores(connection: sa.Connection, tally: Tally, experiment: str, run_id: str) -> int:
    """Write the experiment's figures in place of yesterday's; returns the number of rows."""
    written = 0
    for table, rows in ((scores, tally.model_rows()), (variant_scores, tally.variant_rows())):
        connection.execute(table.delete().where(table.c.experiment == experiment))
        if rows:
            connection.execute(table.insert(), [{"experiment": experiment, "run_id": run_id, **row} for row in rows])
        written += len(rows)
    return written
