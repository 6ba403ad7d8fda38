"""Registrations: what an experiment asks, written down before the first outcome and never changed."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from abatch.assignment import split_thresholds
from abatch.database import clean_query
from abatch.errors import ConfigError
from abatch.tables import registrations

_LITERAL = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\])""")


def describe(experiment: str, settings: Mapping[str, Any], sql: Mapping[str, str], timezone: str) -> dict[str, Any]:
    """All that the experiment's verdict will depend on, as JSON holds it.

    Parameters
    ----------
    settings : the experiment's part of the config as plain values
    sql : text of the queries by name
    """
    limits = split_thresholds(settings["split"])
    return {
        "hypothesis": " ".join(settings["hypothesis"].split()),
        "outcome": settings["outcome"],
        "salt": experiment,
        "variants": [
            {"variant": variant, "share": share, "hash_up_to": f"{limits[variant] - 1:016x}", "has_model": variant in settings["models"]}
            for variant, share in settings["split"].items()
        ],
        "select_top": settings["select_top"],
        **{f"{name}_query": normalise_query(sql[name]) for name in ("outcomes", "watermark")},
        "timezone": timezone,
    }


def normalise_query(sql: str) -> str:
    """A query as far as its meaning goes: without comments, with single spaces outside literals and quoted names."""
    pieces = _LITERAL.split(clean_query(sql))
    return "".join(piece if i % 2 else re.sub(r"\s+", " ", piece) for i, piece in enumerate(pieces))


def find_registration(connection: sa.Connection, experiment: str) -> dict[str, Any] | None:
    """What was registered, or None before the first predict."""
    content = connection.scalar(sa.select(registrations.c.content).where(registrations.c.experiment == experiment))
    return None if content is None else json.loads(content)


def check_registration(registered: Mapping[str, Any], content: Mapping[str, Any], experiment: str, place: str) -> None:
    """Raise ConfigError, with a diff, if anything registered has changed since."""
    changed = [key for key in sorted(registered) if registered.get(key) != content.get(key)]
    if changed:
        lines = [f"  {key}\n    registered {_show(registered.get(key))}\n    now        {_show(content.get(key))}" for key in changed]
        raise ConfigError(
            f"{place}: experiment {experiment} is registered, and its verdict depends on what has changed here."
            " Set it back, or ask the new question under a new experiment name.\n" + "\n".join(lines)
        )


def register(connection: sa.Connection, experiment: str, content: Mapping[str, Any], registered_at: datetime, run_id: str) -> None:
    """Write the experiment's one row, which is never changed. The hash is that of the UTF-8 text in `content`."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    connection.execute(
        registrations.insert().values(
            experiment=experiment,
            hash=hashlib.sha256(text.encode()).hexdigest(),
            content=text,
            registered_at=registered_at,
            run_id=run_id,
        )
    )


def _show(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
