"""Configuration: what is right is read, and each mistake gives one message.

The message has file, key, found, expected, mend.
"""

import json
import os
import sys
import traceback
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from abatch.config import Experiment, load_experiments
from abatch.database.connections import make_engine
from abatch.database.faults import show_url
from abatch.errors import ConfigError, UsageError
from tests.conftest import ROOT

BASE = """\
timezone: Europe/Oslo
environments:
  dev:
    database: sqlite:///data/dev.db
  prod:
    database: ${PROBE_DATABASE}
experiments:
  card_offer:
    hypothesis: Calling those who rank highest helps.
    outcome: {kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01}
    queries: {training: sql/a.sql, candidates: sql/a.sql, outcomes: sql/a.sql, watermark: sql/a.sql}
    training: {days: 365}
    split: {A: 0.45, B: 0.45, control: 0.10}
    select_top: 0.20
    models:
      A: {name: modelA, version: "1.0", \
estimator: sklearn.linear_model.LogisticRegression, params: {C: 0.5}}
      B: {name: modelB, version: "1.0", estimator: my_models.make}
"""
SPLIT = "{A: 0.45, B: 0.45, control: 0.10}"
MODELS = BASE[BASE.index("    models:") :]
ENVIRONMENTS = BASE[BASE.index("environments:") : BASE.index("experiments:")]
EXPERIMENTS = BASE[BASE.index("experiments:") :]
TOP = "    select_top: 0.20\n"
CALLS = "calls: {query: sql/a.sql, kind: binary, direction: decrease, margin: 0.01}"
REVENUE = (
    "revenue: {query: sql/a.sql, kind: numeric, direction: increase, margin: 5.0, cap: 1000.0}"
)
GUARDED = f"{TOP}    guardrails: {{{CALLS}, {REVENUE}}}\n"
NAME = "a name of letters, digits and _ that begins with a letter, at most 64 of them"
URL = "postgresql+psycopg://bank:hunter2@127.0.0.1:1/bank"
HIDDEN = "text that is not shown, as it may be secret"
DATABASE = "sqlite:///data/dev.db"
EFFECT = "the difference that would matter"
ZONE = "the name of a time zone, such as 'Europe/Oslo'"
TWINS = "names that differ by more than upper and lower case"
ONCE = "a name used once, upper and lower case being the same"
SET_IT = "Set it before the job starts, or write the value in place of ${PROBE_DATABASE}"
KEYS_FILE = "Expected one of timezone, chunk_rows, retry_seconds, environments, experiments."
KEYS_ENV = (
    "Expected one of database, schema, models_dir, snapshots_dir, retention, logs_dir, spool_dir,"
    " bulk, isolation, reports_dir, n_jobs, backend, scheduler."
)
KEYS_EXPERIMENT = (
    "Expected one of hypothesis, outcome, queries, training, split, select_top, models,"
    " overnight_change, cohort, exposure, champion, verdicts, guardrails."
)
KEYS_OUTCOME = (
    "Expected one of kind, window_days, lag_days, grace_days, corrections, corrections_days,"
    " expected_effect, baseline, baseline_sd, cap."
)
KEYS_GUARDRAIL = "Expected one of query, kind, direction, margin, cap, watermark."
KEYS_TRAINING = (
    "Expected one of window, days, start_date, validation_share, seed, not_features, subgroups,"
    " retrain, max_auc_drop, min_rows, calibration_slope, max_input_psi."
)
KEYS_RETRAIN = "Expected one of min_days, max_days, new_rows, psi, auc_drop."
KEYS_RETENTION = "Expected one of snapshot_days, snapshot_gigabytes, model_days."
KEYS_MODEL = "Expected one of name, version, estimator, params."
NUMERIC_ONLY = (
    "expected nothing, since this key goes with kind numeric only. Leave it out, or change kind."
)
RATES = "expected a difference of two rates, more than -1 and less than 1."
QUESTIONS = "'models_vs_control' or 'challenger_vs_champion'"
MISSING_ONE = "expected verdicts that the variants allow, and there is no"
TAKEN = "another name: abatch uses this one itself"
DEV = "    database: sqlite:///data/dev.db\n"
DASK = f"{DEV}    backend: dask\n    scheduler: '{{}}'\n"
ADDRESS = "the address of dask's scheduler, as tcp://host:8786 or tls://host:8786, port 1 to 65535"
YES_NO = "Put the key between quotes: YAML reads yes, no, on and off as true and false"


@pytest.fixture(autouse=True)
def _no_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABATCH_ENV", raising=False)
    monkeypatch.delenv("PROBE_DATABASE", raising=False)


def write(folder: Path, content: str | bytes) -> Path:
    (folder / "sql").mkdir()
    (folder / "sql" / "a.sql").write_text("select 1", encoding="utf-8")
    path = folder / "ml_config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def change(old: str, new: str) -> str:
    assert BASE.count(old) >= 1, old
    return BASE.replace(old, new, 1)


def fail(folder: Path, content: str | bytes, environment: str | None = None) -> str:
    """The message of the one fault, without the file's path."""
    path = write(folder, content)
    with pytest.raises(ConfigError) as error:
        load_experiments(path, environment)
    assert str(error.value).startswith(str(path))
    assert "hunter2" not in str(error.value)
    return str(error.value).removeprefix(str(path))


