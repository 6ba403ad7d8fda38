"""Own tables, real data: two public data sets as nightly feeds.

They are read by queries of their own (docs/own-tables.md does the same). The figures expected are
those of the README beside the data, measured there with scikit-learn alone.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline

import predict
import score
import train
from abatch.config import Experiment, load_experiments
from abatch.database import migrations
from abatch.modelling import estimators, features, promotion, registry
from abatch.modelling.card import Card
from abatch.night import utc_now
from tests.conftest import SHARED_DATA, open_engine

pytestmark = pytest.mark.skipif(
    not SHARED_DATA.is_dir(),
    reason=f"the public data sets are missing: there is no folder {SHARED_DATA}",
)

# About where histogram boosting's own early stopping ends on these tables; abatch has it off, since
# it holds out rows at random.
BOOSTING = {
    "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
    "params": {"max_iter": 50},
}
LOGISTIC = {"estimator": "sklearn.linear_model.LogisticRegression", "params": {}}
DAY = timedelta(days=1)
MODEL_2008 = "depositA_v1.0_2009-01-01"


def read_bank() -> pd.DataFrame:
    """Bank Marketing as a feed: contact_id is the row number.

    Each month's rows, in order, are spread over four nights.
    """
    contacts = pd.read_csv(SHARED_DATA / "uci_bank" / "bank-additional-full.csv", sep=";").drop(
        columns="duration"
    )
    contacts.insert(0, "contact_id", np.arange(1, len(contacts) + 1))
    year = np.select(
        [contacts["contact_id"] <= 27_690, contacts["contact_id"] <= 39_130], [2008, 2009], 2010
    )
    month = pd.to_datetime(contacts["month"], format="%b").dt.month
    by_month = contacts.groupby([year, month])["contact_id"]
    day = 1 + 7 * (4 * by_month.cumcount() // by_month.transform("size"))
    contacts["contact_date"] = pd.to_datetime(
        pd.DataFrame({"year": year, "month": month, "day": day})
    )
    assert contacts["contact_date"].is_monotonic_increasing
    return contacts


def read_credit() -> pd.DataFrame:
    """Default of Credit Card Clients, which has no dates, as a feed.

    500 clients a night from 1 September 2005.
    """
    clients = pd.read_csv(SHARED_DATA / "uci_default" / "default_credit_card_clients.csv")
    clients = clients.rename(columns={"ID": "client_id", "default.payment.next.month": "defaulted"})
    clients["night"] = pd.Timestamp("2005-09-01") + pd.to_timedelta(
        (clients["client_id"] - 1) // 500, unit="D"
    )
    return clients


def load_feed(
    engine: sa.Engine, rows: pd.DataFrame, key: str, on: str, outcome: str, due_days: int
) -> None:
    """Write the tables of a source system.

    `people` by night, `answers` loaded the morning after, `feed` saying how far they go.
    """
    due = rows[on] + pd.Timedelta(days=due_days)
    answers = pd.DataFrame(
        {
            key: rows[key],
            "due": due,
            "happened": rows[outcome],
            "loaded_at": due + pd.Timedelta(hours=30),
        }
    )
    mornings = pd.date_range(due.min(), due.max()) + pd.Timedelta(hours=30)
    feed = pd.DataFrame({"complete_to": mornings.normalize(), "loaded_at": mornings})
    for name, table in (
        ("people", rows.drop(columns=outcome)),
        ("answers", answers),
        ("feed", feed),
    ):
        for column in {on, "due", "complete_to"} & set(table):
            table = table.assign(**{column: table[column].dt.date})
        table.to_sql(name, engine, index=False)


def make_queries(rows: pd.DataFrame, key: str, on: str, outcome: str) -> dict[str, str]:
    """The four queries over the tables of `load_feed`."""
    named = ", ".join(f'"{name}"' for name in rows.columns if name not in (key, on, outcome))
    night, known = f'"{on}" >= :from_date and "{on}" < :to_date', "loaded_at <= :as_of"
    return {
        "training": (
            f"select {key} as candidate_id, {on} as event_date, happened as outcome, {named}"
            f" from people inner join answers using ({key}) where {night} and {known}"
        ),
        "candidates": f"select {key} as candidate_id, {named} from people where {night}",
        "outcomes": (
            f"select {key} as candidate_id, due as event_date, happened as outcome"
            f" from answers where due >= :from_date and due < :to_date and {known}"
        ),
        "watermark": f"select max(complete_to) from feed where {known}",
    }


def write_experiment(
    folder: Path, name: str, queries: dict[str, str], **settings: Any
) -> Experiment:
    for query, sql in queries.items():
        (folder / f"{query}.sql").write_text(sql, encoding="utf-8")
    experiment = {
        "hypothesis": "It works on own tables too.",
        "queries": {query: f"{query}.sql" for query in queries},
        **settings,
    }
    raw = {
        "environments": {"dev": {"database": "sqlite:///own.db"}},
        "experiments": {name: experiment},
    }
    (folder / "ml_config.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return load_experiments(folder / "ml_config.yaml", "dev")[name]


def make_pipeline(frame: pd.DataFrame, model: dict[str, Any]) -> tuple[Pipeline, pd.DataFrame]:
    """A pipeline as train makes it, and the features as it gets them."""
    types = features.infer_types(frame)
    estimator = estimators.make_estimator(model["estimator"], model["params"], 0, "the test")
    return estimators.make_pipeline_for(estimator, types), features.decode(
        features.code(frame, types)
    )


def train_and_promote(experiment: Experiment, engine: sa.Engine, run_date: date) -> list[Card]:
    """The models of the bank's 2008 do not pass the gate; a person makes them live all the same."""
    train.train(experiment, engine, run_date)
    with engine.begin() as connection:
        cards = list(registry.read_cards(connection, experiment.name).values())
        for card in cards:
            assert "worse than the rate of its training rows" in card.gate.sentence
            promotion.promote(
                connection,
                card,
                effective_date=run_date,
                reason="to see what comes of it",
                promoted_by="Kari",
                promoted_at=utc_now(),
            )
    return cards


