"""Writes the generated parts of the README and the documentation, or checks that they are current.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; NAME is one of the
functions in `PARTS` below, and `NAME:ARGUMENT` gives it an argument. Everything else in those files is written by
hand. The drawings in `docs/drawings/` are generated as a whole, and the page of a model that has none yet is begun.

    python scripts/generate.py          # writes
    python scripts/generate.py --check  # fails where something would change
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import chinese
import model_pages
import performance
from catalog import ROOT, WEIGHTS, figures, measured, recorded, table

from mnv2zoo import architecture, environment
from mnv2zoo.convert import LAYOUTS
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.deploy.formats import TARGETS
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.weights import index
from mnv2zoo.weights.schema import WeightsEntry

PART = re.compile(r"(?P<start><!-- generated: (?P<name>\S+) -->\n)(?P<body>.*?)(?P<end><!-- end: (?P=name) -->)", re.S)


def zoo() -> str:
    """The columns of the zoo that decide between models, for the README."""
    rows = []
    for config, entry in model_pages.in_order():
        name = f"**`{config.name}`**" if entry and entry.name in index.RECOMMENDED else f"`{config.name}`"
        published = ("none yet", "", "")
        if entry:
            published = (f"`{entry.tag}`", _percent(entry, "top1"), _percent(entry, "top5"))
        terms = (entry.trust, entry.license) if entry else ("", "")
        rows.append((name, *published, *model_pages.cost(config, entry), figures(config, entry)[1], *terms))
    return table("name | weights | top-1 (%): | top-5 (%): | ms: | MB: | GMACs: | trust | license of the weights", rows)


def _percent(entry: WeightsEntry, metric: str) -> str:
    return f"{entry.metrics[metric]:.2f}" if metric in entry.metrics else ""


def recommended() -> str:
    """A row for each recommended set of weights."""
    rows = (
        (f"[`{WEIGHTS[name].architecture}`](models/{WEIGHTS[name].architecture}.md)", f"`{name}`", why)
        for name, why in index.RECOMMENDED.items()
    )
    return table("model | weights | use it for", rows)


def choose() -> str:
    """A row for each ImageNet weights, the most accurate first, with what decides between them."""
    latency = measured("latency")
    rows = []
    for entry in sorted(WEIGHTS.values(), key=lambda entry: -entry.metrics.get("top1", 0)):
        if entry.labels != "imagenet-1k":
            continue
        config, timed = architecture.CONFIGS[entry.architecture], latency["networks"].get(entry.name, {})
        name = f"**`{entry.name}`**" if entry.name in index.RECOMMENDED else f"`{entry.name}`"
        scores = (_percent(entry, metric) for metric in ("top1", "top5"))
        times = (f"{timed[kind]['median_ms']:.1f}" if timed else "" for kind in ("eager", "torch"))
        size = f"{4 * architecture.parameters(config) / 1e6:.1f}"
        rows.append((name, entry.input_size[1], *scores, *times, size, figures(config, entry)[1], entry.trust))
    header = "weights | input (px): | top-1 (%): | top-5 (%): | ms, eager: | ms, `torch`: | MB: | GMACs: | trust"
    return table(header, rows) + f"\n{performance.machine(latency)}\n"


def variables() -> str:
    return table("variable | meaning | default", ((f"`{v.name}`", v.meaning, v.default) for v in environment.VARIABLES))


def recipe() -> str:
    """A row for each choice about a training."""
    rows = ((f"`{f.name}`", f"`{f.default}`", f.metadata["meaning"]) for f in fields(Recipe))
    return table("field | default | meaning", rows)


def head_cache() -> str:
    row = measured("head_cache")
    cells = (row["photos"], row["epochs"], row["uncached_s"], row["cached_s"], row["ratio"])
    return table("images: | epochs: | without the cache (s): | with it (s): | speedup:", [cells])


TWENTY = "mnv2zoo_100_c20"


class C20:
    """The bundled weights of a 20-class model, and the record of their training.

    Args:
        model: The model's name.
    """

    def __init__(self, model: str) -> None:
        self.entry = WEIGHTS[f"{model}.cifar100_coarse"]
        self.folder = ROOT / "docs/models" / self.entry.name

    def read(self, file: str) -> Any:
        """Reads a JSON file of the record."""
        return json.loads((self.folder / file).read_text(encoding="utf-8"))

    def runs(self) -> list[Any]:
        """Reads the settings of each run that led to the weights, in order."""
        count = len(list(self.folder.glob("*-recipe.json")))
        return [self.read(f"{number}-recipe.json") for number in range(1, 1 + count)]


def c20_figures(model: str = TWENTY) -> str:
    weights = C20(model)
    scores, calibrated = weights.read("results.json")["test"], weights.read("temperature.json")
    assert round(scores["top1"], 2) == weights.entry.metrics["top1"], "the index and the record disagree"
    assert calibrated["temperature"] == weights.entry.temperature, "the index and the record disagree"
    without, with_it = (calibrated["test"][f"calibration_error{key}"] for key in ("_before", ""))
    figures = (f"{value:.2f}" for value in (scores["top1"], scores["top5"], without, with_it))
    classes = ((f"`{row['label']}`", f"{row['top1']:.1f}") for row in scores["per_class"])
    return (
        table(
            "images | how many: | top-1 (%): | top-5 (%): | calibration error without temperature (%): "
            f"| with temperature {calibrated['temperature']:.3f} (%):",
            [("test", scores["images"], *figures)],
        )
        + "\n"
        + table("superclass | top-1 on the test images (%):", classes)
    )


def c20_releases(model: str = TWENTY) -> str:
    """A row for each release of the weights; the last is the one in the package."""
    weights = C20(model)
    releases, entry = weights.read("releases.json"), weights.entry
    last = releases[-1]
    assert last == {**entry.metrics, "sha256": entry.sha256, "trained": last["trained"]}, (
        "the index and the releases disagree"
    )
    rows = (
        (number, f"{row['top1']:.2f}", f"{row['top5']:.2f}", f"`{row['sha256'][:16]}`", row["trained"])
        for number, row in enumerate(releases, start=1)
    )
    return table("release: | top-1 (%): | top-5 (%): | SHA-256 begins | trained", rows)


def c20_runs(model: str = TWENTY) -> str:
    """A row for each run that led to the weights."""
    weights, rows = C20(model), []
    for number, about in enumerate(weights.runs(), start=1):
        files = {what: f"{number}-{what}" for what in ("recipe.json", "metrics.jsonl", "curves.png")}
        lines = (weights.folder / files["metrics.jsonl"]).read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines]
        minutes = sum(epoch["seconds"] for epoch in epochs) / 60
        links = (f"[{what.partition('.')[0]}]({weights.folder.name}/{file})" for what, file in files.items())
        validation = f"{epochs[-1]['val_top1']:.2f}" if about["held_out"] else "trained on"
        figures = (len(epochs), f"{minutes:.0f}", validation)
        rows.append((number, about["classes"], about["recipe"]["train"], *figures, ", ".join(links)))
    return table("run: | classes: | trained | epochs: | minutes: | last validation top-1 (%): | files", rows)


def twenty_layers() -> str:
    """A row for each level: what the paper's network and the tutorial's compute there."""

    def level(channels: int, reduction: int) -> str:
        side = 224 // reduction
        return f"{channels} x {side} x {side}"

    paper, tutorial = (architecture.get(name) for name in ("mnv2zoo_100", "mnv2zoo_100_c20"))
    rows = [("`C1`", 2, level(paper.stem_channels, 2), level(tutorial.stem_channels, 2), "bias, ReLU")]
    for theirs, ours in zip(architecture.bottlenecks(paper), architecture.bottlenecks(tutorial), strict=True):
        differs = []
        if theirs.stride != ours.stride:
            differs.append(f"stride {ours.stride} instead of {theirs.stride}")
        if theirs.expand != ours.expand:
            differs.append(f"expansion from {ours.in_channels} to {ours.hidden} channels")
        if theirs.reduction != ours.reduction:
            differs.append("twice the height and width")
        maps = (level(b.out_channels, b.reduction) for b in (theirs, ours))
        rows.append((f"`{ours.name}`", theirs.stride, *maps, ", ".join(differs)))
    ends = (level(config.head_channels, 32) for config in (paper, tutorial))
    rows.append(("`C2`", 1, *ends, "bias, ReLU"))
    return table("layer | stride in the paper: | output in the paper: | output in the tutorial: | difference", rows)


def twenty_differences() -> str:
    """A row for each difference: what it alone does to the paper's network with 20 classes."""
    paper, tutorial = (architecture.get(name) for name in ("mnv2zoo_100", "mnv2zoo_100_c20"))
    paper = replace(paper, num_classes=tutorial.num_classes)
    changes = {
        "paper's model with 20 classes": (),
        "stride 2 in `Bottleneck_11` instead of `Bottleneck_7`": ("stages",),
        "expansion in `Bottleneck_1`": ("expand_first",),
        "biases in `C1` and `C2`": ("conv_bias",),
        "batch norm and ReLU after the classifier `C3`": ("classifier",),
        "ReLU instead of ReLU6": ("activation",),
        "all five: the tutorial's model": ("stages", "expand_first", "conv_bias", "classifier", "activation"),
    }
    rows = []
    for what, changed in changes.items():
        config = replace(paper, **{field: getattr(tutorial, field) for field in changed})
        rows.append((what, f"{architecture.parameters(config):,}", f"{architecture.macs(config) / 1e9:.4f}"))
    return table("model | parameters: | GMACs at 224 pixels:", rows)


