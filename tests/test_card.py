"""A card comes back from its JSON as it was, and equal cards are equal text."""

import json

from abatch.modelling.card import Card
from abatch.statistics.references import FeatureReference, Reference
from tests.conftest import CARD, make_card


def test_to_json_comes_back() -> None:
    figures = {"n": {"value": 6394, "lower": None, "upper": None}}
    card = make_card(metrics=figures, params={"C": 0.5, "text": "Ærø"})
    again = Card.model_validate_json(card.to_json())
    assert again == card
    assert again.to_json() == card.to_json()
    assert json.loads(card.to_json()) == {
        **CARD,
        "metrics": figures,
        "params": {"C": 0.5, "text": "Ærø"},
        "gate": {**CARD["gate"], "mend": ""},
    }
    assert '"value": 6394}' in card.to_json()  # a count stays a whole number
    assert again.features == {"age": FeatureReference("number", [40.0], [50, 50, 0], [])}
    assert again.reference == Reference([0.1], [5, 5])


def test_roc_auc_and_base_rate_of_few_outcomes() -> None:
    assert make_card().roc_auc is None
    assert make_card().base_rate is None
    figure = {"value": 0.7, "lower": 0.6, "upper": 0.8}
    assert make_card(metrics={"roc_auc": figure}).roc_auc == 0.7
    assert make_card(metrics={"base_rate": figure}).base_rate == 0.7