def test_bank_drift_is_seen_in_time_order(tmp_path: Path) -> None:
    contacts = read_bank().assign(y=lambda frame: frame["y"].eq("yes").astype(int))
    of_feed = ("contact_id", "contact_date", "y")
    experiment = write_experiment(
        tmp_path,
        "term_deposit",
        make_queries(contacts, *of_feed),
        outcome={"kind": "binary", "window_days": 1, "expected_effect": 0.05},
        training={"days": 365},
        split={"A": 0.9, "control": 0.1},
        select_top=0.2,
        cohort="month",
        models={"A": {"name": "depositA", "version": "1.0", **BOOSTING}},
    )
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_feed(engine, contacts, *of_feed, due_days=0)
    whole_year: dict[str, tuple[float, int]] = {}

    (card,) = train_and_promote(experiment, engine, date(2009, 1, 1))
    check_that_the_refusal_is_deserved(card, contacts[contacts["contact_date"] < "2009"])
    nights = contacts.loc[contacts["contact_date"] >= "2009", "contact_date"].drop_duplicates()
    for month, of_month in nights.groupby(nights.dt.to_period("M")):
        for night in of_month:
            predict.predict(experiment, engine, night.date())
        morning = (month + 1).start_time.date()
        score.score(experiment, engine, morning, draw=month == nights.iloc[-1].to_period("M"))
        if morning == date(2010, 1, 1):  # so far, 2009 is all there is
            whole_year = read_metrics(engine, MODEL_2008, "all")

    # In time order the model is hardly better than chance; a random split would have promised .80.
    assert 0.57 < whole_year["roc_auc"][0] < 0.68
    X_train, X_test, y_train, y_test = train_test_split(
        contacts.drop(columns=list(of_feed)), contacts["y"], test_size=0.2, random_state=0
    )
    pipeline, X_train = make_pipeline(X_train, BOOSTING)
    pipeline.fit(X_train, y_train)
    assert roc_auc_score(y_test, pipeline.predict_proba(X_test)[:, 1]) == pytest.approx(
        0.80, abs=0.02
    )

    with engine.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from models")) == 1
        assert connection.scalar(sa.text("select rows from models")) == 27_690
        by_year = connection.execute(
            sa.text(
                """
                select
                    substr(cohort, 1, 4) as year,
                    sum(n_predicted) as predicted,
                    sum(n_mature) as mature,
                    sum(n_positive) as positive
                from variant_scores
                where cohort <> 'all'
                group by substr(cohort, 1, 4)
                order by 1"""
            )
        ).all()

    # The rate of yes runs away from 2008, month by month; the scores do not follow, but move enough
    # for PSI to tell.
    assert [(row.year, row.predicted, row.mature) for row in by_year] == [
        ("2009", 11_440, 11_440),
        ("2010", 2_058, 2_058),
    ]
    in_training = contacts.loc[contacts["contact_date"] < "2009", "y"].mean()
    rates = [in_training, *(row.positive / row.mature for row in by_year)]
    assert rates == pytest.approx([0.048, 0.195, 0.521], abs=0.0005)
    by_month = contacts.groupby(contacts["contact_date"].dt.strftime("%Y-%m-01"))["y"].mean()
    for cohort in by_month.index[by_month.index >= "2009"]:
        rate, _ = read_metrics(engine, MODEL_2008, cohort)["base_rate"]
        assert rate == pytest.approx(by_month[cohort], abs=0.05)  # A has nine tenths of a month
        assert rate > 1.5 * in_training
    assert whole_year["psi"][0] > whole_year["psi_noise"][0]
    assert whole_year["brier_skill"][0] < 0  # worse than to tell everybody the year's rate
    engine.dispose()


