"""The door to ml_config.yaml and to environment variables: read, check, tell what is wrong."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from abatch.errors import ConfigError, UsageError, suggest
from abatch.files import hash_bytes
from abatch.queries import Query

NAME = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
VERSION = r"^[0-9A-Za-z.]{1,20}$"
VARIABLE = re.compile(r"\$\{(\w+)\}|\$\{")
Name = Annotated[str, Field(pattern=NAME)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
# What pydantic expects, in the words of somebody who writes YAML.
_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "list_type": "a list",
    "too_short": "at least one entry",
    "int_type": "a whole number",
    "float_type": "a number",
    NAME: "a name of letters, digits and _ that begins with a letter, at most 64 of them",
    VERSION: "letters, digits and dots, at most 20 of them",
}
_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "keys with values"}


class _Fault(ValueError):
    """What a check across keys found: the path from there on, what stands there, what should."""

    def __init__(self, path: tuple[str, ...], found: object, expected: str) -> None:
        super().__init__(expected)
        self.path, self.found = path, found


def _refuse_twins(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            twin = seen[name.lower()]
            raise _Fault(
                (name,),
                name,
                f"names that differ by more than upper and lower case, and there is {twin!r} too",
            )
        seen[name.lower()] = name


class Section(BaseModel):
    """A part of the file: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Retention(Section):
    """What train deletes of what was never live; None keeps all."""

    snapshot_days: int | None = Field(None, ge=1)
    snapshot_gigabytes: float | None = Field(None, ge=0, allow_inf_nan=False)
    model_days: int | None = Field(None, ge=1)


class EnvironmentSection(Section):
    """One entry of `environments`, as it is written."""

    database: SecretStr
    db_schema: str | None = Field(None, alias="schema", pattern=NAME)
    models_dir: str = Field("models", min_length=1)
    snapshots_dir: str = Field("snapshots", min_length=1)
    retention: Retention = Retention()
    logs_dir: str = Field("logs", min_length=1)
    reports_dir: str = Field("reports", min_length=1)


class Outcome(Section):
    """What an experiment is about, and when it counts."""

    kind: Literal["binary", "numeric"]
    window_days: int = Field(ge=1, le=3650)
    lag_days: int = Field(0, ge=0, le=3650)
    grace_days: int = Field(7, ge=0, le=3650)
    expected_effect: float = Field(allow_inf_nan=False)
    baseline: float | None = Field(None, allow_inf_nan=False)
    baseline_sd: float | None = Field(None, gt=0, allow_inf_nan=False)
    cap: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "Outcome":
        if abs(self.expected_effect) < 1e-9:
            found = self.expected_effect or 0
            raise _Fault(
                ("expected_effect",),
                found,
                "an effect other than 0: the difference that would matter",
            )
        if self.kind == "binary":
            if not -1 < self.expected_effect < 1:
                raise _Fault(
                    ("expected_effect",),
                    self.expected_effect,
                    "a difference of two rates, more than -1 and less than 1",
                )
            if self.baseline is not None and not 0 < self.baseline < 1:
                raise _Fault(("baseline",), self.baseline, "a rate, more than 0 and less than 1")
            if self.baseline is not None and not 0 < self.baseline + self.expected_effect < 1:
                expected = (
                    f"a rate to which expected_effect, {self.expected_effect:g}, can be added: the"
                    " sum must lie between 0 and 1"
                )
                raise _Fault(("baseline",), self.baseline, expected)
            _refuse_numeric_keys(self, "cap", "baseline_sd")
        return self


def _refuse_numeric_keys(section: BaseModel, *keys: str) -> None:
    for key in keys:
        if getattr(section, key) is not None:
            raise _Fault(
                (key,),
                getattr(section, key),
                "nothing, since this key goes with kind numeric only. Leave it out, or change kind",
            )