def test_load_configs_own_file() -> None:
    experiments = load_experiments(ROOT / "ml_config.yaml", "dev")
    experiment = experiments["card_offer"]
    assert list(experiments) == ["card_offer"]
    assert list(experiment.split.items()) == [("A", 0.45), ("B", 0.45), ("control", 0.1)]
    assert experiment.sql["training"] == (ROOT / "sql" / "card_offer" / "training.sql").read_text(
        encoding="utf-8"
    )


def test_load_configs_relative_paths_follow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "project", BASE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    experiment = load_experiments("../project/ml_config.yaml")["card_offer"]
    assert (experiment.environment.models_dir, experiment.environment.logs_dir) == (
        tmp_path / "project" / "models" / "dev",
        tmp_path / "project" / "logs" / "dev",
    )
    assert experiment.environment.spool_dir == tmp_path / "project" / "spool" / "dev"
    assert experiment.environment.reports_dir == tmp_path / "project" / "reports" / "dev"
    assert str(tmp_path / "project") in sys.path  # where own estimators are looked for
    assert experiment.sql["training"] == "select 1"


def test_load_configs_defaults(tmp_path: Path) -> None:
    text = (
        change("timezone: Europe/Oslo\n", "")
        .replace("    training: {days: 365}\n", "")
        .replace(", lag_days: 1", "")
    )
    experiment = load_experiments(write(tmp_path, text))["card_offer"]
    assert (
        experiment.environment.name,
        experiment.environment.timezone,
        experiment.environment.chunk_rows,
        experiment.environment.schema,
    ) == (
        "dev",
        "UTC",
        50_000,
        None,
    )
    training, settings = experiment.training, experiment
    assert (training.days, training.validation_share, training.max_auc_drop, training.seed) == (
        365,
        0.2,
        0.02,
        0,
    )
    assert (settings.outcome.lag_days, settings.cohort, settings.models["B"].params) == (
        0,
        "week",
        {},
    )
    assert settings.overnight_change == "warn"
    outcome = settings.outcome
    assert (outcome.grace_days, outcome.baseline, outcome.baseline_sd, outcome.cap) == (
        7,
        None,
        None,
        None,
    )
    assert (settings.exposure, settings.champion, settings.verdicts, settings.guardrails) == (
        "first",
        None,
        None,
        {},
    )


def test_load_configs_numeric_outcome_and_choices(tmp_path: Path) -> None:
    outcome = (
        "{kind: numeric, window_days: 14, grace_days: 0, expected_effect: -25, baseline: -3,"
        " baseline_sd: 80, cap: 500}"
    )
    text = change("{kind: binary, window_days: 14, lag_days: 1, expected_effect: 0.01}", outcome)
    text = text.replace(
        TOP,
        f"{TOP}    exposure: all\n    champion: B\n    verdicts: [challenger_vs_champion]\n   "
        " cohort: month\n",
    )
    settings = load_experiments(write(tmp_path, text))["card_offer"]
    found = settings.outcome
    assert (found.kind, found.grace_days, found.expected_effect) == ("numeric", 0, -25.0)
    assert (found.baseline, found.baseline_sd, found.cap) == (-3.0, 80.0, 500.0)
    assert (settings.exposure, settings.champion, settings.cohort) == ("all", "B", "month")
    assert settings.verdicts == ["challenger_vs_champion"]


def test_load_configs_calibration_slope_without_an_end(tmp_path: Path) -> None:
    text = change("{days: 365}", "{days: 365, calibration_slope: [0.5, .inf]}")
    experiment = load_experiments(write(tmp_path, text))["card_offer"]
    assert experiment.training.calibration_slope == [0.5, float("inf")]


def test_load_configs_guardrails_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        change(
            TOP, GUARDED.replace("revenue: {query: sql/a.sql", "revenue: {query: sql/revenue.sql")
        ),
    )
    (tmp_path / "sql" / "revenue.sql").write_text("select 'Ærø'", encoding="utf-8")
    experiment = load_experiments(path)["card_offer"]
    assert list(experiment.sql) == [
        "training",
        "candidates",
        "outcomes",
        "watermark",
        "calls",
        "revenue",
    ]
    assert (experiment.sql["calls"], experiment.sql["revenue"]) == ("select 1", "select 'Ærø'")
    assert (experiment.query("revenue").file, experiment.query("outcomes").file) == (
        "sql/revenue.sql",
        "sql/a.sql",
    )
    calls, revenue = experiment.guardrails.values()
    assert (calls.kind, calls.direction, calls.margin, calls.cap) == (
        "binary",
        "decrease",
        0.01,
        None,
    )
    assert (revenue.kind, revenue.direction, revenue.margin, revenue.cap) == (
        "numeric",
        "increase",
        5.0,
        1000.0,
    )


def test_load_configs_guardrail_query_missing(tmp_path: Path) -> None:
    missing = (
        "the query file {} does not exist. Write it, or name the right one. Did you mean 'a.sql'?"
    )
    text = change(TOP, GUARDED.replace("revenue: {query: sql/a.sql", "revenue: {query: sql/b.sql"))
    assert fail(
        tmp_path, text
    ) == ", experiments.card_offer.guardrails.revenue.query: " + missing.format(
        tmp_path / "sql" / "b.sql"
    )


