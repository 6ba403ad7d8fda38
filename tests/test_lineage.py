"""The lineage of predictions, and of what is live, from rows that are filled in by hand."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from abatch.config import Experiment
from abatch.database.tables import (
    deletions,
    metadata,
    models,
    predictions,
    promotions,
    runs,
    snapshots,
)
from abatch.errors import DataError
from abatch.experiment import registrations, terms
from abatch.modelling import promotion
from abatch.pages import lineage
from abatch.text import Reply, to_json
from tests.conftest import add_predictions, add_runs, make_card, make_night, make_registration
from tests.test_tsql import compile_for_sql_server
from tests.tsql import find_faults

NIGHT, NEXT = date(2026, 9, 2), date(2026, 9, 3)
A1, A2, B1 = "modelA_v1.0_2026-09-01", "modelA_v1.0_2026-09-02", "modelB_v1.0_2026-09-01"
UUID = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
STARTED = datetime(2026, 9, 2, 20, 14)
EVENING = datetime(2026, 9, 2, 20, 15, 30)  # when the night was published
# Variants, selection keys and limits are those of docs/assignment.md.
WRITTEN: list[tuple[str, str, str | None, float | None, int, int]] = [
    ("6", "A", A1, 0.75, 1, 1),
    ("-12", "A", A1, 0.25, 2, 0),
    ("1", "B", B1, 0.5, 1, 1),  # .5 + .82 by sha256sum of card_offer:2026-09-02, rounded down
    ("2", "control", None, None, 1, 1),
    (UUID, "control", None, None, 2, 0),
]


def add(engine: sa.Engine, table: sa.Table, *rows: Mapping[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(table.insert(), rows)


def make_prediction(
    candidate_id: str,
    variant: str,
    model_name: str | None,
    score: float | None,
    rank: int,
    selected: int,
) -> dict[str, Any]:
    share = {"A": 0.45, "B": 0.45, "control": 0.1}[variant]
    row = {
        "experiment": "card_offer",
        "run_date": NIGHT,
        "candidate_id": candidate_id,
        "variant": variant,
        "model_name": model_name,
    }
    row |= {
        "assignment_probability": share,
        "prediction": score,
        "rank_in_variant": rank,
        "selected": selected,
    }
    return {**row, "run_id": "predict1", "predicted_at": EVENING}


def make_run(
    run_id: str, job: str, run_date: date, started_at: datetime, **changes: object
) -> dict[str, Any]:
    row = {
        "run_id": run_id,
        "job": job,
        "experiment": "card_offer",
        "run_date": run_date,
        "status": "done",
        "host": "bank7 (process 12)",
    }
    row |= {
        "started_at": started_at,
        "finished_at": started_at.replace(minute=16),
        "code_version": "0.5.0+abc1234",
    }
    return {**row, "config_hash": "c" * 64, **changes}


def make_model(model_name: str, variant: str, **changes: object) -> dict[str, Any]:
    row = {
        "model_name": model_name,
        "experiment": "card_offer",
        "variant": variant,
        "name": f"model{variant}",
        "version": "1.0",
        "run_date": date.fromisoformat(model_name[12:22]),
        "file": f"{model_name}.pkl",
        "sha256": "a" * 64,
    }
    row |= {
        "from_date": date(2026, 6, 1),
        "to_date": date(2026, 8, 18),
        "as_of": datetime(2026, 9, 1, 20),
        "rows": 40_000,
    }
    row |= {
        "code_version": "0.5.0+abc1234",
        "environment_hash": "e" * 64,
        "seed": 0,
        "run_id": "train1",
        "snapshot": "5" * 64,
    }
    return {
        **row,
        "card": make_card(config_hash="c" * 64).to_json(),
        "decision": "goes live",
        **changes,
    }


def promote(
    engine: sa.Engine,
    model_name: str,
    effective_date: date,
    promoted_at: datetime,
    variant: str = "A",
    **changes: str,
) -> None:
    card = make_card(experiment="card_offer", variant=variant, model_name=model_name)
    row: dict[str, Any] = {"reason": "as good as before", "promoted_by": "train train1", **changes}
    row |= {"effective_date": effective_date, "promoted_at": promoted_at}
    with engine.begin() as connection:
        promotion.promote(connection, card, **row)


def register(engine: sa.Engine, experiment: Experiment, **changes: object) -> None:
    asked = terms.describe(experiment).model_dump()
    registration = make_registration(**{**asked, "select_top": 0.5, **changes})
    with engine.begin() as connection:
        registrations.register(connection, make_night("predict1", at=EVENING), registration)


@pytest.fixture
def bank(experiment: Experiment, engine: sa.Engine) -> sa.Engine:
    """One night of five candidates, predicted by the models of the day before."""
    register(engine, experiment)
    trained_at = datetime(2026, 9, 1, 20, 15)
    add_runs(
        engine,
        make_run("train1", "train", date(2026, 9, 1), trained_at),
        make_run("predict1", "predict", NIGHT, STARTED, finished_at=EVENING),
    )
    add(engine, models, make_model(A1, "A"), make_model(B1, "B"))
    add_predictions(engine, *(make_prediction(*row) for row in WRITTEN))
    promote(engine, A1, date(2026, 9, 1), trained_at)
    promote(
        engine,
        B1,
        date(2026, 9, 1),
        trained_at,
        variant="B",
        promoted_by="Kari",
        action="rollback",
        reason="Ærlig talt bedre",
    )
    return engine


def explain(
    engine: sa.Engine, experiment: Experiment, candidate: str, on: date = NIGHT
) -> dict[str, str]:
    """The facts by their word, each in one line.

    Of a word that comes again the last counts, and an empty word is the title.
    """
    reply = lineage.explain(engine, {"card_offer": experiment}, candidate, on)
    return read_facts(reply.text)


def read_facts(text: str) -> dict[str, str]:
    assert max(map(len, text.splitlines())) < 80
    facts, word = {"": ""}, ""
    for line in text.splitlines():
        if line.startswith("  ") and not line.startswith(" " * 13):
            word = line[2:13].strip()
            facts[word] = line[13:]
        else:
            facts[word] = f"{facts[word]} {line.strip()}".strip()
    return facts


def test_explain_of_a_model(bank: sa.Engine, experiment: Experiment) -> None:
    run = "on bank7 (process 12), started"
    assert explain(bank, experiment, "6") == {
        "": "card_offer in dev, night of 2026-09-02, candidate 6",
        "prediction": "0.75; rank 1 of 2 in variant A",
        "selected": "yes; the first 1 of 2 by rank are (select_top 0.5)",
        "predicted": "2026-09-02 20:15:30 UTC",
        # 0x055c30af / 2**32 = 0.0209...; the limits are those of docs/assignment.md
        "variant": (
            "A, by hash, recomputed: SHA-256 of card_offer:6 begins with 055c30afd589aabf, 0.020938"
            " of 2**64, within 0000000000000000 to 7333333333333332 (0 to 0.45), registered for A"
        ),
        "model": f"{A1}, file {A1}.pkl, not deleted, SHA-256 {'a' * 64}",
        "trained on": (
            "40,000 rows of [2026-06-01, 2026-08-18), as known at 2026-09-01 20:00:00 UTC;"
            f" snapshot {'5' * 64}, not deleted"
        ),
        "code": "trained by 0.5.0+abc1234; predicted by the same",
        "config": f"trained under {'c' * 64}; predicted under the same",
        "train run": (
            f"train1, train for 2026-09-01 {run} 2026-09-01 20:15:00 UTC, finished 2026-09-01"
            " 20:16:00 UTC, done"
        ),
        "run": (
            f"predict1, predict for 2026-09-02 {run} 2026-09-02 20:14:00 UTC, finished 2026-09-02"
            " 20:15:30 UTC, done"
        ),
        "promotion": (
            "promote, effective from 2026-09-01, written 2026-09-01 20:15:00 UTC by train train1:"
            " as good as before"
        ),
    }


def test_explain_of_another_variant(bank: sa.Engine, experiment: Experiment) -> None:
    facts = explain(bank, experiment, "1")
    assert hashlib.sha256(b"card_offer:1").hexdigest().startswith("b7f3c4694cf6d2a1")
    assert (
        "b7f3c4694cf6d2a1, 0.718563 of 2**64, within 7333333333333333 to e666666666666665 (0.45 to"
        " 0.9), regis" in facts["variant"]
    )
    assert facts["selected"] == "yes; the first 1 of 1 by rank are (select_top 0.5)"
    assert facts["promotion"].startswith("rollback, effective")
    assert facts["promotion"].endswith("by Kari: Ærlig talt bedre")


def test_explain_of_the_control(bank: sa.Engine, experiment: Experiment) -> None:
    facts = explain(bank, experiment, "2")
    assert (
        facts["prediction"] == "none, for the variant has no model; rank 1 of 2 in variant control"
    )
    assert (
        facts["model"]
        == "none: variant control selects at random, by selection_key 315e0fdb1ee9557d (bytes 8 to"
        " 15 of the hash), lower first"
    )
    assert "(0.9 to 1), registered for control" in facts["variant"]
    assert (facts["code"], facts["config"]) == (
        "predicted by 0.5.0+abc1234",
        f"predicted under {'c' * 64}",
    )
    assert not {"promotion", "trained on", "train run"} & set(facts)


def test_explain_of_an_upper_case_uuid(bank: sa.Engine, experiment: Experiment) -> None:
    facts = explain(bank, experiment, UUID.upper())
    assert facts[""].endswith(f"candidate {UUID}")
    assert "begins with ed6e53d9fdcc781e" in facts["variant"]
    assert "8eb851996f670e03" in facts["model"]


def test_explain_of_a_recorded_variant(experiment: Experiment, engine: sa.Engine) -> None:
    register(engine, experiment, assignment="recorded")
    add_predictions(
        engine,
        make_prediction("1", "A", A1, 0.5, 1, 0),
        make_prediction("6", "A", A1, 0.25, 2, 0),
    )
    said = (
        "A, recorded by the candidates query; the hash would give B and does not count: SHA-256 of"
        " card_offer:1 begins with b7f3"
    )
    assert explain(engine, experiment, "1")["variant"].startswith(said)
    facts = explain(engine, experiment, "6")
    assert "; the hash would give the same and does not count: " in facts["variant"]
    # Nothing else is known of these rows, and it says so.
    assert facts["model"] == f"{A1}, which the table models does not have"
    assert facts["promotion"] == f"none: the table promotions never had {A1} live on 2026-09-02"
    assert facts["code"] == "predicted by 0.1.0"


def test_explain_shows_a_variant_that_the_hash_does_not_give(
    experiment: Experiment, engine: sa.Engine
) -> None:
    register(engine, experiment)
    add_predictions(engine, make_prediction("1", "A", A1, 0.5, 1, 0))
    assert explain(engine, experiment, "1")["variant"].startswith(
        "A was written, BUT THE HASH GIVES B: SHA-256 of card_offer:1 begins"
    )


def test_explain_after_force(bank: sa.Engine, experiment: Experiment) -> None:
    row = make_prediction(*WRITTEN[0])
    earliest = {**row, "prediction": 0.125, "selected": 0, "run_id": "predict0"}
    earliest |= {"predicted_at": datetime(2026, 9, 2, 19), "superseded_by": "predict1"}
    another = {"run_id": "predict8", "run_date": NEXT, "superseded_by": "predict9"}
    add_predictions(bank, earliest, {**earliest, **another})
    with bank.begin() as connection:
        replaced = runs.update().where(runs.c.run_id == "predict1")
        connection.execute(replaced.values(status="superseded", superseded_by="predict2"))
    later = datetime(2026, 9, 3, 6, 15)
    add(bank, models, make_model(A2, "A", run_id="train2", code_version="0.5.1"))
    changed = {"code_version": "0.5.2-dirty", "config_hash": "d" * 64}
    add_runs(bank, make_run("predict2", "predict", NIGHT, later, **changed))
    new = {"prediction": 0.875, "model_name": A2, "run_id": "predict2"}
    others = [{**make_prediction(*written), "run_id": "predict2"} for written in WRITTEN[2:]]
    add_predictions(bank, {**row, **new}, *others)
    promote(bank, A2, NIGHT, later, promoted_by="train train2")

    facts = explain(bank, experiment, "6")
    assert facts["prediction"] == "0.875; rank 1 of 1 in variant A"
    assert facts["run"].startswith("predict2, predict for 2026-09-02 ")
    assert facts["train run"] == "train2, which the table runs does not have"
    assert facts["code"] == "trained by 0.5.1; predicted by 0.5.2-dirty"
    assert facts["config"] == f"trained under {'c' * 64}; predicted under {'d' * 64}"
    assert facts["promotion"].startswith(
        "promote, effective from 2026-09-02, written 2026-09-03 06:15:00 UTC by train train2"
    )
    assert "overruled" not in facts
    text = lineage.explain(bank, {"card_offer": experiment}, "6", NIGHT).text
    words = " ".join(text[text.index("  superseded") :].split())
    assert (
        words == f"superseded {A1}, 0.125, not selected, 2026-09-02 19:00:00 UTC by run predict0;"
        f" replaced by run predict1 superseded {A1}, 0.75, selected, 2026-09-02 20:15:30 UTC by"
        " run predict1; replaced by run predict2"
    )
    gone = explain(
        bank, experiment, "-12"
    )  # was no candidate any more when the night was done again
    assert list(gone) == ["", "prediction", "superseded"]
    assert gone["prediction"] == "none any more: the night was done again without this candidate"


def test_explain_after_a_retroactive_rollback(bank: sa.Engine, experiment: Experiment) -> None:
    noon = datetime(2026, 9, 5, 12)
    promote(bank, A1, NEXT, datetime(2026, 9, 2, 12), reason="only from the next night on")
    promote(
        bank,
        "modelA_v1.0_2026-08-25",
        NIGHT,
        noon,
        action="rollback",
        reason="broken feed",
        promoted_by="Kari",
    )
    facts = explain(bank, experiment, "6")
    assert facts["promotion"].endswith("by train train1: as good as before")
    assert (
        facts["overruled"]
        == "by now modelA_v1.0_2026-08-25 is live for that night; the prediction stands."
        " rollback, effective from 2026-09-02, written 2026-09-05 12:00:00 UTC by Kari: broken feed"
    )


def test_explain_of_a_promotion_that_was_written_after_the_prediction(
    experiment: Experiment, engine: sa.Engine
) -> None:
    register(engine, experiment)
    add_predictions(engine, make_prediction(*WRITTEN[0]))
    promote(engine, A1, NIGHT, datetime(2026, 9, 5, 12))
    assert explain(engine, experiment, "6")["promotion"].endswith(
        ": as good as before. Its row was written after the prediction"
    )


def test_explain_of_a_deleted_model_and_snapshot(bank: sa.Engine, experiment: Experiment) -> None:
    row = {
        "reason": "retention: too old",
        "deleted_by": "train train7",
        "deleted_at": datetime(2026, 12, 1, 20),
    }
    add(
        bank,
        deletions,
        {**row, "kind": "model", "name": A1},
        {**row, "kind": "snapshot", "name": "5" * 64},
    )
    said = "deleted 2026-12-01 20:00:00 UTC by train train7 (retention: too old)"
    facts = explain(bank, experiment, "6")
    assert facts["model"] == f"{A1}, file {A1}.pkl, {said}, SHA-256 {'a' * 64}"
    assert facts["trained on"].endswith(f"snapshot {'5' * 64}, {said}")
    pulled = {
        "run_id": "train9",
        "experiment": "card_offer",
        "content_hash": "5" * 64,
        "sha256": "6" * 64,
        "n_bytes": 1,
        "rows": 1,
    }
    pulled |= {
        "from_date": NIGHT,
        "to_date": NIGHT,
        "as_of": EVENING,
        "query": "",
        "columns": "",
        "pulled_at": datetime(2026, 12, 2),
    }
    add(bank, snapshots, pulled)
    assert explain(bank, experiment, "6")["trained on"].endswith(
        f"snapshot {'5' * 64}, not deleted"
    )


def test_explain_of_several_experiments(bank: sa.Engine, experiment: Experiment) -> None:
    # The split of renewal is independent: docs/assignment.md has 75... for its 1, which is B too.
    row = {**make_prediction("1", "B", B1, 0.5, 1, 0), "run_id": "renewal1"}
    add_predictions(bank, {**row, "experiment": "renewal"})
    other = experiment.model_copy(update={"name": "renewal"})
    register(bank, other)
    experiments = {"card_offer": experiment, "renewal": other}
    blocks = lineage.explain(bank, experiments, "1", NIGHT).text.split("\n\n")
    assert [block.split()[0] for block in blocks] == ["card_offer", "renewal"]
    assert "SHA-256 of renewal:1 begins with 750d400bf45c7707" in " ".join(blocks[1].split())
    assert len(lineage.explain(bank, experiments, "6", NIGHT).text.split("\n\n")) == 1


def test_explain_without_a_prediction_names_other_nights(
    bank: sa.Engine, experiment: Experiment
) -> None:
    with pytest.raises(DataError) as caught:
        explain(bank, experiment, "6", NEXT)
    assert (
        str(caught.value) == "--candidate 6: there is no prediction of 2026-09-03 in card_offer.\n"
        "card_offer has it on other nights: 2026-09-02. Name one by --date."
    )
    row = make_prediction(*WRITTEN[0])
    nights = [date(2026, 9, day) for day in range(10, 20)]
    add_predictions(bank, *({**row, "run_date": day, "run_id": f"p{day}"} for day in nights))
    with pytest.raises(
        DataError,
        match=(
            r"nights: the newest are 2026-09-19, 2026-09-18, 2026-09-17, 2026-09-16, 2026-09-15\."
            r" Name"
        ),
    ):
        explain(bank, experiment, "6", NEXT)


def test_explain_of_an_unknown_candidate(bank: sa.Engine, experiment: Experiment) -> None:
    with pytest.raises(DataError) as caught:
        explain(bank, experiment, "CU-000042")
    assert (
        str(caught.value)
        == "--candidate CU-000042: there is no prediction of 2026-09-02 in card_offer.\nIt was"
        " never predicted there. Write the id as the candidates query returns it: outside UUIDs"
        " upper and lower case count."
    )
    with pytest.raises(
        DataError, match=r"^--candidate: candidate_id 'é': expected 1 to 64 printable ASCII"
    ):
        explain(bank, experiment, "é")


def test_explain_of_long_names_keeps_the_width(experiment: Experiment, engine: sa.Engine) -> None:
    register(engine, experiment)
    long = "x" * 64
    add_predictions(engine, make_prediction(long, "A", "m" * 128, 1 / 3, 1, 1))
    assert explain(engine, experiment, long)["prediction"].startswith(
        "0.3333333333333333; rank 1 of 1"
    )


def describe(engine: sa.Engine, experiment: Experiment, on: date) -> list[str]:
    """What is said of each variant, in one line."""
    text = lineage.describe_live(engine, {"card_offer": experiment}, on).text
    assert max(map(len, text.splitlines())) < 80
    title, *blocks = text.split("\n  variant ")
    assert title == f"card_offer in dev, live on {on}"
    return [" ".join(block.split()) for block in blocks]


def test_describe_live(bank: sa.Engine, experiment: Experiment) -> None:
    trained = (
        "trained on 40,000 rows of [2026-06-01, 2026-08-18), as known at 2026-09-01 20:00:00 UTC"
    )
    why = "effective from 2026-09-01, written 2026-09-01 20:15:00 UTC by"
    assert describe(bank, experiment, NIGHT) == [
        (
            f"A: {A1} promotion promote, {why} train train1: as good as before {trained} predicted"
            f" 2 for 2026-09-02 by {A1}"
        ),
        (
            f"B: {B1} promotion rollback, {why} Kari: Ærlig talt bedre {trained} predicted 1 for"
            f" 2026-09-02 by {B1}"
        ),
        "control: no model (selects at random) predicted 2 for 2026-09-02 by no model",
    ]
    assert describe(bank, experiment, date(2026, 8, 31)) == [
        "A: no model was live predicted nobody for 2026-08-31",
        "B: no model was live predicted nobody for 2026-08-31",
        "control: no model (selects at random) predicted nobody for 2026-08-31",
    ]


def test_describe_live_says_who_really_predicted(bank: sa.Engine, experiment: Experiment) -> None:
    promote(
        bank,
        A2,
        NIGHT,
        datetime(2026, 9, 5, 12),
        action="rollback",
        reason="broken feed",
        promoted_by="Kari",
    )
    found = describe(bank, experiment, NIGHT)
    assert (
        found[0]
        == f"A: {A2} promotion rollback, effective from 2026-09-02, written 2026-09-05 12:00:00 UTC"
        " by Kari: broken feed trained on unknown: the table models does not have it predicted"
        f" 2 for 2026-09-02 by {A1}. Note that the table says that {A2} is live, but that is not"
        " what made them: it was made live for this night only after they were written, on"
        " 2026-09-02 20:15:30 UTC"
    )
    assert "Note" not in found[1] + found[2]


def test_describe_live_of_predictions_without_a_promotion(
    experiment: Experiment, engine: sa.Engine
) -> None:
    add_predictions(engine, make_prediction(*WRITTEN[0]))
    assert (
        describe(engine, experiment, NIGHT)[0]
        == f"A: no model was live predicted 1 for 2026-09-02 by {A1}. Note that the table says that"
        " no model is live, but that is not what made them"
    )


def read_json(reply: Reply) -> Any:
    """The content as a program reads it."""
    return json.loads(to_json(reply.content))


def test_explain_as_json(bank: sa.Engine, experiment: Experiment) -> None:
    """The content of the text, under the names of the tables' columns."""
    experiments = {"card_offer": experiment}
    (told,) = read_json(lineage.explain(bank, experiments, "6", NIGHT))
    assert (told["experiment"], told["environment"], told["superseded"]) == (
        "card_offer",
        "dev",
        [],
    )
    assert told["prediction"].keys() == set(predictions.columns.keys())
    assert (told["prediction"]["prediction"], told["n_in_variant"], told["n_selected"]) == (
        0.75,
        2,
        1,
    )
    assert told["prediction"]["predicted_at"] == "2026-09-02T20:15:30Z"
    assert told["assignment"] == {
        "source": "hash",
        "by_hash": "A",
        "hash": hashlib.sha256(b"card_offer:6").hexdigest(),
        "hash_from": "0000000000000000",
        "hash_up_to": "7333333333333332",
    }
    made = told["making"]
    assert made.keys() == {"model", "config_hash", "run", "deletion", "snapshot_deletion"}
    assert made["model"].keys() == set(models.columns.keys()) - {"card"}
    assert (made["model"]["model_name"], made["deletion"]) == (A1, None)
    assert (made["run"]["run_id"], told["run"]["run_id"]) == ("train1", "predict1")
    assert told["promotion"].keys() == set(promotions.columns.keys())
    assert told["overruled_by"] is None
    (control,) = read_json(lineage.explain(bank, experiments, "2", NIGHT))
    assert (control["making"], control["promotion"]) == (None, None)


