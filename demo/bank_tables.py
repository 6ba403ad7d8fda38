"""The simulated bank's own tables, and what else a database may hold beside them."""

import sqlalchemy as sa

from abatch.database import connections, tables
from abatch.database.tables import Instant

metadata = sa.MetaData()
bank = sa.Table(
    "simulated_bank",
    metadata,
    sa.Column("first_night", sa.Date, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("plant", sa.Unicode(20), nullable=False),
    sa.Column("salt", sa.Unicode(100), nullable=False),
    sa.Column("split", sa.Unicode(4000), nullable=False),  # as JSON, in its order
)
candidates = sa.Table(
    "card_candidates",
    metadata,
    sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("candidate_date", sa.Date, primary_key=True, index=True),
    sa.Column("loaded_at", Instant, primary_key=True),
    sa.Column("age", sa.Integer),
    sa.Column("income", sa.Numeric(12, 2)),
    sa.Column("balance", sa.Numeric(12, 2)),
    sa.Column("utilisation", sa.Double),
    sa.Column("months_as_customer", sa.Integer),
    sa.Column("purchases_30d", sa.Integer),
    sa.Column("segment", sa.Unicode(20)),
    sa.Column("region", sa.Unicode(40)),
    sa.Column("channel", sa.Unicode(20)),
)
calls = sa.Table(
    "card_calls",
    metadata,
    sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("call_date", sa.Date, primary_key=True, index=True),
    sa.Column("loaded_at", Instant, nullable=False),
)
answers = sa.Table(
    "card_answers",
    metadata,
    sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("offer_date", sa.Date, primary_key=True),
    sa.Column("answer_date", sa.Date, nullable=False, index=True),
    sa.Column("loaded_at", Instant, nullable=False),
)
feed = sa.Table(
    "card_feed",
    metadata,
    sa.Column("loaded_at", Instant, primary_key=True),
    sa.Column("complete_to", sa.Date, nullable=False),
)
truth = sa.Table(
    "simulated_truth",
    metadata,
    sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("candidate_date", sa.Date, primary_key=True),
    sa.Column("p_called", sa.Double, nullable=False),
    sa.Column("p_uncalled", sa.Double, nullable=False),
    sa.Column("called", sa.Integer),
    sa.Column("answer_date", sa.Date),
    sa.Column("load_date", sa.Date, index=True),
    sa.Column("corrected_income", sa.Numeric(12, 2)),
)


def in_default_schema(engine: sa.Engine) -> sa.Engine:
    """An engine that finds the bank's own tables, which are not in abatch's schema."""
    return engine.execution_options(schema_translate_map=None)


def find_foreign(engine: sa.Engine) -> list[str]:
    """Tables and views of this database that neither abatch nor a simulated bank made.

    abatch's are in the engine's schema alone, the bank's in the login's own, and there only if the
    bank was created: a `card_candidates` without `simulated_bank` is somebody's own.
    """
    inspector = sa.inspect(engine)
    default = inspector.default_schema_name
    foreign = []
    for schema in inspector.get_schema_names():
        if schema.lower() in ("information_schema", "sys"):
            continue
        names = {*inspector.get_table_names(schema), *inspector.get_view_names(schema)}
        if schema == (connections.find_schema(engine) or default):
            names -= {*tables.TABLES, *tables.VIEWS, tables.VERSION_TABLE}
        if schema == default and bank.name in names:
            names -= {*metadata.tables}
        foreign += [name if schema == default else f"{schema}.{name}" for name in sorted(names)]
    return foreign
