"""Bad inputs: configs, command lines, queries, data, files and tables as they should not be.

Each is made from what is right. It must be refused in one message that names the place, and change
nothing but the log and the failed run; or it is right after all, and done.
"""

import hashlib
import os
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import sqlalchemy as sa
import yaml

from abatch.database import tables
from abatch.night import utc_now
from demo import bank_tables
from tests.conftest import FIRST_NIGHT, ROOT
from tests.faults.bank import Bank
from tests.faults.kills import LAST, MAIN, NEXT, RECALL, THIRD, WHY, Stages, run

N_LINES = 12  # of a message
SQL = r"\.sql|is registered"  # names the query, or says that another was registered
REFUSED, RIGHT, WARNED, WRONG = "refused", "right", "warned", "wrong"
Words = tuple[str, ...]
PREDICT: Words = ("predict", "--date", str(NEXT))
TRAIN: Words = ("train", "--date", str(NEXT), "--force")
SCORE: Words = ("score", "--date", str(LAST), "--force")
LIVE = f"modelA_v1.0_{LAST.replace(day=22)}"


class Input(NamedTuple):
    """A bank that is not as it should be, and a command line that meets it.

    Attributes
    ----------
    place : what its message must name, as a regular expression
    must_fail : whether it cannot be right after all
    stage : of the bank
    """

    family: str
    name: str
    words: Words
    place: str = ""
    damage: Callable[[Bank], None] = lambda bank: None
    must_fail: bool = False
    stage: str = "next"


def list_inputs() -> Iterator[Input]:
    """All of them, the same each time."""
    yield from _list_configs()
    yield from _list_command_lines()
    yield from _list_queries()
    yield from _list_data()
    yield from _list_files()
    yield from _list_tables()


# ml_config.yaml: each key of the one that is shipped.

FREE = ("environments", "experiments", "split", "models", "params")  # whose keys are the user's own


