"""Bad files: an index, a weights file or a run folder's `config.json` that somebody made to do harm.

Whatever they hold, they are taken or refused with an error of the package, in bounded time and memory.
"""

from __future__ import annotations

import contextlib
import json
import resource
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from attacks import zoo
from attacks.tally import Tally
from mnv2zoo.errors import UnknownModelError, WeightsError, WeightsIndexError, ZooError
from mnv2zoo.models import config_file, pretrained
from mnv2zoo.weights import index, schema, store
from tests.conftest import raw_entry

SECONDS = 5  # what one example may take
MEMORY = 2**29  # what all of them together may add to the largest size of this process

TRAVERSALS = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b.safetensors",
    "a//b.safetensors",
    "./a.safetensors",
    "..\\..\\a.safetensors",
    "C:\\a.safetensors",
    "~/a.safetensors",
    "a.safetensors\0.bin",
    "a\n.safetensors",
    "\u202egnp.safetensors",  # right to left
    "\uff0e\uff0e/a.safetensors",  # full-width dots
    "\u0430.safetensors",  # a Cyrillic letter
    "a" * 5000 + ".safetensors",
    "%2e%2e/a.safetensors",
    "file:///etc/passwd",
    "$HOME/a.safetensors",
    "",
    " ",
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, -0.0, 5e-324, float("nan"), float("inf"), True]
SCALARS = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS | st.sampled_from(TRAVERSALS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
DEEP = st.sampled_from(
    ["[" * 10**5, '{"a":' * 10**5, "[" * 500 + "]" * 500, '"' + "\\u0000" * 10**5 + '"', "9" * 10**5]
)


def run(tally: Tally, examples: int = 1500) -> None:
    before = _largest_size()
    with zoo.zoo(), tempfile.TemporaryDirectory() as folder:
        for fuzz in (_index_entries, _index_texts, _weights, _configs):
            fuzz(tally, Path(folder), examples)
        _duplicate_keys(tally)
    grown = _largest_size() - before
    tally.check(f"{grown / 2**20:.0f} MB more memory", grown < MEMORY)


def _largest_size() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _try_all(examples: int, strategy: st.SearchStrategy[Any], attempt: Callable[[Any], None]) -> None:
    """Tries so many examples; the same ones in every run."""
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(strategy)(attempt))()


def _index_entries(tally: Tally, folder: Path, examples: int) -> None:
    fields = st.dictionaries(st.sampled_from(schema.FIELDS) | st.text(max_size=8), VALUES, max_size=4)
    keys = (
        st.sampled_from(["mnv2zoo_100.a", "mnv2zoo_100.\u0430", *(f"mnv2zoo_100.{t}" for t in TRAVERSALS)]) | st.text()
    )

    def attempt(entries: dict[str, dict[str, Any]]) -> None:
        text = json.dumps({"schema_version": 1, "weights": {key: raw_entry(**raw) for key, raw in entries.items()}})
        tally.attempt(
            f"the index {text[:200]}", lambda: schema.parse(text, folder / "i"), inside, (WeightsIndexError,), SECONDS
        )

    _try_all(examples, st.dictionaries(keys, fields, min_size=1, max_size=3), attempt)


def inside(entries: dict[str, schema.WeightsEntry]) -> bool:
    """Whether each file that an index names is inside the folder that it is looked for in."""
    for entry in entries.values():
        path = Path("/cache", *(entry.bundled or f"{entry.repo_id}/{entry.filename}").split("/"))
        if not path.resolve().is_relative_to("/cache") or ".." in path.parts or not path.name.isascii():
            return False
    return True


def _index_texts(tally: Tally, folder: Path, examples: int) -> None:
    file = folder / "index.json"
    whole = json.dumps({"schema_version": 1, "weights": {"mnv2zoo_100.a": raw_entry()}}).encode()
    cut = st.builds(lambda at, junk: whole[:at] + junk + whole[at:], st.integers(0, len(whole)), st.binary(max_size=9))

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        tally.attempt(f"the index {content[:99]!r}", lambda: index.read(file), inside, (WeightsIndexError,), SECONDS)

    _try_all(examples, st.binary(max_size=300) | cut | DEEP.map(str.encode), attempt)


