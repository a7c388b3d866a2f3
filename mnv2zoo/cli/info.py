"""`mnv2zoo info`: the figures of a network and where its weights are from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mnv2zoo.cli.options import Debug, Json, Name
from mnv2zoo.cli.output import print_json

if TYPE_CHECKING:
    from mnv2zoo.weights import WeightsEntry

EXAMPLE = "\b\nExample:\n  mnv2zoo info mnv2zoo_100"


def command(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Tell a network's figures and where its weights are from."""
    model = describe(name)
    if as_json:
        print_json(model)
        return
    maps = zip(model["feature_channels"], model["feature_reductions"], strict=True)
    _print_facts(
        model["name"],
        {
            "parameters": f"{model['params']:,}",
            "multiply-adds": f"{giga(model['macs'])} G",
            "input": " x ".join(map(str, model["input_size"])),
            "classes": model["num_classes"],
            "feature channels": ", ".join(f"{channels} at 1/{reduction}" for channels, reduction in maps),
            "source": model["source"],
        },
    )
    for key, entry in model["weights"].items():
        mean, std = (", ".join(map(str, entry[field])) for field in ("mean", "std"))
        _print_facts(
            f"\nweights {key}",
            {
                "description": entry["description"],
                "license": entry["license"],
                "origin": entry["origin"],
                "metrics": ", ".join(f"{name} {percent(value)} %" for name, value in entry["metrics"].items()),
                "file": entry.get("bundled") or f"{entry['filename']} of {entry['repo_id']}",
                "revision": entry.get("revision"),
                "sha256": entry["sha256"],
                "bytes": entry["size"] and f"{entry['size']:,}",
                "trust": entry["trust"],
                "input": f"{' x '.join(map(str, entry['input_size']))}, {entry['interpolation']}, "
                f"centre crop {entry['crop_pct']}, mean {mean}, std {std}",
            },
        )
    if not model["weights"]:
        print("\nno weights are known")


def describe(name: str) -> dict[str, Any]:
    """Puts together what is known of a network.

    Args:
        name: An architecture, or `architecture.tag` for only these of its weights.

    Returns:
        The fields of `ModelInfo`; in `weights` the index entries by name, each with its `trust`.
    """
    from mnv2zoo import weights
    from mnv2zoo.models import zoo

    model = zoo.model_info(name)
    entries = [weights.entry(key) for key in model.weights if "." not in name or key == name]
    return asdict(model) | {"weights": {e.name: {"trust": _trust(e), **e.to_json()} for e in entries}}


def giga(macs: int) -> str:
    """Multiply-adds in thousands of millions, as papers give them."""
    return f"{macs / 1e9:.4f}"


def percent(value: float | None) -> str:
    """A metric as results tables give it; a dash for one that is unknown."""
    return "-" if value is None else f"{value:.2f}"


def _trust(entry: WeightsEntry) -> str:
    if entry.bundled is not None:
        return "bundled"
    return "pinned" if entry.pinned else "on first use"


def _print_facts(title: str, facts: dict[str, Any]) -> None:
    print(title)
    for label, value in facts.items():
        print(f"  {label:<16} {'unknown' if value in (None, '') else value}")