# What is changed, the key that the message must name (a leading dot stands for
# experiments.card_offer), the rest of the message.
MISTAKES = [
    # Unknown keys, at every level, and keys that are missing.
    ("timezone:", "time_zone:", "time_zone", f"unknown key. {KEYS_FILE} Did you mean 'timezone'?"),
    (
        "    database: sqlite",
        "    databse: sqlite",
        "environments.dev.databse",
        f"unknown key. {KEYS_ENV} Did you mean 'database'?",
    ),
    (
        "  dev:\n",
        "  dev:\n    db_schema: x\n",
        "environments.dev.db_schema",
        f"unknown key. {KEYS_ENV} Did you mean 'schema'?",
    ),
    (
        "select_top",
        "selecttop",
        ".selecttop",
        f"unknown key. {KEYS_EXPERIMENT} Did you mean 'select_top'?",
    ),
    (
        "lag_days",
        "lagdays",
        ".outcome.lagdays",
        f"unknown key. {KEYS_OUTCOME} Did you mean 'lag_days'?",
    ),
    (
        "days: 365",
        "dayz: 365",
        ".training.dayz",
        f"unknown key. {KEYS_TRAINING} Did you mean 'days'?",
    ),
    (
        "days: 365",
        "retrain: {max_day: 30}",
        ".training.retrain.max_day",
        f"unknown key. {KEYS_RETRAIN} Did you mean 'max_days'?",
    ),
    (
        "  dev:\n",
        "  dev:\n    retention: {model_day: 30}\n",
        "environments.dev.retention.model_day",
        f"unknown key. {KEYS_RETENTION} Did you mean 'model_days'?",
    ),
    (
        "  dev:\n",
        "  dev:\n    retention: {model_days: 1000000000}\n",
        "environments.dev.retention.model_days",
        "found 1000000000, expected at most 36500.",
    ),
    ("params:", "parms:", ".models.A.parms", f"unknown key. {KEYS_MODEL} Did you mean 'params'?"),
    (
        "timezone: Europe/Oslo",
        "1: x",
        "",
        "found the key 1, expected text. Put the key between quotes.",
    ),
    (EXPERIMENTS, "", "experiments", "this key is missing. Add it."),
    (MODELS, "", ".models", "this key is missing. Add it."),
    ("kind: binary, ", "", ".outcome.kind", "this key is missing. Add it."),
    # Wrong types and null sections.
    (
        'modelB, version: "1.0"',
        "modelB, version: 1.0",
        ".models.B.version",
        "found 1.0, expected text. Put it between quotes.",
    ),
    (SPLIT, "[A, B]", ".split", "found ['A', 'B'], expected keys with values."),
    (SPLIT, "", ".split", "found nothing, expected keys with values."),
    (SPLIT, "{}", ".split", "found {}, expected at least one entry."),
    (MODELS, "    models:\n", ".models", "found nothing, expected keys with values."),
    (MODELS, "    models: {}\n", ".models", "found {}, expected at least one entry."),
    (EXPERIMENTS, "experiments:\n", "experiments", "found nothing, expected keys with values."),
    (
        EXPERIMENTS,
        "experiments:\n  card_offer:\n",
        "experiments.card_offer",
        "found nothing, expected keys with values.",
    ),
    (
        ENVIRONMENTS,
        "environments: dev\n",
        "environments",
        f"found {HIDDEN}, expected keys with values.",
    ),
    (
        ENVIRONMENTS,
        "environments:\n  dev:\n",
        "environments.dev",
        "found nothing, expected keys with values.",
    ),
    ("{C: 0.5}", "[0.5]", ".models.A.params", "found [0.5], expected keys with values."),
    (
        "estimator: my_models.make",
        "estimator:",
        ".models.B.estimator",
        "found nothing, expected text.",
    ),
    (
        "days: 14",
        'days: "14"',
        ".outcome.window_days",
        "found '14', expected a whole number. Write it as 14, without quotes.",
    ),
    ("days: 14", "days: true", ".outcome.window_days", "found True, expected a whole number."),
    (
        "days: 14",
        "days: 1e300",
        ".outcome.window_days",
        "found '1e300', expected a whole number.",
    ),
    (
        "  dev:\n",
        "  dev:\n    bulk: 1\n",
        "environments.dev.bulk",
        "found 1, expected true or false.",
    ),
    (
        "days: 14",
        "days: 2026-01-31",
        ".outcome.window_days",
        "found datetime.date(2026, 1, 31), expected a whole number.",
    ),
    (
        "effect: 0.01",
        "effect: 1e-2",
        ".outcome.expected_effect",
        "found '1e-2', expected a number. Write it as 0.01, without quotes.",
    ),
    (
        "kind: binary",
        "kind: count",
        ".outcome.kind",
        "found 'count', expected 'binary' or 'numeric'.",
    ),
    # Values out of range; nan is in no range.
    (
        "days: 14",
        "days: 14, grace_days: -1",
        ".outcome.grace_days",
        "found -1, expected at least 0.",
    ),
    ("effect: 0.01", "effect: 1", ".outcome.expected_effect", f"found 1.0, {RATES}"),
    ("effect: 0.01", "effect: -1.5", ".outcome.expected_effect", f"found -1.5, {RATES}"),
    ("binary,", "numeric, cap: 0,", ".outcome.cap", "found 0, expected more than 0."),
    (
        "binary,",
        "numeric, cap: 0.01,",
        ".outcome.expected_effect",
        "found 0.01, expected a difference of means smaller than cap, 0.01, beyond which no amount"
        " counts.",
    ),
    ("binary,", "numeric, cap: .inf,", ".outcome.cap", "found inf, expected a finite number."),
    (
        "binary,",
        "numeric, baseline_sd: 0.0,",
        ".outcome.baseline_sd",
        "found 0.0, expected more than 0.",
    ),
    (
        "binary,",
        "numeric, baseline: .nan,",
        ".outcome.baseline",
        "found nan, expected a finite number.",
    ),
    (
        "binary,",
        "binary, baseline: 2,",
        ".outcome.baseline",
        "found 2.0, expected a rate, more than 0 and less than 1.",
    ),
    (
        "binary,",
        "binary, baseline: 0,",
        ".outcome.baseline",
        "found 0.0, expected a rate, more than 0 and less than 1.",
    ),
    (
        "days: 365",
        "days: 365, validation_share: .nan",
        ".training.validation_share",
        "found nan, expected a finite number.",
    ),
    # Keys of a numeric outcome where it is binary.
    ("binary,", "binary, cap: 100,", ".outcome.cap", f"found 100.0, {NUMERIC_ONLY}"),
    ("binary,", "binary, baseline_sd: 0.3,", ".outcome.baseline_sd", f"found 0.3, {NUMERIC_ONLY}"),
    # What is compared.
    (TOP, f"{TOP}    exposure: last\n", ".exposure", "found 'last', expected 'first' or 'all'."),
    (
        TOP,
        f"{TOP}    champion: control\n",
        ".champion",
        "found 'control', expected a variant that has a model: A, B.",
    ),
    (
        TOP,
        f"{TOP}    champion: a\n",
        ".champion",
        "found 'a', expected a variant that has a model: A, B.",
    ),
    (TOP, f"{TOP}    champion: [A]\n", ".champion", "found ['A'], expected text."),
    (TOP, f"{TOP}    verdicts: []\n", ".verdicts", "found [], expected at least one entry."),
    (
        TOP,
        f"{TOP}    verdicts: models_vs_control\n",
        ".verdicts",
        "found 'models_vs_control', expected a list.",
    ),
    (TOP, f"{TOP}    verdicts: [all]\n", ".verdicts.0", f"found 'all', expected {QUESTIONS}."),
    # Workers.
    (DEV, f"{DEV}    n_jobs: 0\n", "environments.dev.n_jobs", "found 0, expected at least 1."),
    (
        DEV,
        f"{DEV}    backend: ray\n",
        "environments.dev.backend",
        "found 'ray', expected 'loky' or 'dask'.",
    ),
    (
        DEV,
        f"{DEV}    backend: dask\n",
        "environments.dev.scheduler",
        "found nothing, expected the address of dask's scheduler, as tcp://host:8786, since"
        " backend is dask.",
    ),
    (
        DEV,
        f"{DEV}    scheduler: host:8786\n",
        "environments.dev.scheduler",
        "found 'host:8786', expected nothing, since it goes with backend dask only. Leave it out,"
        " or add the backend.",
    ),
    (
        DEV,
        f"{DEV}    scheduler: tcp://10.0.0.5:8786\n",
        "environments.dev.scheduler",
        "found 'tcp://10.0.0.5:8786', expected nothing, since it goes with backend dask only."
        " Leave it out, or add the backend.",
    ),
    (
        DEV,
        f"{DEV}    scheduler: tcp://bank:hunter2@10.0.0.5:8786\n",
        "environments.dev.scheduler",
        f"found {HIDDEN}, expected nothing, since it goes with backend dask only. Leave it out, or"
        " add the backend.",
    ),
    (
        DEV,
        f"{DEV}    backend: dask\n    scheduler: host:8786\n    n_jobs: 2\n",
        "environments.dev.n_jobs",
        "found 2, expected nothing, since dask's cluster has the workers that it has. Leave it"
        " out.",
    ),
    # Guardrails.
    (TOP, f"{TOP}    guardrails:\n", ".guardrails", "found nothing, expected keys with values."),
    (
        TOP,
        GUARDED.replace("margin: 5.0, ", ""),
        ".guardrails.revenue.margin",
        "this key is missing. Add it.",
    ),
    (
        TOP,
        GUARDED.replace("cap:", "capp:"),
        ".guardrails.revenue.capp",
        f"unknown key. {KEYS_GUARDRAIL} Did you mean 'cap'?",
    ),
    (
        TOP,
        GUARDED.replace("5.0", "0"),
        ".guardrails.revenue.margin",
        "found 0, expected more than 0.",
    ),
    (
        TOP,
        GUARDED.replace("0.01", "1"),
        ".guardrails.calls.margin",
        "found 1.0, expected a difference of two rates, less than 1.",
    ),
    (
        TOP,
        GUARDED.replace("0.01", "0.01, cap: 2"),
        ".guardrails.calls.cap",
        f"found 2.0, {NUMERIC_ONLY}",
    ),
    (
        TOP,
        GUARDED.replace("decrease", "down"),
        ".guardrails.calls.direction",
        "found 'down', expected 'increase' or 'decrease'.",
    ),
    (
        TOP,
        GUARDED.replace("calls:", "no-calls:"),
        ".guardrails",
        f"found the key 'no-calls', expected {NAME}.",
    ),
    (
        TOP,
        GUARDED.replace("calls:", "Revenue:"),
        ".guardrails.revenue",
        f"found 'revenue', expected {TWINS}, and there is 'Revenue' too.",
    ),
    (
        TOP,
        GUARDED.replace("calls:", "Outcome:"),
        ".guardrails.Outcome",
        f"found 'Outcome', expected {TAKEN}.",
    ),
    (
        TOP,
        GUARDED.replace("calls:", "training:"),
        ".guardrails.training",
        f"found 'training', expected {TAKEN}.",
    ),
    (
        TOP,
        GUARDED.replace("calls:", "variant:"),
        ".guardrails.variant",
        f"found 'variant', expected {TAKEN}.",
    ),
    ("days: 14", "days: 0", ".outcome.window_days", "found 0, expected at least 1."),
    (
        "days: 14",
        "days: 99999999",
        ".outcome.window_days",
        "found 99999999, expected at most 3650.",
    ),
    (
        "effect: 0.01",
        "effect: .nan",
        ".outcome.expected_effect",
        "found nan, expected a finite number.",
    ),
    (
        "effect: 0.01",
        "effect: 0",
        ".outcome.expected_effect",
        f"found 0, expected an effect other than 0: {EFFECT}.",
    ),
    ("top: 0.20", "top: .inf", ".select_top", "found inf, expected a finite number."),
    ("top: 0.20", "top: 20", ".select_top", "found 20, expected at most 1."),
    ("timezone: Europe/Oslo", "chunk_rows: 0", "chunk_rows", "found 0, expected at least 1."),
    (
        "/Oslo",
        "/Olso",
        "timezone",
        f"found 'Europe/Olso', expected {ZONE}. Did you mean 'Europe/Oslo'?",
    ),
    # The split, and models of its variants.
    (
        SPLIT,
        "{A: .5, B: .51}",
        ".split",
        "found {'A': 0.5, 'B': 0.51}, expected shares that sum to 1, but they sum to 1.01.",
    ),
    ("control: 0.10", "control: 0", ".split.control", "found 0, expected more than 0."),
    ("control: 0.10", "control: -0.1", ".split.control", "found -0.1, expected more than 0."),
    ("control: 0.10", "control: .nan", ".split.control", "found nan, expected a finite number."),
    (
        "control: 0.10",
        "1: 0.10",
        ".split",
        "found the key 1, expected text. Put the key between quotes.",
    ),
    ("control: 0.10", "no: 0.10", ".split", f"found the key False, expected text. {YES_NO}."),
    ("control: 0.10", "no-call: 0.10", ".split", f"found the key 'no-call', expected {NAME}."),
    ("control: 0.10", "a: 0.10", ".split.a", f"found 'a', expected {TWINS}, and there is 'A' too."),
    (
        "      B: {",
        "      Bb: {",
        ".models.Bb",
        "found 'Bb', expected a variant of the split: A, B, control. Did you mean 'B'?",
    ),
    # Names.
    ("card_offer:", "card-offer:", "experiments", f"found the key 'card-offer', expected {NAME}."),
    ("card_offer:", "card offer:", "experiments", f"found the key 'card offer', expected {NAME}."),
    ("card_offer:", '"card\\n":', "experiments", f"found the key 'card\\n', expected {NAME}."),
    ("card_offer:", "yes:", "experiments", f"found the key True, expected text. {YES_NO}."),
    ("name: modelB", "name: ../b", ".models.B.name", f"found '../b', expected {NAME}."),
    (
        "name: modelB",
        "name: MODELA",
        ".models.B.name",
        f"found 'MODELA', expected {ONCE}, but experiments.card_offer.models.A has it.",
    ),
    (
        'B, version: "1.0"',
        'B, version: "1/0"',
        ".models.B.version",
        "found '1/0', expected letters, digits and dots, at most 20 of them.",
    ),
    (
        "  dev:\n",
        "  dev:\n    schema: a.b\n",
        "environments.dev.schema",
        f"found 'a.b', expected {NAME}.",
    ),
    # Variables.
    (
        DATABASE,
        "${}",
        "environments.dev.database",
        "found '${' without a name and '}' after it, expected ${NAME}.",
    ),
    (
        DATABASE,
        "x${HOME",
        "environments.dev.database",
        "found '${' without a name and '}' after it, expected ${NAME}.",
    ),
    (
        DATABASE,
        "${PROBE_DATABASE}",
        "environments.dev.database",
        f"the environment variable 'PROBE_DATABASE' is not set. {SET_IT}.",
    ),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), MISTAKES)