def _duplicate_keys(tally: Tally) -> None:
    for text in (
        '{"schema_version": 1, "weights": {}, "weights": {}}',
        json.dumps({"schema_version": 1, "weights": {"mnv2zoo_100.a": raw_entry()}}).replace(
            '"sha256"', f'"sha256": "{"a" * 64}", "sha256"'
        ),
        "{" + ", ".join(f'"k{number}": 1' for number in range(10**5)) + "}",  # many keys that differ
    ):
        tally.attempt("duplicate keys", lambda: schema.parse(text, Path("i")), None, (WeightsIndexError,), SECONDS)  # noqa: B023


def _weights(tally: Tally, folder: Path, examples: int) -> None:
    """A file of any bytes whose hash is right, because whoever made it pinned it, too."""
    file = folder / "x.safetensors"
    tensor = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "", "f32"]) | VALUES,
            "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**32, 2**62, 2**63, -1, 1.5]), max_size=4) | VALUES,
            "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 2**63, -4]), max_size=3) | VALUES,
        }
    )
    names = st.sampled_from(["conv_stem.weight", "bn1.weight", "classifier.bias", *TRAVERSALS]) | st.text(max_size=9)
    header = st.dictionaries(names | st.just("__metadata__"), tensor | VALUES, max_size=4).map(json.dumps) | DEEP
    content = st.builds(_safetensors, header, st.binary(max_size=64), st.sampled_from([0, 0, 0, 1, -1, 2**40, 2**63]))

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        verified = store.Verified(file, content, "")
        for layout in ("timm", "torchvision", None):
            # What is read is bounded by the bytes that there are.
            tally.attempt(
                f"the weights {content[:200]!r}",
                lambda layout=layout: store.tensors(verified, "mnv2zoo_035", layout),
                lambda found: sum(t.nbytes for t in found.values()) <= 2 * len(content),
                (ZooError,),
                SECONDS,
            )

    _try_all(examples, st.binary(max_size=100) | content, attempt)


def _safetensors(header: str, data: bytes, off: int) -> bytes:
    encoded = header.encode(errors="surrogatepass")
    return struct.pack("<Q", min(max(0, len(encoded) + off), 2**64 - 1)) + encoded + data


def _configs(tally: Tally, folder: Path, examples: int) -> None:
    """A run folder, or a repository on the Hub, with a sound weights file and any `config.json`."""
    (folder / "model.safetensors").write_bytes(zoo.data())
    cfg_fields = st.sampled_from(
        [*config_file.CFG_RULES, "url", "file", "state_dict", "hf_hub_id", "source", "custom_load"]
    )
    fields = st.sampled_from(["architecture", "num_classes", "label_names", "label_descriptions", "global_pool"])
    odd = st.builds(
        lambda cfg, arguments, top: {
            "architecture": "mnv2zoo_035",
            "num_classes": zoo.CLASSES,
            "model_args": arguments,
            "pretrained_cfg": {"num_classes": zoo.CLASSES, "input_size": [3, 64, 64], **cfg},
            **top,
        },
        st.dictionaries(cfg_fields | st.text(max_size=5), VALUES, max_size=3)
        | VALUES.filter(lambda v: isinstance(v, dict)),
        st.dictionaries(st.sampled_from([*config_file.ARGUMENT_RULES]) | st.text(max_size=5), VALUES, max_size=2),
        st.dictionaries(fields | st.just("pretrained_cfg"), VALUES, max_size=1),
    ).map(json.dumps)

    def attempt(text: str) -> None:
        (folder / "config.json").write_text(text, encoding="utf-8", errors="replace")
        tally.attempt(
            f"the config.json {text[:300]}",
            lambda: pretrained.load(str(folder), "cpu"),
            lambda found: len(found.label_names) == found.model.num_classes,
            (WeightsError, UnknownModelError, ZooError),
            SECONDS,
        )

    _try_all(examples // 3, odd | VALUES.map(json.dumps) | DEEP | st.text(max_size=99), attempt)
    with contextlib.suppress(FileNotFoundError):
        (folder / "config.json").unlink()
