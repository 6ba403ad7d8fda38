"""Dirt: code that differs from its commit must not make prod's models, unless it is allowed.

Apart from the gate, which needs SciPy: half a second, for which a promotion by hand need not wait.
"""

from typing import Any

from abatch import version
from abatch.errors import RegistryError
from abatch.modelling.card import Card, Decision
from abatch.modelling.promotion import Promotions
from abatch.night import Night

PROD = "prod"  # the environment in which models come from committed code only
DIRTY = "it was trained from a dirty tree: the code differs from its commit"


def find_dirt(environment: str, code_version: str) -> dict[str, Any]:
    """Evidence to record of prod's models whose code differs from its commit; else empty."""
    if environment != PROD or not version.is_dirty(code_version):
        return {}
    return {"allow_dirty": True, "code_version": code_version}


def find_doubt(environment: str, code_version: str) -> str:
    """What to tell of prod's models of which nobody knows whether their code was a commit's."""
    if environment != PROD or not version.is_unknown(code_version):
        return ""
    return f"nobody can tell whether it was trained from a dirty tree: its code is {code_version}"


def warn_of_doubt(night: Night) -> None:
    """Tell where prod's models are trained by code of which nobody knows whether it is a commit's.

    There a dirty tree cannot be refused.
    """
    if night.experiment.environment.name == PROD and (doubt := version.describe_doubt()):
        night.warn(f"models go live in {PROD}, and {doubt}")


def judge_dirt(decision: Decision, environment: str, *, allow_dirty: bool) -> Decision:
    """The decision where code that differs from its commit must not make prod's models.

    Unless that is allowed, and then recorded.
    """
    dirt = find_dirt(environment, version.code_version())
    if not dirt or not decision.promote:
        return decision
    if not allow_dirty:
        return decision.refuse(
            f"{DIRTY} ({version.code_version()}). Commit, then train with --force, or allow it:"
            " --allow-dirty"
        )
    reason = f"{decision.reason} (from a dirty tree, allowed)"
    return Decision(promote=True, reason=reason, evidence=decision.evidence | dirt)


def check_dirt(
    environment: str, card: Card, promotions: Promotions, *, allow_dirty: bool
) -> dict[str, Any]:
    """Evidence to record of a promotion by hand; else empty.

    In prod a model from a dirty tree that was never live needs to be allowed.

    Raises
    ------
    RegistryError
        If it is not.
    """
    dirt = find_dirt(environment, card.code_version)
    if card.model_name in promotions.ever_live:
        return {}
    if dirt and not allow_dirty:
        raise RegistryError(
            f"{card.model_name}: {DIRTY} ({card.code_version}). It does not go live in {PROD}."
            " Train anew from a commit, or allow it: --allow-dirty, which is recorded."
        )
    return dirt