def test_load_configs_wrong_key_or_value(
    tmp_path: Path, old: str, new: str, key: str, message: str
) -> None:
    place = f"experiments.card_offer{key}" if key.startswith(".") else key
    assert fail(tmp_path, change(old, new)) == f"{', ' if key else ''}{place}: {message}"


# What RFC 3986 calls an authority, without a user; a port is a number of 16 bits.
@pytest.mark.parametrize("is_variable", [False, True])
@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:1", "tls://scheduler.bank.example:65535", "tcp://[fe80::1%eth0]:8786"],
)
def test_load_configs_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, is_variable: bool
) -> None:
    monkeypatch.setenv("PROBE_SCHEDULER", address)
    text = change(DEV, DASK.format("${PROBE_SCHEDULER}" if is_variable else address))
    assert load_experiments(write(tmp_path, text), "dev").environment.scheduler == address


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        *((address, repr(address)) for address in ("foo", "host:8786", "http://host:8786")),
        *((f"tcp://host{end}", repr(f"tcp://host{end}")) for end in ("", ":0", ":65536", ":99999")),
        *((f"tcp://{place}", HIDDEN) for place in ("", ":8786", "host:8786/", "::1:8786", "a b:1")),
        ("tcp://bank:hunter2@host:8786", HIDDEN),
    ],
)
def test_load_configs_scheduler_without_an_address(
    tmp_path: Path, address: str, shown: str
) -> None:
    place = ", environments.dev.scheduler"
    assert fail(tmp_path, change(DEV, DASK.format(address))) == (
        f"{place}: found {shown}, expected {ADDRESS}."
    )


