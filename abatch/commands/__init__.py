"""What `python -m abatch` can do, group by group; a group is a module here.

This list is all that --help needs. A group's module is imported for its own commands alone.
"""

import sys

PROG = "abatch" if sys.argv[0].endswith("/abatch") else "python -m abatch"  # as it was called
GROUPS = {
    "look": {
        "status": "live models, last runs, missed dates; files that tables or disk lack",
        "models": "the dated models, and which of them are live; --at tells what was live on a day",
        "experiments": (
            "every experiment that was ever registered: what was asked and expected, what is"
            " known, what was concluded"
        ),
        "explain": (
            "how one candidate's prediction of one night came to be: variant, model, training"
            " rows, code, config, run, promotion"
        ),
        "dictionary": (
            "print what each table, view and column means, as Markdown; needs neither database"
            " nor config"
        ),
    },
    "change": {
        "init": "create abatch's tables and views; harmless to repeat",
        "promote": "make a dated model live from --date on",
        "rollback": (
            "go back to the model that was live before, to the dated model that is named, or to"
            " all that was live on a day"
        ),
        "delete": (
            "delete the files of a dated model that is not live; its record stays, with the reason"
        ),
        "acknowledge": (
            "say that doubted outcomes were looked at and are right as they are; kept for good,"
            " with the reason"
        ),
        "conclude": (
            "write down what a person concludes from an experiment; it is kept for good beside"
            " what abatch found"
        ),
    },
    "keep": {
        "snapshots": (
            "training rows as they were pulled: list, show, verify, or purge what retention no"
            " longer keeps"
        ),
        "recall": (
            "training rows of any window as they were known at any time, the same that train would"
            " see"
        ),
        "reproduce": (
            "build a dated model again, compare what it predicts, and say what has moved"
        ),
    },
    "check": {
        "doctor": (
            "what stands between this machine and its database: drivers, server, tables, rights,"
            " isolation, clock; --register needs no root"
        ),
    },
}
GROUP_OF = {name: group for group, commands in GROUPS.items() for name in commands}
