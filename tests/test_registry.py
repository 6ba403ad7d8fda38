"""Dated model files, their record in SQL, and which of them is live on which date."""

import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import predict
from abatch.config import Experiment, load_experiments
from abatch.database import connections, migrations
from abatch.database.tables import deletions, models, promotions
from abatch.errors import ConfigError, FileError, RegistryError
from abatch.modelling import promotion, registry
from abatch.modelling.card import Card, Decision
from tests.conftest import (
    FIRST_NIGHT,
    add_runs,
    alter,
    as_stored,
    make_card,
    make_night,
    write_config,
)

UNDATED = "modelA_v1.0"
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (date(2026, 9, day) for day in (7, 8, 9, 10))
CARD: dict[str, Any] = {
    "experiment": "card_offer",
    "variant": "A",
    "name": "modelA",
    "version": "1.0",
    "run_date": MONDAY,
    "from_date": date(2026, 6, 1),
    "to_date": date(2026, 9, 1),
    "as_of": datetime(2026, 9, 1, 21, 59, 59, 999999),
    "rows": 4,
    "code_version": "0.1.0",
    "seed": 0,
    "query": "select 'Ærø', '日本'",
    "libraries": {"numpy": np.__version__},
    "run_id": "run1",
    "snapshot": "ab" * 32,
}
GOES_LIVE = Decision(promote=True, reason="Ærø 日本", evidence={})


def make_node_array(text: str) -> "CannotBeLoaded":
    """What a pickle calls; under the library's next version it is told that it cannot."""
    if CannotBeLoaded.is_upgraded:
        int(text)
    return CannotBeLoaded()


class CannotBeLoaded:
    """Pickles as a call that fails, as an old estimator does under another library's version."""

    is_upgraded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return make_node_array, ("node array from the pickle has an incompatible dtype",)


@pytest.fixture
def bank(tmp_path: Path, sqlite_url: str) -> Iterator[sa.Engine]:
    """abatch's tables on SQLite, for tests in which the database is not the point."""
    engine = connections.make_engine(SecretStr(sqlite_url), None, tmp_path, "here")
    migrations.upgrade(engine)
    (tmp_path / "models").mkdir()
    yield engine
    engine.dispose()


def fit(share: float = 0.25) -> Pipeline:
    X, n_ones = np.zeros((100, 1)), int(100 * share)
    return make_pipeline(DummyClassifier()).fit(X, [1] * n_ones + [0] * (100 - n_ones))


def save(
    engine: sa.Engine,
    folder: Path,
    run_date: date,
    pipeline: object = None,
    undated: str = UNDATED,
    **changes: Any,
) -> str:
    """Choose a name, write the files, write the row."""
    with engine.begin() as connection:
        name = registry.choose_model_name(connection, folder, undated, run_date)
        changes["name"], _, changes["version"] = undated.rpartition("_v")
        card = write_files(folder, name, pipeline or fit(), run_date=run_date, **changes)
        registry.add_model(connection, card)
    return name


def write_files(folder: Path, model_name: str, pipeline: Any, **changes: Any) -> Card:
    """What `train` leaves of a model; saving alone does not open it."""
    buffer = io.BytesIO()
    joblib.dump(pipeline, buffer)
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    facts = {"model_name": model_name, "file": f"{model_name}.pkl", "sha256": sha256}
    card = make_card(**{**CARD, "gate": GOES_LIVE.model_dump(), **facts, **changes})
    registry.save_model(folder, content, card)
    return card


def promote(
    engine: sa.Engine, model_name: str, on: date, action: str = "promote", variant: str = "A"
) -> None:
    with engine.begin() as connection:
        promotion.promote(
            connection,
            make_card(experiment="card_offer", variant=variant, model_name=model_name),
            effective_date=on,
            reason="Ærø 日本",
            promoted_by="me",
            promoted_at=datetime(2026, 9, 10, 8, 30),
            action=action,
        )


