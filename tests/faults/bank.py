"""A bank that can be copied and looked at: what readers see, and all that is kept.

What differs between two runs of the same night (run ids and numbers, instants, hosts) is left out.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from abatch import files
from abatch.config import Experiment, load_experiments
from abatch.database import connections, tables
from abatch.experiment import scores
from abatch.modelling import folders, registry
from abatch.modelling.promotion import read_promotions
from tests.conftest import FIRST_NIGHT, RUN, Server, end_others, open_engine

State = dict[str, Any]
N_SHOWN = 600  # characters of a difference
FOLDERS = ("models", "snapshots", "reports", "spool", "logs")
READ = ("registrations", "models", "promotions", "looks", "verdicts", "conclusions")  # by commands
SHOWN = ("done", "superseded", "early")
INSTANT = r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"
VARYING = re.compile(rf"{RUN}|{INSTANT}|\(process \d+\)|\.orphan-\d+|\b\d+ seconds?\b")
RUNS = re.compile(
    r"<h2>Models and runs</h2>.*?(?=<h2>)", re.DOTALL
)  # of a report: failed ones, too
LEFT_OUT = {"run_id", "run_number", "host", "superseded_by", "error", "warnings", "deleted_by"}
LEFT_OUT |= {"rows_read"}  # by a score that found nights closed already


class Bank(NamedTuple):
    """A folder with a config, and the database that it names."""

    folder: Path
    url: str
    server: Server | None

    @property
    def file(self) -> Path:
        return self.folder / "ml_config.yaml"

    @property
    def experiment(self) -> Experiment:
        return load_experiments(self.file, "dev")["card_offer"]

    def copy(self, folder: Path) -> "Bank":
        """Another of the same, in a folder that is not there yet."""
        shutil.copytree(self.folder, folder, symlinks=True)
        if self.server is None:
            return self._replace(folder=folder)
        bank = Bank(folder, self.server.create(sa.make_url(self.url).database), self.server)
        text = bank.file.read_text("utf-8")
        assert self.url in text
        bank.file.write_text(text.replace(self.url, bank.url), "utf-8")
        return bank

    def end_sessions(self) -> None:
        """Let the server see that a process was killed."""
        if self.server is not None:
            engine = open_engine(self.experiment)
            end_others(engine)
            engine.dispose()

    def drop(self) -> None:
        if self.server is not None:
            self.server.drop(self.url)
        shutil.rmtree(self.folder)


def see(bank: Bank) -> tuple[State, State]:
    """What readers see, views and files, and all that is kept, tables and files, by name."""
    there = dict(_see_files(bank))
    shown = {name: what for name, what in there.items() if not name.startswith(("spool", "logs"))}
    kept = there
    engine = open_engine(experiment := bank.experiment)
    try:
        with engine.connect() as connection:
            schema = connections.find_schema(engine)
            if tables.VERSION_TABLE in sa.inspect(connection).get_table_names(schema=schema):
                kept = {**there, **dict(_see_tables(connection))}
                views = dict(_see_views(connection)) | _see_live(connection, experiment)
                shown["views"] = views  # one transaction's work is seen in all of them, or in none
                kept["status"] = _see_status(connection, bank)
    finally:
        engine.dispose()
    return shown, kept


def _see_files(bank: Bank) -> Iterator[tuple[str, Any]]:
    """Content of each file, masked where it is text, and target of each link."""
    for folder in FOLDERS:
        for path in sorted((bank.folder / folder).rglob("*")):
            name = path.relative_to(bank.folder).as_posix()
            if path.is_symlink():
                yield name, os.readlink(path) if path.exists() else "leads nowhere"
            elif path.suffix == ".log":  # by no process but a job's own
                continue
            elif path.is_dir():
                yield re.sub(RUN, "RUN", name), "is there"
            elif path.suffix in (".json", ".html"):
                yield name, VARYING.sub("…", RUNS.sub("", path.read_text("utf-8")))
            else:
                yield name, hashlib.sha256(path.read_bytes()).hexdigest()
    for path in bank.folder.glob("*.parquet*"):
        yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _see_views(connection: sa.Connection) -> Iterator[tuple[str, Any]]:
    for name, view in tables.VIEWS.items():
        if name != "run_history":  # which shows runs that are running, or failed
            rows = _read(connection, sa.select(*_choose(view)))
            yield f"view {name}", sorted({*rows} if "superseded" in name else rows, key=repr)
    for name in READ:
        rows = _read(connection, sa.select(*_choose(tables.TABLES[name])))
        yield f"table {name}", sorted(rows, key=repr)


def _see_live(connection: sa.Connection, experiment: Experiment) -> State:
    """The live models of each night since the first, if their files are what the ledger says."""
    environment, nights = (
        experiment.environment,
        connection.scalars(sa.select(tables.promotions.c.effective_date).distinct()),
    )
    live = {}
    for night in sorted({FIRST_NIGHT, *nights}):
        live[f"live on {night}"] = read_promotions(connection, experiment.name).live(night)
        for name in live[f"live on {night}"].values():
            card = registry.find_model(connection, name)
            registry.read_model_file(connection, environment.models_dir, card)
    return live


def _see_status(connection: sa.Connection, bank: Bank) -> list[str]:
    """What `status` says of files, but for those that a dead process left half written."""
    found = folders.survey(connection, bank.experiment.environment)
    lines = [*found.faults, *(f"{name} is missing" for name in found.missing)]
    lines += [name for name in found.unknown if not _find_final(name)]
    return [line.replace(str(bank.folder), "") for line in lines]


def _find_final(name: str) -> str:
    """The name that a file was to have that is half written, or had that was set aside."""
    final = files.find_final_name(Path(name))
    return "" if final == Path(name).name else Path(name).with_name(final).as_posix()


def _see_tables(connection: sa.Connection) -> Iterator[tuple[str, Any]]:
    """Rows of what is done; of rows that no run showed, how many there are."""
    runs = tables.runs.c
    done = sa.select(runs.run_number).where(runs.status.in_(("done", "early")))
    for name, table in tables.TABLES.items():
        columns: list[Any] = [*_choose(table)] or [sa.literal(1)]
        order = list(table.primary_key)
        query = sa.select(*columns).select_from(table).order_by(*order)
        if name == "runs":
            query = query.where(runs.status.in_(("done", "early")))
            query = query.order_by(None).order_by(runs.experiment, runs.job, runs.run_date)
        elif name == "snapshots":  # also of runs that died, which pulled the same rows
            query = query.where(table.c.run_id == runs.run_id, runs.run_number.in_(done))
            query = query.order_by(None).order_by(runs.run_date)
        elif "run_number" in table.c:
            query = query.where(table.c.run_number == runs.run_number, runs.run_number.in_(done))
            query = query.add_columns(runs.job, runs.run_date).order_by(None)
            query = query.order_by(runs.run_date, *order[1:])
            known = sa.select(runs.run_number).where(runs.status.in_(SHOWN))
            strays = sa.select(sa.func.count()).where(table.c.run_number.not_in(known))
            yield f"rows of {name} that no run has shown", connection.scalar(strays)
        yield f"table {name}", _read(connection, query)
    running = sa.select(sa.func.count()).where(runs.status == "running")
    yield "runs that are running", connection.scalar(running)
    told = connection.scalars(sa.select(runs.warnings).where(runs.warnings.is_not(None)))
    yield "warnings", sorted({_mask(line) for text in told for line in text.splitlines()})


def _choose(table: sa.Table) -> list[sa.Column[Any]]:
    """Columns that are the same in two runs: numbers of rows that are counted up are not."""
    counted = [f"{table.name.removesuffix('s')}_id", "owner_id"]
    left_out = {*LEFT_OUT, *counted}
    return [c for c in table.c if c.name not in left_out and not c.name.endswith("_at")]


def _read(connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
    return [tuple(map(_mask, row)) for row in connection.execute(query)]


def _mask(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 20:
        return VARYING.sub("…", value)
    return _hash_arrays(bytes(value)) if isinstance(value, bytes | memoryview) else value


def _hash_arrays(content: bytes) -> str:
    """Of sums, but for when a closed cohort was last asked for, which a run that died did, too."""
    arrays = scores.open_arrays(content)
    parts = {name: arrays[name].tobytes() for name in arrays if name != "read_on"}
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


def find_differences(found: State, *allowed: State) -> Iterator[str]:
    """What is neither as in one state nor as in another, in words.

    A file that a dead process left half written, or that the next set aside, may be there: the
    documents say when it goes.
    """
    for name in sorted({*found}.union(*allowed)):
        choices = [state.get(name) for state in allowed]
        if found.get(name) not in choices and not any(
            _find_final(name) in state for state in allowed
        ):
            yield f"{name}: {_tell(found.get(name), choices[-1])[:N_SHOWN]}"


def _tell(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        names = [name for name in expected if found.get(name) != expected[name]]
        return "; ".join(f"{name}: {_tell(found.get(name), expected[name])}" for name in names)
    if isinstance(found, list) and isinstance(expected, list):
        more = [row for row in found if row not in expected][:2]
        less = [row for row in expected if row not in found][:2]
        return f"{len(found)} rows, expected {len(expected)}; more {more}; missing {less}"
    if isinstance(found, str) and isinstance(expected, str) and len(found) > 200:
        same = (a == b for a, b in zip(found, expected, strict=False))
        start = next((i for i, is_same in enumerate(same) if not is_same), 0)
        part = slice(max(start - 40, 0), start + 80)
        return f"…{found[part]}…, expected …{expected[part]}…"
    return f"{found!r}, expected {expected!r}"