def _read_config() -> dict[str, Any]:
    """The shipped config on a bank's file."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "ml_config.yaml").read_text("utf-8"))
    raw["environments"]["dev"]["database"] = "sqlite:///bank.db"
    return raw


def _list_configs() -> Iterator[Input]:
    for path, value in _walk(_read_config()):
        words = (*PREDICT, "--dry-run")
        if {"training", "models"} & {*path[2:]}:
            words = (*TRAIN, "--dry-run")
        elif {"outcome", "verdicts", "guardrails", "champion", "cohort", "exposure"} & {*path[2:]}:
            words = (*SCORE, "--dry-run")
        is_free = path[-2:-1] and path[-2] in FREE
        in_params = "params" in path[:-1]
        for how, change, must_fail in _list_changes(path[-1], value):
            if in_params and how == "huge":  # of trees, which take as long as they are asked to
                continue
            yield Input(
                "config",
                f"{'.'.join(path)}: {how}",
                words,
                r"ml_config\.yaml|environment|experiment|\.sql",
                _in_config(path, change),
                must_fail and not (in_params or (is_free and how == "mistyped")),
            )


def _walk(raw: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in raw.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from _walk(value, *path, key)


Change = Callable[[dict[str, Any], str], None]


def _list_changes(key: str, value: Any) -> Iterator[tuple[str, Change, bool]]:
    """What is done to a key, in words and in fact, and whether it cannot be right."""

    def put(other: Any) -> Change:
        return lambda section, key: section.update({key: other})

    yield "removed", lambda section, key: section.pop(key), False
    yield "null", put(None), False
    yield "wrong type", put({"oops": [1]} if not isinstance(value, dict) else 7), True
    wrong = key[: len(key) // 2] + "_" + key[len(key) // 2 :]
    yield "mistyped", lambda section, key: section.update({wrong: section.pop(key)}), True
    if isinstance(value, str):
        yield "empty text", put(""), False
        yield "other text", put("oops \u0000 Ærø"), False
    elif isinstance(value, bool):
        yield "text", put("yes"), True
    elif isinstance(value, int | float):
        yield "negative", put(-value or -1), False
        yield "huge", put(10**15 if isinstance(value, int) else 1e300), False
        yield "infinite", put(float("inf")), True
        yield "text", put("many"), True
    elif isinstance(value, list):
        yield "numbers", put([1, 1]), False
        yield "nested", put([[[]]]), True


def _in_config(path: tuple[str, ...], change: Change) -> Callable[[Bank], None]:
    def damage(bank: Bank) -> None:
        raw = _read_config()
        section = raw
        for key in path[:-1]:
            section = section[key]
        change(section, path[-1])
        bank.file.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")

    return damage


# Command lines: each word of one that is right.

LINES: dict[str, Words] = {
    "train": (*TRAIN, "--dry-run", "--experiment", "card_offer", "--env", "dev"),
    "predict": (*PREDICT, "--dry-run", "--experiment", "card_offer", "--env", "dev"),
    "score": (*SCORE, "--dry-run", "--experiment", "card_offer", "--env", "dev"),
    "init": (MAIN, "init", "--env", "dev"),
    "status": (MAIN, "status", "--date", str(NEXT), "--experiment", "card_offer"),
    "models": (MAIN, "models", "--at", str(NEXT)),
    "experiments": (MAIN, "experiments", "--experiment", "card_offer"),
    "explain": (MAIN, "explain", "--candidate", "1000001", "--date", str(LAST)),
    "promote": (MAIN, "promote", THIRD, *WHY, "--date", str(NEXT), "--by", "Kari"),
    "rollback": (MAIN, "rollback", "modelA", *WHY, "--date", str(NEXT)),
    "rollback --to": (MAIN, "rollback", "--to", str(LAST), *WHY, "--date", str(NEXT)),
    "delete": (MAIN, "delete", THIRD, *WHY),
    "acknowledge": (MAIN, "acknowledge", "card_offer", "--night", str(FIRST_NIGHT), *WHY),
    "conclude": (MAIN, "conclude", "card_offer", "--because", "it works"),
    "snapshots": (MAIN, "snapshots", "show", LIVE),
    "recall": (MAIN, *RECALL, "--as-of", str(NEXT), "--out", "FOLDER/rows.parquet"),
    "reproduce": (MAIN, "reproduce", LIVE),
}
TOGETHER: list[Words] = [  # what does not go together
    ("train", "--dry-run", "--allow-dirty"),
    ("score", "--dry-run", "--rebuild"),
    ("predict", "--date", "2099-01-01"),
    (MAIN, "rollback", "modelA", "--to", str(LAST), *WHY),
    (MAIN, "rollback", *WHY),
    (MAIN, "rollback", "--to", str(NEXT), "--date", str(LAST), *WHY),
    (MAIN, "promote", LIVE, "--date", str(FIRST_NIGHT), *WHY),
    (MAIN, "delete", LIVE, *WHY),
    (MAIN, "snapshots", "show"),
    (MAIN, "recall", "card_offer", "--from", str(NEXT), "--to", str(LAST), "--as-of", str(NEXT)),
    (MAIN, "status", "more", "words"),
    (MAIN, "nothing"),
    (MAIN,),
]
BAD = ("", " ", "nope", "2026-02-30", "20/09/2026", "0001-01-01", "é\n", "../../x", "x" * 5000)


def _list_command_lines() -> Iterator[Input]:
    for words in TOGETHER:
        yield Input("command line", " ".join(words), words, must_fail=True)
    for name, words in LINES.items():
        first = 2 if words[0] == MAIN else 1
        yield Input("command line", f"{name} --nope", (*words, "--nope"), "--nope", must_fail=True)
        for before, i in zip(words, range(1, len(words)), strict=False):
            if i < first:
                continue
            word, head, tail = words[i], words[:i], words[i + 1 :]
            yield Input("command line", f"{name} without {word!r}", (*head, *tail))
            if word.startswith("--"):
                pair = words[i : i + 2] if tail and not tail[0].startswith("--") else (word,)
                yield Input("command line", f"{name} with {word} twice", (*words, *pair))
                continue
            for bad in BAD:
                must_fail = before in ("--date", "--at", "--from", "--to", "--night", "--env")
                is_day = bad.startswith("20") and "-" in bad
                yield Input(
                    "command line",
                    f"{name}: {before} {bad[:20]!r}",
                    (*head, bad, *tail),
                    must_fail=must_fail and not is_day,
                )


# Queries: the four, changed.

TEXTS = {
    "empty": "",
    "a comment": "-- nothing",
    "no columns that are meant": "select 1 as a",
    "a syntax fault": "selec 1",
    "two statements": "{}; select 1",
    "a semicolon at the end": "{};",
    "a statement that writes": "delete from card_candidates",
    "an unknown bind": "select * from ({}) q where 1 = :nope",
    "an unknown table": "select * from nowhere",
    "a bind without a name": "select * from ({}) q where 1 = :",
    "an open quote": "{} -- '\n where ' = 1",
    "no rows": "select * from ({}) q where 1 = 0",
    "every row twice": "select * from ({0}) q union all select * from ({0}) q",
    "a column twice": "select *, * from ({}) q",
    "a column without a name": 'select *, 1 as "" from ({}) q',
}
FIRST_LINES: dict[str, Words] = {"candidates": ("predict", "--date", str(FIRST_NIGHT))}
FIRST_LINES["training"] = ("train", "--date", str(NEXT), "--force", "--dry-run")
FIRST_LINES |= {"watermark": FIRST_LINES["training"], "outcomes": SCORE}


def _list_queries() -> Iterator[Input]:
    for query, words in FIRST_LINES.items():
        stage = "trained" if query == "candidates" else "next"

        def change(text: str, query: str = query) -> Callable[[Bank], None]:
            def damage(bank: Bank) -> None:
                file = bank.folder / "sql" / "card_offer" / f"{query}.sql"
                file.write_text(text.format(file.read_text("utf-8")), "utf-8")

            return damage

        for name, text in TEXTS.items():
            yield Input("query", f"{query}: {name}", words, SQL, change(text), stage=stage)
        for how, harm in HARMS.items():
            place = f"sql/card_offer/{query}.sql"
            yield Input("query", f"{place}: {how}", words, SQL, _to(place, harm), stage=stage)


# Data: each column of the bank's own tables.

VALUES = {
    "null": "null",
    "text": "'much'",
    "empty text": "''",
    "infinite": "9e999",
    "huge": "1e300",
    "negative": "-1",
    "bytes": "x'00ff'",
    "another date": "'24/09/2026'",
    "a time with its zone": "'2026-09-20T00:00:00+02:00'",
}
SOURCES: dict[
    sa.Table, Words
] = {  # the first reader of a table, and whether half or all of its rows are odd
    bank_tables.candidates: PREDICT,
    bank_tables.calls: TRAIN,
    bank_tables.answers: SCORE,
    bank_tables.feed: SCORE,
}


def _list_data() -> Iterator[Input]:
    for table, words in SOURCES.items():
        for column in table.c:
            for name, value in VALUES.items():
                for share, where in (("all", "1"), ("some", "rowid % 7 = 0")):
                    yield Input(
                        "data",
                        f"{table.name}.{column.name}: {share} {name}",
                        words,
                        r"\.sql|feature|outcome|watermark",
                        _by_sql(_make_view(table.name, column.name, value, where)),
                    )


def _make_view(table: str, column: str, value: str, where: str) -> str:
    """A view in the table's place, so that the query stays as it was registered."""
    names = [c.name for c in bank_tables.metadata.tables[table].c]
    odd = f"case when {where} then {value} else {column} end as {column}"
    columns = ", ".join(odd if name == column else name for name in names)
    return f"alter table {table} rename to kept; create view {table} as select {columns} from kept"


