"""The zoo's tables, plots and model pages, from the table of configurations and the index of weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import drawings
from catalog import TIMES, WEIGHTS, figures, input_size, is_measured, measured, table, weights_of

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.weights import index
from mnv2zoo.weights.schema import WeightsEntry


def family(config: Config) -> str:
    if config.num_classes != 1000:
        return "20-class"
    return "deeper" if config.fix_stem_head else "paper"


def source(entry: WeightsEntry) -> str:
    """The host of the file: an organization on the Hub, or this package."""
    return "this package" if entry.bundled else str(entry.repo_id).partition("/")[0]


def in_order() -> list[tuple[Config, WeightsEntry | None]]:
    """Models with their weights: the recommended ones first, then by accuracy, and last the models without weights."""
    rows = [(config, entry) for config in architecture.CONFIGS.values() for entry in weights_of(config) or [None]]
    recommended = list(index.RECOMMENDED)

    def place(row: tuple[Config, WeightsEntry | None]) -> tuple[int, float]:
        entry = row[1]
        if entry is None:
            return len(recommended) + 1, 0
        if entry.name in recommended:
            return recommended.index(entry.name), 0
        return len(recommended), -entry.metrics.get("top1", 0)

    return sorted(rows, key=place)


def cost(config: Config, entry: WeightsEntry | None) -> tuple[str, str]:
    """Milliseconds per image where they were measured, and megabytes of fp32 weights."""
    times = measured("latency")["networks"] if is_measured("latency") else {}
    took = times.get(entry.name) if entry else None
    return f"{took['torch']['median_ms']:.1f}" if took else "", f"{4 * architecture.parameters(config) / 1e6:.1f}"


def models() -> str:
    """A row for each set of weights, and for each model without; docs/javascripts/zoo.js reads `data-filter`."""
    rows = []
    for config, entry in in_order():
        page = f"models/{config.name}.md"
        name = f"[`{config.name}`]({page})"
        weights, accuracy, terms = "none yet", ("", ""), ("", "", "")
        if entry:
            name = f"**{name}**" if entry.name in index.RECOMMENDED else name
            weights = f"[`{entry.tag}`]({page}#{entry.tag})"
            accuracy = metric(entry, "top1"), metric(entry, "top5")
            terms = entry.license, source(entry), entry.trust
        params, macs = figures(config, entry)
        side = input_size(config, entry)[0]
        rows.append((name, weights, family(config), *accuracy, *cost(config, entry), params, macs, side, *terms))
    choice, most, least = ("{ data-filter=" + kind + " }" for kind in ("choice", "most", "least"))
    return table(
        f"model | weights | family {choice} | top-1 (%) {least}: | top-5 (%): | ms {most}: | MB {most}: | "
        f"params (M): | GMACs {most}: | input (px): | license {choice} | source {choice} | trust {choice}",
        rows,
    )


def metric(entry: WeightsEntry, name: str) -> str:
    return f"{entry.metrics[name]:.2f}" if name in entry.metrics else ""


def begun(name: str) -> str:
    """A model's page before anything is written on it."""
    return f"# {name}\n\n<!-- generated: model:{name} -->\n<!-- end: model:{name} -->\n"


def model(name: str) -> str:
    """All but the title of a model's page."""
    config = architecture.CONFIGS[name]
    return "\n".join(
        (
            about(config),
            "## Use it\n\n" + use(config),
            "## Weights\n\n" + weights(config),
            "## Architecture\n\n" + network(config),
            "## Feature maps\n\n" + feature_maps(config),
        )
    )


def about(config: Config) -> str:
    kind = {
        "paper": f"MobileNetV2 at width {config.width:.2f}, as in the paper",
        "deeper": f"timm's deeper MobileNetV2 at width {config.width:.2f}, with the stem and head of width 1.00",
        "20-class": f"The 20-class MobileNetV2 of a PyTorch tutorial at width {config.width:.2f}",
    }[family(config)]
    described = config.source
    if described.startswith("https://"):
        described = f"[{described.removeprefix('https://')}]({described})"
    size = input_size(config)
    classes = "" if family(config) == "20-class" else f", with {config.num_classes} classes"
    return f"{kind}{classes}. Source: {described}. [Compare all models](../zoo.md).\n\n" + table(
        "parameters: | MACs: | input (px) | classes: | bottlenecks: | activation",
        [
            (
                f"{architecture.parameters(config):,}",
                f"{architecture.macs(config, size):,}",
                TIMES.join(map(str, size)),
                config.num_classes,
                len(architecture.bottlenecks(config)),
                drawings.ACTIVATIONS[config.activation],
            )
        ],
    )


