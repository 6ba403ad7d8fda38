"""The door to ml_config.yaml and to environment variables: read both, tell what is wrong."""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ConfigDict, SecretStr

from abatch import yaml_file
from abatch.errors import ConfigError, UsageError, suggest
from abatch.files import hash_bytes, refuse_pipe
from abatch.queries import Query
from abatch.sections import ExperimentSection, File, Retention
from abatch.yaml_file import HOST, fault, told

VARIABLE = re.compile(r"\$\{(\w+)\}|\$\{")
# Of dask's, whose own parser may not be installed here, and finds late what cannot be.
ADDRESS = re.compile(rf"(tcp|tls)://{HOST}:(\d{{1,5}})")


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
    spool_dir: Path
    bulk: bool
    isolation: str | None
    reports_dir: Path
    n_jobs: int
    backend: str
    scheduler: str | None
    timezone: str
    chunk_rows: int
    retry_seconds: int

    @property
    def place(self) -> str:
        """Its key, for messages."""
        return f"{self.file}, environments.{self.name}"

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
    sql : text of each query, by name, as `files` has them
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    name: str
    environment: Environment
    sql: dict[str, str]

    @property
    def files(self) -> dict[str, str]:
        """Files of the four queries and of the guardrails', by name.

        A guardrail's own watermark is named after it, as `complaints.watermark`.
        """
        files = dict(self.queries)
        for name, guardrail in self.guardrails.items():
            files[name] = guardrail.query
            if guardrail.watermark is not None:
                files[f"{name}.watermark"] = guardrail.watermark
        return files

    def key(self, path: str) -> str:
        """Where a key of this experiment stands, for messages."""
        return f"{self.environment.file}, experiments.{self.name}.{path}"

    def query(self, name: str) -> Query:
        """One of `files`."""
        return Query(self.files[name], self.sql[name])

    def describe(self) -> dict[str, Any]:
        """The settings, queries and time zone as JSON holds them; no secret is among them."""
        settings = self.model_dump(mode="json", exclude={"name", "environment"})
        return {**settings, "timezone": self.environment.timezone}

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
        with told("its config", ExperimentSection):
            section = ExperimentSection.model_validate_json(json.dumps(settings))
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


class Experiments(dict[str, Experiment]):
    """The experiments of a config in one environment, by name, in the file's order."""

    @property
    def environment(self) -> Environment:
        """The one that all are in."""
        return next(iter(self.values())).environment

    def choose(self, name: str | None) -> "Experiments":
        """All of them, or the one that is named; UsageError if there is none."""
        if name is None:
            return self
        if name not in self:
            expected = f"expected one of {', '.join(self)}.{suggest(name, self)}"
            raise UsageError(f"there is no experiment {name!r}; {expected}")
        return Experiments({name: self[name]})


def load_experiments(
    path: str | Path, environment: str | None = None, *, need_database: bool = True
) -> Experiments:
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
    file = yaml_file.read(path, File)
    chosen = _make_environment(path, file, environment, need_database)
    if str(chosen.folder) not in sys.path:
        sys.path.append(str(chosen.folder))  # where a user's own estimators live
    experiments = Experiments()
    for name, section in file.experiments.items():
        experiment = Experiment(**dict(section), name=name, environment=chosen, sql={})
        experiments[name] = experiment.model_copy(update={"sql": _read_queries(experiment)})
    return experiments


def _make_environment(
    path: Path, file: File, wanted: str | None, need_database: bool
) -> Environment:
    of_variable = os.environ.get("ABATCH_ENV")
    name = wanted if wanted is not None else of_variable or "dev"
    if name not in file.environments:
        source = " (from ABATCH_ENV)" if wanted is None else ""
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
    folders = {
        key: base / (_expand(text, f"{place}.{key}") or f"{key.removesuffix('_dir')}/{name}")
        for key, text in section
        if key.endswith("_dir")
    }
    return Environment(
        name=name,
        file=path,
        database=SecretStr(database),
        schema=section.db_schema,
        retention=section.retention,
        n_jobs=section.n_jobs,
        bulk=section.bulk,
        isolation=section.isolation,
        backend=section.backend,
        scheduler=section.scheduler and _read_address(section.scheduler, path, name),
        timezone=file.timezone,
        chunk_rows=file.chunk_rows,
        retry_seconds=file.retry_seconds,
        **folders,
    )


def _read_address(text: str, path: Path, environment: str) -> str:
    """The scheduler's address with its variables put in, whose values are not shown."""
    address = _expand(text, f"{path}, environments.{environment}.scheduler")
    parts = ADDRESS.fullmatch(address)
    if parts is None or not 1 <= int(parts[3]) <= 65535:
        expected = "the address of dask's scheduler, as tcp://host:8786 or tls://host:8786"
        expected += ", port 1 to 65535"
        if address != text:
            expected += ", once variables are put in"
        with told(path, File):
            raise fault(text, expected, "environments", environment, "scheduler")
    return address


def _read_queries(experiment: Experiment) -> dict[str, str]:
    """Text of the four queries and of the guardrails', by name."""
    texts = {}
    for name, file in experiment.files.items():
        key = f"queries.{name}"
        if (guardrail := name.removesuffix(".watermark")) in experiment.guardrails:
            key = f"guardrails.{guardrail}.{'query' if name == guardrail else 'watermark'}"
        path = experiment.environment.folder / file
        texts[name] = _read_query(path, experiment.key(key))
    return texts


def _expand(text: str, place: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            problem = "found '${' without a name and '}' after it, expected ${NAME}."
            raise ConfigError(f"{place}: {problem}")
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "not set"
            near = suggest(name, set(os.environ) - {name})
            raise ConfigError(
                f"{place}: the environment variable {name!r} is {state}. Set it before the job"
                f" starts, or write the value in place of ${{{name}}}.{near}"
            )
        return os.environ[name]

    return VARIABLE.sub(value, text)


def _read_query(path: Path, place: str) -> str:
    try:
        refuse_pipe(path)
        # SQL Server's own editor begins a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        if text.strip():
            return text
        problem = "is empty. Write the query, or name the right file."
    except FileNotFoundError:
        near = suggest(path.name, [file.name for file in path.parent.glob("*.sql")])
        problem = f"does not exist. Write it, or name the right one.{near}"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start}). Save it as UTF-8."
    except OSError as error:
        problem = f"cannot be read ({error.strerror}). Name the right one."
    raise ConfigError(f"{place}: the query file {path} {problem}")
