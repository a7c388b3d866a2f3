"""The card says what the segmenter is, how good, and how to use it."""

from huggingface_hub import ModelCard

from mnv2zoo.tasks.segment.card import model_card
from mnv2zoo.tasks.segment.metrics import Scores

SCORES = Scores(3, 51.25, 80.0, 60.0, label_names=("sky", "a|b"), confusion=((3, 1), (1, 3)))
RUN = {"data": "/photos/streets", "classes": ["sky", "a|b"], "recipe": {"head": "smp:Unet", "lr": 0.001, "std": None}}


def test_the_card():
    card = ModelCard(model_card("mnv2zoo_100", "mnv2zoo_100", "google's weights", RUN, {"val": SCORES}))
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("mnv2zoo", "image-segmentation")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {"mIoU": 51.25, "pixel accuracy": 80.0, "mean accuracy": 60.0}
    assert card.data.eval_results[0].dataset_name == "streets"
    assert "the head `smp:Unet` and the backbone `mnv2zoo_100`, trained with mnv2zoo on `streets`." in card.text
    assert "| val | 3 | 51.25 | 80.00 | 60.00 |" in card.text
    assert "| a\\|b | 60.0 |" in card.text
    assert "| `lr` | `0.001` |" in card.text
    assert "`std`" not in card.text


def test_without_a_validation_there_are_no_metrics():
    card = ModelCard(model_card("mnv2zoo_100", "mnv2zoo_100", "random initialization", RUN, {}))
    assert "mnv2zoo.segmentation.load" in card.text
    assert "IoU," not in card.text
