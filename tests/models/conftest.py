"""A folder as fine-tuning leaves it, whose `config.json` says what a test wants."""

import hashlib
import json

import pytest

from tests.conftest import as_bytes, random_state_dict, raw_entry


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(as_bytes(random_state_dict("mnv2zoo_035", num_classes=2)))

    def write(pretrained_cfg=None, **fields):
        cfg = {"num_classes": 2, "input_size": [3, 64, 64], **(pretrained_cfg or {})}
        document = {"architecture": "mnv2zoo_035", "num_classes": 2, "pretrained_cfg": cfg, **fields}
        (tmp_path / "config.json").write_text(json.dumps(document))
        return str(tmp_path)

    return write


@pytest.fixture
def published(hub, overlay):
    """Random weights for two networks on the Hub, pinned in an index; gives their state dicts."""
    states, entries = {}, {}
    for name, labels in (("mnv2zoo_050", "imagenet-1k"), ("mnv2zoo_140_c20", None)):
        states[name] = random_state_dict(name)
        data = as_bytes(states[name])
        commit = hub.add(f"zoo/{name}", "model.safetensors", data)
        sha256 = hashlib.sha256(data).hexdigest()
        entries[f"{name}.test"] = raw_entry(
            repo_id=f"zoo/{name}",
            revision=commit,
            sha256=sha256,
            size=len(data),
            labels=labels,
            num_classes=1000 if labels else 20,
        )
    overlay(entries)
    return states
