"""The zoo's table, plot and pages of models, from the table of configurations and the index of weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import drawings
from catalog import TIMES, WEIGHTS, figures, input_size, is_measured, measured, table, weights_of

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.weights.schema import WeightsEntry


def family(config: Config) -> str:
    if config.num_classes != 1000:
        return "20-class"
    return "deeper" if config.fix_stem_head else "paper"


def source(entry: WeightsEntry) -> str:
    """Who keeps the file: an organization of the Hub, or this package."""
    return "this package" if entry.bundled else str(entry.repo_id).partition("/")[0]


def models() -> str:
    """A row for each weights, and for each architecture without; docs/javascripts/zoo.js reads `data-filter`."""
    rows = []
    for config in architecture.CONFIGS.values():
        for entry in weights_of(config) or [None]:
            side = TIMES.join(map(str, input_size(config, entry)))
            page = f"models/{config.name}.md"
            of_weights = (
                (f"[`{entry.tag}`]({page}#{entry.tag})", top1(entry), entry.license, source(entry), entry.trust)
                if entry
                else ("none yet", "", "", "", "")
            )
            weights, *terms = of_weights
            params, macs = figures(config, entry)
            rows.append((f"[`{config.name}`]({page})", weights, family(config), params, macs, side, *terms))
    choice, most, least = ("{ data-filter=" + kind + " }" for kind in ("choice", "most", "least"))
    return table(
        f"model | weights | family {choice} | params (M) {most}: | GMACs {most}: | pixels | top-1 (%) {least}: | "
        f"license {choice} | source {choice} | trust {choice}",
        rows,
    )


def top1(entry: WeightsEntry) -> str:
    return f"{entry.metrics['top1']:.2f}" if "top1" in entry.metrics else ""


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
            "## The network\n\n" + network(config),
            "## Feature maps\n\n" + feature_maps(config),
        )
    )


def about(config: Config) -> str:
    kind = {
        "paper": f"The paper's network at width {config.width:.2f}",
        "deeper": f"timm's deeper network at width {config.width:.2f}, its stem and head as at width 1.00",
        "20-class": f"The tutorial's network at width {config.width:.2f}",
    }[family(config)]
    described = config.source
    if described.startswith("https://"):
        described = f"[{described.removeprefix('https://')}]({described})"
    size = input_size(config)
    return f"{kind}, for {config.num_classes} classes. Source: {described}. [All models](../zoo.md).\n\n" + table(
        "parameters: | MACs: | at | classes: | bottlenecks: | activation",
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
    """Code to copy; the test-suite runs it."""
    name = config.name
    if not weights_of(config):
        return f"""There are no weights for it yet; it starts from random numbers.

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
    """All that the index tells of weights."""
    if entry.bundled:
        file = f"`{entry.bundled}`, in the package"
    else:
        file = f"`{entry.filename}` of `{entry.repo_id}`"
    metrics = ", ".join(f"{metric} {value:.2f} %" for metric, value in entry.metrics.items())
    labels = entry.labels or f"{entry.num_classes} of its own"
    return table(
        "fact | value",
        (
            ("name", f"`{entry.name}`"),
            ("what they are", entry.description or "unknown"),
            ("metrics", metrics or "unknown"),
            ("license", entry.license),
            ("origin", f"<{entry.origin}>" if entry.origin else "this project"),
            ("file", file),
            *([] if entry.bundled else [("revision", f"`{entry.revision}`" if entry.revision else "unknown")]),
            (
                "SHA-256",
                f"`{entry.sha256}`"
                if entry.sha256
                else f"unknown: [{entry.trust}](../weights.md#weights-without-a-hash)",
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
    """The drawings, which the site's build puts in, and the table of what is drawn."""
    sizes = f"height{TIMES}width{TIMES}channels"
    return f"""<figure class="drawing pair">
--8<-- "drawings/{config.name}-network.svg"
--8<-- "drawings/{config.name}-bottlenecks.svg"
<figcaption>
A box with a number is that bottleneck, an arc over it its shortcut. A filled box that narrows has stride 2 and halves
the map. Sizes are {sizes} of what comes out.
</figcaption>
</figure>

{stages(config)}"""


def stages(config: Config) -> str:
    """A row for each step, in the letters of the paper's Table 2."""
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

    return table("step | t: | c: | n: | s: | output | parameters: | MACs:", rows()) + (
        "\nt is the expansion, c the channels that come out, n how often the step is repeated, s the stride of its "
        "first.\n"
    )


def feature_maps(config: Config) -> str:
    """What `features_only=True` gives."""
    size = input_size(config)
    last = {block.stage: block for block in architecture.bottlenecks(config)}
    return table(
        "level | channels: | reduction: | output",
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
        "\nThese are the maps of `features_only=True`; [`BottleneckTaps`][mnv2zoo.features.BottleneckTaps] gives any "
        "other. A reduction is the number of image pixels a side for one pixel of the map.\n"
    )


def on_imagenet() -> list[WeightsEntry]:
    """The weights whose ImageNet accuracy is known."""
    return [entry for entry in WEIGHTS.values() if entry.labels == "imagenet-1k" and "top1" in entry.metrics]


def accuracy() -> str:
    """Accuracy against MACs."""
    points = [
        drawings.Point(
            entry.architecture,
            round(architecture.macs(architecture.get(entry.name), entry.input_size[1:]) / 1e6, 1),
            entry.metrics["top1"],
            "filled" if entry.pinned else "hollow",
        )
        for entry in on_imagenet()
    ]
    title = "ImageNet top-1 accuracy against multiply-adds"
    legend = {"filled": "pinned", "hollow": "not pinned yet"}
    return drawings.scatter("accuracy", title, "millions of multiply-adds", "top-1 (%)", points, legend)


def latency() -> str:
    """Accuracy against the time for an image, as measured last."""
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
        "ImageNet top-1 accuracy against the time for an image",
        f"milliseconds for an image alone, on {found['threads']} threads",
        "top-1 (%)",
        points,
        {"filled": "optimized, engine torch", "other": "PyTorch as it is"},
        f"{found['machine']['cpu']}, {found['date']}",
    )


def costs() -> str:
    """The plots of accuracy against what it costs; that against time once there is a measurement."""
    plots = ["accuracy"] + ["latency"] * is_measured("latency")
    lines = [f'<figure class="{"drawing pair" if len(plots) > 1 else "drawing"}">']
    lines += [f'--8<-- "drawings/{plot}.svg"' for plot in plots]
    lines += ["<figcaption>The weights for ImageNet.</figcaption>", "</figure>", ""]
    if len(plots) > 1:
        lines += [
            "Times are medians of `benchmarks/latency.py`, in which all networks take turns on random weights. "
            "[`optimize`](deploy.md) is one call; it has faster engines than `torch`, which is always there.",
            "",
        ]
    return "\n".join(lines)


def all_drawings() -> dict[str, str]:
    """The text of every drawing, by the name of its file."""
    found = {"accuracy.svg": accuracy()}
    if is_measured("latency"):
        found["latency.svg"] = latency()
    for config in architecture.CONFIGS.values():
        size = input_size(config)
        found[f"{config.name}-network.svg"] = drawings.network(config, size)
        found[f"{config.name}-bottlenecks.svg"] = drawings.bottlenecks(config, size)
    return found
