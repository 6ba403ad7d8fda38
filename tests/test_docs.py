"""What the pages in docs/ tell the reader to type is typed here, and what they show is compared."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

import predict
import train
from abatch import job
from abatch.commands import GROUPS
from abatch.config import load_experiments
from abatch.database import connections, reading
from abatch.errors import AbatchError
from abatch.queries import Query, Window
from abatch.sections import Guardrail
from abatch.statistics import words
from tests.conftest import ROOT, SHARED_DATA

OWN_TABLES = ROOT / "docs" / "own-tables.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"(?<!\S)\d+\.\d+(?!\S)")
CREDIT_CSV = SHARED_DATA / "uci_default" / "default_credit_card_clients.csv"
needs_credit_csv = pytest.mark.skipif(
    not CREDIT_CSV.exists(), reason=f"the public data set is missing: there is no {CREDIT_CSV}"
)


def run_on_terminal(commands: str, folder: Path) -> str:
    """What a reader sees who types the commands at a terminal in this folder."""
    terminal, end = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ABATCH_")
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # many processes start
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    shell = subprocess.Popen(
        ["sh", "-euc", commands], cwd=folder, env=environment, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the last one has closed the other end
            break
        if not piece:
            break
        seen += piece
    os.close(terminal)
    text = seen.decode().replace("\r\n", "\n")
    assert shell.wait() == 0, text
    return text


def assert_same_output(seen: str, shown: str) -> None:
    """Word by word; decimals with some room.

    Another processor may round a model's figures otherwise.
    """
    assert re.sub(DECIMAL, "#", seen).split() == re.sub(DECIMAL, "#", shown).split()
    assert [float(found) for found in re.findall(DECIMAL, seen)] == pytest.approx(
        [float(found) for found in re.findall(DECIMAL, shown)], abs=0.02
    )


@pytest.fixture(scope="module")
def credit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a reader of docs/own-tables.md has in the end.

    Every block of the page is followed to the letter.
    """
    home = tmp_path_factory.mktemp("home")
    checkout, folder = home / "abatch", home / "credit"
    shutil.copytree(
        ROOT / "abatch", checkout / "abatch", ignore=shutil.ignore_patterns("__pycache__")
    )
    for script in ("train.py", "predict.py", "score.py"):
        shutil.copy(ROOT / script, checkout)
    seen = ""
    page = OWN_TABLES.read_text(encoding="utf-8").partition("\n## The same on SQL Server\n")[0]
    for language, content in BLOCK.findall(page):
        if language == "sh":
            seen = run_on_terminal(content, checkout)
            if folder.is_dir() and not (folder / "clients.csv").exists():
                shutil.copy(CREDIT_CSV, folder / "clients.csv")
        elif language == "text":
            assert_same_output(seen.replace(str(home), "/home/you"), content)
        else:
            (checkout / content.split()[1]).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "database_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_own_tables_on_sql_server(database_url: str) -> None:
    """The page's tables and queries, and the rows that it promises."""
    page = OWN_TABLES.read_text(encoding="utf-8").partition("\n## The same on SQL Server\n")[2]
    script, *queries = (text for _, text in BLOCK.findall(page.partition("\n## ")[0]))
    engine = connections.make_engine(SecretStr(database_url), None, ROOT, "here")
    with engine.begin() as connection:
        for statement in script.strip().removesuffix(";").split(";\n"):
            connection.exec_driver_sql(statement)

    def read(sql: str, window: Window, as_of: str) -> list[dict[str, Any]]:
        query, at = Query("q.sql", sql), datetime.fromisoformat(as_of)
        return reading.read_query(engine, query, window, at).to_dict("records")

    training, candidates, outcomes, watermark = queries
    night = Window(date(2026, 9, 1), date(2026, 9, 2))
    seven, eight = (
        {"candidate_id": "7", "income": 41000.5, "has_card": 1},
        {"candidate_id": "8", "income": 28000.0, "has_card": 0},
    )
    past: dict[str, Any] = {"event_date": datetime(2026, 9, 1)}
    assert read(training, night, "2026-09-20 23:29:59") == [eight | past | {"outcome": 0}]
    rows = read(training, night, "2026-09-20 23:30:00")
    assert sorted(rows, key=lambda row: str(row["candidate_id"])) == [
        seven | past | {"outcome": 1},
        eight | past | {"outcome": 0},
    ]
    assert read(candidates, night, "2026-09-01 01:59:59") == []
    assert sorted(
        row["candidate_id"] for row in read(candidates, night, "2026-09-01 02:00:00")
    ) == [
        "7",
        "8",
    ]
    window = Window(date(2026, 9, 20), date(2026, 9, 21))
    happened = {row["candidate_id"]: row for row in read(outcomes, window, "2026-09-21 00:00:00")}
    assert {name: (row["outcome"], row["event_date"]) for name, row in happened.items()} == {
        "7": (1, datetime(2026, 9, 20)),
        "8": (0, datetime(2026, 9, 20)),
    }
    (known,) = read(watermark, window, "2026-09-21 00:00:00")
    assert known == {"watermark": datetime(2026, 9, 21)}
    engine.dispose()