class Guardrail(Section):
    """What must not suffer while the outcome is sought."""

    query: str = Field(min_length=1)
    kind: Literal["binary", "numeric"]
    direction: Literal["increase", "decrease"]
    margin: float = Field(gt=0, allow_inf_nan=False)
    cap: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "Guardrail":
        if self.kind == "binary":
            if self.margin >= 1:
                raise _Fault(("margin",), self.margin, "a difference of two rates, less than 1")
            _refuse_numeric_keys(self, "cap")
        return self


class Queries(Section):
    """Files of the four queries."""

    training: str = Field(min_length=1)
    candidates: str = Field(min_length=1)
    outcomes: str = Field(min_length=1)
    watermark: str = Field(min_length=1)


# Names of other queries, and of columns beside which a guardrail's is put.
_TAKEN = {
    "outcome",
    *Queries.model_fields,
    "run_date",
    "candidate_id",
    "variant",
    "model_name",
    "prediction",
    "selected",
}
_TAKEN |= {"bucket", "cohort", "n_exposures", "positive"}


class Retrain(Section):
    """When to train; None switches a rule off."""

    min_days: int = Field(1, ge=1)
    max_days: int | None = Field(None, ge=1)
    new_rows: int | None = Field(None, ge=1)
    psi: float | None = Field(None, gt=0, allow_inf_nan=False)
    auc_drop: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _has_a_rule(self) -> "Retrain":
        if all(getattr(self, name) is None for name in ("max_days", "new_rows", "psi", "auc_drop")):
            raise _Fault(
                (),
                "no rule",
                "one or more of max_days, new_rows, psi and auc_drop. Without the section every run"
                " trains",
            )
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
    max_auc_drop: float = Field(0.02, ge=0, le=1)
    min_rows: int | None = Field(None, ge=1)
    calibration_slope: list[float] | None = Field(None, min_length=2, max_length=2)
    max_input_psi: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_the_window(self) -> "Training":
        if (self.window == "expanding") != (self.start_date is not None):
            expected = (
                "the first day, as 2024-01-31, since window is expanding"
                if self.start_date is None
                else "nothing: window is rolling"
            )
            raise _Fault(("start_date",), self.start_date and str(self.start_date), expected)
        if (
            self.calibration_slope is not None
            and not self.calibration_slope[0] < self.calibration_slope[1]
        ):
            raise _Fault(
                ("calibration_slope",),
                self.calibration_slope,
                "the lowest and the highest slope, as [0.5, 2.0]",
            )
        return self


class ModelConfig(Section):
    """One entry of `models`."""

    name: Name
    version: str = Field(pattern=VERSION)
    estimator: str = Field(min_length=1)
    params: dict[str, Any] = {}


class ExperimentSection(Section):
    """One entry of `experiments`, as it is written."""

    hypothesis: str = Field(min_length=1)
    outcome: Outcome
    queries: Queries
    training: Training = Training()
    split: dict[Name, Share] = Field(min_length=1)
    select_top: float = Field(ge=0, le=1, allow_inf_nan=False)
    models: dict[str, ModelConfig] = Field(min_length=1)
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
                raise _Fault((name,), name, "another name: abatch uses this one itself")
        return guardrails

    @model_validator(mode="after")
    def _models_belong_to_variants(self) -> "ExperimentSection":
        for variant in self.models:
            if variant not in self.split:
                raise _Fault(
                    ("models", variant),
                    variant,
                    f"a variant of the split: {', '.join(self.split)}."
                    + suggest(variant, self.split),
                )
        if self.champion is not None and self.champion not in self.models:
            known = ", ".join(self.models)
            raise _Fault(
                ("champion",),
                self.champion,
                f"a variant that has a model: {known}." + suggest(self.champion, self.models),
            )
        possible = {
            "models_vs_control": len(self.models) < len(self.split),
            "challenger_vs_champion": len(self.models) > 1,
        }
        for verdict in self.verdicts or ():
            if not possible[verdict]:
                missing = (
                    "variant without a model" if verdict == "models_vs_control" else "second model"
                )
                raise _Fault(
                    ("verdicts",),
                    verdict,
                    f"verdicts that the variants allow, and there is no {missing}. Leave it out",
                )
        return self


