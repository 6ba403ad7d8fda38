"""Kills: each command, killed before each of its events, and run again."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import repeat
from os import devnull, utime
from pathlib import Path
from shutil import copy
from signal import SIGKILL
from typing import Any, NamedTuple

import sqlalchemy as sa

import predict
import score
import train
from abatch.database import tables
from abatch.errors import AbatchError
from demo import simulate
from tests.conftest import (
    FIRST_NIGHT,
    QUICK_MODELS,
    Templates,
    open_engine,
    use_chunks,
    write_config,
)
from tests.faults.bank import Bank, State, find_differences, see
from tests.faults.events import Strike, read_record
from tests.processes import Process

DAY = timedelta(days=1)
CHUNK_ROWS = 80
N_SECONDS = 120  # after which a process hangs
LAST, NEXT = FIRST_NIGHT + 25 * DAY, FIRST_NIGHT + 26 * DAY  # until LAST two nights are closed
THIRD = f"modelA_v1.0_{FIRST_NIGHT + 14 * DAY}"
MAIN = "abatch.__main__"
WHY = ("--reason", "a kill is tried")
RECALL = ("recall", "card_offer", "--from", "2026-08-01", "--to", "2026-08-20")
FROM_NEXT = (*WHY, "--date", str(NEXT))


class Command(NamedTuple):
    """A command line, and the bank that it is tried on.

    Attributes
    ----------
    script : the module whose `main` it is
    words : FOLDER is the bank's
    many_rows : from which on SQLite gets rows from a process of its own
    finish : what does the rest, where a run that finds its night done leaves it to another
    """

    name: str
    stage: str
    script: str
    words: tuple[str, ...]
    many_rows: int | None = None
    finish: tuple[str, ...] = ()

    def run(self, bank: Bank, record: Path, nth: int = 0) -> tuple[int | None, str]:
        """Exit code and stderr, killed before its nth event, if it has so many."""
        words = [word.replace("FOLDER", str(bank.folder)) for word in self.words]
        strike = Strike(str(bank.folder), str(record), nth, self.many_rows)
        return run(self.script, words, bank, strike.arm)


def run(
    script: str, words: list[str], bank: Bank, before: Callable[[], None] | None = None
) -> tuple[int | None, str]:
    """Exit code, None if it hangs, and stderr of a script's `main` on a bank."""
    with Process(script, [*words, "--config", str(bank.file)], before) as process:
        code, _, err = process.end(N_SECONDS)
    return code, err


def _job(name: str, stage: str, night: date, **how: Any) -> Command:
    job, *options = name.split()
    words = ("--date", str(night), *(option for option in options if option.startswith("--")))
    return Command(name, stage, job, words, **how)


COMMANDS = [
    Command("init", "empty", MAIN, ("init",)),
    Command("init again", "tables", MAIN, ("init",)),
    _job("train first", "simulated", FIRST_NIGHT),
    # What retention did not come to is done by the next training, or by purge.
    _job("train later", "next", NEXT, finish=("snapshots", "purge")),
    _job("predict first", "trained", FIRST_NIGHT),
    _job("predict by a writer", "trained", FIRST_NIGHT, many_rows=0),
    _job("predict next", "next", NEXT),
    _job("predict --force", "scored", LAST),
    _job("score first", "aged", LAST),
    _job("score next", "predicted", NEXT),
    _job("score --force", "scored", LAST),
    _job("score --rebuild", "scored", LAST),
    Command("promote", "scored", MAIN, ("promote", THIRD, *FROM_NEXT)),
    Command("rollback", "scored", MAIN, ("rollback", "modelA", *FROM_NEXT)),
    Command("rollback --to", "scored", MAIN, ("rollback", "--to", str(FIRST_NIGHT), *FROM_NEXT)),
    Command("delete", "scored", MAIN, ("delete", THIRD, *WHY)),
    Command("conclude", "scored", MAIN, ("conclude", "card_offer", "--because", "it works")),
    Command("acknowledge", "scored", MAIN, ("acknowledge", "card_offer", *WHY)),
    Command("snapshots purge", "scored", MAIN, ("snapshots", "purge")),
    Command(
        "recall --out",
        "scored",
        MAIN,
        (*RECALL, "--as-of", str(FIRST_NIGHT), "--out", "FOLDER/rows.parquet"),
    ),
]


