"""The scripts of docs/permissions.md, run as they stand.

Each role can do its work, and nothing else.
"""

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import sqlalchemy as sa

import predict
import score
import train
from abatch import __main__ as main
from abatch.config import load_experiments
from abatch.database import connections, faults, migrations, tables, writing
from abatch.experiment import doubts
from demo import simulate
from tests.conftest import FIRST_NIGHT, ROOT, Server, open_engine, write_config

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
        "the eight views": [f"abatch.{view}" for view in tables.VIEWS],
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


@pytest.fixture(scope="module")
def template(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database with abatch's tables, a bank with a short past, and the three roles."""
    url = postgresql.create()
    file = write_config(tmp_path_factory.mktemp("owner"), url, "abatch")
    owner = open_engine(load_experiments(file, "dev")["card_offer"])
    migrations.upgrade(owner)
    with pytest.MonkeyPatch.context() as patch:  # few rows do
        patch.setattr(simulate, "N_HISTORY", 60)
        patch.setattr(simulate, "N_CANDIDATES", 200)
        simulate.simulate(owner, LATER, history_days=45)
    owner.dispose()
    with connect(url) as connection:
        connection.exec_driver_sql(SCRIPTS["PostgreSQL"])
        connection.exec_driver_sql(SCRIPTS["Members on PostgreSQL"])
        for login in LOGINS:
            connection.exec_driver_sql(f"alter role {login} password 's3cret'")
    yield url
    postgresql.drop(url)
    postgresql.execute(*(f"drop role {role}" for role in (*LOGINS, *LOGINS.values())))


@contextmanager
def connect(url: str, login: str | None = None) -> Iterator[sa.Connection]:
    """A connection of a login, or of the owner, that commits each statement."""
    as_login: dict[str, Any] = {"username": login, "password": "s3cret"} if login else {}
    engine = sa.create_engine(
        sa.make_url(url).set(**as_login), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        yield connection


THINGS = """
    select
        relname,
        case relkind when 'S' then 'sequence ' else '' end
            || relnamespace::regnamespace || '.' || relname
    from pg_class
    where relnamespace::regnamespace::text in ('abatch', 'public') and relkind in ('r', 'v', 'S')
    union all
    select 'abatch', 'schema abatch'
"""
LACKS = re.compile(
    r"this login lacks the right (\w+)(?: or (\w+))? on (\w+)\. Ask the database's owner"
)


class Login:
    """A login in a database of its own, granted nothing but what it was refused.

    `granted` has the rights of its role.
    """

    def __init__(self, url: str, login: str, folder: Path) -> None:
        self.url, self.login, self.role = url, login, LOGINS[login]
        self.granted: set[Grant] = set()
        as_login = sa.make_url(url).set(username=login, password="s3cret")
        text = as_login.render_as_string(hide_password=False)
        self.file = write_config(folder, text, "abatch", **SETTINGS)
        with connect(url) as owner:
            for schema in ("abatch", "public"):
                for things in (
                    f"all tables in schema {schema}",
                    f"all sequences in schema {schema}",
                ):
                    owner.exec_driver_sql(f"revoke all on {things} from {self.role}")
            owner.exec_driver_sql(f"revoke all on schema abatch from {self.role}")
            found = owner.exec_driver_sql(THINGS).all()
        self.things = {name: thing for name, thing in found}

    def run(self, script: ModuleType, *arguments: str) -> str:
        """What a command prints that is done again until nothing is refused to it."""
        again = ["--force"] if script in (train, predict, score) else []
        while True:
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = script.main([*arguments, "--config", str(self.file)])
            if code == 0:
                return out.getvalue()
            self.grant(err.getvalue())
            arguments = (*arguments, *again)

    def read(self, thing: str) -> int:
        """The number of rows of a table or a view, as soon as that is not refused."""
        while True:
            try:
                with connect(self.url, self.login) as connection:
                    return connection.exec_driver_sql(f"select count(*) from {thing}").scalar_one()
            except sa.exc.SQLAlchemyError as error:
                self.grant(faults.describe(error))

    def grant(self, refusal: str) -> None:
        """Grant what the refusal names; of two rights first the one that is the statement's own."""
        said = LACKS.search(refusal)
        assert said, refusal
        thing = self.things[said[3]]
        asked = [Grant(right.lower(), thing, self.role) for right in said.groups()[:2] if right]
        missing = [grant for grant in asked if grant not in self.granted]
        assert missing, f"refused although it was granted: {refusal}"
        with connect(self.url) as owner:
            owner.exec_driver_sql(f"grant {missing[0]} to {self.role}")
        self.granted.add(missing[0])


def documented(login: str) -> set[Grant]:
    """What docs/permissions.md grants to the login's role."""
    return {grant for grant in read_grants(SCRIPTS["PostgreSQL"]) if grant.role == LOGINS[login]}


def refuse(connection: sa.Connection, statement: str) -> None:
    """Assert that the server refuses the statement for want of a right, and does not do it."""
    with pytest.raises(sa.exc.ProgrammingError) as refused:
        connection.exec_driver_sql(statement)
    assert getattr(refused.value.orig, "sqlstate", None) == "42501", refused.value


@pytest.fixture(scope="module")
def job(
    template: str, postgresql: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Login]:
    """The job after the loop, through which it was granted what it was refused."""
    url = postgresql.create(sa.make_url(template).database)
    job = Login(url, JOB, tmp_path_factory.mktemp("job"))
    for script, arguments in LOOP:
        job.run(script, *arguments)
    nights = np.array([FIRST_NIGHT.toordinal()])
    doubt = doubts.Doubt("outcome", "A", nights, "rows twice", "It is said.", 1.0, 1.0, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doubts, "find_doubts", lambda *_: [doubt])
        job.run(score, "--date", str(LATER), "--force")
    yield job
    postgresql.drop(url)


@pytest.fixture
def bank(job: Login, postgresql: Server, tmp_path: Path) -> Iterator[str]:
    """URL of a copy of what the job left, and its models in the folder of the test."""
    for name in ("models", "snapshots"):
        shutil.copytree(job.file.parent / name, tmp_path / name, symlinks=True)
    url = postgresql.create(sa.make_url(job.url).database)
    yield url
    postgresql.drop(url)


def test_job_needs_what_is_documented(job: Login) -> None:
    """Nothing less, for each right was refused first, and nothing more, for so the loop ran."""
    assert job.granted == documented(JOB)


@pytest.mark.parametrize("login", LOGINS)
def test_login_has_no_other_right(login: str, template: str) -> None:
    """By the server's own account of all tables and views, the bank's included."""
    query = """
        select
            lower(acl.privilege_type),
            relations.relnamespace::regnamespace || '.' || relations.relname
        from pg_class as relations
        cross join unnest(
            array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
        ) as acl (privilege_type)
        where relations.relnamespace::regnamespace::text in ('abatch', 'public')
            and relations.relkind in ('r', 'v')
            and has_table_privilege(%(login)s, relations.oid, acl.privilege_type)
    """
    with connect(template) as connection:
        found = {tuple(row) for row in connection.exec_driver_sql(query, {"login": login})}
    granted = documented(login)
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
        "alter table abatch.prediction_rows add column a integer",
        "alter table abatch.prediction_rows disable trigger all",
        "drop table abatch.promotions",
        "drop view abatch.run_history",
        "drop schema abatch cascade",
    ],
)
def test_login_creates_alters_and_drops_nothing(login: str, statement: str, template: str) -> None:
    with connect(template, login) as connection:
        refuse(connection, statement)


