# fmt: off
"""All tables, indexes and views.

Written by `python -m tests.revision`: before the first release there is no other revision, and a
database of another commit is refused, by the hash in the name of this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

from abatch.database.migrations.dictionary import create_table
from abatch.database.migrations.owner import create_owner
from abatch.database.migrations.views import create_views

revision = "0001_3ccdd63c"
down_revision = None
INSTANT = sa.DateTime().with_variant(mssql.DATETIME2(precision=6), "mssql")


def upgrade() -> None:
    """Create them."""
    create_table('acknowledgements',
        sa.Column('acknowledgement_id', sa.Integer(), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('metric', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('kind', sa.String(length=40), nullable=False),
        sa.Column('from_date', sa.Date(), nullable=False),
        sa.Column('to_date', sa.Date(), nullable=False),
        sa.Column('is_ongoing', sa.SmallInteger(), nullable=False),
        sa.Column('n', sa.Integer(), nullable=False),
        sa.Column('n_found', sa.Integer(), nullable=False),
        sa.Column('log_sum', sa.Double(), nullable=False),
        sa.Column('reason', sa.Unicode(length=1000), nullable=False),
        sa.Column('acknowledged_by', sa.Unicode(length=255), nullable=False),
        sa.Column('acknowledged_at', INSTANT, nullable=False),
        sa.PrimaryKeyConstraint('acknowledgement_id')
    )
    op.create_index('acknowledgements_experiment', 'acknowledgements', ['experiment'], unique=False)
    create_table('cohort_sums',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('cohort', sa.String(length=10), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('closed_date', sa.Date(), nullable=False),
        sa.Column('content', sa.LargeBinary(), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'cohort', 'variant', 'model_name')
    )
    create_table('conclusions',
        sa.Column('conclusion_id', sa.Integer(), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('because', sa.UnicodeText(), nullable=False),
        sa.Column('finding', sa.UnicodeText(), nullable=False),
        sa.Column('concluded_by', sa.Unicode(length=255), nullable=False),
        sa.Column('concluded_at', INSTANT, nullable=False),
        sa.PrimaryKeyConstraint('conclusion_id')
    )
    op.create_index('conclusions_experiment', 'conclusions', ['experiment', 'conclusion_id'], unique=False)
    create_table('deletions',
        sa.Column('deletion_id', sa.Integer(), nullable=False),
        sa.Column('kind', sa.String(length=16), nullable=False),
        sa.Column('name', sa.String(length=128), nullable=False),
        sa.Column('reason', sa.Unicode(length=1000), nullable=False),
        sa.Column('deleted_by', sa.Unicode(length=255), nullable=False),
        sa.Column('deleted_at', INSTANT, nullable=False),
        sa.PrimaryKeyConstraint('deletion_id')
    )
    op.create_index('deletions_name', 'deletions', ['kind', 'name'], unique=False)
    create_table('doubts',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('metric', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('from_date', sa.Date(), nullable=False),
        sa.Column('to_date', sa.Date(), nullable=False),
        sa.Column('kind', sa.String(length=40), nullable=False),
        sa.Column('words', sa.UnicodeText(), nullable=False),
        sa.Column('n', sa.Integer(), nullable=False),
        sa.Column('n_found', sa.Integer(), nullable=False),
        sa.Column('log_sum', sa.Double(), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'metric', 'variant', 'from_date')
    )
    create_table('feature_counts',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('content', sa.UnicodeText(), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'model_name')
    )
    create_table('feature_drift',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('cohort', sa.String(length=10), nullable=False),
        sa.Column('feature', sa.Unicode(length=128), nullable=False),
        sa.Column('kind', sa.String(length=16), nullable=False),
        sa.Column('n', sa.Integer(), nullable=False),
        sa.Column('psi', sa.Double(), nullable=True),
        sa.Column('psi_noise', sa.Double(), nullable=True),
        sa.Column('null_rate', sa.Double(), nullable=False),
        sa.Column('null_rate_training', sa.Double(), nullable=False),
        sa.Column('n_new', sa.Integer(), nullable=False),
        sa.Column('new_categories', sa.UnicodeText(), nullable=True),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'model_name', 'cohort', 'feature')
    )
    create_table('looks',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('watermark', sa.Date(), nullable=True),
        sa.Column('mature_date', sa.Date(), nullable=True),
        sa.Column('waits_for', sa.String(length=64), nullable=True),
        sa.Column('n_predicted', sa.Integer(), nullable=False),
        sa.Column('n_mature', sa.Integer(), nullable=False),
        sa.Column('n_units', sa.Integer(), nullable=False),
        sa.Column('n_mixed', sa.Integer(), nullable=False),
        sa.Column('mixed_shift', sa.Double(), nullable=True),
        sa.Column('outcomes_as_of', sa.Date(), nullable=True),
        sa.Column('doubts', sa.UnicodeText(), nullable=True),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'run_date')
    )
    create_table('models',
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('name', sa.String(length=64), nullable=False),
        sa.Column('version', sa.String(length=20), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('file', sa.Unicode(length=255), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('from_date', sa.Date(), nullable=False),
        sa.Column('to_date', sa.Date(), nullable=False),
        sa.Column('as_of', INSTANT, nullable=False),
        sa.Column('rows', sa.Integer(), nullable=False),
        sa.Column('code_version', sa.String(length=64), nullable=False),
        sa.Column('environment_hash', sa.String(length=64), nullable=False),
        sa.Column('seed', sa.Integer(), nullable=False),
        sa.Column('card', sa.UnicodeText(), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.Column('snapshot', sa.String(length=64), nullable=False),
        sa.Column('decision', sa.UnicodeText(), nullable=False),
        sa.PrimaryKeyConstraint('model_name')
    )
    op.create_index('models_experiment', 'models', ['experiment'], unique=False)
    create_table('owner',
        sa.Column('owner_id', sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint('owner_id')
    )
    create_table('prediction_rows',
        sa.Column('run_number', sa.Integer(), nullable=False),
        sa.Column('candidate_id', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=True),
        sa.Column('prediction', sa.Double(), nullable=True),
        sa.Column('rank_in_variant', sa.Integer(), nullable=False),
        sa.Column('selected', sa.SmallInteger(), nullable=False),
        sa.Column('bucket', sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint('run_number', 'candidate_id'),
    sqlite_with_rowid=False
    )
    create_table('prediction_shares',
        sa.Column('run_number', sa.Integer(), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('assignment_probability', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('run_number', 'variant')
    )
    create_table('promotions',
        sa.Column('promotion_id', sa.Integer(), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('action', sa.String(length=16), nullable=False),
        sa.Column('effective_date', sa.Date(), nullable=False),
        sa.Column('reason', sa.Unicode(length=1000), nullable=False),
        sa.Column('evidence', sa.UnicodeText(), nullable=True),
        sa.Column('promoted_by', sa.Unicode(length=255), nullable=False),
        sa.Column('promoted_at', INSTANT, nullable=False),
        sa.PrimaryKeyConstraint('promotion_id')
    )
    op.create_index('promotions_experiment', 'promotions', ['experiment', 'promotion_id'], unique=False)
    create_table('registrations',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('hash', sa.String(length=64), nullable=False),
        sa.Column('content', sa.UnicodeText(), nullable=False),
        sa.Column('registered_at', INSTANT, nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment')
    )
    create_table('runs',
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.Column('run_number', sa.Integer(), nullable=False),
        sa.Column('job', sa.String(length=16), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('status', sa.String(length=16), nullable=False),
        sa.Column('started_at', INSTANT, nullable=False),
        sa.Column('finished_at', INSTANT, nullable=True),
        sa.Column('rows_read', sa.Integer(), nullable=True),
        sa.Column('rows_written', sa.Integer(), nullable=True),
        sa.Column('code_version', sa.String(length=64), nullable=False),
        sa.Column('config_hash', sa.String(length=64), nullable=False),
        sa.Column('host', sa.Unicode(length=255), nullable=False),
        sa.Column('error', sa.UnicodeText(), nullable=True),
        sa.Column('warnings', sa.UnicodeText(), nullable=True),
        sa.Column('superseded_by', sa.String(length=40), nullable=True),
        sa.Column('heartbeat_at', INSTANT, nullable=True),
        sa.PrimaryKeyConstraint('run_id')
    )
    op.create_index('runs_night', 'runs', ['experiment', 'job', 'run_date'], unique=False)
    op.create_index('runs_number', 'runs', ['run_number'], unique=True)
    op.create_index('runs_one_shown', 'runs', ['job', 'experiment', 'run_date'], unique=True, sqlite_where=sa.text("status in ('done', 'early')"), postgresql_where=sa.text("status in ('done', 'early')"), mssql_where=sa.text("status in ('done', 'early')"))
    op.create_index('runs_superseded', 'runs', ['job', 'experiment'], unique=False, sqlite_where=sa.text("status = 'superseded'"), postgresql_where=sa.text("status = 'superseded'"), mssql_where=sa.text("status = 'superseded'"))
    create_table('sample_ratios',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('stage', sa.String(length=16), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('n', sa.Integer(), nullable=False),
        sa.Column('expected', sa.Double(), nullable=False),
        sa.Column('pvalue', sa.Double(), nullable=False),
        sa.Column('pvalue_min', sa.Double(), nullable=False),
        sa.Column('pvalue_single', sa.Double(), nullable=True),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'stage', 'variant')
    )
    create_table('scores',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('model_name', sa.String(length=128), nullable=False),
        sa.Column('cohort', sa.String(length=10), nullable=False),
        sa.Column('metric', sa.String(length=40), nullable=False),
        sa.Column('value', sa.Double(), nullable=False),
        sa.Column('lower', sa.Double(), nullable=True),
        sa.Column('upper', sa.Double(), nullable=True),
        sa.Column('n', sa.Integer(), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'model_name', 'cohort', 'metric')
    )
    create_table('snapshots',
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('content_hash', sa.String(length=64), nullable=False),
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('n_bytes', sa.BigInteger(), nullable=False),
        sa.Column('rows', sa.Integer(), nullable=False),
        sa.Column('from_date', sa.Date(), nullable=False),
        sa.Column('to_date', sa.Date(), nullable=False),
        sa.Column('as_of', INSTANT, nullable=False),
        sa.Column('query', sa.UnicodeText(), nullable=False),
        sa.Column('columns', sa.UnicodeText(), nullable=False),
        sa.Column('pulled_at', INSTANT, nullable=False),
        sa.PrimaryKeyConstraint('run_id')
    )
    op.create_index('snapshots_content', 'snapshots', ['content_hash'], unique=False)
    create_table('units',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('metric', sa.String(length=64), nullable=False),
        sa.Column('candidate_id', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('n_exposures', sa.Integer(), nullable=False),
        sa.Column('outcome', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'metric', 'candidate_id', 'variant'),
    sqlite_with_rowid=False
    )
    create_table('variant_scores',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('variant', sa.String(length=64), nullable=False),
        sa.Column('cohort', sa.String(length=10), nullable=False),
        sa.Column('n_predicted', sa.Integer(), nullable=False),
        sa.Column('n_mature', sa.Integer(), nullable=False),
        sa.Column('n_positive', sa.Integer(), nullable=False),
        sa.Column('rate', sa.Double(), nullable=True),
        sa.Column('lower', sa.Double(), nullable=True),
        sa.Column('upper', sa.Double(), nullable=True),
        sa.Column('n_selected', sa.Integer(), nullable=False),
        sa.Column('n_selected_positive', sa.Integer(), nullable=False),
        sa.Column('selected_rate', sa.Double(), nullable=True),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.Column('outcome_sum', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'variant', 'cohort')
    )
    create_table('verdicts',
        sa.Column('experiment', sa.String(length=64), nullable=False),
        sa.Column('run_date', sa.Date(), nullable=False),
        sa.Column('comparison', sa.String(length=140), nullable=False),
        sa.Column('metric', sa.String(length=64), nullable=False),
        sa.Column('n_treatment', sa.Integer(), nullable=False),
        sa.Column('n_control', sa.Integer(), nullable=False),
        sa.Column('n_burn_in', sa.BigInteger(), nullable=False),
        sa.Column('exposures_treatment', sa.Integer(), nullable=False),
        sa.Column('exposures_control', sa.Integer(), nullable=False),
        sa.Column('sum_treatment', sa.Double(), nullable=False),
        sa.Column('sum_control', sa.Double(), nullable=False),
        sa.Column('estimate', sa.Double(), nullable=True),
        sa.Column('se', sa.Double(), nullable=True),
        sa.Column('information', sa.Double(), nullable=True),
        sa.Column('lower', sa.Double(), nullable=True),
        sa.Column('upper', sa.Double(), nullable=True),
        sa.Column('pvalue', sa.Double(), nullable=True),
        sa.Column('pvalue_min', sa.Double(), nullable=True),
        sa.Column('lift', sa.Double(), nullable=True),
        sa.Column('lift_lower', sa.Double(), nullable=True),
        sa.Column('lift_upper', sa.Double(), nullable=True),
        sa.Column('word', sa.String(length=40), nullable=False),
        sa.Column('run_id', sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'comparison', 'metric')
    )
    create_owner()
    create_views()