def read(engine: sa.Engine, experiment: str = "card_offer") -> promotion.Promotions:
    with engine.connect() as connection:
        return promotion.read_promotions(connection, experiment)


def live(engine: sa.Engine, on: date) -> dict[str, str]:
    return read(engine).live(on)


def load(engine: sa.Engine, folder: Path, name: str) -> registry.Model:
    with engine.connect() as connection:
        return registry.load_model(connection, folder, name)


def test_save_model_comes_back(engine: sa.Engine, tmp_path: Path) -> None:
    name = save(engine, tmp_path, MONDAY)
    model = load(engine, tmp_path, name)
    assert name == model.model_name == "modelA_v1.0_2026-09-07"
    assert model.pipeline.predict_proba([[0]]).tolist() == [[0.75, 0.25]]
    assert model.card.query == CARD["query"]
    assert model.card.to_date == date(2026, 9, 1)
    assert (tmp_path / f"{name}.json").read_text(encoding="utf-8").count("Ærø") == 2
    with engine.connect() as connection:
        row = connection.execute(sa.select(models)).one()
        cards = registry.read_cards(connection, "card_offer")
        assert [(name, card.rows) for name, card in cards.items()] == [(name, 4)]
        assert registry.read_cards(connection, "another") == {}
    assert (row.as_of, row.from_date, row.file) == (
        as_stored(engine, CARD["as_of"]),
        CARD["from_date"],
        f"{name}.pkl",
    )
    assert (row.run_id, row.snapshot, row.decision) == (
        "run1",
        CARD["snapshot"],
        "goes live: Ærø 日本",
    )
    assert (row.variant, row.rows, row.seed, row.code_version) == ("A", 4, 0, "0.1.0")
    assert (row.name, row.version, row.run_date) == ("modelA", "1.0", MONDAY)
    content = (tmp_path / f"{name}.pkl").read_bytes()
    assert row.sha256 == model.card.sha256 == hashlib.sha256(content).hexdigest()
    assert (
        row.environment_hash
        == hashlib.sha256(f'{{"numpy": "{np.__version__}"}}'.encode()).hexdigest()
    )
    assert model.warning == ""
    assert sorted(path.name for path in tmp_path.glob("*model*")) == [f"{name}.json", f"{name}.pkl"]


def test_pickle_model_that_cannot_be_loaded_elsewhere() -> None:
    """A lambda cannot be pickled at all; of __main__ another process has another one."""

    class Local(DummyClassifier):
        pass

    cases = [(FunctionTransformer(lambda X: X), "lambda"), (Local(), "Local")]
    main = sys.modules["__main__"]
    own = type("OfMain", (DummyClassifier,), {"__module__": "__main__"})
    setattr(main, "OfMain", own)  # noqa: B010  # mypy knows no such name there
    cases.append((own(), "OfMain of __main__ is in it"))
    for estimator, told in cases:
        with pytest.raises(
            ConfigError, match=rf"^models\.A\.estimator: the fitted .*{told}.*Let it hold no lambda"
        ):
            registry.pickle_model(make_pipeline(estimator), "models.A")
    delattr(main, "OfMain")


def test_load_model_byte_flipped(bank: sa.Engine, tmp_path: Path) -> None:
    name = save(bank, tmp_path, MONDAY)
    path = tmp_path / f"{name}.pkl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        RegistryError,
        match=(
            rf"{path}: has SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}} from the table models\."
        ),
    ):
        load(bank, tmp_path, name)


def test_load_model_file_missing(bank: sa.Engine, tmp_path: Path) -> None:
    name = save(bank, tmp_path, MONDAY)
    (tmp_path / f"{name}.pkl").unlink()
    with pytest.raises(
        RegistryError,
        match=rf"{name}\.pkl: the file of {name} cannot be read \(No such file.*roll back",
    ):
        load(bank, tmp_path, name)