def use(config: Config) -> str:
    """Code to copy, which the tests run."""
    name = config.name
    if not weights_of(config):
        return f"""There are no pretrained weights yet, so training starts from random initialization.

```python
import timm, torch, mnv2zoo

model = timm.create_model("{name}", num_classes=7).eval()
print(model(torch.rand(1, 3, 224, 224)).shape)
```

```sh
mnv2zoo finetune photos --model {name} --out run
```
"""
    return f"""```python
import timm, mnv2zoo
from PIL import Image

model = timm.create_model("{name}", pretrained=True).eval()
preprocess = mnv2zoo.transforms("{name}")
image = Image.open("examples/coffee.jpg")
scores = model(preprocess(image)[None]).softmax(dim=1)
print(mnv2zoo.weights.entry("{name}").label_names[int(scores.argmax())])
```

As a backbone:

```python
import timm, mnv2zoo

backbone = timm.create_model("{name}", pretrained=True, features_only=True)
print(backbone.feature_info.channels(), backbone.feature_info.reduction())
```

```sh
mnv2zoo predict examples/coffee.jpg --model {name}
mnv2zoo finetune photos --model {name} --out run
```
"""


def weights(config: Config) -> str:
    known = weights_of(config)
    if not known:
        return "None yet.\n"
    return "\n".join(f"### {entry.tag}\n\n" + facts(entry) for entry in known)