def training_step() -> str:
    rows = []
    for case, row in measured("training_step").items():
        if " at " in case:
            name, side, precision = re.split(" at | in ", case)
            times = (f"{ms:.1f}" for ms in row["ms_an_image"].values())
            rows.append((f"`{name}`, {side}", f"`{precision}`", *times, row["times_faster"]))
    return table("model, input size | precision | PyTorch alone (ms/image): | mnv2zoo (ms/image): | speedup:", rows)


def preprocessing() -> str:
    rows = (
        (
            *case.split(" at "),
            row["photos"],
            row["decoded_at_a_fraction"],
            row["mean_abs_difference"],
            row["max_abs_difference"],
            row["mean_abs_logit"],
            row["same_top1_percent"],
        )
        for case, row in measured("preprocessing").items()
        if " at " in case
    )
    return table(
        "images | input (px): | count: | decoded at a fraction: | mean difference of logits: | largest difference: "
        "| mean magnitude of logits: | same top-1 (%):",
        rows,
    )


GROCERY = {
    "head": "classifier, on cached features",
    "partial": "`Bottleneck_8` and all later layers",
    "full": "all layers",
    "all": "all layers, validation images included",
}


def grocery() -> str:
    runs = recorded("grocery")["runs"]
    rows = []
    for name, what in GROCERY.items():
        if name not in runs:
            continue
        run = runs[name]
        val = f"{run['val']['top1']:.2f}" if "val" in run else ""
        test = (f"{run['test'][key]:.2f}" for key in ("top1", "coarse"))
        rows.append((what, run["photos"], run["epochs"], run["minutes"], val, *test))
    return table(
        "what was trained | images: | epochs: | minutes: | validation top-1 (%): | test top-1 (%): "
        "| test top-1, coarse (%):",
        rows,
    )