class File(Section):
    """The whole of ml_config.yaml."""

    timezone: str = "UTC"
    chunk_rows: int = Field(50_000, ge=1, le=10_000_000)
    retry_seconds: int = Field(60, ge=0, le=3600)
    environments: dict[str, EnvironmentSection] = Field(min_length=1)
    experiments: dict[Name, ExperimentSection] = Field(min_length=1)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError(
                "the name of a time zone, such as 'Europe/Oslo'."
                + suggest(name, available_timezones())
            )
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
                owner = owners.setdefault(
                    model.name.lower(), f"experiments.{experiment}.models.{variant}"
                )
                if owner != f"experiments.{experiment}.models.{variant}":
                    path = (experiment, "models", variant, "name")
                    raise _Fault(
                        path,
                        model.name,
                        f"a name used once, upper and lower case being the same, but {owner}"
                        " has it",
                    )
        return experiments


@dataclass(frozen=True)
class Environment:
    """One environment of ml_config.yaml: its variables put in, its folders absolute."""

    name: str
    file: Path
    database: SecretStr
    schema: str | None
    models_dir: Path
    snapshots_dir: Path
    retention: Retention
    logs_dir: Path
    reports_dir: Path
    timezone: str
    chunk_rows: int
    retry_seconds: int

    @property
    def folder(self) -> Path:
        """Where the config lies, and the user's own estimators beside it."""
        return self.file.resolve().parent

    def today(self, now: datetime) -> date:
        """The business day at the instant `now` (aware)."""
        return now.astimezone(ZoneInfo(self.timezone)).date()

    def as_of(self, run_date: date, now: datetime) -> datetime:
        """The moment whose knowledge a run may use, as naive UTC.

        It is now for today's run, else the end of run_date.
        """
        if run_date == self.today(now):
            return now.astimezone(UTC).replace(tzinfo=None)
        end = datetime.combine(run_date + timedelta(days=1), time.min, ZoneInfo(self.timezone))
        return end.astimezone(UTC).replace(tzinfo=None) - timedelta.resolution


class Experiment(ExperimentSection):
    """One experiment in one environment: all that a story needs to know.

    Attributes
    ----------
    sql : text of each query, by the name of the query or guardrail
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str
    environment: Environment
    sql: dict[str, str]

    def key(self, path: str) -> str:
        """Where a key of this experiment stands, for messages."""
        return f"{self.environment.file}, experiments.{self.name}.{path}"

    def query(self, name: str) -> Query:
        """One of the four queries, or a guardrail's."""
        is_guardrail = name in self.guardrails
        file = self.guardrails[name].query if is_guardrail else getattr(self.queries, name)
        return Query(file, self.sql[name])

    def describe(self) -> dict[str, Any]:
        """The settings, queries and time zone as JSON holds them; no secret is among them."""
        section = self.model_dump(mode="json", include=set(ExperimentSection.model_fields))
        return {**section, "sql": self.sql, "timezone": self.environment.timezone}

    def hash(self) -> str:
        """SHA-256 of all that `describe` tells."""
        return hash_bytes(json.dumps(self.describe(), sort_keys=True).encode())

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], name: str, environment: Environment
    ) -> "Experiment":
        """The experiment that `describe` told of, in an environment of today.

        Raises
        ------
        ConfigError
            If this abatch would not take such a config.
        """
        settings = {key: described[key] for key in ExperimentSection.model_fields}
        try:
            section = ExperimentSection.model_validate_json(json.dumps(settings))
        except ValidationError as error:
            faults = [_describe(Path("its config"), item) for item in error.errors()]
            raise ConfigError("\n".join(faults)) from None
        models = {
            variant: model.model_copy(update={"params": _restore_keys(model.params)})
            for variant, model in section.models.items()
        }
        own = {"models": models, "name": name, "environment": environment, "sql": described["sql"]}
        return cls(**{**dict(section), **own})


