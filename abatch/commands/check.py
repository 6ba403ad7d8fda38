"""The command that looks what stands between this machine and a database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from abatch import job, night, version
from abatch.arguments import CONFIG, ENV, switch
from abatch.commands.command import command
from abatch.config import Environment, load_experiments
from abatch.database import connections, diagnosis, faults, isolation
from abatch.errors import AbatchError
from abatch.text import Reply, wrap_facts

Facts = Iterator[tuple[str, str]]
FAR_SECONDS = 60  # of two clocks, by which a night may be taken for another


@command("doctor")
def examine(
    env: Annotated[str | None, ENV],
    config: Annotated[Path, CONFIG],
    register: Annotated[
        bool,
        switch("--register", "make the ODBC driver of mssql-python known to this user, first"),
    ],
) -> Reply:
    """Tell drivers, server, tables, rights, isolation and clock; exit code 1 if one is missing."""
    facts, code = [], job.DONE
    if register:
        facts.append(("registered", str(diagnosis.register_driver(Path.home()))))
    facts.append(("code", version.describe_doubt() or version.code_version()))
    drivers = ", ".join(f"{name} {state}" for name, state in diagnosis.list_drivers())
    facts.append(("drivers", drivers))
    environment = load_experiments(config, env).environment
    try:
        facts.extend(_examine(environment))
    except AbatchError as error:  # what is known until then is told, too
        facts.append(("fault", str(error)))
        code = job.MENDABLE
    head = f"{environment.name} ({environment.file})"
    return Reply(wrap_facts(facts, head), code=code)


def _examine(environment: Environment) -> Facts:
    with job.open_database(environment, is_ready=False) as engine:
        place = faults.show_url(engine)
        yield "database", place
        if place.startswith("mssql"):
            yield from _tell_odbc()
        if place.startswith("sqlite"):  # which would make the file that it does not find
            connections.check_ready(engine, environment.name)
        with faults.described(place):
            server = connections.read(engine, diagnosis.examine)
        now = night.utc_now()
        yield "server", server.version
        for rights, names in server.rights.items():
            yield "rights", f"{rights}: {', '.join(names)}"
        yield "isolation", isolation.find_doubt(engine) or "readers wait for nobody"
        if server.clock is not None:
            seconds = (now - server.clock).total_seconds()
            note = ". Set one of them right" if abs(seconds) > FAR_SECONDS else ""
            yield "clock", f"this machine's is {seconds:+.0f} s from the server's{note}"
        connections.check_ready(engine, environment.name)
        yield "tables", "are those of this abatch"


def _tell_odbc() -> Facts:
    known = diagnosis.list_odbc_drivers()
    yield "ODBC", ", ".join(known) or "unixODBC knows no driver"
    if faults.ODBC_DRIVER not in known and diagnosis.find_bundled_driver():
        yield "ODBC", "mssql-python brings one along: python -m abatch doctor --register"
