"""Floors and doors: imports go down, and each outside thing has one door.

A new module is a new noun, and finds its floor here.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FLOORS = [
    {"abatch", "errors"},
    {"files", "tables"},
    {"database", "libraries"},
    {"assignment", "config", "drift", "estimators", "features", "metrics", "pages", "stats"},
    {
        "gate",
        "migrations",
        "outcomes",
        "plots",
        "predictions",
        "registrations",
        "registry",
        "retraining",
        "scores",
        "verdicts",
    },
    {"cards", "looks", "snapshots", "training"},
    {"job", "report", "simulate"},
    {"lifecycle"},
    {"lineage", "reproduction"},
    {"train", "predict", "score", "__main__"},
    {"demo"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
KNOW_THE_CONFIG = {
    module for floor in FLOORS[6:] for module in floor
}  # the nouns take plain values instead
DOORS = {  # what only one module may use, as an import or as an attribute
    "yaml": "config",
    "dotenv": "config",
    "os.environ": "config",
    "os.getenv": "config",
    "joblib": "registry",
    "pickle": "registry",
    "pyarrow.parquet": "snapshots",
    "sqlalchemy.create_engine": "database",
    "sa.create_engine": "database",
    "filelock": "database",
    "alembic": "migrations",
    "logging.FileHandler": "job",
}
KNOW_THE_DATABASE = {
    "database",
    "migrations",
    "demo",
}  # which of the three it is; the demo plays on SQLite alone
DRIVERS = {"adbc_driver_postgresql", "mssql_python", "psycopg", "pyodbc", "sqlite3"}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
TIMES = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.perf_counter",
    "time.gmtime",
    "time.localtime",
}


def read_sources() -> dict[str, str]:
    """Text of the production code by path."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("abatch/**/*.py"), *ROOT.glob("demo/**/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def name_module(path: str) -> str:
    """The noun that stands for a file: abatch/migrations/env.py is a part of migrations."""
    parts = path.removesuffix(".py").split("/")
    if parts[0] == "abatch" and len(parts) > 1:
        return "abatch" if parts[1] == "__init__" else parts[1]
    return parts[0]


def find_imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["abatch" if node.level else None, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def find_own(imported: str) -> str | None:
    """The noun behind a dotted name, None if it is not ours."""
    first, *rest = imported.split(".")
    if first == "abatch":
        return rest[0] if rest and rest[0] in FLOOR_OF else "abatch"
    return first if first in FLOOR_OF and first not in ("errors", "config", "job") else None


def find_violations(sources: dict[str, str]) -> list[str]:
    faults = []
    for path, source in sources.items():
        module, tree = name_module(path), ast.parse(source)
        if module not in FLOOR_OF:
            faults.append(f"{path}: has no floor")
            continue
        used = list(find_imports(tree))
        for imported in used:
            own = find_own(imported)
            if own is None or own == module:
                continue
            if FLOOR_OF[own] >= FLOOR_OF[module]:
                faults.append(f"{path}: imports {own}, which is not on a lower floor")
            if own == "config" and module not in KNOW_THE_CONFIG:
                faults.append(f"{path}: takes the config object rather than plain values")
        attributes = [
            ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        ]
        for name in (*used, *attributes):
            for thing, door in DOORS.items():
                if f"{name}.".startswith(f"{thing}.") and module != door:
                    faults.append(f"{path}: uses {thing}, whose door is {door}")
            if module not in KNOW_THE_DATABASE and (
                name.endswith("dialect.name") or name.split(".")[0] in DRIVERS
            ):
                faults.append(
                    f"{path}: asks by {name} which database it is, which only database and"
                    " migrations may"
                )
            owner, _, last = name.rpartition(".")
            if module != "job" and (
                name in TIMES or (last in CLOCKS and owner not in ("config", "job", "self"))
            ):
                faults.append(f"{path}: reads the clock by {name}, which only job may")
    return faults


def test_floors_and_doors_hold() -> None:
    assert find_violations(read_sources()) == []


def test_floors_name_only_modules_that_exist() -> None:
    assert {name_module(path) for path in read_sources()} == set(FLOOR_OF)


def test_nothing_is_called_utils() -> None:
    assert [path for path in read_sources() if "util" in path] == []


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        (
            "abatch/errors.py",
            "from abatch import tables",
            "imports tables, which is not on a lower floor",
        ),
        (
            "abatch/features.py",
            "from abatch.metrics import measure",
            "imports metrics, which is not on a lower floor",
        ),
        (
            "abatch/features.py",
            "from .metrics import measure",
            "imports metrics, which is not on a lower floor",
        ),
        (
            "abatch/database.py",
            "def f():\n    import abatch.job",
            "imports job, which is not on a lower floor",
        ),
        (
            "abatch/registry.py",
            "from abatch.predictions import stage",
            "imports predictions, which is not on a lower floor",
        ),
        (
            "abatch/training.py",
            "from abatch.config import Config",
            "takes the config object rather than plain values",
        ),
        ("abatch/report.py", "import abatch.job", "imports job, which is not on a lower floor"),
        ("abatch/__main__.py", "import train", "imports train, which is not on a lower floor"),
        (
            "train.py",
            "from predict import predict",
            "imports predict, which is not on a lower floor",
        ),
        ("abatch/job.py", "import demo", "imports demo, which is not on a lower floor"),
        (
            "abatch/migrations/env.py",
            "from abatch import job",
            "imports job, which is not on a lower floor",
        ),
        ("abatch/newnoun.py", "", "has no floor"),
        ("abatch/job.py", "import yaml", "uses yaml, whose door is config"),
        ("predict.py", "import os\nx = os.environ['A']", "uses os.environ, whose door is config"),
        ("predict.py", "from os import getenv", "uses os.getenv, whose door is config"),
        ("abatch/training.py", "import joblib", "uses joblib, whose door is registry"),
        (
            "abatch/job.py",
            "from sqlalchemy import create_engine",
            "uses sqlalchemy.create_engine, whose door is database",
        ),
        (
            "score.py",
            "x = engine.dialect.name",
            (
                "asks by engine.dialect.name which database it is, which only database and"
                " migrations may"
            ),
        ),
        (
            "abatch/job.py",
            "import psycopg",
            "asks by psycopg which database it is, which only database and migrations may",
        ),
        (
            "abatch/registry.py",
            "x = datetime.now(UTC)",
            "reads the clock by datetime.now, which only job may",
        ),
        ("train.py", "x = sa.func.now()", "reads the clock by sa.func.now, which only job may"),
        (
            "demo/__main__.py",
            "import time\nx = time.time()",
            "reads the clock by time.time, which only job may",
        ),
    ],
)
def test_find_violations_sees(path: str, line: str, fault: str) -> None:
    assert find_violations({path: line}) == [f"{path}: {fault}"]


def test_find_violations_lets_pass() -> None:
    assert (
        find_violations(
            {
                "demo/__main__.py": (
                    "import predict, score, train\nfrom abatch import job\nx = job.today(config)"
                )
            }
        )
        == []
    )
    assert (
        find_violations(
            {
                "train.py": (
                    "from abatch.config import Config\nfrom abatch import job, training\nimport"
                    " yamlish"
                )
            }
        )
        == []
    )
    assert (
        find_violations(
            {"abatch/job.py": "import abatch, time\nfrom abatch import config\nx = time.time()"}
        )
        == []
    )
