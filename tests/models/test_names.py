"""What a name stands for."""

from mnv2zoo.models import names


def test_where_weights_are_is_not_for_the_file_to_say(run_folder):
    elsewhere = {"url": "http://localhost:9/x", "hf_hub_id": "a/b", "file": "/etc/passwd", "custom_load": True}
    description = names.describe(run_folder({**elsewhere, "state_dict": {}}))
    assert description.cfg["file"] == run_folder()
    assert not any(description.cfg[name] for name in ("url", "hf_hub_id", "custom_load", "state_dict"))
