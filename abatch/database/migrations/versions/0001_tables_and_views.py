# fmt: off
"""All tables, indexes and views.

Written by `python -m tests.revision`: before the first release there is no other revision, and a
database of another commit is refused, by the hash in the name of this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

from abatch.database.migrations.views import create_views

revision = "0001_6eced07f"
down_revision = None
INSTANT = sa.DateTime().with_variant(mssql.DATETIME2(precision=6), "mssql")


def upgrade() -> None:
    """Create them."""
    op.create_table('cohort_sums',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('cohort', sa.String(length=10), nullable=False, comment="first day of the week or month of run_date, or 'all'"),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...'),
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='as in scores; empty for the sums of the variant itself'),
        sa.Column('closed_date', sa.Date(), nullable=False, comment='newest closed night when the row was written; the largest counts'),
        sa.Column('content', sa.LargeBinary(), nullable=False, comment="arrays as numpy's .npz"),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'cohort', 'variant', 'model_name'),
        comment='sums and histograms of nights whose outcomes are final, so that score reads a night once; score --rebuild makes them anew'
    )
    op.create_table('conclusions',
        sa.Column('conclusion_id', sa.Integer(), nullable=False, comment='of two, the higher counts'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('because', sa.UnicodeText(), nullable=False, comment='what was concluded, and why'),
        sa.Column('finding', sa.UnicodeText(), nullable=False, comment='what the newest look said when it was concluded'),
        sa.Column('concluded_by', sa.Unicode(length=255), nullable=False, comment='user and host'),
        sa.Column('concluded_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.PrimaryKeyConstraint('conclusion_id'),
        comment='what a person concluded from an experiment; only ever appended'
    )
    op.create_index('conclusions_experiment', 'conclusions', ['experiment', 'conclusion_id'], unique=False)
    op.create_table('deletions',
        sa.Column('deletion_id', sa.Integer(), nullable=False, comment='in the order in which they were written'),
        sa.Column('kind', sa.String(length=16), nullable=False, comment='model or snapshot'),
        sa.Column('name', sa.String(length=128), nullable=False, comment='model_name, or content_hash of the snapshot'),
        sa.Column('reason', sa.Unicode(length=1000), nullable=False, comment='why'),
        sa.Column('deleted_by', sa.Unicode(length=255), nullable=False, comment='user and host, or the train run'),
        sa.Column('deleted_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.PrimaryKeyConstraint('deletion_id'),
        comment='whose file was deleted, by retention or by hand; its record stays; only ever appended'
    )
    op.create_index('deletions_name', 'deletions', ['kind', 'name'], unique=False)
    op.create_table('feature_counts',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the night, as a business date'),
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='the dated model whose candidates are counted'),
        sa.Column('content', sa.UnicodeText(), nullable=False, comment='candidates per bin or category of each feature, as JSON'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'model_name'),
        comment="what one model's candidates of one night looked like; what feature_drift is made of"
    )
    op.create_table('feature_drift',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='the dated model whose training rows are compared with'),
        sa.Column('cohort', sa.String(length=10), nullable=False, comment='first day of the week or month of run_date'),
        sa.Column('feature', sa.Unicode(length=128), nullable=False, comment='name of the column in the queries'),
        sa.Column('kind', sa.String(length=16), nullable=False, comment='number or category'),
        sa.Column('n', sa.Integer(), nullable=False, comment='candidates, mature or not'),
        sa.Column('psi', sa.Double(), nullable=False, comment='population stability index against the training rows'),
        sa.Column('psi_noise', sa.Double(), nullable=False, comment='what chance alone exceeds in 5 % of cases'),
        sa.Column('null_rate', sa.Double(), nullable=False, comment='share of nulls'),
        sa.Column('null_rate_training', sa.Double(), nullable=False, comment='share of nulls in the training rows'),
        sa.Column('n_new', sa.Integer(), nullable=False, comment='candidates of a category that training never saw'),
        sa.Column('new_categories', sa.UnicodeText(), nullable=True, comment='these categories, the most common first; null if there are none'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'model_name', 'cohort', 'feature'),
        comment='how far the candidates of one dated model have moved from its training rows, by feature and cohort'
    )
    op.create_table('looks',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the day of the look'),
        sa.Column('watermark', sa.Date(), nullable=True, comment='up to which outcomes were complete; null if the feed had not begun'),
        sa.Column('mature_date', sa.Date(), nullable=True, comment='newest night whose outcome window was closed; null if none was'),
        sa.Column('n_predicted', sa.Integer(), nullable=False, comment='predictions of all nights until then'),
        sa.Column('n_mature', sa.Integer(), nullable=False, comment='of these, with a closed outcome window'),
        sa.Column('n_units', sa.Integer(), nullable=False, comment='candidates that the verdicts count'),
        sa.Column('n_mixed', sa.Integer(), nullable=False, comment='candidates left out because they were in more than one variant'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'run_date'),
        comment="one day's reading of an experiment"
    )
    op.create_table('models',
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='model, version, date: modelA_v1.0_2026-11-23'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='the variant that the model was trained for'),
        sa.Column('name', sa.String(length=64), nullable=False, comment='of the model in the config: modelA'),
        sa.Column('version', sa.String(length=20), nullable=False, comment='in the config: 1.0'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the business date that it was trained on'),
        sa.Column('file', sa.Unicode(length=255), nullable=False, comment='file name inside the models folder'),
        sa.Column('sha256', sa.String(length=64), nullable=False, comment='of the file: a pickle is opened only when it matches'),
        sa.Column('from_date', sa.Date(), nullable=False, comment='first day of the training rows'),
        sa.Column('to_date', sa.Date(), nullable=False, comment='end of the training rows, excluded'),
        sa.Column('as_of', INSTANT, nullable=False, comment='the moment whose knowledge was used, UTC'),
        sa.Column('rows', sa.Integer(), nullable=False, comment='training rows, validation included'),
        sa.Column('code_version', sa.String(length=64), nullable=False, comment="abatch's version and commit; -dirty if the code was changed"),
        sa.Column('environment_hash', sa.String(length=64), nullable=False, comment='SHA-256 of the library versions'),
        sa.Column('seed', sa.Integer(), nullable=False, comment='of every random_state that the estimator leaves open'),
        sa.Column('card', sa.UnicodeText(), nullable=False, comment="the model's .json: columns, metrics, reference, versions"),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the train run that made the model'),
        sa.Column('snapshot', sa.String(length=64), nullable=False, comment='content hash of the training rows as kept'),
        sa.Column('decision', sa.UnicodeText(), nullable=False, comment='whether it went live when it was trained, and why'),
        sa.PrimaryKeyConstraint('model_name'),
        comment='one dated model; its file lies in the models folder, and neither is ever changed'
    )
    op.create_index('models_experiment', 'models', ['experiment'], unique=False)
    op.create_table('predictions',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the night, as a business date'),
        sa.Column('candidate_id', sa.String(length=64), nullable=False, comment='who is predicted, as the candidates query names it'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...: by hash, or as recorded elsewhere'),
        sa.Column('assignment_probability', sa.Double(), nullable=False, comment="the variant's registered share"),
        sa.Column('model_name', sa.String(length=128), nullable=True, comment='the dated model; null where the variant has no model'),
        sa.Column('prediction', sa.Double(), nullable=True, comment='probability of the outcome, 0 to 1; null where there is no model'),
        sa.Column('rank_in_variant', sa.Integer(), nullable=False, comment='1 = highest prediction; in random order without a model'),
        sa.Column('selected', sa.SmallInteger(), nullable=False, comment='1 if among the first floor(select_top * n) of its variant'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the run that wrote the row'),
        sa.Column('predicted_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'candidate_id'),
        comment='one candidate in one night; a night is there whole or not at all'
    )
    op.create_index('predictions_candidate', 'predictions', ['experiment', 'candidate_id', 'run_date'], unique=False)
    op.create_table('predictions_staging',
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the run that is writing the row'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the night, as a business date'),
        sa.Column('candidate_id', sa.String(length=64), nullable=False, comment='who is predicted, as the candidates query names it'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...: by hash, or as recorded elsewhere'),
        sa.Column('assignment_probability', sa.Double(), nullable=False, comment="the variant's registered share"),
        sa.Column('model_name', sa.String(length=128), nullable=True, comment='the dated model; null where the variant has no model'),
        sa.Column('prediction', sa.Double(), nullable=True, comment='probability of the outcome, 0 to 1; null where there is no model'),
        sa.Column('selection_key', sa.String(length=16), nullable=False, comment='bytes 8 to 15 of the hash, in hex: random order, and ties'),
        comment='a prediction of a night that is being written, or of a run that died; not for readers'
    )
    op.create_index('predictions_staging_run', 'predictions_staging', ['experiment', 'run_id'], unique=False, mssql_clustered=True)
    op.create_table('predictions_superseded',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the night, as a business date'),
        sa.Column('candidate_id', sa.String(length=64), nullable=False, comment='who is predicted, as the candidates query names it'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...: by hash, or as recorded elsewhere'),
        sa.Column('assignment_probability', sa.Double(), nullable=False, comment="the variant's registered share"),
        sa.Column('model_name', sa.String(length=128), nullable=True, comment='the dated model; null where the variant has no model'),
        sa.Column('prediction', sa.Double(), nullable=True, comment='probability of the outcome, 0 to 1; null where there is no model'),
        sa.Column('rank_in_variant', sa.Integer(), nullable=False, comment='1 = highest prediction; in random order without a model'),
        sa.Column('selected', sa.SmallInteger(), nullable=False, comment='1 if among the first floor(select_top * n) of its variant'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the run that wrote the row'),
        sa.Column('predicted_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.Column('superseded_by', sa.String(length=40), nullable=False, comment='the run that replaced the row'),
        comment='a prediction of a night that was done again with --force; it may have been acted on'
    )
    op.create_table('promotions',
        sa.Column('promotion_id', sa.Integer(), nullable=False, comment='of two that are effective, the higher counts'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='the variant whose predictions the model makes'),
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='the dated model that becomes live'),
        sa.Column('action', sa.String(length=16), nullable=False, comment='promote or rollback'),
        sa.Column('effective_date', sa.Date(), nullable=False, comment='live from this run_date on'),
        sa.Column('reason', sa.Unicode(length=1000), nullable=False, comment='why'),
        sa.Column('evidence', sa.UnicodeText(), nullable=True, comment='the figures behind the reason, as JSON; null if done by hand'),
        sa.Column('promoted_by', sa.Unicode(length=255), nullable=False, comment='user and host, or the train run'),
        sa.Column('promoted_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.PrimaryKeyConstraint('promotion_id'),
        comment='what became live, when, by whom and why; only ever appended'
    )
    op.create_index('promotions_experiment', 'promotions', ['experiment', 'promotion_id'], unique=False)
    op.create_table('registrations',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('hash', sa.String(length=64), nullable=False, comment='SHA-256 of the content'),
        sa.Column('content', sa.UnicodeText(), nullable=False, comment='all that a verdict depends on, as JSON'),
        sa.Column('registered_at', INSTANT, nullable=False, comment='when the first predict run started, UTC'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the first predict run'),
        sa.PrimaryKeyConstraint('experiment'),
        comment='what an experiment asks, written down before its first outcome and never changed'
    )
    op.create_table('runs',
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='when the run started, UTC, and a random part'),
        sa.Column('job', sa.String(length=16), nullable=False, comment='train, predict or score'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the business date that the run is for'),
        sa.Column('status', sa.String(length=16), nullable=False, comment='running, done, failed or superseded'),
        sa.Column('started_at', INSTANT, nullable=False, comment='when the run started, UTC'),
        sa.Column('finished_at', INSTANT, nullable=True, comment='UTC; null while running'),
        sa.Column('rows_read', sa.Integer(), nullable=True, comment='rows that its queries returned; null unless it was done'),
        sa.Column('rows_written', sa.Integer(), nullable=True, comment='models, predictions or figures written; null unless it was done'),
        sa.Column('code_version', sa.String(length=64), nullable=False, comment="abatch's version and commit; -dirty if the code was changed"),
        sa.Column('config_hash', sa.String(length=64), nullable=False, comment="SHA-256 of the experiment's settings and queries"),
        sa.Column('host', sa.Unicode(length=255), nullable=False, comment='host and process id'),
        sa.Column('error', sa.UnicodeText(), nullable=True, comment='why the run failed; null unless it did'),
        sa.PrimaryKeyConstraint('run_id'),
        comment='one run of a job for one experiment and one night'
    )
    op.create_index('runs_night', 'runs', ['experiment', 'job', 'run_date'], unique=False)
    op.create_index('runs_one_done', 'runs', ['job', 'experiment', 'run_date'], unique=True, sqlite_where=sa.text("status = 'done'"), postgresql_where=sa.text("status = 'done'"), mssql_where=sa.text("status = 'done'"))
    op.create_table('sample_ratios',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the day of the look'),
        sa.Column('stage', sa.String(length=16), nullable=False, comment='assigned: everybody predicted; mature: outcome window closed'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...'),
        sa.Column('n', sa.Integer(), nullable=False, comment='distinct candidates so far'),
        sa.Column('expected', sa.Double(), nullable=False, comment='what the registered share gives'),
        sa.Column('pvalue', sa.Double(), nullable=False, comment='of the sequential test over all variants, on this look'),
        sa.Column('pvalue_min', sa.Double(), nullable=False, comment='the smallest so far; under 0.01 the experiment is invalid'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'stage', 'variant'),
        comment='one variant on one look: is it as large as its registered share says'
    )
    op.create_table('scores',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('model_name', sa.String(length=128), nullable=False, comment='a dated model, or name and version for all its dates'),
        sa.Column('cohort', sa.String(length=10), nullable=False, comment="first day of the week or month of run_date, or 'all'"),
        sa.Column('metric', sa.String(length=40), nullable=False, comment='n, roc_auc, log_loss, psi ...; reliability_rate_01 to _10'),
        sa.Column('value', sa.Double(), nullable=False, comment='the figure; shares as 0 to 1, log loss in nats'),
        sa.Column('lower', sa.Double(), nullable=True, comment='lower end of the 95 % jackknife interval; null where there is none'),
        sa.Column('upper', sa.Double(), nullable=True, comment='upper end of the interval; null where there is none'),
        sa.Column('n', sa.Integer(), nullable=False, comment='mature predictions behind the value'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'model_name', 'cohort', 'metric'),
        comment='one metric of one model in one cohort, as the newest score run found it'
    )
    op.create_table('snapshots',
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the train run that pulled the rows'),
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('content_hash', sa.String(length=64), nullable=False, comment='SHA-256 of names, types and values; the file is named by it'),
        sa.Column('sha256', sa.String(length=64), nullable=False, comment='of the file; of several rows with one content_hash the newest counts'),
        sa.Column('n_bytes', sa.BigInteger(), nullable=False, comment='size of the file'),
        sa.Column('rows', sa.Integer(), nullable=False, comment='rows that the query returned'),
        sa.Column('from_date', sa.Date(), nullable=False, comment='bind :from_date'),
        sa.Column('to_date', sa.Date(), nullable=False, comment='bind :to_date, excluded'),
        sa.Column('as_of', INSTANT, nullable=False, comment='bind :as_of, UTC'),
        sa.Column('query', sa.UnicodeText(), nullable=False, comment='text of the training query'),
        sa.Column('columns', sa.UnicodeText(), nullable=False, comment='name, type, nulls and SHA-256 of each column, as JSON'),
        sa.Column('pulled_at', INSTANT, nullable=False, comment='when the row was written, UTC'),
        sa.PrimaryKeyConstraint('run_id'),
        comment='training rows as one train run pulled them; their file lies in the snapshots folder, once for equal content'
    )
    op.create_index('snapshots_content', 'snapshots', ['content_hash'], unique=False)
    op.create_table('units',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('metric', sa.String(length=64), nullable=False, comment="'outcome', or the name of a guardrail"),
        sa.Column('candidate_id', sa.String(length=64), nullable=False, comment='who was predicted'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...; whoever is in two of them counts in none'),
        sa.Column('n_exposures', sa.Integer(), nullable=False, comment='predictions that count: 1 if only the first does'),
        sa.Column('outcome', sa.Double(), nullable=False, comment='sum of their outcomes, each capped'),
        sa.PrimaryKeyConstraint('experiment', 'metric', 'candidate_id', 'variant'),
        comment='what a candidate brought in the nights of cohort_sums; what verdicts are made of'
    )
    op.create_table('variant_scores',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('variant', sa.String(length=64), nullable=False, comment='A, B, control ...'),
        sa.Column('cohort', sa.String(length=10), nullable=False, comment="first day of the week or month of run_date, or 'all'"),
        sa.Column('n_predicted', sa.Integer(), nullable=False, comment='predictions written'),
        sa.Column('n_mature', sa.Integer(), nullable=False, comment='of these, with a closed outcome window'),
        sa.Column('n_positive', sa.Integer(), nullable=False, comment='of the mature, with the outcome'),
        sa.Column('rate', sa.Double(), nullable=True, comment='n_positive / n_mature; null if none is mature'),
        sa.Column('lower', sa.Double(), nullable=True, comment="lower end of the rate's 95 % interval on one look; not for daily decisions"),
        sa.Column('upper', sa.Double(), nullable=True, comment='upper end of the interval; null if none is mature'),
        sa.Column('n_selected', sa.Integer(), nullable=False, comment='of the mature, selected'),
        sa.Column('n_selected_positive', sa.Integer(), nullable=False, comment='of the mature and selected, with the outcome'),
        sa.Column('selected_rate', sa.Double(), nullable=True, comment='n_selected_positive / n_selected; null if none is selected'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.Column('outcome_sum', sa.Double(), nullable=False, comment='sum of the mature outcomes, capped'),
        sa.PrimaryKeyConstraint('experiment', 'variant', 'cohort'),
        comment='one variant in one cohort, as the newest score run found it'
    )
    op.create_table('verdicts',
        sa.Column('experiment', sa.String(length=64), nullable=False, comment='name of the experiment in ml_config.yaml'),
        sa.Column('run_date', sa.Date(), nullable=False, comment='the day of the look'),
        sa.Column('comparison', sa.String(length=140), nullable=False, comment="treatment vs control: 'models vs control', 'B vs A'"),
        sa.Column('metric', sa.String(length=64), nullable=False, comment="'outcome', or the name of a guardrail"),
        sa.Column('n_treatment', sa.Integer(), nullable=False, comment='units (candidates) in the first of the two'),
        sa.Column('n_control', sa.Integer(), nullable=False, comment='units in the second of the two'),
        sa.Column('exposures_treatment', sa.Integer(), nullable=False, comment='their predictions that count; as many if only the first does'),
        sa.Column('exposures_control', sa.Integer(), nullable=False, comment='the same of the second'),
        sa.Column('sum_treatment', sa.Double(), nullable=False, comment='sum of the outcomes'),
        sa.Column('sum_control', sa.Double(), nullable=False, comment='sum of the outcomes'),
        sa.Column('estimate', sa.Double(), nullable=True, comment='difference of the means (sum / exposures), first minus second; null while unknown'),
        sa.Column('se', sa.Double(), nullable=True, comment='standard error of the estimate'),
        sa.Column('information', sa.Double(), nullable=True, comment='how much is known, in the formula of the interval'),
        sa.Column('lower', sa.Double(), nullable=True, comment='lower end of the interval that holds on all looks together'),
        sa.Column('upper', sa.Double(), nullable=True, comment='upper end of the interval'),
        sa.Column('pvalue', sa.Double(), nullable=True, comment='of this look'),
        sa.Column('pvalue_min', sa.Double(), nullable=True, comment='the smallest so far; for the word, the interval counts'),
        sa.Column('lift', sa.Double(), nullable=True, comment='relative difference of the means'),
        sa.Column('lift_lower', sa.Double(), nullable=True, comment='lower end of its interval (Fieller); null where it has no bounds'),
        sa.Column('lift_upper', sa.Double(), nullable=True, comment='upper end of its interval'),
        sa.Column('word', sa.String(length=40), nullable=False, comment='better, worse, no difference larger than d, not yet known, too early, invalid'),
        sa.Column('run_id', sa.String(length=40), nullable=False, comment='the score run that wrote the row'),
        sa.PrimaryKeyConstraint('experiment', 'run_date', 'comparison', 'metric'),
        comment='one comparison on one look; of a guardrail the word is kept, broken, not yet known, too early or invalid'
    )
    create_views()
