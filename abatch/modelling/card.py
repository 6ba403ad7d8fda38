"""The card of a dated model: all that is known of it.

It stands in the column `models.card` and in models/<model_name>.json.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

from abatch.queries import Window
from abatch.statistics.references import FeatureReference, Reference

_AsDict = PlainSerializer(lambda value: value._asdict())


class Record(BaseModel):
    """Facts that never change."""

    model_config = ConfigDict(frozen=True)


class Figure(Record):
    """One figure with its 95 % interval; None where it has none, or could not be measured."""

    value: int | float | None = None
    lower: float | None = None
    upper: float | None = None


class Importance(Record):
    """By how much ROC AUC drops when a feature's values are shuffled: mean and sd of repeats."""

    feature: str
    importance: float
    sd: float


class Subgroup(Record):
    """How good predictions were for one value of a column; ROC AUC is None with few outcomes."""

    column: str
    value: str
    n: int
    n_positive: int
    base_rate: float
    mean_prediction: float
    roc_auc: float | None
    lower: float | None
    upper: float | None


class Decision(Record):
    """Whether a new model goes live, why, and the figures behind it.

    Attributes
    ----------
    mend : what a person can do who wants it live all the same, where that is something particular
    """

    promote: bool
    reason: str
    evidence: dict[str, Any]
    mend: str = ""

    @property
    def sentence(self) -> str:
        """The decision as a log has it."""
        head = "goes live" if self.promote else "does not go live"
        return f"{head}: {self.reason}" + f"; {self.mend}" * bool(self.mend)

    def refuse(self, reason: str, mend: str = "") -> "Decision":
        """The decision when something else than the model stands against it."""
        return Decision(promote=False, reason=reason, evidence=self.evidence, mend=mend)


class Origin(Record):
    """What the models of one training have in common.

    Attributes
    ----------
    trained_because : what made the training due
    snapshot : content hash of the rows
    rows, n_positive, rows_validation : how many rows, with the outcome, to validate on
    columns : the features, "number" or "category"
    features : what they looked like
    outcome_mean, outcome_sd, outcome_kurtosis : of the outcome itself, capped
    config : as `Experiment.describe` has it
    lock : all installed packages and their versions
    """

    experiment: str
    run_date: date
    run_id: str
    trained_because: str
    query: str
    from_date: date
    to_date: date
    as_of: datetime
    snapshot: str
    rows: int
    n_positive: int
    validation_from: date
    rows_validation: int
    columns: dict[str, str]
    features: dict[str, Annotated[FeatureReference, _AsDict]]
    outcome_mean: float
    outcome_sd: float
    outcome_kurtosis: float
    seed: int
    config: dict[str, Any]
    config_hash: str
    code_version: str
    lock: dict[str, str]
    machine: str

    @property
    def window(self) -> Window:
        """The days of the training rows."""
        return Window(self.from_date, self.to_date)


class Card(Origin):
    """One dated model.

    Attributes
    ----------
    metrics : of the validation, by name
    reference : scores of the rows held out, None if these were few
    checked : predictions of some of the snapshot's rows, see `training.choose_checked`
    left_out : features with too few values for a fit, and how many they have
    code_files : SHA-256 of the files that made it
    libraries : versions of what its predictions depend on
    """

    model_name: str
    name: str
    version: str
    file: str
    sha256: str
    variant: str
    estimator: str
    params: dict[str, Any]
    metrics: dict[str, Figure]
    importances: list[Importance]
    subgroups: list[Subgroup]
    reference: Annotated[Reference, _AsDict] | None
    checked: list[float]
    left_out: dict[str, str]
    gate: Decision
    code_files: dict[str, str]
    libraries: dict[str, str]

    @property
    def roc_auc(self) -> float | None:
        """ROC AUC of the validation, None if it had too few outcomes."""
        return self.metrics.get("roc_auc", Figure()).value

    @property
    def base_rate(self) -> float | None:
        """Share of validation rows with the outcome, None if there were too few."""
        return self.metrics.get("base_rate", Figure()).value

    def to_json(self, indent: int | None = None) -> str:
        """The text that `Card.model_validate_json` reads."""
        return to_json(self.model_dump(mode="json"), indent)


def to_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Text for a column or a file that holds JSON: sorted, so that equal content is equal text.

    Days and instants as ISO text.
    """
    return json.dumps(
        values,
        sort_keys=True,
        ensure_ascii=False,
        indent=indent,
        default=lambda moment: moment.isoformat(),
    )
