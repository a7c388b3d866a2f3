"""The model card of a network that gives several labels."""

from huggingface_hub import ModelCard

from mnv2zoo.tasks.multilabel.card import model_card
from tests.tasks.multilabel.test_report import SCORES


def test_a_card_has_the_metrics_the_labels_and_how_to_use_it():
    run = {"data": "photos/labels.csv", "classes": ["a|b", "c", "never"], "recipe": {"loss": "bce", "lr": None}}
    text = model_card("mnv2zoo_100", "mnv2zoo_100", "random initialization", run, {"val": SCORES})
    card = ModelCard(text)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"map": 100.0, "f1_micro": 85.71, "f1_macro": 83.33}
    assert card.data.pipeline_tag == "image-classification"
    assert (card.data.library_name, card.data.tags[1]) == ("timm", "multi-label")
    assert "| c | 1 | 50.0 | 100.0 | 66.7 | 100.0 | 0.6 |" in text
    assert "`loss` | `bce`" in text