class Stages:
    """Banks as the commands find them, made once, each from the one before."""

    def __init__(self, templates: Templates, kind: str, folder: Path) -> None:
        self.templates, self.kind, self.folder = templates, kind, folder

    def __getitem__(self, stage: str) -> Bank:
        bank: Bank = getattr(self, stage)
        return bank

    def _begin(self, stage: str | None) -> Bank:
        folder = self.folder / f"{self.kind}-{stage or 'empty'}"
        folder.mkdir()
        url, server = self.templates.copy(self.kind, stage, folder), None
        if self.kind == "sqlite":
            url = "sqlite:///bank.db"
        else:
            server = self.templates.find_server(self.kind)
        schema = "abatch" if server else None
        keep: dict[str, float] = {"snapshot_days": 5, "model_days": 5}
        file = write_config(folder, url, schema, models=QUICK_MODELS, retention=keep)
        use_chunks(file, CHUNK_ROWS)
        return Bank(folder, url, server)

    def _grow(self, bank: Bank, stage: str, live: Callable[[Bank, sa.Engine], object]) -> Bank:
        grown = bank.copy(self.folder / f"{self.kind}-{stage}")
        engine = open_engine(grown.experiment)
        with open(devnull, "w") as nowhere, redirect_stdout(nowhere):
            live(grown, engine)
        engine.dispose()
        return grown

    @cached_property
    def empty(self) -> Bank:
        return self._begin(None)

    @cached_property
    def tables(self) -> Bank:
        return self._begin("tables")

    @cached_property
    def simulated(self) -> Bank:
        return self._begin("simulated")

    @cached_property
    def trained(self) -> Bank:
        return self._begin("trained")

    @cached_property
    def aged(self) -> Bank:
        """After four trainings and 24 nights, of which none is scored."""
        return self._grow(self.trained, "aged", _age)

    @cached_property
    def scored(self) -> Bank:
        """With a doubt, a model that was never live, and what is old enough to be purged."""
        return self._grow(self.aged, "scored", _score)

    @cached_property
    def next(self) -> Bank:
        return self._grow(self.scored, "next", lambda _, engine: simulate.simulate(engine, NEXT))

    @cached_property
    def predicted(self) -> Bank:
        def live(bank: Bank, engine: sa.Engine) -> None:
            predict.predict(bank.experiment, engine, NEXT)

        return self._grow(self.next, "predicted", live)


def _age(bank: Bank, engine: sa.Engine) -> None:
    for day in range((NEXT - FIRST_NIGHT).days):
        night = FIRST_NIGHT + day * DAY
        simulate.simulate(engine, night)
        if day % 7 == 0 and day:
            train.train(bank.experiment, engine, night)
        predict.predict(bank.experiment, engine, night)


def _score(bank: Bank, engine: sa.Engine) -> None:
    score.score(bank.experiment, engine, LAST)
    doubt = {"experiment": "card_offer", "run_date": LAST, "metric": "outcome", "variant": "A"}
    doubt |= {"from_date": FIRST_NIGHT, "to_date": FIRST_NIGHT, "kind": "few outcomes"}
    doubt |= {"words": "few", "n": 90, "n_found": 0, "log_sum": 0}
    of_third, ago = tables.promotions.c.model_name == THIRD, datetime(2026, 9, 1)
    with engine.begin() as connection:
        run_id = connection.scalar(sa.select(tables.looks.c.run_id))
        connection.execute(tables.doubts.insert().values(**doubt, run_id=run_id))
        connection.execute(tables.promotions.delete().where(of_third))
        connection.execute(tables.runs.update().values(started_at=ago))
        connection.execute(tables.snapshots.update().values(pulled_at=ago))
    models, snapshots = bank.folder / "models" / "dev", bank.folder / "snapshots" / "dev"
    half, stray = models / ".modelA.json.4711", snapshots / "5nap.parquet"
    copy(models / f"{THIRD}.json", half)
    copy(next(snapshots.glob("*.parquet")), stray)
    for path in (half, *snapshots.glob("*.parquet")):
        utime(path, (1e9, 1e9))


