"""What the report shows, as it is read from abatch's tables."""

from collections.abc import Sequence
from datetime import date
from math import nan
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database import tables
from abatch.database.tables import Row
from abatch.experiment import registrations, terms
from abatch.experiment.registrations import Registration, Terms
from abatch.experiment.scores import ALL
from abatch.modelling import promotion, registry
from abatch.statistics import drift

HISTORY = {  # metric: title, and the value that stands for no skill or for right, nan for none
    "roc_auc": ("ROC AUC", 0.5),
    "log_loss": ("Log loss", nan),
    "brier_skill": ("Brier skill", 0.0),
    "calibration_intercept": ("Calibration intercept", 0.0),
    "calibration_slope": ("Calibration slope", 1.0),
}


class Figures(NamedTuple):
    """All that the page shows, as it was read.

    Attributes
    ----------
    terms : as registered; before that, as the config has them
    registered : the row of the registration
    looks : oldest first
    verdicts : of all looks, oldest first
    ratios : sample_ratios of the newest look
    conclusion : the newest
    variant_scores : of all cohorts together, by variant
    scores : of all cohorts together, by model_name and metric
    cohorts : scores of the metrics in HISTORY by cohort, oldest first
    features : feature_drift of the newest cohort, the largest first
    models : the dated ones, newest first
    live : model_name by variant
    promotions, runs : newest first
    """

    experiment: Experiment
    run_date: date
    terms: Terms
    registration: Registration | None
    registered: Row | None
    looks: Sequence[Row]
    verdicts: Sequence[Row]
    ratios: Sequence[Row]
    conclusion: Row | None
    variant_scores: dict[str, Row]
    scores: dict[str, dict[str, Row]]
    cohorts: Sequence[Row]
    features: Sequence[Row]
    models: dict[str, Row]
    live: dict[str, str]
    promotions: Sequence[Row]
    runs: Sequence[Row]

    @property
    def owners(self) -> dict[str, str]:
        """The variant of each name and version."""
        return {registry.undated_name(row): row.variant for row in self.models.values()}

    @property
    def names(self) -> list[str]:
        """Name and version of the models that have figures, in the order of the variants."""
        owners, names = self.owners, self.scores.keys() - self.models.keys()
        places = {variant: i for i, variant in enumerate(self.experiment.split)}
        return sorted(names, key=lambda name: (places.get(owners.get(name, ""), len(places)), name))

    @property
    def validated(self) -> dict[str, list[float]]:
        """ROC AUC of all validations of each name and version."""
        validated: dict[str, list[float]] = {}
        for row in self.models.values():
            roc_auc = registry.parse_card(row.model_name, row.card).roc_auc
            if roc_auc is not None:
                validated.setdefault(registry.undated_name(row), []).append(roc_auc)
        return validated

    def find_nights(self, job: str) -> list[date]:
        """The nights up to run_date that a job has done, in order."""
        done = [run.run_date for run in self.runs if (run.job, run.status) == (job, "done")]
        return sorted(night for night in done if night <= self.run_date)

    def find_drifts(self, name: str) -> list[tuple[str, float, float]]:
        """PSI and noise line of a dated model's scores and features.

        Of two, and of what else has drifted.
        """
        scores = self.scores.get(name, {})
        rows = (row for row in self.features if row.model_name == name)
        drifts = [(row.feature, row.psi, row.psi_noise) for row in rows if row.psi is not None]
        if "psi" in scores:
            drifts.insert(0, ("its scores", scores["psi"].value, scores["psi_noise"].value))
        return drifts[:2] + [row for row in drifts[2:] if drift.is_drift(*row[1:])]


def read_figures(connection: sa.Connection, experiment: Experiment, run_date: date) -> Figures:
    """Read what the page shows; nothing is computed here."""

    def rows(
        table: sa.Table, *where: sa.ColumnElement[bool], by: Sequence[Any] = (), **equal: Any
    ) -> Sequence[Row]:
        query = sa.select(table).filter_by(experiment=experiment.name, **equal)
        return connection.execute(query.where(*where).order_by(*by)).all()

    looks = rows(tables.looks, tables.looks.c.run_date <= run_date, by=["run_date"])
    scores: dict[str, dict[str, Row]] = {}
    for row in rows(tables.scores, cohort=ALL):
        scores.setdefault(row.model_name, {})[row.metric] = row
    score, feature = tables.scores.c, tables.feature_drift.c
    newest = sa.select(sa.func.max(feature.cohort)).filter_by(experiment=experiment.name)
    models = rows(tables.models, by=[sa.desc("as_of"), sa.desc("run_id"), "model_name"])
    registration = registrations.find(connection, experiment.name)
    promotions = promotion.read_promotions(connection, experiment.name)
    return Figures(
        experiment=experiment,
        run_date=run_date,
        terms=registration or terms.describe(experiment),
        registration=registration,
        registered=next(iter(rows(tables.registrations)), None),
        looks=looks,
        verdicts=rows(tables.verdicts, tables.verdicts.c.run_date <= run_date, by=["run_date"]),
        ratios=rows(
            tables.sample_ratios,
            run_date=looks[-1].run_date if looks else None,
            by=["stage", "variant"],
        ),
        conclusion=next(iter(rows(tables.conclusions, by=[sa.desc("conclusion_id")])), None),
        variant_scores={row.variant: row for row in rows(tables.variant_scores, cohort=ALL)},
        scores=scores,
        cohorts=rows(tables.scores, score.cohort != ALL, score.metric.in_(HISTORY), by=["cohort"]),
        features=rows(
            tables.feature_drift,
            cohort=newest.scalar_subquery(),
            by=[
                sa.case((feature.psi.is_(None), 1), else_=0),
                sa.desc("psi"),
                "model_name",
                "feature",
            ],
        ),
        models={row.model_name: row for row in models},
        live=promotions.live(run_date),
        promotions=promotions.rows[::-1],
        runs=rows(tables.runs, by=[sa.desc("started_at"), "run_id"]),
    )
