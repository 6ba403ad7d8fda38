"""Houses and doors hold.

Imports between houses go down, none goes in a circle, and each outside thing has one door.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import ROOT

# From the ground up. What stands in no house is named as a file.
LEVELS = [
    {
        "abatch",
        "arguments",
        "errors",
        "files",
        "memory",
        "queries",
        "yaml_file",
        "config",
        "sections",
        "version",
        "text",
    },
    {"statistics"},
    {"database"},
    {"night"},
    {"experiment"},
    {"modelling"},
    {"pages"},
    {"job"},
    {"stories", "commands"},
    {"__main__"},
    {"demo"},
]
LEVEL_OF = {house: number for number, level in enumerate(LEVELS) for house in level}
STORIES = {"train", "predict", "score"}
DOORS = {  # what only one module, or house, may use, as an import or as an attribute
    "yaml": "yaml_file",
    "dotenv": "config",
    "os.environ": "config",
    "os.getenv": "config",
    "joblib": "modelling.registry",
    "distributed": "modelling.cluster",
    "pickle": "modelling.registry",
    "pyarrow.parquet": "modelling.snapshots",
    "pd.read_parquet": "modelling.snapshots",
    "sqlalchemy.create_engine": "database",
    "sa.create_engine": "database",
    "filelock": "database.locks",
    "alembic": "database.migrations",
    "logging.FileHandler": "job",
}
# Who else may use one. OpenMP reads its policy once, so it is set before other modules are there;
# workers open what their own job has sent.
BESIDES = {
    ("abatch", "os.environ"),
    ("modelling.workers", "joblib"),
    ("modelling.workers", "os.environ"),
    ("modelling.forking", "os.environ"),
    ("modelling.workers", "pickle"),
    ("modelling.preload", "pickle"),
    ("modelling.cluster", "joblib"),
    ("modelling.estimators", "joblib"),
    ("modelling.cluster", "pickle"),
}
KNOW_THE_DATABASE = ("database", "demo")  # which of the three it is; the demo plays on SQLite alone
DRIVERS = {"adbc_driver_postgresql", "mssql_python", "psycopg", "pyodbc", "sqlite3"}
CLOCK = "night"
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
TIMES = {f"time.{name}" for name in ("time", "time_ns", "monotonic", "perf_counter", "gmtime")} | {
    "time.localtime"
}


def read_sources() -> dict[str, str]:
    """Text of the production code by path."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("abatch/**/*.py"), *ROOT.glob("demo/**/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def name_module(path: str) -> str:
    """The dotted name of a file below abatch/, or of a script: database.reading, train, demo."""
    return (
        path.removesuffix(".py").removesuffix("/__init__").removeprefix("abatch/").replace("/", ".")
    )


def find_house(module: str) -> str:
    first = module.partition(".")[0]
    return "stories" if first in STORIES else first


