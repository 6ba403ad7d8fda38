"""The door to ml_config.yaml and to environment variables: read, check, say what is wrong and where."""

import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from abatch.errors import ConfigError, UsageError, suggest

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Environment(Section):
    database: SecretStr
    db_schema: str | None = Field(None, alias="schema", pattern=NAME)
    models_dir: str = "models"
    logs_dir: str = "logs"
    reports_dir: str = "reports"


class Outcome(Section):
    kind: Literal["binary"]
    window_days: int = Field(ge=1)
    lag_days: int = Field(0, ge=0)
    expected_effect: float = Field(gt=-1, lt=1)

    @field_validator("expected_effect")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0:
            raise ValueError("an effect other than 0: the difference in the outcome's rate that would matter")
        return value


class Queries(Section):
    training: str
    candidates: str
    outcomes: str
    watermark: str


class Training(Section):
    days: int = Field(365, ge=2)
    validation_share: float = Field(0.2, gt=0, lt=1)
    max_auc_drop: float = Field(0.02, ge=0, le=1)
    seed: int = Field(0, ge=0, lt=2**32)


class ModelConfig(Section):
    name: str = Field(pattern=NAME)
    version: str = Field(pattern=r"^[0-9A-Za-z.]{1,20}$")
    estimator: str
    params: dict[str, Any] = {}


class ExperimentConfig(Section):
    hypothesis: str = Field(min_length=1)
    outcome: Outcome
    queries: Queries
    training: Training = Training()
    split: dict[str, float] = Field(min_length=1)
    select_top: float = Field(ge=0, le=1)
    models: dict[str, ModelConfig] = Field(min_length=1)
    cohort: Literal["week", "month"] = "week"

    @field_validator("split")
    @classmethod
    def _shares_sum_to_one(cls, split: dict[str, float]) -> dict[str, float]:
        for variant, share in split.items():
            if not re.match(NAME, variant):
                raise ValueError(f"variant names of letters, digits and _ (at most 64), not {variant!r}")
            if not 0 < share <= 1:
                raise ValueError(f"shares above 0 and at most 1, but {variant} has {share}")
        total = sum(Fraction(str(share)) for share in split.values())
        if total != 1:
            raise ValueError(f"shares that sum to 1, but they sum to {float(total):.10g}")
        return split

    @model_validator(mode="after")
    def _models_belong_to_variants(self) -> "ExperimentConfig":
        for variant in self.models:
            if variant not in self.split:
                raise ValueError(
                    f"models only for variants of the split ({', '.join(self.split)}), but models has {variant!r}."
                    + suggest(variant, self.split)
                )
        return self


class File(Section):
    timezone: str = "UTC"
    chunk_rows: int = Field(50_000, ge=1)
    environments: dict[str, Environment] = Field(min_length=1)
    experiments: dict[str, ExperimentConfig] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("the name of a time zone, such as 'Europe/Oslo'." + suggest(name, available_timezones()))
        return name

    @model_validator(mode="after")
    def _names_are_unique(self) -> "File":
        owners: dict[str, str] = {}
        for experiment, settings in self.experiments.items():
            if not re.match(NAME, experiment):
                raise ValueError(f"experiment names of letters, digits and _ (at most 64), not {experiment!r}")
            for variant, model in settings.models.items():
                place = f"experiments.{experiment}.models.{variant}"
                if model.name in owners:
                    raise ValueError(f"model names used once, but {model.name!r} is both {owners[model.name]} and {place}")
                owners[model.name] = place
        return self


@dataclass(frozen=True)
class Config:
    """One experiment in one environment: all that a story needs to know."""

    file: Path
    environment: str
    database: SecretStr
    schema: str | None
    models_dir: Path
    logs_dir: Path
    reports_dir: Path
    timezone: str
    chunk_rows: int
    experiment: str
    settings: ExperimentConfig
    sql: dict[str, str]

    def key(self, path: str) -> str:
        """Where a key of this experiment stands, for messages."""
        return f"{self.file}, experiments.{self.experiment}.{path}"

    def query_file(self, name: str) -> str:
        """The file of one of the four queries, as the config names it, for messages."""
        return getattr(self.settings.queries, name)

    def today(self, now: datetime) -> date:
        """The business day at the instant `now` (aware)."""
        return now.astimezone(ZoneInfo(self.timezone)).date()

    def as_of(self, run_date: date, now: datetime) -> datetime:
        """The moment whose knowledge a run may use, as naive UTC: now for today's run, else the end of run_date."""
        if run_date == self.today(now):
            return now.astimezone(UTC).replace(tzinfo=None)
        end = datetime.combine(run_date, datetime.max.time(), ZoneInfo(self.timezone))
        return end.astimezone(UTC).replace(tzinfo=None)


