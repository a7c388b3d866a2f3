"""Each rule of the index has a breach here that it must find."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from mnv2zoo.weights import WeightsIndexError, schema
from tests.conftest import raw_entry

PATH = Path("index.json")
BUNDLED = {"repo_id": None, "revision": None, "filename": None, "bundled": "a.safetensors", "sha256": "a" * 64}

BREACHES = [
    (schema.fields_are_known, {"sha265": None}),
    (schema.location_is_one_file, {"repo_id": "no-owner"}),
    (schema.location_is_one_file, {"repo_id": "../secrets/x"}),
    (schema.location_is_one_file, {"filename": "../model.safetensors"}),
    (schema.location_is_one_file, {"filename": "/etc/model.safetensors"}),
    (schema.location_is_one_file, {"filename": "pytorch_model.bin"}),
    (schema.location_is_one_file, {"bundled": "a.safetensors"}),
    (schema.location_is_one_file, BUNDLED | {"bundled": "../a.safetensors"}),
    (schema.revision_is_a_commit, {"revision": "main"}),
    (schema.revision_is_a_commit, {"revision": "a" * 39}),
    (schema.hash_is_a_sha256, {"sha256": "a" * 63}),
    (schema.hash_is_a_sha256, {"sha256": "g" * 64}),
    (schema.hash_is_a_sha256, BUNDLED | {"sha256": None}),
    (schema.size_is_a_byte_count, {"size": 0}),
    (schema.size_is_a_byte_count, {"size": True}),
    (schema.size_is_a_byte_count, {"size": "14184144"}),
    (schema.layout_is_known, {"layout": "caffe"}),
    (schema.preprocessing_is_complete, {"input_size": [3, 224]}),
    (schema.preprocessing_is_complete, {"crop_pct": 0}),
    (schema.preprocessing_is_complete, {"crop_pct": 10**400}),
    (schema.preprocessing_is_complete, {"interpolation": "cubic"}),
    (schema.preprocessing_is_complete, {"mean": [0.5]}),
    (schema.preprocessing_is_complete, {"std": [0.0, 0.5, 0.5]}),
    (schema.classes_are_named, {"num_classes": 999}),
    (schema.classes_are_named, {"labels": "imagenet-21k"}),
    (schema.classes_are_named, {"label_names": ["cat"]}),
    (schema.classes_are_named, {"labels": None, "label_names": ["cat", "cat"], "num_classes": 2}),
    (schema.license_is_named, {"license": None}),
    (schema.license_is_named, {"license": " "}),
    (schema.temperature_is_in_bounds, {"temperature": 0.0}),
    (schema.temperature_is_in_bounds, {"temperature": 21}),
    (schema.temperature_is_in_bounds, {"temperature": "1"}),
    (schema.metrics_are_percents, {"metrics": {"top1": 720.0}}),
    (schema.notes_are_text, {"origin": 3}),
]


def text(entries):
    return json.dumps({"schema_version": 1, "weights": entries})


def test_valid_entries_break_no_rule():
    for raw in (raw_entry(), raw_entry(**BUNDLED), raw_entry(labels=None), raw_entry(sha256="a" * 64, size=5)):
        assert [breach for rule in schema.RULES for breach in rule("mnv2zoo_100.a", raw)] == []


@pytest.mark.parametrize(("rule", "fields"), BREACHES, ids=lambda value: getattr(value, "__name__", str(value)[:40]))
def test_a_breach_is_found_by_its_rule_and_named(rule, fields):
    raw = raw_entry(**fields)
    assert list(rule("mnv2zoo_100.a", raw))
    with pytest.raises(WeightsIndexError, match=r"mnv2zoo_100\.a"):
        schema.parse(text({"mnv2zoo_100.a": raw}), PATH)


def test_every_rule_has_a_breach_above():
    assert {rule for rule, _ in BREACHES} | {schema.key_names_an_architecture} == set(schema.RULES)


@pytest.mark.parametrize("key", ["mnv2zoo_100", "mnv2zoo_101.a", "mnv2zoo_100.", "mnv2zoo_100.a/b", ".a", ""])
def test_a_key_is_architecture_dot_tag(key):
    assert list(schema.key_names_an_architecture(key, raw_entry()))


def test_a_temperature_may_be_left_out_and_is_kept_where_it_is():
    for fields, expected in (({}, None), ({"temperature": None}, None), ({"temperature": 0.7}, 0.7)):
        entry = schema.parse(text({"mnv2zoo_100.a": raw_entry(**fields)}), PATH)["mnv2zoo_100.a"]
        assert entry.temperature == expected
        assert entry.to_json().get("temperature", "left out") == (expected or "left out")


def test_a_missing_field_is_not_taken_for_null():
    raw = raw_entry()
    del raw["sha256"]
    with pytest.raises(WeightsIndexError, match="sha256"):
        schema.parse(text({"mnv2zoo_100.a": raw}), PATH)


@pytest.mark.parametrize(("shared", "same"), [({}, "location"), ({"revision": "b" * 40, "sha256": "c" * 64}, "sha256")])
def test_two_entries_share_neither_location_nor_hash(shared, same):
    one, other = raw_entry(**shared), raw_entry(**shared)
    if shared:
        other["repo_id"] = "zoo/other"
    with pytest.raises(WeightsIndexError, match=rf"mnv2zoo_100\.a and mnv2zoo_100\.b have the same {same}\n"):
        schema.parse(text({"mnv2zoo_100.a": one, "mnv2zoo_100.b": other}), PATH)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 2, "weights": {}}',
        '{"schema_version": 1, "weights": []}',
        '{"schema_version": 1, "schema_version": 1, "weights": {}}',
        '{"schema_version": 1, "weights": {"mnv2zoo_100.a": NaN}}',
        '{"schema_version": 1, "weights": {"mnv2zoo_100.a": null}}',
        "[" * 100_000,
        "1" * 10_000,
    ],
    ids=lambda value: value[:30] or "empty",
)
def test_what_is_no_index_is_refused(document):
    with pytest.raises(WeightsIndexError):
        schema.parse(document, PATH)


def test_many_keys_are_read_in_bounded_time_and_the_one_that_is_twice_is_named():
    many = ", ".join(f'"k{number}": 1' for number in range(100_000))
    with pytest.raises(WeightsIndexError, match="'k7' twice"):
        schema.parse(f'{{{many}, "k7": 1}}', PATH)


# PyTorch 2.4 switches subnormal numbers off, which Hypothesis notices.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(schema.FIELDS), JSON, max_size=4), st.text(max_size=12))
def test_any_field_of_any_value_is_accepted_or_refused_and_nothing_else(fields, key):
    for name in ("mnv2zoo_100.a", key):
        with contextlib.suppress(WeightsIndexError):
            schema.parse(text({name: raw_entry(**fields)}), PATH)


@given(st.text(max_size=200))
def test_any_text_is_accepted_or_refused_and_nothing_else(document):
    with pytest.raises(WeightsIndexError):
        schema.parse(document, PATH)


@pytest.mark.parametrize("found", [True, False], ids=["by its files", "by importing it"])
def test_imagenet_names_are_timms(found, monkeypatch):
    if not found:
        monkeypatch.setattr(schema, "find_spec", lambda name: None)
    info = ImageNetInfo("imagenet-1k")
    assert schema._imagenet_names() == tuple(info.index_to_description(number) for number in range(1000))


def test_imagenet_names_are_read_without_importing_timm():
    code = (
        "import sys, _mnv2zoo_entry\n"
        "_mnv2zoo_entry.is_command_line = True\n"  # so that the package does not register its models with timm
        "from mnv2zoo.weights import index\n"
        "names = index.entry('mnv2zoo_100.google_in1k').label_names\n"
        "print(names[967], 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["espresso", "False"]