FOLDS = {"photos": "single images", "series": "series of ten images"}


def folds() -> str:
    """A row for each way to cross-validate."""
    found = recorded("folds")
    metrics = ("top1", "balanced_accuracy")
    rows = (
        (what, found["folds"], *(f"{found[way][name]['mean']:.2f} ± {found[way][name]['std']:.2f}" for name in metrics))
        for way, what in FOLDS.items()
    )
    return table("unit of the split | folds: | top-1 (%): | balanced accuracy (%):", rows)


LONG_TAIL = {
    "plain": "defaults",
    "class_weights": "`--class-weights balanced`",
    "sampler": "`--sampler balanced`",
    "focal": "`--loss focal`",
}


def long_tail() -> str:
    """A row for each way to train on imbalanced classes."""
    metrics = ("f1_macro", "balanced_accuracy", "top1")
    rows = (
        (LONG_TAIL[way], *(f"{own[name]['mean']:.2f} ± {own[name]['std']:.2f}" for name in metrics))
        for way, own in recorded("long_tail")["ways"].items()
    )
    return table("option | test macro F1 (%): | balanced accuracy (%): | top-1 (%):", rows)


LOSSES = {"bce": "`--loss bce`", "asymmetric": "`--loss asymmetric`"}


def multilabel() -> str:
    """A row for each loss that a classifier of several labels was trained with."""
    rows = (
        (
            LOSSES[name],
            run["images"],
            run["labels"],
            run["epochs"],
            f"{run['val']['map']:.2f}",
            *(f"{run['test'][metric]:.2f}" for metric in ("map", "f1_micro", "f1_macro")),
        )
        for name, run in recorded("multilabel").items()
    )
    return table(
        "loss | scenes: | labels: | epochs: | validation mAP (%): | test mAP (%): | test micro F1 (%): "
        "| test macro F1 (%):",
        rows,
    )