def load_configs(path: str | Path, environment: str | None = None) -> dict[str, Config]:
    """Read ml_config.yaml and return one Config per experiment, in the file's order.

    Parameters
    ----------
    path : path of the YAML file; relative paths inside the file are relative to its folder
    environment : name of the environment; None means ABATCH_ENV, else dev

    Raises
    ------
    ConfigError
        With file, path to the key, the value found, what was expected and the mend.
    UsageError
        If the file has no such environment.
    """
    path = Path(path)
    raw = _read_yaml(path)
    try:
        file = File.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(path, raw, item) for item in error.errors())) from None
    name = environment or os.environ.get("ABATCH_ENV") or "dev"
    if name not in file.environments:
        raise UsageError(
            f"{path}, environments: there is no environment {name!r}; expected one of {', '.join(file.environments)}."
            + suggest(name, file.environments)
        )
    chosen = file.environments[name]
    place = f"{path}, environments.{name}"
    base = path.resolve().parent
    if str(base) not in sys.path:
        sys.path.append(str(base))  # where a user's own estimators live
    return {
        experiment: Config(
            file=path,
            environment=name,
            database=SecretStr(_expand(chosen.database.get_secret_value(), f"{place}.database")),
            schema=chosen.db_schema,
            models_dir=base / _expand(chosen.models_dir, f"{place}.models_dir"),
            logs_dir=base / _expand(chosen.logs_dir, f"{place}.logs_dir"),
            reports_dir=base / _expand(chosen.reports_dir, f"{place}.reports_dir"),
            timezone=file.timezone,
            chunk_rows=file.chunk_rows,
            experiment=experiment,
            settings=settings,
            sql={
                query: _read_query(base / getattr(settings.queries, query), f"{path}, experiments.{experiment}.queries.{query}")
                for query in Queries.model_fields
            },
        )
        for experiment, settings in file.experiments.items()
    }


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name the file with --config.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {str(error).splitlines()[0]}.") from None


def _expand(text: str, place: str) -> str:
    def value(match: re.Match) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"{place}: the environment variable {name!r} is not set."
                f" Set it before the job starts, or write the value in place of ${{{name}}}."
                + suggest(name, os.environ)
            )
        return os.environ[name]

    return VARIABLE.sub(value, text)


def _read_query(path: Path, place: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = [str(file.name) for file in path.parent.glob("*.sql")] if path.parent.is_dir() else []
        raise ConfigError(
            f"{place}: the query file {path} does not exist. Write it, or name the right one." + suggest(path.name, known)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: the query file {path} cannot be read as UTF-8 text ({error}).") from None


def _describe(path: Path, raw: Any, item: Any) -> str:
    """One line for one fault that pydantic found: file, path to the key, found, expected, mend."""
    location = [str(step) for step in item["loc"]]
    place = f"{path}, {'.'.join(location)}" if location else str(path)
    found = item["input"]
    shown = "a secret" if location[-1:] == ["database"] else _shorten(found)
    kind = item["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        return f"{place}: unknown key. Expected one of {', '.join(known)}." + suggest(location[-1], known)
    if kind == "missing":
        return f"{place}: this key is missing. Add it."
    if kind == "value_error":
        return f"{place}: found {shown}, expected {item['ctx']['error']}"
    if kind == "string_pattern_mismatch":
        return f"{place}: found {shown}, expected a name that matches {item['ctx']['pattern']}."
    expected = item["msg"].removeprefix("Input should be ").removeprefix("Value should have ")
    quote = " Put it between quotes." if kind == "string_type" and isinstance(found, (int, float, bool)) else ""
    return f"{place}: found {shown}, expected {expected}.{quote}"


def _shorten(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(location: list[str]) -> list[str]:
    """Names of the keys that may stand at `location`, read off the classes above."""
    section: Any = File
    steps = iter(location)
    for step in steps:
        section = section.model_fields[step].annotation
        while not (isinstance(section, type) and issubclass(section, BaseModel)):
            section = section.__args__[-1]  # dict[str, Section]: the next step is the entry's name
            next(steps, None)
    return [field.alias or name for name, field in section.model_fields.items()]

