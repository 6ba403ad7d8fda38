"""python -m demo.bank: a bank in a chosen environment, never in prod nor among foreign tables."""

from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from abatch import __main__ as abatch
from abatch.config import Experiment, load_experiments
from demo import bank, bank_tables, simulate
from tests.conftest import FIRST_NIGHT, open_engine, write_config


@pytest.fixture(autouse=True)
def _short_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "N_HISTORY", 10)


def call(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, *arguments: str
) -> tuple[int, str, str]:
    code = bank.main([*arguments, "--config", str(experiment.environment.file)])
    return code, *capsys.readouterr()


def list_bank(engine: sa.Engine) -> set[str]:
    """Those of the bank's tables that are there."""
    with bank_tables.in_default_schema(engine).connect() as connection:
        return {*sa.inspect(connection).get_table_names()} & {*bank_tables.metadata.tables}


def test_bank_plants_and_lives_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The plant reaches the bank, with the split of the config, and is kept when it lives on."""
    experiment = load_experiments(write_config(tmp_path, "sqlite:///data/bank.db"), "dev")[
        "card_offer"
    ]
    code, out, err = call(capsys, experiment, "--date", "2026-09-01")
    assert (code, out) == (1, "")
    assert err.endswith("there is no such file. Run: python -m abatch init --env dev\n")
    (tmp_path / "data").mkdir()
    assert abatch.main(["init", "--config", str(experiment.environment.file)]) == 0
    capsys.readouterr()
    code, out, err = call(capsys, experiment, "--date", "2026-09-01", "--plant", "broken_split")
    assert (code, err) == (0, "")
    assert out.endswith("the simulated bank played 181 mornings, until 2026-09-01\n")
    engine = open_engine(experiment)
    with bank_tables.in_default_schema(engine).connect() as connection:
        found = connection.execute(sa.select(bank_tables.bank)).one()
        n_listed = connection.scalar(
            sa.select(sa.func.count()).where(
                bank_tables.candidates.c.candidate_date == date(2026, 9, 1)
            )
        )
    engine.dispose()
    assert (found.plant, found.salt) == ("broken_split", "card_offer")
    # one in ten of B's 45 % is lost
    assert n_listed is not None
    assert 900 < n_listed < simulate.N_CANDIDATES
    code, out, err = call(capsys, experiment, "--date", "2026-09-02")
    assert (code, err) == (0, "")
    assert out.endswith("played 1 mornings, until 2026-09-02\n")
    code, out, err = call(capsys, experiment, "--date", "2026-09-03", "--plant", "harm")
    assert (code, out) == (2, "")
    assert "was created with broken_split" in err


def test_bank_takes_a_seed(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, engine: sa.Engine
) -> None:
    code, out, err = call(capsys, experiment, "--date", "2026-09-01", "--seed", "7")
    assert (code, err) == (0, "")
    assert "played 181 mornings" in out
    with bank_tables.in_default_schema(engine).connect() as connection:
        assert connection.scalar(sa.select(bank_tables.bank.c.seed)) == 7
    assert bank_tables.find_foreign(engine) == []


def test_bank_is_never_played_in_prod(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, engine: sa.Engine
) -> None:
    file = experiment.environment.file
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    raw["environments"]["prod"] = raw["environments"]["dev"]
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    code, out, err = call(capsys, experiment, "--env", "prod", "--date", "2026-09-01")
    assert (code, out) == (2, "")
    assert err == (
        f"demo.bank: {file}, environments.prod: a simulated bank is never played in prod. Name"
        " another environment, as in --env test.\n"
    )
    assert list_bank(engine) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "create table my_customers (id integer)",
        "create view my_customers as select 1 as id",
        "create table card_candidates (id integer)",  # a bank's own: no simulated one was created
    ],
)
def test_bank_leaves_foreign_tables_alone(
    capsys: pytest.CaptureFixture[str],
    experiment: Experiment,
    engine: sa.Engine,
    statement: str,
) -> None:
    name = statement.split()[2]
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    before = list_bank(engine)
    code, out, err = call(capsys, experiment, "--date", "2026-09-01")
    assert (code, out) == (1, "")
    assert f": holds {name}, which neither abatch nor a simulated bank made, so" in err
    assert err.endswith(
        f"Name a database that is empty but for abatch's tables: {experiment.environment.file},"
        " environments.dev.database.\n"
    )
    assert list_bank(engine) == before


def test_bank_does_not_live_on_among_foreign_tables(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, engine: sa.Engine
) -> None:
    simulate.simulate(engine, FIRST_NIGHT, history_days=0)
    assert bank_tables.find_foreign(engine) == []
    with engine.begin() as connection:
        for i in range(7):
            connection.exec_driver_sql(f"create table t{i} (id integer)")
    code, out, err = call(capsys, experiment, "--date", "2026-09-02")
    assert (code, out) == (1, "")
    assert ": holds t0, t1, t2, t3, t4 and 2 more, which" in err
    with bank_tables.in_default_schema(engine).connect() as connection:
        newest = connection.scalar(sa.select(sa.func.max(bank_tables.candidates.c.candidate_date)))
    assert newest == FIRST_NIGHT


@pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True
)
def test_bank_leaves_foreign_schemas_alone(
    capsys: pytest.CaptureFixture[str], experiment: Experiment, engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("create schema loans")
    assert bank_tables.find_foreign(engine) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("create table loans.runs (id integer)")
        connection.exec_driver_sql("create table abatch.card_calls (id integer)")
    assert sorted(bank_tables.find_foreign(engine)) == ["abatch.card_calls", "loans.runs"]
    code, out, err = call(capsys, experiment, "--date", "2026-09-01")
    assert (code, out) == (1, "")
    assert "loans.runs" in err
    assert list_bank(engine) == set()


def test_bank_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--plant", "effects"], ["--date", "1/9"], ["--seed", "x"]):
        with pytest.raises(SystemExit) as caught:
            bank.main(wrong)
        out, err = capsys.readouterr()
        assert caught.value.code == 2
        assert out == ""
        assert err.startswith("usage: python -m demo.bank")