def test_describe_live_as_json(bank: sa.Engine, experiment: Experiment) -> None:
    (told,) = read_json(lineage.describe_live(bank, {"card_offer": experiment}, NIGHT))
    assert (told["experiment"], told["date"]) == ("card_offer", "2026-09-02")
    first, _, control = told["variants"]
    assert first["promotion"]["model_name"] == first["model"]["model_name"] == A1
    assert first["predicted"] == [
        {"variant": "A", "model_name": A1, "n": 2, "predicted_at": "2026-09-02T20:15:30Z"}
    ]
    assert control == {
        "variant": "control",
        "has_model": False,
        "promotion": None,
        "model": None,
        "predicted": [
            {
                "variant": "control",
                "model_name": None,
                "n": 2,
                "predicted_at": "2026-09-02T20:15:30Z",
            }
        ],
    }


def test_only_reads_and_speaks_tsql(bank: sa.Engine, experiment: Experiment) -> None:
    def count() -> dict[str, int]:
        with bank.connect() as connection:
            counts = {
                name: sa.select(sa.func.count()).select_from(table)
                for name, table in metadata.tables.items()
            }
            return {name: connection.scalar(query) or 0 for name, query in counts.items()}

    collected, before = set(), count()

    def collect(
        _connection: sa.Connection,
        statement: Any,
        rows: list[Any],
        row: dict[str, Any],
        _options: object,
    ) -> None:
        collected.add(compile_for_sql_server(statement))

    sa.event.listen(bank, "before_execute", collect)
    try:
        explain(bank, experiment, "6")
        describe(bank, experiment, NIGHT)
        with pytest.raises(DataError):
            explain(bank, experiment, "6", NEXT)
    finally:
        sa.event.remove(bank, "before_execute", collect)
    assert count() == before
    assert all(statement.startswith("SELECT ") for statement in collected)
    assert {
        statement: faults for statement in collected if (faults := find_faults(statement))
    } == {}
    assert any("TOP 5 " in statement for statement in collected)
    assert promotions.name in " ".join(collected)
