"""Scores: figures per model and cohort, and counts per variant and cohort, gathered cohort by cohort."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from scipy import stats

from abatch import drift, metrics
from abatch.tables import scores, variant_scores

ALL = "all"
_DATE_SUFFIX = re.compile(r"_\d{4}-\d\d-\d\d(_\d+)?$")


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
        self._histograms: dict[tuple[str, str], metrics.Histogram] = {}
        self._bins: dict[tuple[str, str], np.ndarray] = {}
        self._variants: dict[tuple[str, str], np.ndarray] = {}

    def add(self, cohort: str, frame: pd.DataFrame) -> None:
        """Add one cohort.

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
        for model_name, rows in mature.groupby("model_name"):  # rows without a model fall out
            histogram = metrics.make_histogram(
                rows["prediction"].to_numpy(), rows["outcome"].to_numpy(), rows["bucket"].to_numpy(), self._n_buckets
            )
            for name in (model_name, _DATE_SUFFIX.sub("", model_name)):
                for label in (cohort, ALL):
                    known = self._histograms.get((name, label))
                    merged = histogram if known is None else metrics.merge_histograms([known, histogram])
                    self._histograms[name, label] = merged
            reference = self._references.get(model_name)
            if reference is not None:
                bins = drift.count_bins(rows["prediction"].to_numpy(), reference.edges)
                for label in (cohort, ALL):
                    self._bins[model_name, label] = self._bins.get((model_name, label), 0) + bins

    def model_rows(self) -> list[dict[str, Any]]:
        """Rows for the table `scores`, without experiment and run_id: per dated model, and per name and version for all dates."""
        rows = []
        for (model_name, cohort), histogram in self._histograms.items():
            found = metrics.measure(histogram)
            if (model_name, cohort) in self._bins:
                found += self._drift(model_name, self._bins[model_name, cohort])
            rows += [
                {
                    "model_name": model_name,
                    "cohort": cohort,
                    "metric": metric.name,
                    "value": metric.value,
                    "lower": _null(metric.lower),
                    "upper": _null(metric.upper),
                    "n": metric.n_obs,
                }
                for metric in found
                if np.isfinite(metric.value)
            ]
        return rows

    def _drift(self, model_name: str, bins: np.ndarray) -> Iterable[metrics.Metric]:
        reference, n = self._references[model_name], int(bins.sum())
        noise = drift.psi_noise(sum(reference.counts), n, len(bins))
        yield metrics.Metric("psi", drift.compute_psi(reference.counts, bins.tolist()), np.nan, np.nan, n)
        yield metrics.Metric("psi_noise", noise, np.nan, np.nan, n)

    def variant_rows(self) -> list[dict[str, Any]]:
        """Rows for the table `variant_scores`, without experiment and run_id; intervals are Wilson's."""
        rows = []
        for (variant, cohort), figures in self._variants.items():
            n_predicted, n_mature, n_positive, n_selected, n_selected_positive = (int(figure) for figure in figures)
            interval = stats.binomtest(n_positive, n_mature).proportion_ci(method="wilson") if n_mature else None
            rows.append(
                {
                    "variant": variant,
                    "cohort": cohort,
                    "n_predicted": n_predicted,
                    "n_mature": n_mature,
                    "n_positive": n_positive,
                    "rate": n_positive / n_mature if n_mature else None,
                    "lower": interval.low if interval else None,
                    "upper": interval.high if interval else None,
                    "n_selected": n_selected,
                    "n_selected_positive": n_selected_positive,
                    "selected_rate": n_selected_positive / n_selected if n_selected else None,
                }
            )
        return rows


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def replace_scores(connection: sa.Connection, tally: Tally, experiment: str, run_id: str) -> int:
    """Write the experiment's figures in place of yesterday's; returns the number of rows."""
    written = 0
    for table, rows in ((scores, tally.model_rows()), (variant_scores, tally.variant_rows())):
        connection.execute(table.delete().where(table.c.experiment == experiment))
        if rows:
            connection.execute(table.insert(), [{"experiment": experiment, "run_id": run_id, **row} for row in rows])
        written += len(rows)
    return written
