"""`mnv2zoo info`: describe a model and its weights, or a run and its metrics."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnv2zoo.cli.options import Debug, Described, Json
from mnv2zoo.cli.output import print_json

EXAMPLE = "\b\nExamples:\n  mnv2zoo info mnv2zoo_100\n  mnv2zoo info run"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SHOWN = 8  # number of classes, and of metrics per split, to print


def command(name: Described, as_json: Json = False, debug: Debug = False) -> None:
    """Describe a model and its weights, or a run and its metrics."""
    from mnv2zoo.models import names

    folder = names.folder_of(name)
    model = describe(name) if folder is None else describe_folder(name, folder)
    if as_json:
        print_json(model)
    elif folder is None:
        _print_network(model)
    else:
        _print_folder(model)


def _print_network(model: dict[str, Any]) -> None:
    maps = zip(model["feature_channels"], model["feature_reductions"], strict=True)
    _print_facts(
        model["name"],
        {
            "parameters": f"{model['params']:,}",
            "GMACs": giga(model["macs"]),
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
                f"center crop {entry['crop_pct']}, mean {mean}, std {std}",
            },
        )
    if not model["weights"]:
        print("\nno pretrained weights")


def describe(name: str) -> dict[str, Any]:
    """Describes a zoo model.

    Args:
        name: An architecture, or `architecture.tag` for one set of its weights.

    Returns:
        The fields of `ModelInfo`. `weights` maps names to index entries, each with its `trust`.
    """
    from mnv2zoo import architecture, weights
    from mnv2zoo.models import zoo

    name = architecture.native_name(name)
    model = zoo.model_info(name)
    entries = [weights.entry(key) for key in model.weights if "." not in name or key == name]
    return asdict(model) | {"weights": {e.name: {"trust": e.trust, **e.to_json()} for e in entries}}


def describe_folder(name: str, folder: Path) -> dict[str, Any]:
    """Describes a run folder, or another folder with a model.

    Args:
        name: The folder's name as it was given.
        folder: The folder.

    Returns:
        The `name`, `task`, `head`, `architecture`, `params`, `input_size` and `label_names`, the `model`, `init` and
        `epochs` of the training, the `results` by split, and the `file`, `bytes` and `sha256` of the weights. Values
        that the folder does not record are None.

    Raises:
        UnknownModelError: If its `config.json` names no architecture.
        WeightsUnavailableError: If its `config.json` or its weights cannot be read.
        RunError: If its results cannot be read.
    """
    from mnv2zoo.model_dir import records
    from mnv2zoo.models import names
    from mnv2zoo.tasks import lookup

    described = names.describe(name)
    recorded = records.recorded(name)
    results = records.read_json(folder, records.RESULTS) if (folder / records.RESULTS).is_file() else {}
    training = recorded.get("recipe", {})
    return {
        "name": name,
        "task": records.task_name(name) or lookup.DEFAULT,
        "head": described.head.get("name"),
        "architecture": described.config.name,
        "input_size": list(described.cfg["input_size"]),
        "label_names": list(described.label_names),
        "model": recorded.get("model"),
        "init": training.get("init"),
        "epochs": training.get("epochs"),
        "results": {split: scores for split, scores in results.items() if isinstance(scores, dict)},
        **_weights(folder / records.WEIGHTS),
    }


def _weights(file: Path) -> dict[str, Any]:
    """The parameter count, size and hash of a weights file. Batch norm statistics do not count as parameters."""
    from safetensors import SafetensorError, safe_open

    from mnv2zoo.errors import WeightsUnavailableError

    try:
        with file.open("rb") as content, safe_open(file, "np") as tensors:
            names = [name for name in tensors.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118  # no mapping
            shapes = [tensors.get_slice(name).get_shape() for name in names]
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, SafetensorError) as error:
        raise WeightsUnavailableError(
            "the weights in the folder cannot be read",
            expected="a safetensors file",
            found=str(error).rstrip("."),
            where=file,
            fix="Restore the file, or pass another folder.",
        ) from error
    return {
        "params": sum(map(math.prod, shapes)),
        "file": str(file),
        "bytes": file.stat().st_size,
        "sha256": digest,
    }


def _print_folder(model: dict[str, Any]) -> None:
    names = model["label_names"]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    facts = {
        "task": model["task"],
        **({"head": model["head"]} if model["head"] else {}),
        "architecture": model["architecture"],
        "parameters": f"{model['params']:,}",
        "input": " x ".join(map(str, model["input_size"])),
        "classes": f"{len(names)}: {', '.join(names[:SHOWN])}{more}" if names else None,
        **({"trained from": f"{model['model']}, {model['init']} weights"} if model["model"] else {}),
        "file": model["file"],
        "sha256": model["sha256"],
        "bytes": f"{model['bytes']:,}",
    }
    for split, scores in model["results"].items():
        metrics = [f"{name} {percent(value)} %" for name, value in scores.items() if is_percentage(name, value)]
        facts[f"{split} images"] = f"{scores['images']}: {', '.join(metrics[:SHOWN])}"
    _print_facts(model["name"], facts)


def is_percentage(name: str, value: Any) -> bool:
    """Whether a value of `results.json` is a metric in percent: a float that is not a loss."""
    return isinstance(value, float) and "loss" not in name


def giga(macs: int) -> str:
    """Formats MACs as GMACs."""
    return f"{macs / 1e9:.4f}"


def percent(value: float | None) -> str:
    """Formats a metric for a table, with a dash for an unknown value."""
    return "-" if value is None else f"{value:.2f}"


def _print_facts(title: str, facts: dict[str, Any]) -> None:
    print(title)
    for label, value in facts.items():
        print(f"  {label:<16} {'unknown' if value in (None, '') else value}")
