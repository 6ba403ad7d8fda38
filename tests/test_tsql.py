"""Every query of the project, and every statement that abatch executes.

It is looked at as SQL Server would.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

import predict
import score
import train
from abatch import __main__ as main
from abatch.config import load_experiments
from abatch.database import connections, locks, tables, writing
from abatch.database.migrations import script
from demo import simulate
from tests.conftest import (
    FIRST_NIGHT,
    QUICK_MODELS,
    ROOT,
    add_predictions,
    add_runs,
    open_engine,
    write_config,
)
from tests.tsql import Token, find_faults, find_own_faults, parse

DIALECT = script.make_dialect("mssql")
FENCE = re.compile(
    r"^(?P<title>#+ [^\n]*)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        # T-SQL has no booleans: a condition is no value, and a value no condition (error 4145:
        # "non-boolean type specified").
        ("select a from t where active", "'active' is a value"),
        ("select a from t where not active and a = 1", "'active' is a value"),
        ("select a from t where (a = 1 or (active))", "'active' is a value"),
        ("select a from t inner join u on t.a = u.a and u.active", "'u . active' is a value"),
        ("select max(a) as a from t group by b having max(c)", "'max (...)' is a value"),
        ("select case when flag then 1 else 0 end as a from t", "'flag' is a value"),
        ("select a from t where case when a = 1 then b else c end", "'case ... end' is a value"),
        ("select a from t where coalesce(flag, 0)", "'coalesce (...)' is a value"),
        ("select a from t where 1", "'1' is a value"),
        ("select a from t where (select max(b) from u)", "'(...)' is a value"),
        ("select a > 1 as b from t", "'a > 1 as b' is a condition"),
        ("select sum(a > 1) as b from t", "'a > 1' is a condition"),
        ("select a is null as b from t", "is a condition"),
        ("select exists (select 1 from t) as b", "is a condition"),
        ("select not a as b from t", "is a condition"),
        ("select case when a = 1 then b > 2 else 0 end as c from t", "'b > 2' is a condition"),
        ("select a from t order by a = 1", "'a = 1' is a condition"),
        ("select a from t where (a > 1) = b", "'a > 1' is a condition"),
        ("update t set a = coalesce(b > 1, 0)", "'b > 1' is a condition"),
        ("select a = b from t", "makes a an alias"),
        ("select true", "no true"),
        ("select a from t where a = true", "no true"),
        ("select a from t where a is not false", "no false"),
        ("select cast(a as boolean) as b from t", "type boolean"),
        # Error 164: each group by expression must contain a column.
        ("select a, count(*) as n from t group by 1", "group by 1"),
        ("select a, b, count(*) as n from t group by a, 2", "group by 2"),
        # Error 195: not a recognised built-in function name.
        ("select julianday(a) as b from t", "julianday()"),
        ("select strftime('%Y', a) as b from t", "strftime()"),
        ("select a from t where a > date('now')", "date()"),
        ("select ifnull(a, 0) as b from t", "ifnull()"),
        ("select group_concat(a) as b from t", "group_concat()"),
        ("select NOW() as b", "now()"),
        ("select a from t where b = (select date_trunc('day', max(b)) from u)", "date_trunc()"),
        ("select extract(year from a) as b from t", "extract()"),
        ("select to_char(a, 'YYYY') as b from t", "to_char()"),
        ("select a from t order by random()", "random()"),
        ("select length(a) as b from t", "length()"),
        ("select substr(a, 1, 2) as b from t", "substr()"),
        ("select position('x' in a) as b from t", "position()"),
        ("select case when a = 1 then ln(b) end as c from t", "ln()"),
        ("select string_agg(a, ',') as b from t", "since 2017"),
        ("select greatest(a, b) as c from t", "since 2022"),
        ("select least(a, b) as c from t", "since 2022"),
        # Error 174: the function requires so many arguments.
        ("select round(a) as b from t", "round() with 1 arguments"),
        ("select substring(a, 2) as b from t", "substring() with 2 arguments"),
        ("select max(a, b) as c from t", "max() with 2 arguments"),
        ("select count(distinct a, b) as n from t", "count() of several columns"),
        # Error 4112: the function must have an over clause with order by.
        ("select row_number() over (partition by a) as b from t", "without order by"),
        ("select sum(a) over w as b from t window w as (order by a)", "no named windows"),
        # Another dialect's grammar; sqlfluff takes many of these words for an alias.
        ("select a from t limit 5", "no limit"),
        ("select a from t order by a limit :n", "no limit"),
        ("select a || b as c from t", "no ||"),
        ("select a::int as b from t", "no ::"),
        ("select a from t where a ilike 'x'", "no ilike"),
        ("select a from t where a == 1", "no =="),
        ("select a -> 'x' as b from t", "no ->"),
        ("select a from t inner join u using (a)", "no using"),
        ("select a from t natural join u", "no natural join"),
        ("select distinct on (a) a from t", "no distinct on"),
        ("select count(*) filter (where a = 1) as n from t", "no filter"),
        ("select a from t order by a nulls last", "no nulls last"),
        ("select row_number() over (order by a desc nulls first) as b from t", "no nulls first"),
        ("select a - interval '1 day' as b from t", "no interval"),
        ("select date '2026-09-01' as b", "no date literal"),
        ("select current_date as b", "no current_date"),
        ("select a from t where a is not distinct from b", "since 2022"),
        ("with recursive r as (select 1 as a) select a from r", "no word recursive"),
        ("select t.a from t, lateral (select 1 as b) as u", "no lateral"),
        ("insert into t (a) values (1) returning a", "no returning"),
        ("insert into t (a) values (1) on conflict do nothing", "no on conflict"),
        ("create table if not exists t (a int)", "no create ... if not exists"),
        ("create or replace view v as select a from t", "no or replace"),
        ("create table t (a uuid)", "type uuid"),
        ("select cast(a as varchar) as b from t", "varchar without a length"),
        ("select a from t where (a, b) in (select a, b from u)", "rows of several values"),
        # Errors 1033 and 153, 8155, 102.
        ("select a from t offset 5 rows", "offset without order by"),
        ("select a from t order by a offset 5", "without the word rows"),
        ("select a from t order by a fetch first 5 rows only", "fetch without offset"),
        ("select a from (select a from t order by a) as u", "order by in a subquery"),
        ("create view v as select a from t order by a", "order by in a subquery or view"),
        ("with u as (select a from t order by a) select a from u", "order by in a subquery"),
        ("select a from (select a from t)", "without an alias"),
        ("select n from (select count(*) from t) as u", "'count (...)' has no name"),
        ("with u as (select max(a) from t) select 1 as b from u", "'max (...)' has no name"),
        # What is executed inside.
        (
            "exec(N'create view v as select a from t where active')",
            "in exec: line 1: 'active' is a value",
        ),
        ("select a\nfrom t\nwhere b in (\n    select now()\n)", "line 4: now()"),
        # sqlfluff's own.
        ("select a from", "unparsable"),
        ("select file from t", "unparsable"),  # a reserved word
    ],
)
def test_find_faults_refuses(sql: str, words: str) -> None:
    assert words in "\n".join(find_faults(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "select a, count(*) as n from t group by a order by 2",
        (
            "select 'true' as a, ':x' as b, [limit], \"false\" from t -- now() || true\n/* where"
            " active */"
        ),
        (
            "select a from t where not (a = 1 or b between 1 and 2) and c is not null and d like"
            " 'x%' and exists (select 1 from u)"
        ),
        (
            "select a from t where (a + b) * 2 > 3 and a in (1, 2) and a not in (select a from u"
            " where b = :b)"
        ),
        "select a from t where case when a = 1 then b else c end = 2",
        "select case a when 1 then 'x' else 'y' end as b, iif(a > 1, 1, 0) as c from t",
        "select sum(case when a > 1 and b = 2 then 1 else 0 end) as n from t having sum(a) > ?",
        "select top (5) a from t order by a",
        "select distinct a from t order by a offset 5 rows fetch next :n rows only",
        "select a from (select top 1 a from t order by b) as u",
        "select a from t order by a offset 0 rows",
        (
            "select row_number() over (partition by a, b order by c desc) as r, sum(a) over (order"
            " by b) as s from t"
        ),
        (
            "select left(a, 2) as b, right(a, 2) as c, round(a, 2) as d, concat(a, ':', b) as e"
            " from t where left(a, 1) = 'x'"
        ),
        "with u (n) as (select max(a) from t) select n from u",
        (
            "select u.n from (values (1), (2)) as u (n) cross apply (select max(a) as m from t"
            " where t.n = u.n) as x"
        ),
        (
            "select x.a from t for system_time as of :as_of as x left join u for system_time as of"
            " :as_of as y on x.a = y.a where x.b < :b"
        ),
        (
            "select cast(a as varchar(64)) as b, convert(char(16), c, 2) as d, cast(e as"
            " datetime2(6)) as f from t"
        ),
        "insert into t (a, b) output inserted.a values (:a, :b), (:c, :d)",
        "update t set a = b, c = case when d = 1 then 2 end where e = 1",
        "delete from t where a = :a",
        (
            "create table t (a int not null primary key, b bit default (0), c float check (c > 0"
            " and c < 1), d nvarchar(max))"
        ),
        "create unique index i on t (a) where b = 'done'",
        "create view v as select a, count(*) as n from t group by a",
        (
            "alter table t set (system_versioning = on (history_table = dbo.h,"
            " history_retention_period = 2 years))"
        ),
        "set xact_abort, nocount on",
        "if object_id('t') is null create table t (a int)",
        "if not exists (select 1 from t where a = 1) and @@trancount = 0 begin select 1 as a end",
        "drop table if exists t",
        "declare @n int; select @n = count(*) from t; if @n > 0 raiserror('x', 16, 1)",
        "grant select, insert on schema::abatch to abatch_job",
        "alter role abatch_job add member [BANK\\svc]",
        (
            "begin transaction\ngo\nif @@trancount = 0 return\nexec(N'create view v as select"
            " ''true'' as a')\ngo\ncommit transaction"
        ),
    ],
)
def test_find_faults_lets_pass(sql: str) -> None:
    assert find_faults(sql) == []


def test_find_own_faults_needs_matching_brackets() -> None:
    with pytest.raises(AssertionError, match=r"line 2: \( is never closed"):
        find_own_faults("select a\nfrom (select b")


@pytest.mark.parametrize(
    "file",
    sorted((ROOT / "sql").rglob("*.sql")),
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_queries_are_tsql(file: Path) -> None:
    assert find_faults(file.read_text(encoding="utf-8")) == []


def read_sql_blocks(page: str) -> Iterator[tuple[str, str]]:
    """The nearest title and the text of each SQL block."""
    title = ""
    for match in FENCE.finditer(page):
        title = match["title"] or title
        if match["language"] == "sql":
            yield title, match["text"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_pages_are_tsql(page: Path) -> None:
    """All SQL of the pages.

    Unless the nearest title says that it is for PostgreSQL or SQLite alone.
    """
    for title, sql in read_sql_blocks(page.read_text(encoding="utf-8")):
        if "SQL Server" in title or not re.search("PostgreSQL|SQLite", title):
            assert find_faults(sql) == [], f"{title}\n{sql}"


def compile_for_sql_server(statement: sa.ClauseElement, keys: list[str] | None = None) -> str:
    """The text that SQL Server would get, with abatch's tables in schema abatch."""
    options: dict[str, Any] = {
        "schema_translate_map": {None: "abatch"},
        "render_schema_translate": True,
    }
    if isinstance(statement, sa.sql.ddl.ExecutableDDLElement):
        return str(statement.compile(dialect=DIALECT, **options))
    return str(
        statement.compile(
            dialect=DIALECT,
            column_keys=keys,
            compile_kwargs={"render_postcompile": True},
            **options,
        )
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Each statement of two nights, their scores and all commands, compiled for SQL Server."""
    folder = tmp_path_factory.mktemp("executed")
    file = write_config(folder, f"sqlite:///{folder / 'bank.db'}", models=QUICK_MODELS)
    engine = open_engine(load_experiments(file, "dev")["card_offer"])
    collected: dict[str, None] = {}

    def collect(
        _connection: sa.Connection,
        statement: object,
        rows: list[Any],
        row: dict[str, Any],
        _options: object,
    ) -> None:
        if isinstance(statement, sa.ClauseElement):
            collected[compile_for_sql_server(statement, list(rows[0] if rows else row) or None)] = (
                None
            )

    def run(story: ModuleType, *arguments: str) -> None:
        assert story.main([*arguments, "--config", str(file)]) == 0

    run(main, "init")  # its statements are SQLite's; what SQL Server gets is printed by --sql
    dead = {"run_id": "dead", "job": "predict", "experiment": "card_offer", "status": "failed"}
    row = {"run_id": "dead", "candidate_id": "1", "variant": "A", "assignment_probability": 0.45}
    add_runs(engine, {**dead, "run_date": FIRST_NIGHT})
    add_predictions(engine, {**row, "rank_in_variant": 1, "selected": 1})
    sa.event.listen(sa.Engine, "before_execute", collect)
    try:
        simulate.simulate(engine, FIRST_NIGHT, history_days=30)
        for force in ([], ["--force"]):
            run(train, "--date", "2026-09-01", *force)
            run(predict, "--date", "2026-09-01", *force)
        simulate.simulate(engine, FIRST_NIGHT.replace(day=20))
        run(score, "--date", "2026-09-20")
        run(main, "status", "--date", "2026-09-20")
        run(main, "models")
        run(main, "promote", "modelA_v1.0_2026-09-01", "--reason", "tried", "--date", "2026-09-20")
        run(main, "rollback", "modelA", "--reason", "tried", "--date", "2026-09-20")
    finally:
        sa.event.remove(sa.Engine, "before_execute", collect)
        engine.dispose()
    return list(collected)


def test_executed_statements_are_tsql(executed: list[str]) -> None:
    faults = {statement: faults for statement in executed if (faults := find_faults(statement))}
    assert not faults


@pytest.mark.parametrize(
    "words",
    [
        "INSERT INTO abatch.runs",
        "UPDATE abatch.runs SET",
        "INSERT INTO abatch.models",
        "INSERT INTO abatch.promotions",
        "INSERT INTO abatch.registrations",
        "INSERT INTO abatch.prediction_shares",
        "SELECT TOP 4000 abatch.prediction_rows.candidate_id",  # of the dead
        "DELETE FROM abatch.prediction_rows WHERE",
        "LEFT OUTER JOIN abatch.prediction_rows",
        "INSERT INTO abatch.scores",
        "INSERT INTO abatch.variant_scores",
        "CREATE TABLE abatch.card_candidates",
        "from card_calls",  # sql/card_offer/training.sql
        "select max(complete_to) as watermark",
    ],
)
def test_executed_statements_hold(words: str, executed: list[str]) -> None:
    assert any(words in statement for statement in executed)


def test_bulk_insert_is_tsql(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no statement of SQLAlchemy's goes to the driver as it stands."""
    monkeypatch.setattr(connections, "find_schema", lambda engine: "abatch")
    collected: list[tuple[str, list[Any]]] = []
    link: Any = SimpleNamespace(dialect=DIALECT, engine=None)
    link.exec_driver_sql = lambda *asked: collected.append(asked)
    names = tables.prediction_rows.c.keys()
    batch = pa.RecordBatch.from_pydict({name: [1, None] for name in names})
    writing.load(link, tables.prediction_rows, batch)
    ((statement, rows),) = collected
    assert statement.startswith("insert into abatch.prediction_rows (run_number, candidate_id, ")
    assert find_faults(statement) == []
    assert rows == [(1,) * len(names), (None,) * len(names)]


def test_inserts_do_not_ask_for_what_they_wrote() -> None:
    """SQL Server refuses OUTPUT where a table has a trigger (error 334)."""
    pytest.importorskip("pyodbc", exc_type=ImportError)
    url = "mssql+pyodbc://boss:s3cret@server/bank?driver=ODBC+Driver+18+for+SQL+Server"
    engine = connections.make_engine(SecretStr(url), "abatch", Path(), "here")
    for table in tables.TABLES.values():
        given = [column.name for column in table.c if column is not table.autoincrement_column]
        insert = table.insert().compile(engine, column_keys=given)
        assert "output" not in str(insert).lower()


def test_tables_are_tsql() -> None:
    for table in tables.metadata.sorted_tables:
        assert find_faults(compile_for_sql_server(sa.schema.CreateTable(table))) == []
        for index in table.indexes:
            assert find_faults(compile_for_sql_server(sa.schema.CreateIndex(index))) == []


def test_lock_statements_are_tsql() -> None:
    """The T-SQL that abatch holds ready as text."""
    texts = locks._LOCKS["mssql"]
    for text in (texts.take, texts.release, texts.wait):
        assert "applock @" in text
        assert find_faults(text.format(0)) == []
    for text in (texts.held, f"select {texts.clock}"):
        assert find_faults(text) == []


def test_init_script_is_tsql(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(
        tmp_path,
        "mssql+pyodbc://@BITEST/Kredittkort?driver=ODBC+Driver+18+for+SQL+Server",
        schema="abatch",
    )
    assert main.main(["init", "--sql", "--config", str(file)]) == 0
    script = capsys.readouterr().out
    batches = re.split(r"^go$", script, flags=re.MULTILINE | re.IGNORECASE)
    assert len(batches) > 3
    assert "create view" in script.lower()
    for batch in batches:
        assert find_faults(batch) == [], batch
    # In T-SQL but not in abatch's tables: datetime loses milliseconds, ntext cannot be compared.
    assert not {"datetime", "ntext", "text", "image"} & {
        token.text for token in flatten(parse(script)) if token.kind == "word"
    }


def flatten(tokens: Iterable[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from flatten(token.inside)