def check_that_the_refusal_is_deserved(card: Card, contacts: pd.DataFrame) -> None:
    """By scikit-learn alone: on the newest fifth of 2008 it ranks worse than chance does."""
    older = contacts["contact_date"].dt.date < card.validation_from
    y = contacts["y"].to_numpy()
    pipeline, X = make_pipeline(
        contacts.drop(columns=["contact_id", "contact_date", "y"]), BOOSTING
    )
    X = X.sort_index(axis="columns")
    scores = pipeline.fit(X[older], y[older]).predict_proba(X[~older])[:, 1]
    assert roc_auc_score(y[~older], scores) < 0.5
    rate = np.full((~older).sum(), y[older].mean())
    skill = 1 - brier_score_loss(y[~older], scores) / brier_score_loss(y[~older], rate)
    assert card.gate.evidence["skill"]["value"] == pytest.approx(skill, abs=0.01)
    assert card.gate.evidence["skill"]["upper"] < 0


@pytest.mark.slow
@pytest.mark.parametrize("thinned", [False, True], ids=["as they are", "a third of B's removed"])
def test_bank_claims_a_difference_only_where_there_is_one(thinned: bool, tmp_path: Path) -> None:
    """Who got which variant was drawn by lot after the fact.

    So variants differ by chance alone, or by what the feed lost.
    """
    rng = np.random.default_rng(20090101)
    contacts = read_bank().assign(y=lambda frame: frame["y"].eq("yes").astype(int))
    contacts["variant"] = rng.choice(["A", "B", "control"], len(contacts), p=[0.45, 0.45, 0.1])
    in_trial = contacts["contact_date"] >= "2009"
    if thinned:
        answered = contacts.index[in_trial & (contacts["variant"] == "B") & (contacts["y"] == 1)]
        contacts.loc[rng.choice(answered, len(answered) // 3, replace=False), "y"] = 0
    of_feed = ("contact_id", "contact_date", "y")
    queries = make_queries(contacts.drop(columns="variant"), *of_feed)
    queries["candidates"] = queries["candidates"].replace(
        "as candidate_id,", "as candidate_id, variant,"
    )
    experiment = write_experiment(
        tmp_path,
        "by_lot",
        queries,
        outcome={"kind": "binary", "window_days": 1, "expected_effect": 0.05},
        training={"days": 365},
        split={"A": 0.45, "B": 0.45, "control": 0.1},
        select_top=0.2,
        cohort="month",
        models={
            "A": {"name": "lotA", "version": "1.0", **LOGISTIC},
            "B": {"name": "lotB", "version": "1.0", **LOGISTIC},
        },
    )
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_feed(engine, contacts, *of_feed, due_days=0)
    train_and_promote(experiment, engine, date(2009, 1, 1))
    nights = contacts.loc[in_trial, "contact_date"].drop_duplicates()
    for month, of_month in nights.groupby(nights.dt.to_period("M")):
        for night in of_month:
            predict.predict(experiment, engine, night.date())
        score.score(experiment, engine, (month + 1).start_time.date(), draw=False)
    with engine.connect() as connection:
        found = pd.read_sql(sa.text("select * from verdicts order by run_date"), connection)
        ratios = pd.read_sql(sa.text("select * from sample_ratios"), connection)
    engine.dispose()

    n_looks = 0
    for run_date, rows in found.groupby("run_date"):
        so_far = contacts[in_trial & (contacts["contact_date"] < run_date)]
        n, n_positive = (so_far.groupby("variant")["y"].agg(how) for how in ("size", "sum"))
        for row in rows.itertuples():
            treatment, control = (
                (["A", "B"], ["control"])
                if row.comparison == "models vs control"
                else (["B"], ["A"])
            )
            assert (row.n_treatment, row.sum_treatment) == (
                n[treatment].sum(),
                n_positive[treatment].sum(),
            )
            assert (row.n_control, row.sum_control) == (n[control].sum(), n_positive[control].sum())
            if row.word == "too early":
                continue
            # B's answers are two thirds of those that its candidates gave, who are like all others.
            rate = n_positive[["A", "control"]].sum() / n[["A", "control"]].sum()
            lost = rate / 3 * thinned
            known = -lost if row.comparison == "B vs A" else -lost * n["B"] / n[treatment].sum()
            assert row.lower <= known <= row.upper
            n_looks += 1
    assert n_looks > 30
    words = found.pivot(index="run_date", columns="comparison", values="word")
    if thinned:
        assert words["B vs A"].iloc[-1] == "worse"
        assert "better" not in set(words["B vs A"])
    else:
        assert not words.isin(["better", "worse"]).any(axis=None)
    assert ratios["pvalue_min"].min() > 0.01


def read_metrics(engine: sa.Engine, model_name: str, cohort: str) -> dict[str, tuple[float, int]]:
    """Value and n of each metric of a model, by SQL as an analyst would."""
    query = sa.text(
        "select metric, value, n from scores where model_name = :model_name and cohort = :cohort"
    )
    with engine.connect() as connection:
        rows = connection.execute(query, {"model_name": model_name, "cohort": cohort}).all()
    return {row.metric: (row.value, row.n) for row in rows}


@pytest.mark.parametrize(
    ("model", "expected"), [(BOOSTING, 0.78), (LOGISTIC, 0.723)], ids=["boosting", "logistic"]
)
def test_credit_cross_validation_finds_the_known_auc(
    model: dict[str, Any], expected: float
) -> None:
    clients = read_credit()
    pipeline, X = make_pipeline(clients.drop(columns=["client_id", "night", "defaulted"]), model)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    auc = cross_val_score(pipeline, X, clients["defaulted"], scoring="roc_auc", cv=folds)
    assert auc.mean() == pytest.approx(expected, abs=0.01)


def test_credit_nights_give_one_row_per_candidate_and_the_known_auc(tmp_path: Path) -> None:
    clients = read_credit()
    of_feed = ("client_id", "night", "defaulted")
    experiment = write_experiment(
        tmp_path,
        "card_default",
        make_queries(clients, *of_feed),
        outcome={"kind": "binary", "window_days": 7, "expected_effect": 0.02},
        split={"A": 0.45, "B": 0.45, "control": 0.1},
        select_top=0.2,
        models={
            "A": {"name": "creditA", "version": "1.0", **LOGISTIC},
            "B": {"name": "creditB", "version": "1.0", **BOOSTING},
        },
    )
    engine = open_engine(experiment)
    migrations.upgrade(engine)
    load_feed(engine, clients, *of_feed, due_days=6)

    first = date(2005, 10, 1)
    train.train(experiment, engine, first)
    for i in range(30):
        predict.predict(experiment, engine, first + i * DAY)
    score.score(experiment, engine, first + 36 * DAY)

    with engine.connect() as connection:
        assert (
            connection.scalars(sa.text("select rows from models")).all() == [24 * 500] * 2
        )  # nights whose week was over
        found = connection.execute(
            sa.text("""
                select
                    count(*) as expected,
                    count(predictions.candidate_id) as found,
                    sum(
                        case
                            when (variant = 'control') = (prediction is null and model_name is null)
                            then 1
                            else 0
                        end
                    ) as told
                from people
                left join predictions
                    on cast(client_id as varchar(64)) = candidate_id and night = run_date
                where night >= '2005-10-01'""")
        ).one()
        assert tuple(found) == (15_000, 15_000, 15_000)
        assert connection.scalar(sa.text("select count(*) from predictions")) == 15_000
        n_positive = connection.scalar(
            sa.text(
                "select sum(n_positive) from variant_scores where cohort = 'all' and n_mature ="
                " n_predicted"
            )
        )
        assert n_positive == clients.loc[clients["night"] >= "2005-10-01", "defaulted"].sum()
        predicted = pd.read_sql(
            sa.text(
                "select variant, candidate_id, prediction from predictions where model_name is not"
                " null"
            ),
            connection,
        )
    joined = predicted.astype({"candidate_id": int}).merge(
        clients, left_on="candidate_id", right_on="client_id"
    )
    aucs = {}
    for variant, rows in joined.groupby("variant"):
        auc, n = read_metrics(engine, f"credit{variant}_v1.0_2005-10-01", "all")["roc_auc"]
        assert (auc, n) == (
            pytest.approx(roc_auc_score(rows["defaulted"], rows["prediction"]), abs=1e-4),
            len(rows),
        )
        aucs[variant] = auc
    engine.dispose()
    assert aucs["B"] == pytest.approx(0.783, abs=0.02)
    assert 0.70 < aucs["A"] < aucs["B"]