def test_load_configs_scheduler_of_a_variable_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_SCHEDULER", "hunter2")
    assert fail(tmp_path, change(DEV, DASK.format("${PROBE_SCHEDULER}"))) == (
        ", environments.dev.scheduler: found '${PROBE_SCHEDULER}', expected"
        f" {ADDRESS}, once variables are put in."
    )


@pytest.mark.parametrize(
    ("split", "verdict", "missing"),
    [
        ("{A: 0.5, B: 0.5}", "models_vs_control", "variant without a model"),
        (SPLIT, "challenger_vs_champion", "second model"),
    ],
)
def test_load_configs_verdict_that_cannot_be(
    tmp_path: Path, split: str, verdict: str, missing: str
) -> None:
    text = change(SPLIT, split).replace(TOP, f"{TOP}    verdicts: [{verdict}]\n")
    if missing == "second model":
        text = text[: text.index("      B: {name")]
    assert (
        fail(tmp_path, text)
        == f", experiments.card_offer.verdicts: found {verdict!r}, {MISSING_ONE} {missing}. Leave"
        " it out."
    )


TEN = "write it in base 10, or between quotes if it is text"
QUOTE = "put it between quotes if it is text"
TAB = "found character '\\t' that cannot start any token. Indent with spaces, not with tabs."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": found nothing, expected keys with values."),
        (
            "- a\n",
            ": found a list that is not shown, as it may be secret, expected keys with values.",
        ),
        (bytes(range(256)), ": is not UTF-8 text (byte 128). Save it as UTF-8."),
        (
            b"a: b\0",
            (
                ": is not valid YAML: unacceptable character #x0000: special characters are not"
                " allowed."
            ),
        ),
        (
            BASE + "---\na: 1\n",
            ", line 18, column 1: is not valid YAML: but found another document.",
        ),
        (
            change("    select_top", "\tselect_top"),
            f", line 14, column 1: is not valid YAML: {TAB}",
        ),
        (
            change("    split", "    select_top: 0.3\n    split"),
            ", line 15, column 5: is not valid YAML: the key 'select_top' is written twice.",
        ),
        (
            change("  prod:", "  dev:"),
            ", line 5, column 3: is not valid YAML: the key 'dev' is written twice.",
        ),
        (
            change("{days: 365}", "{days: 365"),
            ", line 13, column 10: is not valid YAML: expected ',' or '}', but got ':'.",
        ),
        (
            change("days: 365", "days: 2026-13-45"),
            f", line 12, column 22: is not valid YAML: this is no timestamp; {QUOTE}.",
        ),
        (
            change("{days: 365}", "{[days]: 365}"),
            ", line 12, column 16: is not valid YAML: a key must be text.",
        ),
        (  # what YAML 1.1 reads as 8, 90 and 90.5
            change("days: 365", "days: 010"),
            f", line 12, column 22: is not valid YAML: YAML reads 010 in base 8; {TEN}.",
        ),
        (
            change("days: 365", "days: 1:30"),
            f", line 12, column 22: is not valid YAML: YAML reads 1:30 in base 60; {TEN}.",
        ),
        (
            change("select_top: 0.20", "select_top: 1:30.5"),
            f", line 14, column 17: is not valid YAML: YAML reads 1:30.5 in base 60; {TEN}.",
        ),
        (
            change("{C: 0.5}", "&own {C: *own}"),
            ", line 16, column 101: is not valid YAML: this part holds itself.",
        ),
        (
            change("sqlite:///data/dev.db", '"sqlite:///d\\0.db"'),
            ", line 4, column 15: is not valid YAML: a text has a NUL character, which no path and"
            " no database takes.",
        ),
    ],
)
def test_load_configs_not_yaml(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert fail(tmp_path, content) == message


def test_load_configs_nested_too_deeply(tmp_path: Path) -> None:
    assert fail(tmp_path, "[" * 5000).startswith(
        ": is not valid YAML: maximum recursion depth exceeded"
    )


def test_load_configs_yaml_merge_is_no_double_key(tmp_path: Path) -> None:
    text = change(
        ENVIRONMENTS,
        "environments:\n  dev: &dev {database: sqlite:///a.db, schema: one}\n  test: {<<: *dev,"
        " schema: two}\n",
    )
    experiment = load_experiments(write(tmp_path, text), "test")["card_offer"]
    assert (experiment.environment.database.get_secret_value(), experiment.environment.schema) == (
        "sqlite:///a.db",
        "two",
    )


def test_load_configs_several_mistakes_one_line_each(tmp_path: Path) -> None:
    lines = fail(
        tmp_path,
        change("window_days: 14", "window_days: 0, x: 3").replace(
            "select_top: 0.20", "select_top: 2"
        ),
    ).splitlines()
    assert [line.split(":")[0].rpartition(".")[2] for line in lines] == [
        "window_days",
        "x",
        "select_top",
    ]


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere.yaml", "No such file or directory"), (".", "Is a directory")]
)
def test_load_configs_no_file(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiments(tmp_path / name)
    assert (
        str(error.value)
        == f"{tmp_path / name}: cannot be read ({reason}). Name the file with --config."
    )


def test_load_configs_same_model_in_two_experiments(tmp_path: Path) -> None:
    second = (
        BASE[BASE.index("  card_offer:") :]
        .replace("card_offer", "renewal")
        .replace("modelB", "modelC")
    )
    assert (
        fail(tmp_path, BASE + second)
        == ", experiments.renewal.models.A.name: found 'modelA', expected a name used once, upper"
        " and lower case being the same, but experiments.card_offer.models.A has it."
    )


def test_load_configs_two_experiments_in_the_files_order(tmp_path: Path) -> None:
    second = (
        BASE[BASE.index("  card_offer:") :]
        .replace("card_offer", "a_second")
        .replace("modelB", "modelC")
        .replace("modelA", "modelD")
    )
    assert list(load_experiments(write(tmp_path, BASE + second))) == ["card_offer", "a_second"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "sql/b.sql",
            None,
            (
                "the query file {} does not exist. Write it, or name the right one. Did you mean"
                " 'a.sql'?"
            ),
        ),
        ("sqll/a.sql", None, "the query file {} does not exist. Write it, or name the right one."),
        ("sql", None, "the query file {} cannot be read (Is a directory). Name the right one."),
        (
            "sql/c.sql",
            b"select '\xe5'",
            "the query file {} is not UTF-8 text (byte 8). Save it as UTF-8.",
        ),
        (
            "sql/c.sql",
            b" \n",
            "the query file {} is empty. Write the query, or name the right file.",
        ),
    ],
)
def test_load_configs_query_file(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = write(tmp_path, change("outcomes: sql/a.sql", f"outcomes: {name}"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_experiments(path)
    place = f"{path}, experiments.card_offer.queries.outcomes"
    assert str(error.value) == f"{place}: {message.format(tmp_path / name)}"


def test_load_configs_query_with_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    (tmp_path / "sql" / "a.sql").write_bytes(b"\xef\xbb\xbfselect 'K\xc3\xb8ge'")
    assert load_experiments(path)["card_offer"].sql["training"] == "select 'Køge'"


def test_load_configs_variable_of_another_environment_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    assert (
        load_experiments(path, "dev")["card_offer"].environment.database.get_secret_value()
        == "sqlite:///data/dev.db"
    )
    with pytest.raises(
        ConfigError,
        match=(
            r"environments\.prod\.database: the environment variable 'PROBE_DATABASE' is not set\."
        ),
    ):
        load_experiments(path, "prod")


def test_load_configs_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path,
        change("${PROBE_DATABASE}", "sqlite:///${PROBE_DATABASE}/bank_${PROBE_DATABASE}.db"),
    )
    monkeypatch.setenv("PROBE_DATABASE", "x")
    assert (
        load_experiments(path, "prod")["card_offer"].environment.database.get_secret_value()
        == "sqlite:///x/bank_x.db"
    )
    monkeypatch.setenv("PROBE_DATABASE", "")
    with pytest.raises(ConfigError, match="the environment variable 'PROBE_DATABASE' is empty"):
        load_experiments(path, "prod")
    monkeypatch.setenv("PROBE_DATABASES", "sqlite:///hunter2")
    monkeypatch.delenv("PROBE_DATABASE")
    with pytest.raises(ConfigError, match=r"is not set.*Did you mean 'PROBE_DATABASES'\?$"):
        load_experiments(path, "prod")


def test_load_configs_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, BASE)
    monkeypatch.setenv("PROBE_DATABASE", "sqlite:///prod.db")
    monkeypatch.setenv("ABATCH_ENV", "prod")
    assert load_experiments(path)["card_offer"].environment.name == "prod"
    assert load_experiments(path, "dev")["card_offer"].environment.name == "dev"
    monkeypatch.setenv("ABATCH_ENV", "")
    assert load_experiments(path)["card_offer"].environment.name == "dev"
    monkeypatch.setenv("ABATCH_ENV", "prd")
    with pytest.raises(UsageError) as error:
        load_experiments(path)
    assert (
        str(error.value)
        == f"{path}, environments: there is no environment 'prd' (from ABATCH_ENV); expected one of"
        " dev, prod. Did you mean 'prod'?"
    )
    with pytest.raises(
        UsageError, match=r"there is no environment 'qa'; expected one of dev, prod\.$"
    ):
        load_experiments(path, "qa")
    with pytest.raises(UsageError, match=r"there is no environment ''; expected one of dev"):
        load_experiments(path, "")  # as of --env "$ENV", which is not set


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("database: sqlite:///data/dev.db", f"databse: {URL}"),
        ("database: sqlite:///data/dev.db", f"database: [{URL}]"),
        ("database: sqlite:///data/dev.db", f"database: {{url: '{URL}'}}"),
        ("database: sqlite:///data/dev.db", f"database: sqlite:///x\n    schema: {URL}"),
        ("database: sqlite:///data/dev.db", f'database: "{URL}'),
        ("database: sqlite:///data/dev.db", f"{{'{URL}': }}"),
        ("\n    database: sqlite:///data/dev.db", f" {URL}"),
        ("timezone: Europe/Oslo", f"timezone: {URL}"),
        ("select_top: 0.20", f"select_top: {URL}"),
        ("database: sqlite:///data/dev.db", f"database: {URL}\nextra: 1"),
        ("database: sqlite:///data/dev.db", f"database: {URL}?a=${{PROBE_DATABASE}}"),
        ("modelB", "modelA"),
        (ENVIRONMENTS, f"environments: {URL}\n"),
        (BASE, URL),
    ],
)
def test_load_configs_never_shows_a_secret(tmp_path: Path, old: str, new: str) -> None:
    text = change(old, new).replace("sqlite:///data/dev.db", URL)
    fail(tmp_path, text)  # asserts it


