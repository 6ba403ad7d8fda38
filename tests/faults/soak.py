"""A soak: many nights with random kills, beside a twin that nobody disturbs."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from signal import SIGKILL
from typing import NamedTuple

import sqlalchemy as sa

from demo import simulate
from tests.conftest import FIRST_NIGHT, open_engine
from tests.faults.bank import Bank, find_differences, see
from tests.faults.events import Strike, read_record
from tests.faults.kills import DAY, Stages, run

JOBS = ("train", "predict", "score")
CHANCE = 1 / 3  # that a job is killed
TRAIN_DAYS, LOOK_DAYS, HISTORY_DAYS = 7, 30, 60
LOST = 255  # of multiprocessing: it could not read how the process ended
N_EVENTS = 100  # of a job of which none has ended yet


class Night(NamedTuple):
    """A night that is played.

    Attributes
    ----------
    is_compared : whether the two banks are held against each other after it
    """

    on: date
    jobs: list[str]
    is_compared: bool


def list_nights(n_nights: int) -> Iterator[Night]:
    """So many, up to one in the past: the newest is the same for any number."""
    for i in range(n_nights):
        jobs = [*JOBS] if i % TRAIN_DAYS == 0 else ["predict", "score"]
        is_compared = (i + 1) % LOOK_DAYS == 0 or i + 1 == n_nights
        yield Night(FIRST_NIGHT + (i + 1 - n_nights) * DAY, jobs, is_compared)


class Player(NamedTuple):
    """A bank whose jobs may be killed, and are run again until they end.

    Attributes
    ----------
    chance : that a job is killed
    n_events : that the newest whole run of each job had
    """

    bank: Bank
    engine: sa.Engine
    rng: random.Random
    chance: float
    n_events: dict[str, int]

    def play(self, night: Night) -> int:
        """Play a night; returns how often a job was killed."""
        simulate.simulate(self.engine, night.on, history_days=HISTORY_DAYS)
        self.engine.dispose()
        return sum(self._do(job, night.on) for job in night.jobs)

    def _do(self, job: str, on: date) -> int:
        n_kills, record = 0, self.bank.folder.with_suffix(".events")
        while True:
            record.unlink(missing_ok=True)
            is_killed = self.rng.random() < self.chance
            nth = self.rng.randint(1, self.n_events.get(job, N_EVENTS)) if is_killed else 0
            strike = Strike(str(self.bank.folder), str(record), nth)
            code, err = run(job, ["--date", str(on)], self.bank, strike.arm)
            if code == 0:
                self.n_events[job] = len(read_record(record))
                return n_kills
            assert code in (-SIGKILL, LOST), f"{job} for {on}: exit code {code}: {err}"
            self.bank.end_sessions()
            n_kills += 1


def soak(stages: Stages, n_nights: int, seed: int, n_jobs: int) -> dict[str, object]:
    """Play two banks side by side, and print where they differ."""
    started, twin = time.perf_counter(), stages["tables"]
    bank = twin.copy(twin.folder.with_name("killed"))
    players = [
        Player(each, open_engine(each.experiment), random.Random(seed), chance, {})
        for each, chance in ((bank, CHANCE), (twin, 0))
    ]
    n_kills = n_played = n_differences = 0
    with ThreadPoolExecutor(n_jobs) as pool:
        for night in list_nights(n_nights):
            n_kills += sum(pool.map(Player.play, players, [night] * 2))
            n_played += len(night.jobs)
            if not night.is_compared:
                continue
            (shown, kept), (expected, all_of_it) = see(bank), see(twin)
            for text in find_differences({**shown, **kept}, {**expected, **all_of_it}):
                print(f"soak --nights {n_nights} --seed {seed}, {night.on}: {text}", flush=True)
                n_differences += 1
            seconds = round(time.perf_counter() - started)
            print(f"soak: until {night.on}, {n_kills} kills, {seconds} seconds", flush=True)
    for player in players:
        player.engine.dispose()
    row = {"soak": stages.kind, "nights": n_nights, "jobs": n_played, "kills": n_kills}
    return row | {"different": n_differences, "seconds": round(time.perf_counter() - started)}