class Trial(NamedTuple):
    """A command on a bank, and what readers saw before and after an undisturbed run."""

    command: Command
    stage: Bank
    folder: Path
    events: list[str]
    before: State
    shown: State
    kept: State

    @classmethod
    def prepare(cls, command: Command, stage: Bank, folder: Path) -> "Trial":
        """Run it undisturbed.

        Raises
        ------
        AssertionError
            If that fails.
        """
        twin, record = stage.copy(folder / "twin"), folder / "events"
        code, err = command.run(twin, record)
        assert code == 0, f"{command.name}, undisturbed: exit code {code}: {err}"
        events = read_record(record)
        record.unlink()
        shown, _ = see(twin)
        if command.finish:
            assert run(MAIN, [*command.finish], twin) == (0, "")
        _, kept = see(twin)
        twin.drop()
        return cls(command, stage, folder, events, see(stage)[0], shown, kept)

    def kill(self, nth: int) -> tuple[str, list[str]]:
        """What the nth event was, and what is not as it should be after a kill before it.

        No event if the command ended before it.
        """
        bank, record = self.stage.copy(self.folder / f"bank-{nth}"), self.folder / f"events-{nth}"
        try:
            code, err = self.command.run(bank, record, nth)
            events = read_record(record)
            if code == 0:
                return "", []
            if code != -SIGKILL:
                return events[-1], [f"exit code {code}: {err}"]
            try:
                return events[-1], [*self._check(bank, self.folder / f"again-{nth}")]
            except AbatchError as error:
                return events[-1], [f"readers met an error: {error}"]
        finally:
            bank.drop()
            for path in self.folder.glob(f"*-{nth}"):
                path.unlink()

    def _check(self, bank: Bank, record: Path) -> Iterator[str]:
        bank.end_sessions()
        for text in find_differences(see(bank)[0], self.before, self.shown):
            yield f"readers saw {text}"
        code, err = self.command.run(bank, record)
        if code != 0:
            yield f"run again: exit code {code}: {err}"
        if self.command.finish:
            run(MAIN, [*self.command.finish], bank)
        yield from find_differences(see(bank)[1], self.kept)


def try_kills(
    stages: Stages, command: Command, *, nth: int | None, every: int, n_jobs: int
) -> dict[str, object]:
    """Kill a command before its events, and print what is not as it should be.

    Parameters
    ----------
    nth : of the one event that is meant; None for each `every`th
    """
    folder, started = stages.folder / "kills", time.perf_counter()
    folder.mkdir(exist_ok=True)
    trial = Trial.prepare(command, stages[command.stage], folder)
    numbers = [nth] if nth else [*range(1, len(trial.events) + 1, every)]
    n_kills = n_differences = 0
    with ThreadPoolExecutor(n_jobs) as pool:
        done = pool.map(Trial.kill, repeat(trial), numbers)
        for number, (event, differences) in zip(numbers, done, strict=True):
            n_kills += bool(event)
            n_differences += bool(differences)
            for text in differences:
                what = f"--database {stages.kind} --command '{command.name}' --event {number}"
                print(f"kills {what} ({event}): {text}", flush=True)
    row = {"command": command.name, "database": stages.kind, "events": len(trial.events)}
    row |= {"kills": n_kills, "run again": n_kills, "different": n_differences}
    return row | {"seconds": round(time.perf_counter() - started)}