def test_readme_lists_the_commands_by_group() -> None:
    """Under each group's heading its commands, in the order of --help."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for group, commands in GROUPS.items():
        rows = text.partition(f"\n| {group} | ")[2].partition("\n\n")[0]
        listed = re.findall(r"^\| `(\w+)", rows, re.MULTILINE)
        assert list(dict.fromkeys(listed)) == list(commands)


@needs_credit_csv
def test_own_tables_followed_to_the_letter(credit: Path) -> None:
    assert (credit / "reports" / "dev" / "card_default.html").exists()
    assert {path.name for path in credit.iterdir()} >= {"credit.db", "logs", "models", "reports"}


# What the page says of errors: its words, and a change that brings them about.
TRAIN, PREDICT, LATER = train.train, predict.predict, date(2005, 10, 4)
FAULTS: dict[str, tuple[Callable[..., str], date, str, str, str]] = {
    "the column outcome is missing": (TRAIN, LATER, "training", " as outcome", " as defaulted"),
    "these columns cannot be features": (
        TRAIN,
        LATER,
        "training",
        "clients.limit_bal",
        "clients.night",
    ),
    "expected 0 or 1": (
        TRAIN,
        LATER,
        "training",
        "payments.defaulted",
        "case payments.defaulted when 1 then 'yes' else 'no' end",
    ),
    "rows lie outside": (
        TRAIN,
        LATER,
        "training",
        "clients.night < :to_date\n    and payments.loaded_at <= :as_of",
        "1 = 1",
    ),
    "the columns differ from what": (PREDICT, LATER, "candidates", "    pay_0,\n", ""),
    "returned no candidates": (
        PREDICT,
        LATER,
        "candidates",
        "night >= :from_date",
        "night > :to_date",
    ),
    "is not a query that returns rows": (
        TRAIN,
        LATER,
        "watermark",
        "select max(complete_to) as watermark",
        "delete",
    ),
    "no model is live on": (PREDICT, date(2005, 9, 30), "candidates", "", ""),
    "is registered, and its verdict depends on": (
        PREDICT,
        LATER,
        "outcomes",
        "due_date < :to_date",
        "due_date <= :to_date",
    ),
    "are returned more than once": (
        PREDICT,
        LATER,
        "candidates",
        "from clients",
        "from clients inner join feed on 1 = 1",
    ),
    "numbers beyond": (TRAIN, LATER, "training", "clients.limit_bal", "1e150 as limit_bal"),
}
TOLD = {  # by train, which goes on
    "come twice or more by candidate_id": (
        "from clients",
        "from clients cross join (select 1 as n union all select 2) as twice",
    ),
    "text or an id, of which no model learns": (
        "clients.limit_bal",
        "'c' || clients.client_id as code",
    ),
    "which are numbers as text": ("clients.limit_bal", "(7 * clients.client_id) || '' as code"),
    "numbers with the unit": ("clients.limit_bal", "clients.limit_bal || ' kr' as code"),
    "which are dates as text": (
        "clients.limit_bal",
        "strftime('%d.%m.%Y', clients.night) as code",
    ),
    "too good to be true": ("clients.limit_bal", "payments.defaulted as late"),
    "is it known only when the outcome is": (
        "clients.limit_bal",
        "payments.defaulted * (clients.client_id % 2) as late",
    ),
    "which count in the order of the candidate_id": (
        "clients.limit_bal",
        "clients.client_id + 7 as number",
    ),
    "the newest row is of": (
        "clients.night < :to_date",
        "clients.night < date(:to_date, '-8 days')",
    ),
}
# Brought about by tests of these: outcomes, doubts, constancy, arguments, the gate.
ELSEWHERE = [
    "written otherwise",
    "have an outcome in the nights",
    "amounts of another unit than planned",
    "mature at once",
    "of what it tells in the nights",
    "alike in candidate_id, event_date and outcome",
    "are beyond the cap",
    "are not what they were: other than 0",
    "times as often in the nights",
    "are gone from those that replace them",
    "were predicted again for others",
    "there under two ids",
    "whose point may mark thousands",
    "of those of the same weekdays before",
    "differ by more than chance gives",
    "have another prediction now, by the same model",
    "no row is of the days between",
    "far worse than in validation",
    "changed overnight",
    "are not quite what they were",
    "so far no two nights were alike",
    "are not what their models were trained with",
    "is yet to come",
    "worse than the rate of its training rows",
    "are wrong by more than a factor of",
    "contradict what is live",
    "the newest rows are not as they were",
    "may rank no better than chance",
    "which ranks them as ever",
]


def test_own_tables_errors_are_all_tried() -> None:
    table = OWN_TABLES.read_text(encoding="utf-8").partition("## Errors")[2]
    listed = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert listed == [*FAULTS, *TOLD, *ELSEWHERE]
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("abatch/**/*.py"))
    whole = re.sub(r'"\s*\n\s*f?"', "", sources)  # messages are written in several lines
    assert [words for words in ELSEWHERE if words not in whole] == []


def test_own_tables_explains_every_word_and_key() -> None:
    section = (
        OWN_TABLES.read_text(encoding="utf-8")
        .partition("## The question, and the verdict's words")[2]
        .partition("\n## ")[0]
    )
    known = (
        *words.DECIDED,
        words.NOT_YET,
        words.TOO_EARLY,
        words.INVALID,
        words.KEPT,
        words.BROKEN,
    )
    assert [word for word in known if f"`{word}`" not in section] == []
    keys = {"kind", "grace_days", "expected_effect", "baseline", "cap"}
    assert {f"`outcome.{key}" in section for key in keys} == {True}
    assert all(
        f"`{key}`" in section
        for key in ("baseline_sd", "exposure", "champion", "verdicts", "guardrails")
    )
    guardrail = yaml.safe_load(
        "\n".join(line for line in section.splitlines() if line.startswith("    "))
    )
    assert Guardrail.model_validate(guardrail["guardrails"]["complaints"]).direction == "decrease"


@contextmanager
def changed(credit: Path, folder: Path, query: str, old: str, new: str) -> Iterator[Any]:
    """A copy of the page's experiment in which a query reads otherwise, and its database."""
    shutil.copytree(credit, folder)
    file = folder / "sql" / f"{query}.sql"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new) if old else text, encoding="utf-8")
    experiment = load_experiments(folder / "ml_config.yaml", "dev")["card_default"]
    engine = job.connect(experiment.environment)
    yield experiment, engine
    engine.dispose()


@needs_credit_csv
@pytest.mark.parametrize("words", FAULTS)
def test_own_tables_errors_say_so(words: str, credit: Path, tmp_path: Path) -> None:
    story, run_date, *change = FAULTS[words]
    with (
        changed(credit, tmp_path / "credit", *change) as (experiment, engine),
        pytest.raises(AbatchError, match=re.escape(words)),
    ):
        story(experiment, engine, run_date)


@needs_credit_csv
@pytest.mark.parametrize("words", TOLD)
def test_own_tables_warnings_say_so(
    words: str, credit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with changed(credit, tmp_path / "credit", "training", *TOLD[words]) as (experiment, engine):
        train.train(experiment, engine, LATER)
    assert words in capsys.readouterr().err