TRANSFER = {
    "random": "random initialization",
    "cifar100_coarse": "`mnv2zoo_100_c20.cifar100_coarse`",
    "imagenet": "ImageNet weights of `mnv2zoo_100`",
}


def transfer() -> str:
    """A row for each initialization of the 20-class model."""
    found = recorded("transfer")
    rows = (
        (
            TRANSFER[name],
            found["photos"],
            found["side"],
            found["epochs"],
            start["lr"],
            f"{start['val_top1']:.2f}",
            f"{start['test_top1']:.2f}",
        )
        for name, start in found["starts"].items()
    )
    return table(
        "initial weights | images: | input (px): | epochs: | learning rate: | validation top-1 (%): | test top-1 (%):",
        rows,
    )


def taps() -> str:
    rows = []
    for names, row in measured("taps").items():
        if not isinstance(row, dict) or "time" not in row:
            continue
        for kind, time in row["time"].items():
            ratio = row["ratio_to"].get(kind, "")
            rows.append((names, kind, time["median_ms"], ratio, row["peak_mb_of_64_images"][kind]))
    return table("feature maps | method | ms/image: | taps' time relative to it: | memory for 64 images (MB):", rows)


# The metric that decides on each dataset, and the one shown next to it.
HEADS = {"bccd": ("map50", "AP50", "map", "mAP"), "camvid": ("miou", "mIoU", "pixel_accuracy", "pixel accuracy")}


def heads(data: str) -> str:
    """A row for each head that was trained on some data, and for what a user would take otherwise.

    Args:
        data: `bccd` or `camvid`.
    """
    metric, title, further, further_title = HEADS[data]
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in recorded("heads").items():
        if name.startswith(f"{data}-"):
            on = "" if row.get("peer") or "val" in row else ", with the validation images"
            groups.setdefault(row.get("peer") or f"`{row['recipe']}`{on}", []).append(row)
    rows = [
        (
            name,
            len(runs),
            spread([run["test"][metric] for run in runs]),
            spread([run["test"][further] for run in runs]),
            spread([run["val"][metric] for run in runs]) if "val" in runs[0] else "",
            f"{runs[0]['parameters'] / 1e6:.1f}",
            minutes(runs),
            *milliseconds(runs),
        )
        for name, runs in groups.items()
    ]
    return table(
        f"model | seeds: | test {title} (%): | test {further_title} (%): | val {title} (%): | params (M): "
        "| training (min): | ms/image, eager: | ms/image, fastest engine: | ms/image, int8: | int8 loss (points):",
        rows,
    )


def spread(values: list[float]) -> str:
    """The mean, with the standard deviation of several values."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def minutes(runs: list[dict[str, Any]]) -> str:
    """How long training took on average, and on what."""
    return f"{statistics.mean(run['minutes'] for run in runs):.0f}"


def milliseconds(runs: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Milliseconds an image: in eager mode, on the fastest engine and in int8; and what int8 costs, if measured."""
    times = next((run["ms"] for run in runs if "ms" in run), None)
    quantized = next((run["int8"] for run in runs if "int8" in run), None)
    fast = [f"{value:.1f}" for value in times.values()] if times else ["", ""]
    cost = [f"{quantized['ms']:.1f}", f"{quantized['before'] - quantized['after']:.2f}"] if quantized else ["", ""]
    return fast[0], fast[1], cost[0], cost[1]


