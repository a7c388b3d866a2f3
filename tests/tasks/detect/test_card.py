"""The model card of a detector."""

from huggingface_hub import ModelCard

from mnv2zoo.tasks.detect.card import model_card
from mnv2zoo.tasks.detect.metrics import score
from tests.tasks.detect.test_metrics import A, B, found, truth


def test_the_card_holds_what_the_hub_reads_and_what_people_do():
    scores = score([(found((0, 0.9, A)), truth((0, A), (0, B)))], ["cell_1"])
    run = {"data": "/data/cells", "classes": ["cell_1"], "recipe": {"head": "retinanet", "lr": 0.1, "init": None}}
    text = model_card("mnv2zoo_100", "mnv2zoo_100", "random initialization", run, {"val": scores})
    card = ModelCard(text)
    assert (card.data.pipeline_tag, card.data.library_name) == ("object-detection", "mnv2zoo")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"map": 50.5, "map50": 50.5, "map75": 50.5}
    assert "the head `retinanet` and the backbone `mnv2zoo_100`" in text
    assert "| val | 1 | 2 | 50.50 | 50.50 | 50.50 |" in text
    assert "cell\\_1" in text
    assert "`init`" not in text