def test_config_repr_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_DATABASE", URL)
    experiment = load_experiments(write(tmp_path, BASE), "prod")["card_offer"]
    assert experiment.environment.database.get_secret_value() == URL
    assert "hunter2" not in repr(experiment) + str(experiment) + repr(vars(experiment))


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "postgresql+psycopg://bank:hunter2@host:port/bank",
        "postgresql+psycopg://bank:p@hunter2@host/bank",
        "postgresql+psycopg://bank:p@host/hunter2@host/bank",
        "postgresql+psycopg://bank:hunter2@[::1/bank",
        "postgresq://bank:hunter2@host/bank",
        "mysql+nosuch://bank:hunter2@host/bank",
        "sqlite://:hunter2@/x.db",
    ],
)
def test_make_engine_broken_url_is_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^ml_config\.yaml, environments\.prod\.database: "
    ) as error:
        make_engine(SecretStr(url), None, tmp_path, "ml_config.yaml, environments.prod.database")
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_show_url_hides_password_and_options(tmp_path: Path) -> None:
    engine = make_engine(SecretStr(f"{URL}?password=hunter2"), None, tmp_path, "place")
    assert show_url(engine) == "postgresql+psycopg://bank:***@127.0.0.1:1/bank"


def load_oslo(folder: Path) -> Experiment:
    return load_experiments(write(folder, BASE))["card_offer"]