def test_load_model_row_missing_suggests(bank: sa.Engine, tmp_path: Path) -> None:
    save(bank, tmp_path, MONDAY)
    with pytest.raises(
        RegistryError,
        match=(
            r"there is no model 'modelA_v1\.0_2026-09-8'.*Did you mean 'modelA_v1\.0_2026-09-07'\?"
        ),
    ):
        load(bank, tmp_path, "modelA_v1.0_2026-09-8")


def test_load_model_of_other_libraries(
    bank: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save(bank, tmp_path, MONDAY, CannotBeLoaded())
    monkeypatch.setattr(CannotBeLoaded, "is_upgraded", True)
    with pytest.raises(ConfigError, match="cannot be saved and loaded again"):
        registry.pickle_model(make_pipeline(CannotBeLoaded()), "models.A")
    with pytest.raises(
        RegistryError, match=r"cannot be opened \(invalid literal.*Install what it was trained with"
    ):
        load(bank, tmp_path, name)


def test_load_model_libraries_that_differ(bank: sa.Engine, tmp_path: Path) -> None:
    """Versions that promise it open the file with a warning.

    Others do not open it, though it would load.
    """
    name = save(bank, tmp_path, MONDAY, libraries={"numpy": "2.0.0"})
    expected = (
        f"{tmp_path / name}.pkl: was trained with numpy 2.0.0 (here {np.__version__}); the"
        " libraries promise that it works"
    )
    assert load(bank, tmp_path, name).warning == expected
    name = save(bank, tmp_path, TUESDAY, libraries={"scikit-learn": "0.1"})
    with pytest.raises(
        RegistryError,
        match=(
            rf"^{tmp_path / name}\.pkl: was trained with scikit-learn 0\.1 \(here .*It is not"
            r" opened\."
        ),
    ):
        load(bank, tmp_path, name)


def delete(engine: sa.Engine, name: str, kind: str = registry.MODEL) -> None:
    with engine.begin() as connection:
        registry.write_deletion(
            connection, kind, name, "too old, Ærø", "me@here", datetime(2026, 9, 10, 8, 30)
        )


def test_load_model_deleted(bank: sa.Engine, tmp_path: Path) -> None:
    name, other = save(bank, tmp_path, MONDAY), save(bank, tmp_path, TUESDAY)
    (tmp_path / f"{name}.html").touch()
    delete(bank, name)
    expected = (
        rf"^{tmp_path / name}\.pkl: {name} was deleted on 2026-09-10 by me@here \(too old, Ærø\)\."
        r" Name another; see: python -m abatch"
    )
    for _ in range(2):
        with pytest.raises(RegistryError, match=expected):  # before its files are gone, too
            load(bank, tmp_path, name)
        registry.remove_files(tmp_path, name)
    assert not list(tmp_path.glob(f"{name}*"))
    assert load(bank, tmp_path, other).model_name == other
    assert save(bank, tmp_path, MONDAY) == f"{name}_2"  # its row stays, and with it its name


def test_read_deletions(engine: sa.Engine) -> None:
    delete(engine, "m1")
    delete(engine, "ab", registry.SNAPSHOT)
    delete(engine, "m1")
    with engine.connect() as connection:
        of_models = registry.read_deletions(connection, registry.MODEL)
        of_snapshots = registry.read_deletions(connection, registry.SNAPSHOT)
        newest = connection.scalar(sa.select(sa.func.max(deletions.c.deletion_id)))
    assert (of_models.keys(), of_snapshots.keys()) == ({"m1"}, {"ab"})
    assert of_models["m1"].deletion_id == newest
    assert (of_models["m1"].reason, of_models["m1"].deleted_by) == ("too old, Ærø", "me@here")


def test_remove_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "m1.json").mkdir()
    with pytest.raises(FileError, match=rf"^{tmp_path}/m1\.json: cannot be written"):
        registry.remove_files(tmp_path, "m1")