def test_job_may_ask_for_statistics(job: Login) -> None:
    """Of a table that it does not own: they stay as they are, and nothing fails."""
    engine = open_engine(load_experiments(job.file, "dev")["card_offer"])
    connections.write(engine, writing.analyze, tables.units)
    engine.dispose()


def test_analyst_reads_and_writes_nothing(bank: str, tmp_path: Path) -> None:
    analyst = Login(bank, ANALYST, tmp_path)
    hidden = {
        "abatch_version",
        "runs",
        "prediction_rows",
        "prediction_shares",
        "cohort_sums",
        "units",
        "feature_counts",
        "snapshots",
        "deletions",
        "owner",
    }
    for name in [*tables.VIEWS, *tables.metadata.tables.keys() - hidden]:
        is_empty = name in ("acknowledgements", "conclusions")  # which a person writes
        assert analyst.read(f"abatch.{name}") > 0 or is_empty, name
    assert analyst.granted == documented(ANALYST)
    with connect(bank, ANALYST) as connection:
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
    bank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kari = Login(bank, DATA_SCIENTIST, tmp_path)
    for name in [*tables.VIEWS, *tables.metadata.tables]:  # the bank's, the scripts read
        kari.read(f"abatch.{name}")
    with connect(bank) as owner:
        names = "select model_name from abatch.promotions where variant = 'A' order by promotion_id"
        *_, before, live = owner.exec_driver_sql(names).scalars()
        trained = "select model_name from abatch.models where model_name like 'modelA%%'"
        *_, kept = sorted({*owner.exec_driver_sql(trained).scalars()} - {before, live})
    assert before != live
    run, date = kari.run, ["--date", str(LATER + timedelta(days=1))]
    because = ["--reason", "rehearsed"]
    assert live in run(main, "status", *date)
    assert live in run(main, "models", *date)
    assert f"{before} is live from 2026-09-19 on" in run(
        main, "rollback", "modelA", *because, *date
    )
    assert f"{live} is live from 2026-09-19 on" in run(main, "promote", live, *because, *date)
    assert "card_offer: concluded" in run(main, "conclude", "card_offer", "--because", "rehearsed")
    acknowledged = run(main, "acknowledge", "card_offer", *because)
    assert "right from the next score on" in acknowledged
    assert "rehearsed" in run(main, "experiments")
    run(main, "delete", kept, *because)
    night = ["--force", "--date", str(LATER)]
    for script in (train, predict, score):
        assert kari.run(script, "--dry-run", *night).count("dry run") == 1
    assert kari.granted == documented(DATA_SCIENTIST)
    for script in (train, predict, score):
        assert script.main([*night, "--config", str(kari.file)]) == 1
        assert "this login lacks the right" in capsys.readouterr().err
    with connect(bank, DATA_SCIENTIST) as connection:
        for name in ("prediction_rows", "prediction_shares"):
            refuse(connection, f"insert into abatch.{name} select * from abatch.{name}")
            refuse(connection, f"delete from abatch.{name}")
        refuse(connection, "update abatch.prediction_rows set prediction = 0")
        refuse(connection, "update abatch.promotions set reason = 'another'")
        refuse(connection, "delete from abatch.promotions")
