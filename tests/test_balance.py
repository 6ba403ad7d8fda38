"""Variants recorded elsewhere that chance has not drawn are told; those that it has are not."""

import re
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.stats import chi2, kruskal

import predict
import score
from abatch.config import Experiment
from abatch.database.tables import looks, runs
from abatch.statistics import balance, drift
from demo import simulate
from tests.conftest import FIRST_NIGHT, alter

RANKED = "row_number() over (order by income) <= {n}"
DRAWN = "(customer_id * 7919) % 1000 < 500"


def record(experiment: Experiment, control: str) -> Experiment:
    """The experiment with control recorded where a condition holds, else A."""
    head, _, tail = experiment.sql["candidates"].rpartition("customer_id as candidate_id,")
    variant = f"case when {control} then 'control' else 'A' end as variant"
    sql = f"{head}customer_id as candidate_id,\n    {variant},{tail}"
    return alter(experiment, sql={**experiment.sql, "candidates": sql})


@pytest.mark.bank("trained")
@pytest.mark.parametrize(
    ("control", "is_told"), [(RANKED.format(n=100), True), (DRAWN, False), ("1 = 0", False)]
)
def test_predict_tells_of_variants_that_are_not_drawn(
    control: str,
    is_told: bool,
    experiment: Experiment,
    engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A quota gives control the 100 of 1,000 with the lowest income; an id draws; all are in A."""
    capsys.readouterr()
    summary = predict.predict(record(experiment, control), engine, FIRST_NIGHT)
    told = capsys.readouterr().err
    assert ("; variants differ by more than chance: income" in summary) == is_told
    assert ("differ by more than chance gives:\n  income: above" in told) == is_told
    if is_told:
        assert re.search(r"above [\d,.]+ in 9\d% of A, \d% of control \(p ", told)
        assert "Verdicts hold only if chance alone decided who is in which variant" in told
    last = FIRST_NIGHT + 17 * timedelta(days=1)  # when the night is mature
    simulate.simulate(engine, last)
    score.score(record(experiment, control), engine, last, draw=False)
    with engine.connect() as connection:
        predicted = sa.select(runs.c.status, runs.c.warnings).filter_by(job="predict")
        ((status, warned),) = connection.execute(predicted).all()
        doubted = connection.scalar(sa.select(looks.c.doubts)) or ""
    assert status == "done"
    assert ("differ by more than chance gives:\n  income: above" in (warned or "")) == is_told
    words = f"variants of {FIRST_NIGHT}, which differ by more than chance gives (runs.warnings)"
    assert (words in doubted) == is_told


@pytest.mark.bank("trained")
def test_predict_does_not_count_what_the_hash_draws(
    experiment: Experiment, engine: sa.Engine
) -> None:
    assert "by more than chance" not in predict.predict(experiment, engine, FIRST_NIGHT)


def test_merge_thin_by_hand() -> None:
    """A tenth is control, so a cell needs 50 rows; the 40 left over go to the last."""
    table = np.array([[30, 30, 60, 3, 4, 50, 36], [4, 3, 7, 1, 1, 4, 4]], dtype=float)
    assert table.sum(axis=1).tolist() == [213, 24]
    assert balance.merge_thin(table).tolist() == [[60, 60, 93], [7, 7, 10]]


def test_compare_cells_by_hand() -> None:
    """Of 100 and 100 rows 60, 25, 15 and 40, 25, 35: 2 * 10**2 / 50 + 0 + 2 * 10**2 / 25 = 12."""
    table = np.array([[60.0, 25, 15], [40, 25, 35]])
    assert balance.compare_cells(table) == pytest.approx(np.exp(-6))  # two degrees of freedom
    for odd in (table[:1], table[:0], np.array([[9.0, 0], [9, 0]]), np.array([[90.0, 0], [0, 8]])):
        assert np.isnan(balance.compare_cells(odd))
        assert np.isnan(balance.compare_ranks(odd))


def test_compare_ranks_as_scipy_has_it(rng: np.random.Generator) -> None:
    tables = rng.integers(20, 60, size=(10, 3, 5)).astype(float)
    for table in tables:
        rows = [np.repeat(np.arange(5), cells.astype(int)) for cells in table]
        assert balance.compare_ranks(table) == pytest.approx(kruskal(*rows).pvalue)


def test_find_imbalances_names_what_differs_most(rng: np.random.Generator) -> None:
    """Shares by hand: of A 40 of 400 are null in x, of B 360; of A 300 of 400 are N, of B 100."""
    x = np.concatenate([rng.normal(size=360), [np.nan] * 40, rng.normal(size=40), [np.nan] * 360])
    area = ["N"] * 300 + ["S"] * 100 + ["N"] * 100 + ["S"] * 300
    X = pd.DataFrame({"area": area, "x": x, "y": rng.normal(size=800)}, dtype=object)
    X = X.astype({"x": float, "y": float})
    references = drift.make_feature_references(
        X, {"area": "category", "x": "number", "y": "number"}
    )
    counts = {
        name: drift.count_features(part, references)
        for name, part in (("A", X[:400]), ("B", X[400:]), ("C", X[:9]))
    }
    x_, area_ = balance.find_imbalances(references, counts)
    assert (x_.feature, x_.what, x_.shares) == ("x", "null", {"A": 0.1, "B": 0.9})
    assert (area_.feature, area_.what, area_.shares) == ("area", "'N'", {"A": 0.75, "B": 0.25})
    # without Yates' correction 400 rows each, 300 and 100 of 400: 4 * 100**2 / 200 = 200
    assert chi2.sf(200, 1) < area_.pvalue < chi2.sf(190, 1)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.45, 0.45, 0.1)])
def test_compare_cells_is_below_its_level_by_chance(shares: tuple[float, ...]) -> None:
    """Of 4,000 tables of thin cells at most 1.5 times 1 % have p < .01."""
    rng, n_cells = np.random.default_rng(12), 4
    cells = np.outer(shares, [1 / n_cells] * n_cells)
    n = round(balance.MIN_EXPECTED * n_cells / min(shares))
    tables = rng.multinomial(n, cells.ravel(), size=4_000).reshape(-1, *cells.shape)
    pvalues = np.array([balance.compare_cells(table.astype(float)) for table in tables])
    assert np.mean(pvalues < 0.01) < 0.015