def _by_sql(script: str) -> Callable[[Bank], None]:
    def damage(bank: Bank) -> None:
        with closing(sqlite3.connect(bank.folder / "bank.db")) as connection:
            # which leaves views as they are
            connection.executescript(f"pragma legacy_alter_table = on; {script}")

    return damage


# Files: each kind of what lies in the folders.


def _remove(path: Path) -> Path:
    path.unlink()
    return path


HARMS: dict[str, Callable[[Path], object]] = {
    "removed": _remove,
    "empty": lambda path: _remove(path).touch(),
    "cut off": lambda path: os.truncate(path, 100),
    "other bytes": lambda path: _remove(path).write_bytes(b"\xff\x00" * 99),
    "other text": lambda path: _remove(path).write_text('{"a": [1]}'),
    "a folder": lambda path: _remove(path).mkdir(),
    "a pipe": lambda path: os.mkfifo(_remove(path)),
    "a link to nowhere": lambda path: _remove(path).symlink_to("nowhere"),
}
FILES: dict[str, Words] = {
    f"models/dev/{LIVE}.pkl": PREDICT,
    f"models/dev/{LIVE}.json": PREDICT,
    f"models/dev/{LIVE}.html": PREDICT,
    "models/dev/modelA_v1.0_latest.pkl": PREDICT,
    "models/dev/.abatch-owner": PREDICT,
    "snapshots/dev/.abatch-owner": TRAIN,
    "reports/dev/.abatch-owner": SCORE,
    "logs/dev/.abatch-owner": PREDICT,
    "spool/dev/.abatch-owner": PREDICT,
    "reports/dev/card_offer.html": SCORE,
    "snapshots/dev/*.parquet": TRAIN,
    f"logs/dev/predict_{utc_now():%Y-%m}.log": PREDICT,
    "bank.db": PREDICT,
    "bank.db.predict-card_offer.lock": PREDICT,
    "ml_config.yaml": PREDICT,
}


