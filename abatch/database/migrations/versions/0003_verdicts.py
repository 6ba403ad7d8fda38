"""The verdict: sums that make a night cheap, looks, verdicts, sample ratios, conclusions, drift of
features.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime().with_variant(mssql.DATETIME2(precision=6), "mssql")


def upgrade() -> None:
    op.create_table(
        "cohort_sums",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column(
            "cohort",
            sa.String(length=10),
            nullable=False,
            comment="first day of the week or month of run_date, or 'all'",
        ),
        sa.Column("variant", sa.String(length=64), nullable=False, comment="A, B, control ..."),
        sa.Column(
            "model_name",
            sa.String(length=128),
            nullable=False,
            comment="as in scores; empty for the sums of the variant itself",
        ),
        sa.Column(
            "closed_date",
            sa.Date(),
            nullable=False,
            comment="newest closed night when the row was written; the largest counts",
        ),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="arrays as numpy's .npz"),
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the score run that wrote the row",
        ),
        sa.PrimaryKeyConstraint("experiment", "cohort", "variant", "model_name"),
        comment=(
            "sums and histograms of nights whose outcomes are final, so that score reads a night"
            " once; score --rebuild makes them anew"
        ),
    )
    op.create_table(
        "conclusions",
        sa.Column(
            "conclusion_id",
            sa.Integer(),
            autoincrement=True,
            nullable=False,
            comment="of two, the higher counts",
        ),
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column(
            "because", sa.UnicodeText(), nullable=False, comment="what was concluded, and why"
        ),
        sa.Column(
            "finding",
            sa.UnicodeText(),
            nullable=False,
            comment="what the newest look said when it was concluded",
        ),
        sa.Column("concluded_by", sa.Unicode(length=255), nullable=False, comment="user and host"),
        sa.Column("concluded_at", INSTANT, nullable=False, comment="when the row was written, UTC"),
        sa.PrimaryKeyConstraint("conclusion_id"),
        comment="what a person concluded from an experiment; only ever appended",
    )
    op.create_index(
        "conclusions_experiment", "conclusions", ["experiment", "conclusion_id"], unique=False
    )
    op.create_table(
        "feature_counts",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="the night, as a business date"),
        sa.Column(
            "model_name",
            sa.String(length=128),
            nullable=False,
            comment="the dated model whose candidates are counted",
        ),
        sa.Column(
            "content",
            sa.UnicodeText(),
            nullable=False,
            comment="candidates per bin or category of each feature, as JSON",
        ),
        sa.Column(
            "run_id", sa.String(length=40), nullable=False, comment="the run that wrote the row"
        ),
        sa.PrimaryKeyConstraint("experiment", "run_date", "model_name"),
        comment=(
            "what one model's candidates of one night looked like; what feature_drift is made of"
        ),
    )
    op.create_table(
        "feature_drift",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column(
            "model_name",
            sa.String(length=128),
            nullable=False,
            comment="the dated model whose training rows are compared with",
        ),
        sa.Column(
            "cohort",
            sa.String(length=10),
            nullable=False,
            comment="first day of the week or month of run_date",
        ),
        sa.Column(
            "feature",
            sa.Unicode(length=128),
            nullable=False,
            comment="name of the column in the queries",
        ),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="number or category"),
        sa.Column("n", sa.Integer(), nullable=False, comment="candidates, mature or not"),
        sa.Column(
            "psi",
            sa.Double(),
            nullable=False,
            comment="population stability index against the training rows",
        ),
        sa.Column(
            "psi_noise",
            sa.Double(),
            nullable=False,
            comment="what chance alone exceeds in 5 % of cases",
        ),
        sa.Column("null_rate", sa.Double(), nullable=False, comment="share of nulls"),
        sa.Column(
            "null_rate_training",
            sa.Double(),
            nullable=False,
            comment="share of nulls in the training rows",
        ),
        sa.Column(
            "n_new",
            sa.Integer(),
            nullable=False,
            comment="candidates of a category that training never saw",
        ),
        sa.Column(
            "new_categories",
            sa.UnicodeText(),
            nullable=True,
            comment="these categories, the most common first; null if there are none",
        ),
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the score run that wrote the row",
        ),
        sa.PrimaryKeyConstraint("experiment", "model_name", "cohort", "feature"),
        comment=(
            "how far the candidates of one dated model have moved from its training rows, by"
            " feature and cohort"
        ),
    )
    op.create_table(
        "looks",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="the day of the look"),
        sa.Column(
            "watermark",
            sa.Date(),
            nullable=True,
            comment="up to which outcomes were complete; null if the feed had not begun",
        ),
        sa.Column(
            "mature_date",
            sa.Date(),
            nullable=True,
            comment="newest night whose outcome window was closed; null if none was",
        ),
        sa.Column(
            "n_predicted",
            sa.Integer(),
            nullable=False,
            comment="predictions of all nights until then",
        ),
        sa.Column(
            "n_mature",
            sa.Integer(),
            nullable=False,
            comment="of these, with a closed outcome window",
        ),
        sa.Column(
            "n_units", sa.Integer(), nullable=False, comment="candidates that the verdicts count"
        ),
        sa.Column(
            "n_mixed",
            sa.Integer(),
            nullable=False,
            comment="candidates left out because they were in more than one variant",
        ),
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the score run that wrote the row",
        ),
        sa.PrimaryKeyConstraint("experiment", "run_date"),
        comment="one day's reading of an experiment",
    )
    op.create_table(
        "sample_ratios",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="the day of the look"),
        sa.Column(
            "stage",
            sa.String(length=16),
            nullable=False,
            comment="assigned: everybody predicted; mature: outcome window closed",
        ),
        sa.Column("variant", sa.String(length=64), nullable=False, comment="A, B, control ..."),
        sa.Column("n", sa.Integer(), nullable=False, comment="distinct candidates so far"),
        sa.Column(
            "expected", sa.Double(), nullable=False, comment="what the registered share gives"
        ),
        sa.Column(
            "pvalue",
            sa.Double(),
            nullable=False,
            comment="of the sequential test over all variants, on this look",
        ),
        sa.Column(
            "pvalue_min",
            sa.Double(),
            nullable=False,
            comment="the smallest so far; under 0.01 the experiment is invalid",
        ),
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the score run that wrote the row",
        ),
        sa.PrimaryKeyConstraint("experiment", "run_date", "stage", "variant"),
        comment="one variant on one look: is it as large as its registered share says",
    )
    op.create_table(
        "units",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column(
            "metric",
            sa.String(length=64),
            nullable=False,
            comment="'outcome', or the name of a guardrail",
        ),
        sa.Column(
            "candidate_id", sa.String(length=64), nullable=False, comment="who was predicted"
        ),
        sa.Column(
            "variant",
            sa.String(length=64),
            nullable=False,
            comment="A, B, control ...; whoever is in two of them counts in none",
        ),
        sa.Column(
            "n_exposures",
            sa.Integer(),
            nullable=False,
            comment="predictions that count: 1 if only the first does",
        ),
        sa.Column(
            "outcome", sa.Double(), nullable=False, comment="sum of their outcomes, each capped"
        ),
        sa.PrimaryKeyConstraint("experiment", "metric", "candidate_id", "variant"),
        comment="what a candidate brought in the nights of cohort_sums; what verdicts are made of",
    )
    op.create_table(
        "verdicts",
        sa.Column(
            "experiment",
            sa.String(length=64),
            nullable=False,
            comment="name of the experiment in ml_config.yaml",
        ),
        sa.Column("run_date", sa.Date(), nullable=False, comment="the day of the look"),
        sa.Column(
            "comparison",
            sa.String(length=140),
            nullable=False,
            comment="treatment vs control: 'models vs control', 'B vs A'",
        ),
        sa.Column(
            "metric",
            sa.String(length=64),
            nullable=False,
            comment="'outcome', or the name of a guardrail",
        ),
        sa.Column(
            "n_treatment",
            sa.Integer(),
            nullable=False,
            comment="units (candidates) in the first of the two",
        ),
        sa.Column(
            "n_control", sa.Integer(), nullable=False, comment="units in the second of the two"
        ),
        sa.Column(
            "exposures_treatment",
            sa.Integer(),
            nullable=False,
            comment="their predictions that count; as many if only the first does",
        ),
        sa.Column(
            "exposures_control", sa.Integer(), nullable=False, comment="the same of the second"
        ),
        sa.Column("sum_treatment", sa.Double(), nullable=False, comment="sum of the outcomes"),
        sa.Column("sum_control", sa.Double(), nullable=False, comment="sum of the outcomes"),
        sa.Column(
            "estimate",
            sa.Double(),
            nullable=True,
            comment=(
                "difference of the means (sum / exposures), first minus second; null while unknown"
            ),
        ),
        sa.Column("se", sa.Double(), nullable=True, comment="standard error of the estimate"),
        sa.Column(
            "x",
            sa.Double(),
            nullable=True,
            comment="how much is known, in the formula of the interval",
        ),
        sa.Column(
            "lower",
            sa.Double(),
            nullable=True,
            comment="lower end of the interval that holds on all looks together",
        ),
        sa.Column("upper", sa.Double(), nullable=True, comment="upper end of the interval"),
        sa.Column("pvalue", sa.Double(), nullable=True, comment="of this look"),
        sa.Column(
            "pvalue_min",
            sa.Double(),
            nullable=True,
            comment="the smallest so far; for the word, the interval counts",
        ),
        sa.Column("lift", sa.Double(), nullable=True, comment="relative difference of the means"),
        sa.Column(
            "lift_lower",
            sa.Double(),
            nullable=True,
            comment="lower end of its interval (Fieller); null where it has no bounds",
        ),
        sa.Column("lift_upper", sa.Double(), nullable=True, comment="upper end of its interval"),
        sa.Column(
            "word",
            sa.String(length=40),
            nullable=False,
            comment="better, worse, no difference larger than d, not yet known, too early, invalid",
        ),
        sa.Column(
            "run_id",
            sa.String(length=40),
            nullable=False,
            comment="the score run that wrote the row",
        ),
        sa.PrimaryKeyConstraint("experiment", "run_date", "comparison", "metric"),
        comment=(
            "one comparison on one look; of a guardrail the word is kept, broken, not yet known,"
            " too early or invalid"
        ),
    )
    column: sa.Column = sa.Column(
        "outcome_sum",
        sa.Double(),
        comment="sum of the mature outcomes, capped; null if written before revision 0003",
    )
    op.add_column("variant_scores", column, schema=op.get_context().version_table_schema)