def test_today_is_the_business_day(tmp_path: Path) -> None:
    experiment = load_oslo(tmp_path)
    # Oslo is one hour before UTC in winter, two in summer.
    assert experiment.environment.today(datetime(2026, 11, 22, 22, 59, tzinfo=UTC)) == date(
        2026, 11, 22
    )
    assert experiment.environment.today(datetime(2026, 11, 22, 23, 0, tzinfo=UTC)) == date(
        2026, 11, 23
    )
    assert experiment.environment.today(datetime(2026, 7, 1, 22, 0, tzinfo=UTC)) == date(2026, 7, 2)


def test_as_of_is_now_today_else_the_end_of_the_day(tmp_path: Path) -> None:
    experiment = load_oslo(tmp_path)
    now = datetime(2026, 11, 23, 3, 30, tzinfo=UTC)
    assert experiment.environment.as_of(date(2026, 11, 23), now) == datetime(2026, 11, 23, 3, 30)
    assert experiment.environment.as_of(date(2026, 11, 20), now) == datetime(
        2026, 11, 20, 22, 59, 59, 999999
    )
    assert experiment.environment.as_of(date(2026, 7, 1), now) == datetime(
        2026, 7, 1, 21, 59, 59, 999999
    )


def test_key_names_file_and_path(tmp_path: Path) -> None:
    experiment = load_oslo(tmp_path)
    assert (
        experiment.key("models.A")
        == f"{tmp_path / 'ml_config.yaml'}, experiments.card_offer.models.A"
    )
    assert experiment.query("training").file == os.path.join("sql", "a.sql")