def _to(place: str, harm: Callable[[Path], object]) -> Callable[[Bank], None]:
    """Harm done to all that a pattern names; to a file that is not there as if it were."""

    def damage(bank: Bank) -> None:
        if "*" not in place:
            (bank.folder / place).touch()
        for path in sorted(bank.folder.glob(place)):
            harm(path)

    return damage


def _list_files() -> Iterator[Input]:
    for place, words in FILES.items():
        for how, harm in HARMS.items():
            name = re.escape(Path(place).name.strip("*")) + "|owner's mark|" + LIVE
            yield Input("file", f"{place}: {how}", words, name, _to(place, harm))


# Tables: each of abatch's own.

READERS: dict[str, Words] = {}
READERS |= dict.fromkeys(["models", "snapshots", "deletions", "promotions"], TRAIN)
READERS |= dict.fromkeys(["runs", "prediction_rows", "prediction_shares"], PREDICT)
READERS |= dict.fromkeys(["feature_counts", "registrations", "owner"], PREDICT)
ODD = {
    "the revision is another": f"update {tables.VERSION_TABLE} set version_num = '0'",
    "there is no revision": f"delete from {tables.VERSION_TABLE}",
    "there is no table of revisions": f"drop table {tables.VERSION_TABLE}",
    "nobody is the owner": "delete from owner",
    "two are the owner": "insert into owner values ('x')",
    "another is the owner": "update owner set owner_id = 'x'",
    "a card is no JSON": "update models set card = '{'",
    "a card has other keys": """update models set card = '{"a": 1}'""",
    "a registration is no JSON": "update registrations set content = '{'",
    "sums are no arrays": "update cohort_sums set content = x'00'",
    "counts are no JSON": "update feature_counts set content = '{'",
    "a promotion is of no model": "update promotions set model_name = 'x'",
    "models are of nobody": "delete from models",
    "predictions are of nobody": "delete from runs where job = 'predict'",
}


def _list_tables() -> Iterator[Input]:
    for name, table in tables.TABLES.items():
        words = READERS.get(name, SCORE)
        gone = _by_sql(f"alter table {name} rename to gone")
        yield Input("table", f"{name} is gone", words, name, gone, must_fail=True)
        column = next((c.name for c in table.c if not c.primary_key), "owner_id")
        renamed = _by_sql(f"alter table {name} rename column {column} to gone")
        yield Input("table", f"{name}.{column} is gone", words, column, renamed)
    for what, sql in ODD.items():
        for words in (PREDICT, SCORE, TRAIN):
            yield Input("table", f"{what}, {words[0]}", words, "", _by_sql(sql))


class Outcome(NamedTuple):
    """What became of an input: refused, right, warned or wrong, what it said, and what is wrong."""

    kind: str
    message: str
    faults: list[str]


def meet(given: Input, stages: Stages, folder: Path) -> Outcome:
    """Give it to a bank of its own."""
    stage = stages[given.stage]
    bank, database = stage.copy(folder), folder / "bank.db"
    try:
        given.damage(bank)
        before, earlier = _see_files(folder), folder.with_suffix(".db")
        if database.is_file():
            shutil.copyfile(database, earlier)
        script, *words = (word.replace("FOLDER", str(folder)) for word in given.words)
        code, err = run(script, words, bank)
        faults, after, is_done = [*_find_faults(given, code, err)], _see_files(folder), False
        if before["bank.db"] != after["bank.db"]:
            before, after = before | _see_tables(earlier), after | _see_tables(database)
            is_done = any("done" in row for row in after["runs"] - before["runs"])
            if code and given.family in ("config", "query", "file"):
                _restore(bank, stage)
                good, said = run(script, words, bank)
                faults += [f"a good run after it: {said}"] * bool(good)
        if code and not is_done:
            faults += [f"changed {name}" for name in sorted(_find_changes(before, after))]
        is_refused = code and not is_done  # what fails after the commit is told, as a warning is
        kind = WRONG if faults else REFUSED if is_refused else WARNED if err else RIGHT
        return Outcome(kind, err, faults)
    finally:
        bank.drop()
        folder.with_suffix(".db").unlink(missing_ok=True)