def facts(entry: WeightsEntry) -> str:
    """Everything that the index says about weights."""
    if entry.bundled:
        file = f"`{entry.bundled}`, in the package"
    else:
        file = f"`{entry.filename}` of `{entry.repo_id}`"
    titles = {"top1": "top-1", "top5": "top-5"}
    metrics = ", ".join(f"{titles.get(name, name)} {value:.2f} %" for name, value in entry.metrics.items())
    labels = entry.labels or f"{entry.num_classes} of its own"
    return table(
        "fact | value",
        (
            ("name", f"`{entry.name}`"),
            ("description", entry.description or "unknown"),
            ("metrics", metrics or "unknown"),
            ("license", entry.license),
            ("origin", f"<{entry.origin}>" if entry.origin else "this project"),
            ("file", file),
            *([] if entry.bundled else [("revision", f"`{entry.revision}`" if entry.revision else "unknown")]),
            (
                "SHA-256",
                f"`{entry.sha256}`"
                if entry.sha256
                else f"recorded on [{entry.trust}](../weights.md#weights-without-a-hash)",
            ),
            ("size", f"{entry.size:,} bytes" if entry.size else "unknown"),
            ("classes", f"{entry.num_classes} ({labels})"),
            ("input", TIMES.join(map(str, entry.input_size)) + f", {entry.interpolation}, crop {entry.crop_pct:g}"),
            ("normalization", f"mean {_numbers(entry.mean)}, standard deviation {_numbers(entry.std)}"),
        ),
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def network(config: Config) -> str:
    """The diagrams, which the site's build inserts, and the table of the same layers."""
    sizes = f"height{TIMES}width{TIMES}channels"
    return f"""<figure class="drawing pair">
--8<-- "drawings/{config.name}-network.svg"
--8<-- "drawings/{config.name}-bottlenecks.svg"
<figcaption>
Left: the whole model. Each numbered box is a bottleneck, and an arc above it is a shortcut. A filled, tapered box has
stride 2 and halves the resolution. Right: the layers of a bottleneck. Labels give the output size as {sizes}.
</figcaption>
</figure>

{stages(config)}"""


def stages(config: Config) -> str:
    """A row for each group of layers, in the letters of the paper's Table 2."""
    size = input_size(config)
    layers = architecture.layers(config)
    blocks = architecture.bottlenecks(config)

    def counted(number: int) -> tuple[str, str]:
        taken = list(itertools.islice(layers, number))
        macs = sum(layer.macs(size) for layer in taken)
        return f"{sum(layer.parameters for layer in taken):,}", f"{macs:,}"

    def rows() -> Iterator[tuple[object, ...]]:
        yield ("C1", "", config.stem_channels, 1, 2, drawings.shape(size, 2, config.stem_channels), *counted(1))
        for number, stage in enumerate(config.stages):
            own = [block for block in blocks if block.stage == number]
            output = drawings.shape(size, own[-1].reduction, own[-1].out_channels)
            first, last = own[0].number, own[-1].number
            names = f"Bottleneck_{first}" + (f" to {last}" if last > first else "")
            figures = counted(sum(2 + block.expand for block in own))
            yield (names, stage.t, own[-1].out_channels, stage.n, stage.s, output, *figures)
        head = drawings.shape(size, blocks[-1].reduction, config.head_channels)
        yield ("C2", "", config.head_channels, 1, 1, head, *counted(1))
        yield ("classifier", "", config.num_classes, 1, "", config.num_classes, *counted(1))

    return table("layers | t: | c: | n: | s: | output | parameters: | MACs:", rows()) + (
        "\nt = expansion factor, c = output channels, n = number of bottlenecks, s = stride of the first one.\n"
    )


def feature_maps(config: Config) -> str:
    """The maps of `features_only=True`."""
    size = input_size(config)
    last = {block.stage: block for block in architecture.bottlenecks(config)}
    return table(
        "bottleneck | channels: | stride: | output",
        (
            (
                f"`{last[level.stage - 1].name}`",
                level.channels,
                level.reduction,
                drawings.shape(size, level.reduction, level.channels),
            )
            for level in architecture.features(config)
        ),
    ) + (
        "\n`features_only=True` returns these maps. [`BottleneckTaps`][mnv2zoo.features.BottleneckTaps] returns the "
        "output of any layer by name. At stride 8, the map has an eighth of the image's height and width. timm calls "
        "the stride `reduction`.\n"
    )


def on_imagenet() -> list[WeightsEntry]:
    """The weights whose ImageNet accuracy is known."""
    return [entry for entry in WEIGHTS.values() if entry.labels == "imagenet-1k" and "top1" in entry.metrics]


def accuracy() -> str:
    """Accuracy against MACs."""
    points = [
        drawings.Point(
            entry.architecture,
            round(architecture.macs(architecture.get(entry.name), entry.input_size[1:]) / 1e9, 3),
            entry.metrics["top1"],
            "filled" if entry.pinned else "hollow",
        )
        for entry in on_imagenet()
    ]
    title = "ImageNet top-1 accuracy against GMACs"
    legend = {"filled": "pinned", "hollow": "first use"}
    return drawings.scatter("accuracy", title, "GMACs", "top-1 (%)", points, legend)


def latency() -> str:
    """Accuracy against latency, as last measured."""
    found = measured("latency")
    kinds = {"torch": "filled", "eager": "other"}
    points = [
        drawings.Point(
            entry.architecture,
            found["networks"][entry.name][measurement]["median_ms"],
            entry.metrics["top1"],
            kind,
        )
        for entry in on_imagenet()
        if entry.name in found["networks"]
        for measurement, kind in kinds.items()
    ]
    return drawings.scatter(
        "latency",
        "ImageNet top-1 accuracy against latency",
        f"ms/image at batch size 1, {found['threads']} threads",
        "top-1 (%)",
        points,
        {"filled": "optimized, engine torch", "other": "eager PyTorch"},
        f"{found['machine']['cpu']}, {found['date']}",
    )


def costs() -> str:
    """The plots of accuracy against GMACs and, once it is measured, against latency."""
    plots = ["accuracy"] + ["latency"] * is_measured("latency")
    lines = [f'<figure class="{"drawing pair" if len(plots) > 1 else "drawing"}">']
    lines += [f'--8<-- "drawings/{plot}.svg"' for plot in plots]
    lines += ["<figcaption>Each point is one set of ImageNet weights.</figcaption>", "</figure>", ""]
    if len(plots) > 1:
        lines += [
            "Latency is the median of `benchmarks/latency.py`, which runs the models in turn with random weights. The "
            "filled points use the `torch` engine, which needs no extra package. [`optimize`](deploy.md) can use "
            "faster engines.",
            "",
        ]
    return "\n".join(lines)


def all_drawings() -> dict[str, str]:
    """The text of every diagram, by file name."""
    found = {"accuracy.svg": accuracy()}
    if is_measured("latency"):
        found["latency.svg"] = latency()
    for config in architecture.CONFIGS.values():
        size = input_size(config)
        found[f"{config.name}-network.svg"] = drawings.network(config, size)
        found[f"{config.name}-bottlenecks.svg"] = drawings.bottlenecks(config, size)
    return found