def test_restore_is_what_was_described() -> None:
    """Also parameters with whole numbers as keys, of which JSON makes texts."""
    offer = load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"]
    params = {"class_weight": {0: 1, 1: 5}, "C": 0.5}
    models = {**offer.models, "A": offer.models["A"].model_copy(update={"params": params})}
    offer = offer.model_copy(update={"models": models})
    described = json.loads(json.dumps(offer.describe()))
    again = Experiment.restore(described, offer.name, offer.environment)
    assert again == offer
    assert again.hash() == offer.hash()


def test_restore_what_this_abatch_would_not_take() -> None:
    offer = load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"]
    described = offer.describe()
    described["training"]["validation_share"] = 2
    message = r"^its config, training\.validation_share: found 2, expected less than 1\.$"
    with pytest.raises(ConfigError, match=message):
        Experiment.restore(described, offer.name, offer.environment)


def test_restore_a_key_that_this_abatch_does_not_know() -> None:
    offer = load_experiments(ROOT / "ml_config.yaml", "dev")["card_offer"]
    described = offer.describe()
    described["training"]["dayz"] = 2
    message = (
        r"^its config, training\.dayz: unknown key\. Expected one of window, days, .*'days'\?$"
    )
    with pytest.raises(ConfigError, match=message):
        Experiment.restore(described, offer.name, offer.environment)
