"""Filling in an index leaves everything else alone; `tests/cli/test_weights.py` runs the command on a Hub."""

import json

import pytest

from mnv2zoo import weights
from mnv2zoo.weights import index, pins
from tests.conftest import as_bytes, random_state_dict, raw_entry


def test_the_shipped_index_is_filled_in_place():
    text = index.shipped_path().read_text(encoding="utf-8")
    values = {"revision": "1" * 40, "sha256": "2" * 64, "size": 3}
    filled = pins.fill(text, "mnv2zoo_110d.ra_in1k", values)
    before, after = json.loads(text), json.loads(filled)
    before["weights"]["mnv2zoo_110d.ra_in1k"] |= values
    assert after == before
    differing = [new for old, new in zip(text.splitlines(), filled.splitlines(), strict=True) if old != new]
    assert differing == [f'      "{field}": {json.dumps(value)},' for field, value in values.items()]
    assert pins.fill(text, "mnv2zoo_110d.unknown", values) == text


def test_an_entry_that_somebody_else_changes_meanwhile_is_not_overwritten(hub, tmp_path):
    for seed, name in enumerate(("zoo/a", "zoo/b")):
        hub.add(name, "model.safetensors", as_bytes(random_state_dict("mnv2zoo_035", seed)))
    entries = {"mnv2zoo_035.a": raw_entry(repo_id="zoo/a"), "mnv2zoo_035.b": raw_entry(repo_id="zoo/b")}
    path = tmp_path / "own_index.json"
    path.write_text(json.dumps({"schema_version": 1, "weights": entries}))
    rows = pins.pin_all(path)
    assert next(rows).status == "pinned"
    changed = pins.fill(path.read_text(), "mnv2zoo_035.b", {"sha256": "3" * 64})
    path.write_text(changed)
    with pytest.raises(weights.WeightsIndexError, match="changed while the index was being pinned"):
        next(rows)
    assert path.read_text() == changed


def test_recommended_weights_are_pinned():
    shipped = index.read(index.shipped_path())
    assert index.RECOMMENDED.keys() <= shipped.keys()
    assert {shipped[name].trust for name in index.RECOMMENDED} == {"pinned"}