def _restore_keys(value: Any) -> Any:
    """Parameters as YAML had them: JSON has made texts of the whole numbers that were keys.

    Such as in class_weight: {0: 1, 1: 5}.
    """
    if not isinstance(value, Mapping):
        return value
    are_numbers = all(str(key).removeprefix("-").isdecimal() for key in value)
    return {int(key) if are_numbers else key: _restore_keys(part) for key, part in value.items()}


def load_experiments(
    path: str | Path, environment: str | None = None, *, need_database: bool = True
) -> dict[str, Experiment]:
    """Read ml_config.yaml and return its experiments by name, in the file's order.

    Parameters
    ----------
    path : path of the YAML file; relative paths inside the file are relative to its folder
    environment : name of the environment; None means ABATCH_ENV, else dev
    need_database : if False, a database URL whose variables are not set here is empty

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
        raise ConfigError(
            "\n".join(_describe(path, item) for item in _drop_doubles(error.errors()))
        ) from None
    chosen = _make_environment(path, file, environment, need_database)
    base = path.resolve().parent
    if str(base) not in sys.path:
        sys.path.append(str(base))  # where a user's own estimators live
    return {
        name: Experiment(
            **dict(section),
            name=name,
            environment=chosen,
            sql=_read_queries(base, section, f"{path}, experiments.{name}"),
        )
        for name, section in file.experiments.items()
    }


def _make_environment(
    path: Path, file: File, wanted: str | None, need_database: bool
) -> Environment:
    name = wanted or os.environ.get("ABATCH_ENV") or "dev"
    if name not in file.environments:
        source = " (from ABATCH_ENV)" if not wanted and os.environ.get("ABATCH_ENV") else ""
        raise UsageError(
            f"{path}, environments: there is no environment {name!r}{source}; expected one of"
            f" {', '.join(file.environments)}." + suggest(name, file.environments)
        )
    section, place = file.environments[name], f"{path}, environments.{name}"
    try:
        database = _expand(section.database.get_secret_value(), f"{place}.database")
    except ConfigError:
        if need_database:
            raise
        database = ""
    base = path.resolve().parent
    folders = ("models_dir", "snapshots_dir", "logs_dir", "reports_dir")
    return Environment(
        name=name,
        file=path,
        database=SecretStr(database),
        schema=section.db_schema,
        retention=section.retention,
        timezone=file.timezone,
        chunk_rows=file.chunk_rows,
        retry_seconds=file.retry_seconds,
        **{key: base / _expand(getattr(section, key), f"{place}.{key}") for key in folders},
    )


def _read_queries(base: Path, section: ExperimentSection, place: str) -> dict[str, str]:
    """Text of the four queries and of the guardrails', by name."""
    places = {name: (file, f"{place}.queries.{name}") for name, file in section.queries}
    for name, guardrail in section.guardrails.items():
        places[name] = guardrail.query, f"{place}.guardrails.{name}.query"
    return {name: _read_query(base / file, where) for name, (file, where) in places.items()}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, and says where it stumbles.

    YAML would keep the last of them in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *defaults
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _stumble(key_node, "a key must be text")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _stumble(key_node, f"the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # 2026-13-45
            kind = node.tag.rpartition(":")[2]
            problem = f"this is no {kind}; put it between quotes if it is text"
            raise _stumble(node, problem) from None


def _stumble(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Name the file with --config."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        tab = " Indent with spaces, not with tabs." if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{path}{where}: is not valid YAML: {error.problem}.{tab}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {str(error).splitlines()[0]}.") from None


def _expand(text: str, place: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            raise ConfigError(
                f"{place}: found '${{' without a name and '}}' after it, expected ${{NAME}}."
            )
        if not os.environ.get(name):
            raise ConfigError(
                f"{place}: the environment variable {name!r} is"
                f" {'empty' if name in os.environ else 'not set'}. Set it before the job starts, or"
                f" write the value in place of ${{{name}}}."
                + suggest(name, set(os.environ) - {name})
            )
        return os.environ[name]

    return VARIABLE.sub(value, text)


def _read_query(path: Path, place: str) -> str:
    try:
        # SQL Server's own editor begins a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        known = [file.name for file in path.parent.glob("*.sql")] if path.parent.is_dir() else []
        raise ConfigError(
            f"{place}: the query file {path} does not exist. Write it, or name the right one."
            + suggest(path.name, known)
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place}: the query file {path} is not UTF-8 text (byte {error.start}). Save it as"
            " UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{place}: the query file {path} cannot be read ({reason}). Name the right one."
        ) from None
    if not text.strip():
        raise ConfigError(
            f"{place}: the query file {path} is empty. Write the query, or name the right file."
        )
    return text


def _drop_doubles(items: list[Any]) -> list[Any]:
    """Without the missing keys that an unknown key beside them was meant to be.

    One mistake, one message.
    """
    missing = {item["loc"] for item in items if item["type"] == "missing"}
    meant = set()
    for item in items:
        if item["type"] == "extra_forbidden":
            beside = [str(loc[-1]) for loc in missing if loc[:-1] == item["loc"][:-1]]
            meant |= {
                (*item["loc"][:-1], name)
                for name in beside
                if f"{name!r}?" in suggest(str(item["loc"][-1]), beside)
            }
    return [item for item in items if item["type"] != "missing" or item["loc"] not in meant]


def _describe(path: Path, item: Any) -> str:
    """One line for one fault that pydantic found: file, path to the key, found, expected, mend."""
    location, found, kind = [str(step) for step in item["loc"]], item["input"], item["type"]
    expected = _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ")
    for words, plain in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater", "more"),
    ):
        expected = expected.replace(words, plain)
    if kind == "value_error":
        fault = item["ctx"]["error"]
        expected = str(fault)
        if isinstance(fault, _Fault):
            location, found = [*location, *fault.path], fault.found
    elif kind == "string_pattern_mismatch":
        expected = _EXPECTED[item["ctx"]["pattern"]]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        return (
            f"{_place(path, location)}: unknown key. Expected one of {', '.join(known)}."
            + suggest(location[-1], known)
        )
    if kind == "missing":
        return f"{_place(path, location)}: this key is missing. Add it."
    if location[-1:] == ["[key]"] or kind == "invalid_key":
        place = _place(path, location[: -1 if kind == "invalid_key" else -2])
        if not isinstance(found, str):
            expected = "text. Put the key between quotes" + (
                ": YAML reads yes, no, on and off as true and false" * isinstance(found, bool)
            )
        return f"{place}: found the key {_show(found, location)}, expected {expected}."
    end = "" if expected.endswith((".", "?")) else "."
    return (
        f"{_place(path, location)}: found {_show(found, location)}, expected"
        f" {expected}{end}{_mend(kind, found)}"
    )


def _place(path: Path, location: list[str]) -> str:
    keys = ".".join("(not shown)" if "://" in step else step for step in location)
    return f"{path}, {keys}" if keys else str(path)


def _mend(kind: str, found: object) -> str:
    """What to write instead, where that is plain."""
    if kind == "string_type" and isinstance(found, (int, float, bool)):
        return " Put it between quotes."
    if kind in ("int_type", "float_type") and isinstance(found, str):
        try:
            return f" Write it as {float(found):.15g}, without quotes."
        except ValueError:
            pass
    return ""


def _show(found: object, location: list[str]) -> str:
    """The value in a message, unless it may hold a database's address, and with it a password."""
    if found is None:
        return "nothing"
    text = repr(found)
    holds_address = location[:1] == ["environments"] and location[2:] in ([], ["database"])
    if not location or holds_address or "://" in text:
        return f"{_KINDS.get(type(found), 'a value')} that is not shown, as it may be secret"
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