def service() -> str:
    """The responses of the service at its limit, at twice its capacity, and during shutdown."""
    found = recorded("service")
    rows = [
        ("at its limit of concurrent requests", f"{found['images_per_second']:.0f}", "all", "", ""),
        *(
            (words, f"{part['sent_per_second']:.0f}" if "sent_per_second" in part else "", *_answers(part))
            for words, part in (
                ("twice the requests/s that it can serve", found["overload"]),
                ("SIGTERM at the limit", found["stop"]),
            )
        ),
    ]
    loads = table("load | requests/s: | status 200: | status 503: | p50 / p99 of status 200, ms:", rows)
    how = f"*{found['processor']}; the load runs on the same machine, for {found['seconds']:.0f} s each.*"
    return f"{loads}\n{how}\n"


def _answers(part: dict[str, Any]) -> tuple[str, str, str]:
    """Answers, refusals and times of a part of the load test, which fails if anything else came back."""
    counts, times = part["answers"], part["ms_200"]
    assert counts.keys() <= {"200", "503"}
    assert sum(counts.values()) == part["sent"]
    return f"{counts['200']:,}", f"{counts.get('503', 0):,}", f"{times['p50']:.0f} / {times['p99']:.0f}"


# How to install an engine that needs more than its packages.
INSTALL = {"inductor": "part of mnv2zoo; needs a C++ compiler"}


def engines() -> str:
    """A row for each engine, with its precisions on the CPU."""
    rows = []
    for name, engine in ENGINES.items():
        install = '`pip install -e ".[deploy]"`' if engine.needs else "part of mnv2zoo"
        rows.append((f"`{name}`", _codes(engine.precisions), INSTALL.get(name, install)))
    return table("engine | precisions | install", rows)


# The `device_types` of each engine in words.
DEVICES = {
    "torch": "all",
    "inductor": "all that `torch.compile` supports",
    "onnxruntime": "`cuda`, with `onnxruntime-gpu`",
    "openvino": "`xpu`, an Intel GPU",
}