def test_open_live_variant_without_a_model(bank: sa.Engine, tmp_path: Path) -> None:
    name = save(bank, tmp_path, MONDAY)
    promote(bank, name, TUESDAY)
    path = write_config(tmp_path, str(bank.url))
    both = alter(load_experiments(path, "dev")["card_offer"], models_dir=tmp_path)
    of_a = alter(both, models={"A": both.models["A"]})

    def open_live(experiment: Experiment, on: date) -> dict[str, registry.Model]:
        night = make_night(run_date=on, experiment=experiment)
        night.read = partial(connections.read, bank)
        return promotion.open_live(night)

    assert open_live(of_a, TUESDAY)["A"].model_name == name
    for experiment, on in ((of_a, MONDAY), (both, TUESDAY)):
        with pytest.raises(
            RegistryError,
            match=rf"card_offer, variant {[*experiment.models][-1]}: no model is live on {on}\."
            r" Train one",
        ):
            open_live(experiment, on)


def test_open_live_names_the_model_that_was_refused(
    week: Experiment, week_engine: sa.Engine
) -> None:
    gate = Decision(promote=False, reason="5 rows, fewer than the 6", evidence={})
    with week_engine.begin() as connection:
        (refused, *_) = [
            card
            for card in registry.read_cards(connection, "card_offer").values()
            if card.variant == "A"
        ]
        text = refused.model_copy(update={"gate": gate}).to_json()
        rows = models.c.model_name == refused.model_name
        connection.execute(models.update().where(rows).values(card=text))
        connection.execute(promotions.delete())
    message = (
        f"no model is live on 2026-09-01. {refused.model_name} does not go live: 5 rows, fewer than"
        " the 6. Train one"
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        predict.predict(week, week_engine, FIRST_NIGHT)
    with pytest.raises(RegistryError, match=r"live on 2026-08-31\. Train one"):  # not yet
        predict.predict(week, week_engine, FIRST_NIGHT - timedelta(days=1))


def test_choose_model_name_orphan_is_set_aside(bank: sa.Engine, tmp_path: Path) -> None:
    died = {"run_id": CARD["run_id"], "job": "train", "experiment": "card_offer"}
    add_runs(bank, {**died, "run_date": MONDAY, "status": "failed"})
    write_files(tmp_path, "modelA_v1.0_2026-09-07", fit(0.5))  # died before its row was written
    (tmp_path / "modelA_v1.0_2026-09-07.html").touch()
    orphan = (tmp_path / "modelA_v1.0_2026-09-07.pkl").read_bytes()
    name = save(bank, tmp_path, MONDAY, fit(0.25))
    assert name == "modelA_v1.0_2026-09-07"
    assert load(bank, tmp_path, name).pipeline.predict_proba([[0]])[0, 1] == 0.25
    assert [path.read_bytes() for path in tmp_path.glob("*.pkl.orphan-*")] == [orphan]
    assert len(list(tmp_path.glob("*.json.orphan-*"))) == 1
    assert len(list(tmp_path.glob("*.html.orphan-*"))) == 1


@pytest.mark.parametrize("suffixes", [[".json", ".pkl"], [".pkl"], [".json"], [".html"]])
def test_choose_model_name_leaves_what_no_run_of_the_tables_wrote(
    bank: sa.Engine, tmp_path: Path, suffixes: list[str]
) -> None:
    """As after yesterday's backup was restored."""
    write_files(tmp_path, "modelA_v1.0_2026-09-07", fit(0.5))
    (tmp_path / "modelA_v1.0_2026-09-07.html").touch()
    for suffix in {".json", ".pkl", ".html"} - {*suffixes}:
        (tmp_path / f"modelA_v1.0_2026-09-07{suffix}").unlink()
    newer = {path: path.read_bytes() for path in tmp_path.glob("modelA*")}
    assert len(newer) == len(suffixes)
    assert save(bank, tmp_path, MONDAY, fit(0.25)) == "modelA_v1.0_2026-09-07_2"
    assert {path: path.read_bytes() for path in newer} == newer


def test_choose_model_name_leaves_what_a_run_that_is_at_it_wrote(
    bank: sa.Engine, tmp_path: Path
) -> None:
    """Between its files and their rows, by a run that has lost its lock to it."""
    other = {"run_id": CARD["run_id"], "job": "train", "experiment": "card_offer"}
    add_runs(bank, {**other, "run_date": MONDAY, "status": "running"})
    card = write_files(tmp_path, "modelA_v1.0_2026-09-07", fit(0.5))
    assert save(bank, tmp_path, MONDAY, fit(0.25)) == "modelA_v1.0_2026-09-07_2"
    with bank.begin() as connection:  # the other goes on
        registry.add_model(connection, card)
    assert load(bank, tmp_path, card.model_name).pipeline.predict_proba([[0]])[0, 1] == 0.5


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_save_model_replaces_nothing(tmp_path: Path, suffix: str) -> None:
    write_files(tmp_path, "modelA_v1.0_2026-09-07", fit(0.5))
    first = (tmp_path / f"modelA_v1.0_2026-09-07{suffix}").read_bytes()
    if suffix == ".pkl":
        (tmp_path / "modelA_v1.0_2026-09-07.json").unlink()
    with pytest.raises(FileError, match=rf"{suffix}: is there already, so another run"):
        write_files(tmp_path, "modelA_v1.0_2026-09-07", fit(0.25))
    assert (tmp_path / f"modelA_v1.0_2026-09-07{suffix}").read_bytes() == first


def test_choose_model_name_dated_files_never_change(bank: sa.Engine, tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    for i, share in enumerate((0.1, 0.2, 0.3)):
        name = save(bank, tmp_path, MONDAY, fit(share))
        assert name == UNDATED + "_2026-09-07" + ("" if i == 0 else f"_{i + 1}")
        assert all((tmp_path / file).read_bytes() == content for file, content in contents.items())
        contents |= {
            file: (tmp_path / file).read_bytes() for file in (f"{name}.pkl", f"{name}.json")
        }
    assert len(contents) == 6
    assert not list(tmp_path.glob("*orphan*"))


def test_add_model_is_for_good(bank: sa.Engine, tmp_path: Path) -> None:
    name = save(bank, tmp_path, MONDAY)
    (tmp_path / "other").mkdir()
    card = write_files(tmp_path / "other", name, fit(0.9), run_id="run2")
    with pytest.raises(sa.exc.IntegrityError), bank.begin() as connection:
        registry.add_model(connection, card)


def test_promotions_live_effective_dates(engine: sa.Engine) -> None:
    assert live(engine, MONDAY) == {}
    promote(engine, "m1", MONDAY)
    promote(engine, "m3", WEDNESDAY)  # for the day after tomorrow
    promote(engine, "b1", TUESDAY, variant="B")
    assert live(engine, date(2026, 9, 6)) == {}
    assert live(engine, MONDAY) == {"A": "m1"}
    assert live(engine, TUESDAY) == {"A": "m1", "B": "b1"}
    assert live(engine, WEDNESDAY) == live(engine, THURSDAY) == {"A": "m3", "B": "b1"}
    promote(engine, "m2", TUESDAY)  # said later, so it overrules from its date on
    assert [live(engine, day)["A"] for day in (MONDAY, TUESDAY, WEDNESDAY)] == ["m1", "m2", "m2"]
    promote(engine, "m0", MONDAY, action="rollback")  # the past as well
    assert [live(engine, day)["A"] for day in (MONDAY, TUESDAY, WEDNESDAY)] == ["m0", "m0", "m0"]
    assert read(engine, "another").live(THURSDAY) == {}
    with engine.connect() as connection:
        assert connection.scalars(sa.select(promotions.c.reason).distinct()).all() == ["Ærø 日本"]


def test_promotions_later(bank: sa.Engine) -> None:
    promote(bank, "m1", MONDAY)
    promote(bank, "m2", WEDNESDAY)
    found = [read(bank).later(day) for day in (date(2026, 9, 6), MONDAY, WEDNESDAY)]
    assert found == [{"A": "m2"}, {"A": "m2"}, {}]


def previous(engine: sa.Engine, on: date) -> str:
    return read(engine).previous("A", on)


def test_promotions_previous_after_rollbacks(bank: sa.Engine) -> None:
    for name, on in (("m1", MONDAY), ("m2", TUESDAY), ("m3", WEDNESDAY)):
        promote(bank, name, on)
    assert previous(bank, TUESDAY) == "m1"
    for expected in ("m2", "m1"):
        assert previous(bank, THURSDAY) == expected
        promote(bank, expected, THURSDAY, action="rollback")
        assert live(bank, THURSDAY) == {"A": expected}
    with pytest.raises(
        RegistryError,
        match=r"card_offer, variant A: no other model was live before m1\. Name a dated model",
    ):
        previous(bank, THURSDAY)
    promote(bank, "m4", THURSDAY)
    assert previous(bank, THURSDAY) == "m1"
    assert previous(bank, WEDNESDAY) == "m2"


def test_promotions_previous_without_history(bank: sa.Engine) -> None:
    with pytest.raises(RegistryError, match=r"no other model was live before 2026-09-07\."):
        previous(bank, MONDAY)


def test_link_latest_follows(tmp_path: Path) -> None:
    link = tmp_path / "modelA_v1.0_latest.pkl"
    for name in (
        "modelA_v1.0_2026-09-07",
        "modelA_v1.0_2026-09-08",
        "modelA_v1.0_2026-09-08",
        "modelA_v1.0_2026-09-07",
    ):
        (tmp_path / f"{name}.pkl").write_text(name)
        promotion.link_latest(tmp_path, {UNDATED: name, "modelB_v1.0": None})
        # relative: the folder may be moved
        assert link.read_text() == name
        assert os.readlink(link) == f"{name}.pkl"
        assert not (tmp_path / "modelB_v1.0_latest.pkl").is_symlink()
    promotion.link_latest(tmp_path, {UNDATED: None})
    assert not link.is_symlink()
    assert not list(tmp_path.glob(".*"))


def test_link_latest_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "modelA_v1.0_latest.pkl").write_text("a copy, not a link")
    promotion.link_latest(tmp_path, {UNDATED: "modelA_v1.0_2026-09-07"})
    assert os.readlink(tmp_path / "modelA_v1.0_latest.pkl") == "modelA_v1.0_2026-09-07.pkl"


def test_link_latest_name_that_begins_another(bank: sa.Engine, tmp_path: Path) -> None:
    other = save(bank, tmp_path, MONDAY, undated="m_v1_x_v2")
    names = [save(bank, tmp_path, TUESDAY, undated="m_v1") for _ in range(2)]
    save(bank, tmp_path, TUESDAY, undated="modelA_v2.0", experiment="another")
    save(bank, tmp_path, TUESDAY)
    assert (other, names[1]) == ("m_v1_x_v2_2026-09-07", "m_v1_2026-09-08_2")
    promote(bank, other, MONDAY, variant="B")
    promote(bank, names[0], MONDAY)
    promote(bank, names[1], WEDNESDAY)
    with bank.connect() as connection:
        before = promotion.find_links(connection, "card_offer", TUESDAY)
        links = promotion.find_links(connection, "card_offer", WEDNESDAY)
    assert before == {"m_v1": names[0], "m_v1_x_v2": other, UNDATED: None}
    assert links == {**before, "m_v1": names[1]}
    promotion.link_latest(tmp_path, links)
    assert os.readlink(tmp_path / "m_v1_latest.pkl") == "m_v1_2026-09-08_2.pkl"
    assert os.readlink(tmp_path / "m_v1_x_v2_latest.pkl") == "m_v1_x_v2_2026-09-07.pkl"


def test_link_latest_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(
        FileError, match=r"cannot be written .* what is live is recorded already\.$"
    ):
        promotion.link_latest(tmp_path / "models", {UNDATED: "modelA_v1.0_2026-09-07"})
