"""The scripts of docs/permissions.md, run as they stand: each role can do its work, and nothing
else.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

import predict
import score
import train
from abatch import __main__ as main
from abatch.config import load_experiments
from abatch.database import migrations, tables
from demo import simulate
from tests.conftest import FIRST_NIGHT, ROOT, open_engine, write_config

PAGE = (ROOT / "docs" / "permissions.md").read_text(encoding="utf-8")
SCRIPTS = dict(
    re.findall(r"^#+ ([^\n]+)\n[^#]*?^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
GRANT = re.compile(
    r"^grant ([\w, ]+) on ((?:schema |sequence )?[\w.]+) to ([\w, ]+);$", re.MULTILINE
)
LOGINS = dict(
    map(
        reversed,
        re.findall(r"^grant (\w+) to (\w+);$", SCRIPTS["Members on PostgreSQL"], re.MULTILINE),
    )
)
JOB, ANALYST, DATA_SCIENTIST = LOGINS  # svc_abatch, ola, kari
LATER = FIRST_NIGHT + timedelta(
    days=17
)  # when the first night is mature: window 14, lag 1, and a feed two days behind
QUICK_MODELS = {
    variant: {
        "name": f"model{variant}",
        "version": "1.0",
        "estimator": "sklearn.tree.DecisionTreeClassifier",
        "params": {"max_depth": 3},
    }
    for variant in ("A", "B")
}
CLOSE_AT_ONCE = {
    "kind": "binary",
    "window_days": 14,
    "lag_days": 1,
    "grace_days": 0,
    "expected_effect": 0.01,
}
SETTINGS: dict[str, Any] = {
    "models": QUICK_MODELS,
    "outcome": CLOSE_AT_ONCE,
    "retention": {"snapshot_gigabytes": 0},
    "training": {"max_auc_drop": 1.0},
}
LOOP: list[tuple[ModuleType, list[str]]] = [
    (train, ["--date", str(FIRST_NIGHT)]),
    (predict, ["--date", str(FIRST_NIGHT)]),
    (predict, ["--date", str(FIRST_NIGHT), "--force"]),
    (score, ["--date", str(FIRST_NIGHT)]),
    (train, ["--date", str(LATER)]),
    (
        train,
        ["--date", str(LATER - timedelta(days=1))],
    ),  # not live, for a later one is: retention drops its snapshot
    (predict, ["--date", str(LATER)]),
    (score, ["--date", str(LATER)]),
    (predict, ["--date", str(FIRST_NIGHT), "--force"]),  # a closed night: its sums are dropped
    (main, ["status", "--date", str(LATER)]),
    (main, ["models", "--date", str(LATER)]),
]


class Grant(NamedTuple):
    """One right of one role.

    `thing` is a table or a view, or begins with the word schema or sequence.
    """

    right: str
    thing: str
    role: str

    def __str__(self) -> str:
        return f"{self.right} on {self.thing}"


def read_grants(script: str) -> list[Grant]:
    found = GRANT.findall(script)
    assert len(found) == len(re.findall("^grant", script, re.MULTILINE))
    return [
        Grant(right, thing, role)
        for rights, thing, roles in found
        for role in roles.split(", ")
        for right in rights.split(", ")
    ]


def test_scripts_grant_the_same() -> None:
    on_sql_server = {
        grant._replace(thing=grant.thing.replace("dbo.", "public."))
        for grant in read_grants(SCRIPTS["SQL Server"])
    }
    on_postgresql = read_grants(SCRIPTS["PostgreSQL"])
    assert len(set(on_postgresql)) == len(on_postgresql)
    assert on_sql_server == {grant for grant in on_postgresql if " " not in grant.thing}


def test_table_says_what_the_scripts_grant() -> None:
    groups = {
        "the six views": [f"abatch.{view}" for view in tables.views.tables],
        "what your four queries read": [
            f"public.{table}"
            for table in ("card_candidates", "card_calls", "card_answers", "card_feed")
        ],
    }
    said = set()
    for row in re.findall(
        r"^\|(.*)\|$", PAGE.partition("|---|")[2].partition("\n\n")[0], re.MULTILINE
    ):
        name, *rights = (cell.strip() for cell in row.split("|"))
        things = groups.get(name) or [f"abatch.{table}" for table in re.findall("`(.+?)`", name)]
        for role, listed in zip(LOGINS.values(), rights, strict=True):
            said |= {
                Grant(right, thing, role)
                for thing in things
                for right in listed.split(", ")
                if right
            }
    assert said == {grant for grant in read_grants(SCRIPTS["PostgreSQL"]) if " " not in grant.thing}


class Server:
    """A server on which a database, `template`, holds abatch's tables, a bank with a short past,
    and the three roles.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.template = f"template_{os.urandom(6).hex()}"

    def url_of(self, database: str, login: str | None = None) -> str:
        as_login = {"username": login, "password": "s3cret"} if login else {}
        return self.url.set(database=database, **as_login).render_as_string(hide_password=False)

    @contextmanager
    def connect(self, database: str, login: str | None = None) -> Iterator[sa.Connection]:
        """A connection of a login, or of the owner, that commits each statement."""
        engine = sa.create_engine(
            self.url_of(database, login), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            yield connection


@pytest.fixture(scope="module")
def server(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(postgres_url)
    with server.connect("postgres") as connection:
        connection.exec_driver_sql(f"create database {server.template}")
    file = write_config(tmp_path_factory.mktemp("owner"), server.url_of(server.template), "abatch")
    owner = open_engine(load_experiments(file, "dev")["card_offer"])
    migrations.upgrade(owner)
    simulate.simulate(owner, LATER, history_days=45)
    owner.dispose()
    with server.connect(server.template) as connection:
        connection.exec_driver_sql(SCRIPTS["PostgreSQL"])
        connection.exec_driver_sql(SCRIPTS["Members on PostgreSQL"])
        for login in LOGINS:
            connection.exec_driver_sql(f"alter role {login} password 's3cret'")
    yield server
    with server.connect("postgres") as connection:
        connection.exec_driver_sql(f"drop database {server.template} with (force)")
        for role in (*LOGINS, *LOGINS.values()):
            connection.exec_driver_sql(f"drop role {role}")


@pytest.fixture
def bank(server: Server) -> Iterator[str]:
    """The name of a copy of the template."""
    name = f"test_{os.urandom(6).hex()}"
    with server.connect("postgres") as connection:
        connection.exec_driver_sql(f"create database {name} template {server.template}")
        yield name
        connection.exec_driver_sql(f"drop database {name} with (force)")


def run_loop(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the loop until a step fails; returns what that step said, or nothing."""
    for script, arguments in LOOP:
        code = script.main([*arguments, "--config", str(file)])
        said = capsys.readouterr()
        if code:
            assert code == 1, said.err
            return said.err
    return ""


def refuse(connection: sa.Connection, statement: str) -> None:
    """Assert that the server refuses the statement for want of a right, and does not do it."""
    with pytest.raises(sa.exc.ProgrammingError) as refused:
        connection.exec_driver_sql(statement)
    assert getattr(refused.value.orig, "sqlstate", None) == "42501", refused.value


def test_job_runs_the_loop(
    server: Server, bank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(tmp_path, server.url_of(bank, JOB), "abatch", **SETTINGS)
    assert run_loop(file, capsys) == ""


@pytest.mark.parametrize(
    "grant",
    [grant for grant in read_grants(SCRIPTS["PostgreSQL"]) if grant.role == LOGINS[JOB]],
    ids=str,
)
def test_job_needs_each_right(
    grant: Grant, server: Server, bank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server.connect(bank) as connection:
        connection.exec_driver_sql(f"revoke {grant.right} on {grant.thing} from {grant.role}")
    said = run_loop(write_config(tmp_path, server.url_of(bank, JOB), "abatch", **SETTINGS), capsys)
    name = re.split(r"[ .]", grant.thing)[-1]
    # An update or delete also reads, and PostgreSQL does not say which of the two rights is
    # missing.
    assert re.search(
        rf"this login lacks the right ({grant.right.upper()}|\w+ or"
        rf" {grant.right.upper()}|{grant.right.upper()} or \w+) on {name}\.",
        said,
    )


@pytest.mark.parametrize("login", LOGINS)
def test_login_has_no_other_right(login: str, server: Server) -> None:
    """By the server's own account of all tables and views, the bank's included."""
    query = """
        select lower(acl.privilege_type), relations.relnamespace::regnamespace || '.' || relations.relname
        from pg_class as relations
        cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) as acl (privilege_type)
        where relations.relnamespace::regnamespace::text in ('abatch', 'public') and relations.relkind in ('r', 'v')
            and has_table_privilege(%(login)s, relations.oid, acl.privilege_type)
    """
    with server.connect(server.template) as connection:
        found = {tuple(row) for row in connection.exec_driver_sql(query, {"login": login})}
    granted = [grant for grant in read_grants(SCRIPTS["PostgreSQL"]) if grant.role == LOGINS[login]]
    assert found == {(grant.right, grant.thing) for grant in granted if " " not in grant.thing}


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize(
    "statement",
    [
        "create schema own",
        "create table abatch.own (a integer)",
        "create table public.own (a integer)",
        "create view abatch.own as select 1 as a",
        "create or replace view abatch.run_history as select 1 as a",
        "create index own on abatch.runs (host)",
        "alter table abatch.predictions add column a integer",
        "alter table abatch.predictions disable trigger all",
        "drop table abatch.promotions",
        "drop view abatch.run_history",
        "drop schema abatch cascade",
    ],
)
def test_login_creates_alters_and_drops_nothing(login: str, statement: str, server: Server) -> None:
    with server.connect(server.template, login) as connection:
        refuse(connection, statement)


def test_analyst_reads_and_writes_nothing(
    server: Server, bank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_loop(write_config(tmp_path, server.url_of(bank, JOB), "abatch", **SETTINGS), capsys)
        == ""
    )
    hidden = {
        "abatch_version",
        "runs",
        "predictions_staging",
        "cohort_sums",
        "units",
        "feature_counts",
        "snapshots",
        "deletions",
    }
    with server.connect(bank, ANALYST) as connection:
        for name in [*tables.views.tables, *tables.metadata.tables.keys() - hidden]:
            n_rows = connection.exec_driver_sql(f"select count(*) from abatch.{name}").scalar_one()
            assert n_rows > 0 or name == "conclusions", name  # which a person writes
        for name in hidden:
            refuse(connection, f"select count(*) from abatch.{name}")
        for name in [*tables.metadata.tables, "abatch_version"]:
            column = (
                "version_num"
                if name == "abatch_version"
                else next(iter(tables.metadata.tables[name].c)).name
            )
            refuse(connection, f"insert into abatch.{name} default values")
            refuse(connection, f"update abatch.{name} set {column} = {column}")
            refuse(connection, f"delete from abatch.{name}")
            refuse(connection, f"truncate abatch.{name}")
        refuse(connection, "select count(*) from public.card_candidates")


def test_data_scientist_rehearses_and_rolls_back(
    server: Server, bank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_loop(write_config(tmp_path, server.url_of(bank, JOB), "abatch", **SETTINGS), capsys)
        == ""
    )
    file = write_config(tmp_path, server.url_of(bank, DATA_SCIENTIST), "abatch", **SETTINGS)
    common = ["--date", str(LATER + timedelta(days=1)), "--config", str(file)]

    def run(script: ModuleType, *arguments: str) -> str:
        assert script.main([*arguments, *common]) == 0
        return capsys.readouterr().out

    assert "modelA_v1.0_2026-09-18" in run(main, "status")
    assert "modelA_v1.0_2026-09-18" in run(main, "models")
    assert "modelA_v1.0_2026-09-01 is live from 2026-09-19 on" in run(
        main, "rollback", "modelA", "--reason", "rehearsed"
    )
    assert "modelA_v1.0_2026-09-18 is live from 2026-09-19 on" in run(
        main, "promote", "modelA_v1.0_2026-09-18", "--reason", "rehearsed"
    )
    assert "card_offer: concluded" in run(main, "conclude", "card_offer", "--because", "rehearsed")
    assert "rehearsed" in run(main, "experiments")
    for script in (train, predict, score):
        rehearsed = script.main(
            ["--dry-run", "--force", "--date", str(LATER), "--config", str(file)]
        )
        assert (rehearsed, capsys.readouterr().out.count("dry run")) == (0, 1)
        assert script.main(["--force", "--date", str(LATER), "--config", str(file)]) == 1
        assert "this login lacks the right" in capsys.readouterr().err
    with server.connect(bank, DATA_SCIENTIST) as connection:
        refuse(connection, "insert into abatch.predictions select * from abatch.predictions")
        refuse(
            connection,
            "insert into abatch.predictions_staging select * from abatch.predictions_staging",
        )
        refuse(connection, "update abatch.predictions set prediction = 0")
        refuse(connection, "delete from abatch.predictions")
        refuse(connection, "update abatch.promotions set reason = 'another'")
        refuse(connection, "delete from abatch.promotions")
