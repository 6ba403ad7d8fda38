"""What ml_config.yaml may say: its sections, their keys, types and limits."""

from collections.abc import Iterable
from datetime import date
from fractions import Fraction
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from abatch.errors import suggest
from abatch.yaml_file import FOLDER_NAME, NAME, VERSION, fault

Name = Annotated[str, Field(pattern=NAME)]
EnvironmentName = Annotated[str, Field(pattern=FOLDER_NAME)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[Positive, Field(le=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(allow_inf_nan=True)]  # .inf for none


def _refuse_twins(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.lower(), name)
        if twin != name:
            expected = "names that differ by more than upper and lower case, and there is"
            raise fault(name, f"{expected} {twin!r} too", name)


def _beyond(cap: float) -> str:
    return f"a difference of means smaller than cap, {cap:g}, beyond which no amount counts"


class Section(BaseModel):
    """A part of the file: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def _fault(self, key: str, expected: str) -> ValidationError:
        return fault(getattr(self, key), expected, key)

    def _refuse_numeric(self, *keys: str) -> None:
        mend = "nothing, since this key goes with kind numeric only. Leave it out, or change kind"
        for key in keys:
            if getattr(self, key) is not None:
                raise self._fault(key, mend)


class Retention(Section):
    """What train deletes of what was never live; None keeps all."""

    snapshot_days: Days | None = None
    snapshot_gigabytes: float | None = Field(None, ge=0)
    model_days: Days | None = None


class EnvironmentSection(Section):
    """One entry of `environments`, as it is written."""

    database: SecretStr
    db_schema: str | None = Field(None, alias="schema", pattern=NAME)
    models_dir: Text = ""  # models/<environment>; the others likewise
    snapshots_dir: Text = ""
    retention: Retention = Retention()
    logs_dir: Text = ""
    spool_dir: Text = ""
    bulk: bool = False
    isolation: Literal["snapshot"] | None = None
    reports_dir: Text = ""
    n_jobs: Count = 1
    backend: Literal["loky", "dask"] = "loky"
    scheduler: Text | None = None

    @model_validator(mode="after")
    def _fits_the_backend(self) -> "EnvironmentSection":
        if self.backend == "dask":
            if self.scheduler is None:
                expected = "the address of dask's scheduler, as tcp://host:8786, since backend is"
                raise self._fault("scheduler", f"{expected} dask")
            if "n_jobs" in self.model_fields_set:
                expected = "nothing, since dask's cluster has the workers that it has"
                raise self._fault("n_jobs", f"{expected}. Leave it out")
        elif self.scheduler is not None:
            expected = "nothing, since it goes with backend dask only"
            raise self._fault("scheduler", f"{expected}. Leave it out, or add the backend")
        return self


class Outcome(Section):
    """What an experiment is about, and when it counts."""

    kind: Literal["binary", "numeric"]
    window_days: int = Field(ge=1, le=3650)
    lag_days: int = Field(0, ge=0, le=3650)
    grace_days: int = Field(7, ge=0, le=3650)
    corrections: Literal["warn", "rebuild"] = "warn"
    corrections_days: int = Field(180, ge=0, le=3650)
    expected_effect: float
    baseline: float | None = None
    baseline_sd: Positive | None = None
    cap: Positive | None = None

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "Outcome":
        effect, baseline = self.expected_effect, self.baseline
        if abs(effect) < 1e-9:
            expected = "an effect other than 0: the difference that would matter"
            raise fault(effect or 0, expected, "expected_effect")
        if self.kind == "binary":
            if not -1 < effect < 1:
                expected = "a difference of two rates, more than -1 and less than 1"
                raise self._fault("expected_effect", expected)
            if baseline is not None and not 0 < baseline < 1:
                raise self._fault("baseline", "a rate, more than 0 and less than 1")
            if baseline is not None and not 0 < baseline + effect < 1:
                expected = f"a rate to which expected_effect, {effect:g}, can be added"
                raise self._fault("baseline", f"{expected}: the sum must lie between 0 and 1")
            self._refuse_numeric("cap", "baseline_sd")
        elif self.cap is not None and abs(effect) >= self.cap:
            raise self._fault("expected_effect", _beyond(self.cap))
        return self


class Guardrail(Section):
    """What must not suffer while the outcome is sought."""

    query: Text
    kind: Literal["binary", "numeric"]
    direction: Literal["increase", "decrease"]
    margin: Positive
    cap: Positive | None = None
    watermark: Text | None = None

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "Guardrail":
        if self.kind == "binary":
            if self.margin >= 1:
                raise self._fault("margin", "a difference of two rates, less than 1")
            self._refuse_numeric("cap")
        elif self.cap is not None and self.margin >= self.cap:
            raise self._fault("margin", _beyond(self.cap))
        return self


class Queries(Section):
    """Files of the four queries."""

    training: Text
    candidates: Text
    outcomes: Text
    watermark: Text


# Names of other queries, and of columns beside which a guardrail's is put.
_TAKEN = {"outcome", "run_date", "candidate_id", "variant", "model_name", "prediction", "selected"}
_TAKEN |= {"bucket", "cohort", "n_exposures", "positive", *Queries.model_fields}


class Retrain(Section):
    """When to train; None switches a rule off."""

    min_days: int = Field(1, ge=1)
    max_days: Count | None = None
    new_rows: Count | None = None
    psi: Positive | None = None
    auc_drop: Rate | None = None

    @model_validator(mode="after")
    def _has_a_rule(self) -> "Retrain":
        rules = (self.max_days, self.new_rows, self.psi, self.auc_drop)
        if all(rule is None for rule in rules):
            expected = "one or more of max_days, new_rows, psi and auc_drop"
            raise fault("no rule", f"{expected}. Without the section every run trains")
        return self


class Training(Section):
    """Which rows to train on, and what a new model must pass to go live."""

    window: Literal["rolling", "expanding"] = "rolling"
    days: int = Field(365, ge=2, le=36_500)
    start_date: date | None = None
    validation_share: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**32)
    not_features: list[str] = []
    subgroups: list[str] = []
    retrain: Retrain | None = None
    max_auc_drop: Rate = 0.02
    min_rows: Count | None = None
    calibration_slope: list[Limit] | None = Field(None, min_length=2, max_length=2)
    max_input_psi: Positive | None = None

    @model_validator(mode="after")
    def _fits_the_window(self) -> "Training":
        start, slope = self.start_date, self.calibration_slope
        if self.window == "expanding" and start is None:
            expected = "the first day, as 2024-01-31, since window is expanding"
            raise self._fault("start_date", expected)
        if self.window == "rolling" and start is not None:
            raise fault(str(start), "nothing: window is rolling", "start_date")
        if slope is not None and not slope[0] < slope[1]:
            expected = "the lowest and the highest slope, as [0.5, 2.0]"
            raise self._fault("calibration_slope", expected)
        return self


class ModelConfig(Section):
    """One entry of `models`."""

    name: Name
    version: str = Field(pattern=VERSION)
    estimator: Text
    params: dict[str, Any] = {}


class ExperimentSection(Section):
    """One entry of `experiments`, as it is written."""

    hypothesis: Text
    outcome: Outcome
    queries: Queries
    training: Training = Training()
    split: dict[Name, Share] = Field(min_length=1)
    select_top: Rate
    models: dict[str, ModelConfig] = Field(min_length=1)
    overnight_change: Literal["warn", "refuse"] = "warn"
    cohort: Literal["week", "month"] = "week"
    exposure: Literal["first", "all"] = "first"
    champion: str | None = None
    verdicts: list[Literal["models_vs_control", "challenger_vs_champion"]] | None = Field(
        None, min_length=1
    )
    guardrails: dict[Name, Guardrail] = {}

    @field_validator("split")
    @classmethod
    def _shares_sum_to_one(cls, split: dict[str, float]) -> dict[str, float]:
        _refuse_twins(split)
        total = sum(Fraction(str(share)) for share in split.values())
        if total != 1:
            raise ValueError(f"shares that sum to 1, but they sum to {float(total):.10g}")
        return split

    @field_validator("guardrails")
    @classmethod
    def _names_are_free(cls, guardrails: dict[str, Guardrail]) -> dict[str, Guardrail]:
        _refuse_twins(guardrails)
        for name in guardrails:
            if name.lower() in _TAKEN:
                raise fault(name, "another name: abatch uses this one itself", name)
        return guardrails

    @model_validator(mode="after")
    def _models_belong_to_variants(self) -> "ExperimentSection":
        for variant in self.models:
            if variant not in self.split:
                expected = f"a variant of the split: {', '.join(self.split)}."
                raise fault(variant, expected + suggest(variant, self.split), "models", variant)
        if self.champion is not None and self.champion not in self.models:
            expected = f"a variant that has a model: {', '.join(self.models)}."
            raise self._fault("champion", expected + suggest(self.champion, self.models))
        impossible = {}
        if len(self.models) == len(self.split):
            impossible["models_vs_control"] = "variant without a model"
        if len(self.models) == 1:
            impossible["challenger_vs_champion"] = "second model"
        for verdict in self.verdicts or ():
            if verdict in impossible:
                expected = "verdicts that the variants allow, and there is no"
                raise fault(verdict, f"{expected} {impossible[verdict]}. Leave it out", "verdicts")
        return self


class File(Section):
    """The whole of ml_config.yaml."""

    timezone: str = "UTC"
    chunk_rows: int = Field(50_000, ge=1, le=10_000_000)
    retry_seconds: int = Field(60, ge=0, le=3600)
    environments: dict[EnvironmentName, EnvironmentSection] = Field(min_length=1)
    experiments: dict[Name, ExperimentSection] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            expected = "the name of a time zone, such as 'Europe/Oslo'."
            raise ValueError(expected + suggest(name, available_timezones()))
        return name

    @field_validator("experiments")
    @classmethod
    def _names_are_unique(
        cls, experiments: dict[str, ExperimentSection]
    ) -> dict[str, ExperimentSection]:
        _refuse_twins(experiments)
        owners: dict[str, str] = {}  # lower case, as some file systems and servers see a name
        for experiment, settings in experiments.items():
            for variant, model in settings.models.items():
                place = f"experiments.{experiment}.models.{variant}"
                owner = owners.setdefault(model.name.lower(), place)
                if owner != place:
                    expected = "a name used once, upper and lower case being the same, but"
                    path = (experiment, "models", variant, "name")
                    raise fault(model.name, f"{expected} {owner} has it", *path)
        return experiments