def _find_faults(given: Input, code: int | None, err: str) -> Iterator[str]:
    if code not in (0, 1, 2):
        yield f"exit code {code}"
    if "Traceback" in err or "fault of abatch" in err:
        yield "a traceback"
    if code == 0 and given.must_fail:
        yield "it is taken"
    if code and len(err.splitlines()) > N_LINES:
        yield f"{len(err.splitlines())} lines"
    if code and (not err.strip() or not re.search(given.place, err)):
        yield f"its message does not name {given.place or 'anything'}"


def _see_files(folder: Path) -> dict[str, Any]:
    """All files but logs, locks, marks and links, which every job may make or mend."""
    state: dict[str, Any] = {"bank.db": None}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        is_made = name.endswith((".log", ".lock", ".abatch-owner", "_latest.pkl"))
        if path.is_file() and not is_made:
            state[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return state


def _see_tables(file: Path) -> dict[str, Any]:
    """Rows of each table of a file that may be no database."""
    state: dict[str, Any] = {"runs": set()}
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(file)) as connection:
        names = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (name,) in names:
            rows = {*connection.execute(f'select * from "{name}"')}
            state["runs" if name == "runs" else f"table {name}"] = rows
    return state


def _find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    # What a closed cohort's feed says now is kept by itself, and read by no one but score.
    for name in {*before, *after} - {"bank.db", "table cohort_sums"}:
        old, new = before.get(name), after.get(name)
        if name in ("runs", "table prediction_rows") and old is not None and new is not None:
            # Of a failed run nobody sees any row.
            if old - new or (name == "runs" and any("failed" not in row for row in new - old)):
                yield name
        elif old != new:
            yield name


def _restore(bank: Bank, stage: Bank) -> None:
    """Put back config, queries and files."""
    for path in stage.folder.rglob("*"):
        name = path.relative_to(stage.folder)
        if path.is_dir() or name.parts[0].startswith(("bank.db", "logs")):
            continue
        target = bank.folder / name
        if target.is_dir() and not target.is_symlink():
            target.rmdir()
        target.unlink(missing_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def try_inputs(
    stages: Stages, out: TextIO | None, words: str, n_jobs: int
) -> list[dict[str, object]]:
    """Give all inputs whose name has these words; print what is wrong, and write what was said."""
    started = time.perf_counter()
    given = [one for one in list_inputs() if words in f"{one.family}: {one.name}"]
    folder = stages.folder / "inputs"
    folder.mkdir()
    for stage in {one.stage for one in given}:
        stages[stage]  # made before threads ask for it
    with ThreadPoolExecutor(n_jobs) as pool:
        met = pool.map(lambda pair: meet(pair[1], stages, folder / str(pair[0])), enumerate(given))
        counts: dict[str, Counter[str]] = {one.family: Counter() for one in given}
        for one, outcome in zip(given, met, strict=True):
            counts[one.family][outcome.kind] += 1
            told = f"{outcome.kind}: {one.family}: {one.name}\n    {outcome.message.strip()}"
            for fault in outcome.faults:
                told += f"\n    ! {fault}"
            if outcome.faults:
                print(f"inputs --input '{one.family}: {one.name}'\n{told}", flush=True)
            if out:
                out.write(f"{told}\n\n")
                out.flush()
    rows = []
    for family, of in counts.items():
        row: dict[str, object] = {"inputs": family, "given": of.total()}
        row |= {kind: of[kind] for kind in (REFUSED, WARNED, RIGHT)}
        rows.append(row | {"different": of[WRONG]})
    print(f"inputs: {round(time.perf_counter() - started)} seconds", flush=True)
    return rows