def find_imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["abatch" if node.level else None, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def find_own(imported: str, known: set[str]) -> str | None:
    """The module of ours behind a dotted name, None if it is not ours."""
    parts = imported.split(".")
    if parts[0] == "abatch":
        parts = parts[1:] or ["abatch"]
        if parts[0] not in LEVEL_OF:
            parts = ["abatch"]
    elif parts[0] not in {*STORIES, "demo"}:
        return None
    for length in (3, 2, 1):
        if ".".join(parts[:length]) in known:
            return ".".join(parts[:length])
    return parts[0]


def find_violations(sources: dict[str, str], modules: set[str]) -> list[str]:
    """Sentences: what breaks the houses or uses a thing past its door.

    Parameters
    ----------
    modules : dotted names of all files, as `name_module` has them
    """
    faults = []
    graph: dict[str, set[str]] = {}
    for path, source in sources.items():
        module, tree = name_module(path), ast.parse(source)
        house = find_house(module)
        if house not in LEVEL_OF:
            faults.append(f"{path}: belongs to no house")
            continue
        used = list(find_imports(tree))
        for imported in used:
            own = find_own(imported, modules)
            if own is None or own == module:
                continue
            other = find_house(own)
            if other == house and house != "stories":
                graph.setdefault(module, set()).add(own)
            elif (
                house == "statistics"
                or LEVEL_OF[other] > LEVEL_OF[house]
                or house == "stories" == other
            ):
                faults.append(f"{path}: imports {own}, which is not below {house}")
            else:
                graph.setdefault(module, set()).add(own)
        attributes = [
            ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        ]
        faults += find_misused(path, module, [*used, *attributes])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        faults.append(f"a circle of imports: {' > '.join(error.args[1])}")
    return faults


def find_misused(path: str, module: str, names: list[str]) -> Iterator[str]:
    for name in names:
        for thing, door in DOORS.items():
            at_door = f"{module}.".startswith(f"{door}.") or (module, thing) in BESIDES
            if f"{name}.".startswith(f"{thing}.") and not at_door:
                yield f"{path}: uses {thing}, whose door is {door}"
        if not module.startswith(KNOW_THE_DATABASE) and (
            name.endswith("dialect.name") or name.split(".")[0] in DRIVERS
        ):
            yield f"{path}: asks by {name} which database it is, which only database may"
        owner, _, last = name.rpartition(".")
        reads = name in TIMES or (
            last in CLOCKS and owner not in ("self", CLOCK, f"abatch.{CLOCK}")
        )
        if module not in (CLOCK, "job") and reads:
            yield f"{path}: reads the clock by {name}, which only {CLOCK} may"


SOURCES = read_sources()
MODULES = {name_module(path) for path in SOURCES}


def test_houses_and_doors_hold() -> None:
    assert find_violations(SOURCES, MODULES) == []


def test_houses_name_only_what_exists() -> None:
    assert {find_house(module) for module in MODULES} == set(LEVEL_OF)


def test_nothing_is_called_utils() -> None:
    assert [path for path in SOURCES if "util" in path] == []


def test_openmp_is_loaded_after_its_policy_is_set() -> None:
    """Whoever imports a module of abatch runs abatch/__init__.py first; scripts sort it last."""
    loads_openmp = {
        path
        for path, source in SOURCES.items()
        for imported in find_imports(ast.parse(source))
        if imported.partition(".")[0] in ("sklearn", "joblib", "threadpoolctl")
    }
    assert loads_openmp
    assert all(path.startswith("abatch/") for path in loads_openmp)
    variables = re.findall(r'"([A-Z_]+)"', SOURCES["abatch/__init__.py"])
    assert set(variables) == {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        (
            "abatch/errors.py",
            "from abatch.database import tables",
            "imports database.tables, which is not below errors",
        ),
        (
            "abatch/experiment/outcomes.py",
            "from abatch.modelling.features import code",
            "imports modelling.features, which is not below experiment",
        ),
        (
            "abatch/statistics/drift.py",
            "from abatch.errors import DataError",
            "imports errors, which is not below statistics",
        ),
        (
            "abatch/database/connections.py",
            "def f():\n    import abatch.job",
            "imports job, which is not below database",
        ),
        (
            "abatch/modelling/registry.py",
            "from abatch.pages.report import write_report",
            "imports pages.report, which is not below modelling",
        ),
        ("abatch/pages/report.py", "import abatch.job", "imports job, which is not below pages"),
        ("abatch/job.py", "import train", "imports train, which is not below job"),
        ("train.py", "from predict import predict", "imports predict, which is not below stories"),
        ("abatch/job.py", "import demo", "imports demo, which is not below job"),
        (
            "abatch/database/migrations/env.py",
            "from abatch import job",
            "imports job, which is not below database",
        ),
        ("abatch/newnoun.py", "", "belongs to no house"),
        ("abatch/job.py", "import yaml", "uses yaml, whose door is yaml_file"),
        ("predict.py", "import os\nx = os.environ['A']", "uses os.environ, whose door is config"),
        (
            "abatch/__init__.py",
            "import os\nx = os.getenv('A')",
            "uses os.getenv, whose door is config",
        ),
        ("predict.py", "from os import getenv", "uses os.getenv, whose door is config"),
        (
            "abatch/modelling/training.py",
            "import joblib",
            "uses joblib, whose door is modelling.registry",
        ),
        (
            "abatch/job.py",
            "from sqlalchemy import create_engine",
            "uses sqlalchemy.create_engine, whose door is database",
        ),
        (
            "score.py",
            "x = engine.dialect.name",
            "asks by engine.dialect.name which database it is, which only database may",
        ),
        (
            "abatch/job.py",
            "import psycopg",
            "asks by psycopg which database it is, which only database may",
        ),
        (
            "abatch/modelling/registry.py",
            "x = datetime.now(UTC)",
            "reads the clock by datetime.now, which only night may",
        ),
        ("train.py", "x = sa.func.now()", "reads the clock by sa.func.now, which only night may"),
        (
            "demo/__main__.py",
            "import time\nx = time.time()",
            "reads the clock by time.time, which only night may",
        ),
    ],
)
def test_find_violations_sees(path: str, line: str, fault: str) -> None:
    assert find_violations({path: line}, MODULES) == [f"{path}: {fault}"]


def test_find_violations_sees_a_circle_within_a_house() -> None:
    circle = {
        "abatch/experiment/scores.py": "from abatch.experiment import looks",
        "abatch/experiment/looks.py": "from abatch.experiment.scores import ALL",
    }
    (fault,) = find_violations(circle, MODULES)
    assert fault.startswith("a circle of imports: ")
    assert "experiment.looks" in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "demo/__main__.py",
            "import predict, score, train\nfrom abatch import night\nx = night.today(1)",
        ),
        (
            "train.py",
            "from abatch import job\nfrom abatch.modelling import training\nimport yamlish",
        ),
        ("abatch/modelling/training.py", "from abatch.modelling import gate, registry"),
        ("abatch/night.py", "import time\nx = time.time()"),
        ("abatch/__init__.py", "import os\nos.environ.setdefault('A', 'b')"),
    ],
)
def test_find_violations_lets_pass(path: str, source: str) -> None:
    assert find_violations({path: source}, MODULES) == []