def engine_devices() -> str:
    """A row for each engine, with its devices other than the CPU and its precisions there."""
    for name, engine in ENGINES.items():
        assert all(f"`{kind}`" in DEVICES[name] for kind in engine.device_types or ()), f"{name} has other devices"
    rows = ((f"`{name}`", DEVICES[name], _codes(engine.accelerated)) for name, engine in ENGINES.items())
    return table("engine | devices | precisions", rows)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def gpu() -> str:
    """A row for each way to run a network on the GPU that was last measured, with columns by batch size."""
    found, inference = recorded("gpu"), on_gpu()
    rows = [
        (f"timm, eager {precision}" if library == "timm eager" else f"`{library}` {precision}", *cells)
        for library in ("timm eager", "torch", "inductor")
        for precision in ("fp32", "fp16", "bf16")
        if any(cells := [_rate(row.get(f"{library} {precision}")) for row in inference.values()])
    ]
    about = found["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    header = " | ".join(f"batch {batch}:" for batch in inference)
    return table(f"images per second | {header}", rows) + f"\n*{about['card']}; {versions}.*\n"


def on_gpu() -> dict[str, Any]:
    """The time of each engine on the GPU by batch size; timm and `torch` as measured next to each other alone."""
    found = recorded("gpu")
    return {batch: found.get("compiled", {}).get(batch, {}) | row for batch, row in found["inference"].items()}


def _rate(row: dict[str, Any] | None) -> str:
    return f"{row['images_per_second']:,}" if row else ""


def gpu_speedups() -> str:
    """The fastest engine in fp16 against timm in eager mode."""
    inference = on_gpu()
    rows = []
    for batch, theirs in (("1", "fp16"), ("256", "fp32"), ("256", "fp16")):
        ours = {name: row["ms"] for name, row in inference[batch].items() if not name.startswith("timm")}
        best = min((name for name in ours if name.endswith("fp16")), key=lambda name: ours[name])
        ratio = inference[batch][f"timm eager {theirs}"]["ms"] / ours[best]
        rows.append((batch, f"`{best.split()[0]}` fp16", f"timm, eager {theirs}", f"{ratio:.2f}"))
    return table("batch: | engine | compared with | speedup:", rows)


# The title, model file, batch size and runtime of each format in words.
FORMATS = {
    "onnx": ("`onnx`", "`model.onnx`", "any", "ONNX Runtime"),
    "openvino": ("`openvino`", "`model.xml`, `model.bin`", "any", "OpenVINO"),
    "torch-export": ("`torch-export`", "`model.pt2`", "any", "PyTorch"),
    "executorch": ("[`executorch`](mobile-and-web.md#executorch)", "`model.pte`, for XNNPACK", "1", "ExecuTorch"),
    "litert": ("[`litert`](mobile-and-web.md#litert)", "`model.tflite`", "1", "LiteRT"),
    "web": ("[`web`](mobile-and-web.md#in-the-browser)", "`model.onnx` and a page", "1", "onnxruntime-web"),
}


def formats() -> str:
    """A row for each format of a bundle."""
    rows = []
    for name, target in TARGETS.items():
        title, file, batch, runtime = FORMATS[name]
        install = f'`pip install -e ".[{target.extra}]"`' if target.extra else ""
        rows.append((title, file, _codes(target.precisions), batch, runtime, install))
    return table("format | model | precisions | batch | runtime | to export", rows)


def bundles() -> str:
    """A row for PyTorch, and one for each format and precision of the 20-class weights that was last measured."""
    found = recorded("bundles")
    rows: list[tuple[object, ...]] = []
    for row in found["rows"].values():
        cells = (f"{row['accuracy']['bundle']:.2f}", f"{row['agreement']:.1f}", row["mb"])
        rows.append((f"`{row['format']}`", f"`{row['precision']}`", *cells))
    entry = WEIGHTS[f"{found['model']}.cifar100_coarse"]
    assert entry.size
    whole = ("PyTorch", "`fp32`", f"{entry.metrics['top1']:.2f}", "100.0", round(entry.size / 1e6, 1))
    header = "format | precision | top-1 (%): | images that keep their class (%): | model (MB):"
    processors = ", ".join(sorted({row["processor"] for row in found["rows"].values()}))
    return table(header, [whole, *rows]) + f"\n*{processors}.*\n"


TRAININGS = {
    "timm": "timm's parts",
    "timm, compiled": "timm's parts, compiled",
    "mnv2zoo, all": "`finetune`",
    "mnv2zoo, all, compiled": "`finetune --compile`",
    "mnv2zoo, all, augmented on the device": "`finetune --augment-on device`",
    "mnv2zoo, head": "`finetune --train head`, from cached features",
}


def gpu_training() -> str:
    """A row for each training on the GPU that was last measured: the median of the epochs after the first."""
    found = recorded("gpu")["training"]
    rates = found["images_per_second_by_epoch"]
    rows = [(TRAININGS[name], f"{statistics.median(rates[name][1:]):,.0f}") for name in TRAININGS if name in rates]
    settings = f"\n{found['images']:,} small photos, {found['workers']} workers, batches of 256, bf16.\n"
    return table("training | images per second:", rows) + settings


def attacks() -> str:
    """A row for each attack of the last whole `make attack`."""
    found = recorded("attacks")
    rows = ((f"`{name}`", *(f"{row[key]:,}" for key in COUNTS)) for name, row in found["attacks"].items())
    return table("attack | attempts: | correct result: | correct error: | failures: | seconds:", rows)


BOUNDS = {
    "waits": "the caller waits no longer than `MNV2ZOO_DOWNLOAD_TIMEOUT`, plus a few seconds to delete partial files",
    "stops": "the download itself stops at that time",
    "disk": "bytes written to disk, for weights of 1.6 MiB from a server that never stops sending",
    "memory": "memory, for an error page that never ends",
    "headers": "headers that would write outside the cache are refused",
    "packed": "compressed bodies are refused",
    "redirects": "redirect loops, and redirects to files and other protocols, are refused",
    "hash": "every altered byte is detected, and the next load works",
    "token": "the token reaches no other host and no message",
}


def bounds() -> str:
    """A row for each bound of a download: what came of it in each place, in the last `make attack`."""
    found = recorded("attacks")["bounds"]
    rows = ((what, *(_bound(found[name][place]) for place in ("process", "here"))) for name, what in BOUNDS.items())
    return table("bound | in a separate process | in your program's process", rows)


def _bound(row: dict[str, Any]) -> str:
    holds = (
        f"yes, {row['held']} of {row['tries']}" if row["held"] == row["tries"] else f"{row['held']} of {row['tries']}"
    )
    exceptions = f"; not while {', '.join(row['exceptions'])}" if row["exceptions"] else ""
    measured = f"; at most {row['measured']}" if row["measured"] else ""
    return holds + measured + exceptions


COUNTS = ("tries", "survived", "refused", "lost", "seconds")


def fuzz() -> str:
    """A row for each target of the last `make fuzz`."""
    rows = (
        (f"`{name}`", f"{row['executions']:,}", row["edges"], len(row["findings"]), row["seconds"])
        for name, row in recorded("fuzz")["targets"].items()
    )
    return table("target | inputs: | code edges reached: | findings: | seconds:", rows)


FORGOTTEN = {
    "as they were trained": "as trained",
    "ImageNet's mean and deviation": "ImageNet mean and standard deviation",
    "symmetric padding, ImageNet's mean and deviation": "symmetric padding, ImageNet mean and standard deviation",
}


def forgotten() -> str:
    found = recorded("elsewhere")
    rows = (
        (FORGOTTEN.get(row["way"], row["way"]), f"{row['top1']:.0f}", f"{row['same']:.0f}") for row in found["rows"]
    )
    return table(f"settings ({found['photos']} images) | top-1 (%): | same class as in the first row (%):", rows)


def ecosystem() -> str:
    """A row for each use in another library, as the last `make ecosystem` found it."""
    found = recorded("ecosystem")
    rows = (
        (row["library"], row["version"], row["shows"], "passed" if row["passed"] else "**failed**")
        for row in found["rows"]
    )
    about = f"*Python {found['python']}, PyTorch {found['torch']}.*"
    return table("library | version | what was run | result", rows) + f"\n{about}\n"


def alphas() -> str:
    """A row for each architecture that Keras has."""
    rows = (
        (f"{config.width:g}", f"`{config.name}`", config.stem_channels, config.head_channels)
        for config in architecture.CONFIGS.values()
        if not LAYOUTS["keras"].lacks(config)
    )
    return table("`alpha`: | architecture | stem channels: | head channels:", rows)


PARTS: dict[str, Callable[..., str]] = {
    part.__name__: part
    for part in (
        *(zoo, recommended, choose, model_pages.models, model_pages.costs, model_pages.model, variables, recipe),
        *(twenty_layers, twenty_differences),
        *(head_cache, training_step, grocery, long_tail, folds, multilabel, transfer, preprocessing, taps),
        *(
            heads,
            service,
            engines,
            engine_devices,
            formats,
            bundles,
            gpu,
            gpu_speedups,
            gpu_training,
            forgotten,
            ecosystem,
            alphas,
            attacks,
            bounds,
            fuzz,
        ),
        *(c20_figures, c20_releases, c20_runs),
        *(performance.performance, performance.processors, performance.engine_choice, performance.speedups),
    )
}


def generate(text: str, translate: Callable[[str], str] = str) -> str:
    """Replaces the generated parts of a file's text."""

    def part(found: re.Match[str]) -> str:
        name, *arguments = found["name"].split(":")
        return found["start"] + "\n" + translate(PARTS[name](*arguments)) + "\n" + found["end"]

    return PART.sub(part, text)


def files() -> Iterator[tuple[Path, str]]:
    """Every file with generated parts, and every generated file, with the text that it has to have."""
    for name, text in [*model_pages.all_drawings().items(), *performance.all_drawings()]:
        yield ROOT / "docs/drawings" / name, text
    models = {ROOT / f"docs/models/{name}.md": name for name in architecture.CONFIGS}
    for path in sorted({*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md"), *models}):
        text = path.read_text(encoding="utf-8") if path.exists() else model_pages.begun(models[path])
        translate = chinese.page if path.parent == ROOT / "docs/zh" else str
        yield path, generate(text, chinese.translate if path.name == "README.zh.md" else translate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something is out of date")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in files() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        name = path.relative_to(ROOT)
        print(f"{name} is out of date; run `make generate`" if check else f"wrote {name}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
