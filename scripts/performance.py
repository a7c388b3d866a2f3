"""The parts of docs/performance.md, and its drawings, from what the benchmarks last wrote.

What was not measured yet is left out, and the command that measures it stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import drawings
from catalogue import is_measured, measured, table

RESULTS = Mapping[str, Any]
ARGUMENTS = {"deploy_accuracy": " RUN DATA"}  # what a benchmark cannot do without


def performance(section: str) -> str:
    """A section of the page.

    Args:
        section: The benchmark that it is made from.
    """
    if not is_measured(section):
        return f"Not measured yet: `python benchmarks/{section}.py{ARGUMENTS.get(section, '')}` does it.\n"
    results = measured(section)
    return SECTIONS[section](results) + f"\n{machine(results)}\n"


def machine(results: RESULTS) -> str:
    about = results["machine"]
    flags = f" ({', '.join(about['flags'])})" if about.get("flags") else ""
    versions = {name: about[name] for name in ("torch", "timm")} | results.get("versions", {})
    with_them = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"*{about['cpu']}, {about['cores']} cores{flags}; Python {about['python']}, {with_them}.*"


def at_least(value: float, goal: float | None) -> str:
    """A goal, and whether a figure is as large."""
    return "" if goal is None else f"{goal:g}, {'met' if value >= goal else 'not met'}"


def at_most(value: float, goal: float | None) -> str:
    """A goal, and whether a figure is as small."""
    return "" if goal is None else f"{goal:g}, {'met' if value <= goal else 'not met'}"


def deploy(results: RESULTS) -> str:
    batches = batches_of(results)
    names = dict.fromkeys(name for batch in batches for name in results[batch])
    rows = []
    for name in names:
        cells: list[object] = [name if "," in name or " " not in name else f"`{name}`"]
        for batch in batches:
            row = results[batch].get(name)
            cells += (
                [row["ms_an_image"], row["times_timm"], at_least(row["times_timm"], row["goal"])] if row else [""] * 3
            )
        rows.append(cells)
    header = " | ".join(f"{batch}, ms an image: | times timm: | goal:" for batch in batches)
    pictures = "".join(f'--8<-- "drawings/{drawing(batch)}.svg"\n' for batch in batches)
    return (
        f'<figure class="drawing pair">\n{pictures}<figcaption>Marks are the goals.</figcaption>\n</figure>\n\n'
        + table(f"network | {header}", rows)
        + f"\n{results['threads']} threads, {results['weights']} weights.\n"
    )


def batches_of(results: RESULTS) -> list[str]:
    return [key for key in results if key.startswith("batch ")]


def drawing(batch: str) -> str:
    return f"performance-{batch.replace(' ', '-')}"


def deploy_accuracy(results: RESULTS) -> str:
    rows = (
        (
            name if name == "original" else f"`{name}`",
            f"{row['top1']:.2f}",
            f"{row['points_lost']:.2f}",
            at_most(row["points_lost"], row["goal"]),
            f"{row['agreement']:.2f}",
        )
        for name, row in results["engines"].items()
    )
    header = "network | top-1 (%): | points lost: | at most: | same class as the original (%):"
    return (
        table(header, rows)
        + f"\n{results['photos']} photos; int8 is calibrated on {results['calibration']} of the training photos.\n"
    )


def engine_profile(results: RESULTS) -> str:
    kinds = [kind for kind in results["profile"]["fp32"] if kind not in ("kernels", "call")]
    rows = []
    for precision, row in results["profile"].items():
        bare = results["products"].get(precision, "")
        rows.append((f"`{precision}`", *(row[kind] for kind in kinds), row["kernels"], row["call"], bare))
    header = " | ".join(f"{kind}:" for kind in kinds)
    return (
        table(f"OpenVINO, ms | {header} | all kernels: | a call: | bare products:", rows)
        + f"\n{results['threads']} threads.\n"
    )


def folder(results: RESULTS) -> str:
    goals = results["goals"]
    rows = []
    for name, row in results.items():
        if isinstance(row, dict) and "median_s" in row:
            times = [row[f"times_{rival}"] for rival in goals]
            ours = name not in goals
            judgements = [
                at_least(value, goal) if ours else "" for value, goal in zip(times, goals.values(), strict=True)
            ]
            pairs = [cell for pair in zip(times, judgements, strict=True) for cell in pair]
            rows.append((f"`{name}`" if ours else name, row["first_s"], row["median_s"], *pairs))
    header = " | ".join(f"times {rival}: | goal:" for rival in goals)
    return table(f"{results['images']:,} photos | first process, s: | later ones, s: | {header}", rows)


def detection_folder(results: RESULTS) -> str:
    names = {"default": "`mnv2zoo predict`", "torchvision": "torchvision, eager"}
    rows = [
        (
            names.get(name, f"`mnv2zoo predict --engine {name}`"),
            results["torchvision_gmacs" if name == "torchvision" else "gmacs"],
            row["images_per_second"],
            row["times_torchvision"],
            at_least(row["times_torchvision"], results["goal"]) if name == "default" else "",
        )
        for name, row in results["results"].items()
    ]
    peaks = [f"{mb:,} MB for {int(count):,} photos" for count, mb in results["peak_mb_by_photos"].items()]
    return (
        table("SSDLite at 320 pixels | GMACs: | photos per second: | times as fast as torchvision: | goal:", rows)
        + f"\n{results['images']:,} photos, from start to end. "
        f"Peak memory of `mnv2zoo predict`: {' and '.join(peaks)}.\n"
    )


def first_prediction(results: RESULTS) -> str:
    times, goal = results["times_faster"], results["goal"]
    kinds = {
        "timm": "timm",
        "predict.py": "`predict.py` of a bundle",
        "mnv2zoo predict, first": "`mnv2zoo predict`, first process",
        "mnv2zoo predict": "`mnv2zoo predict`, later processes",
    }
    rows = [(text, results[name]["median_ms"]) for name, text in kinds.items() if name in results]
    return (
        table("process | start to first prediction, ms:", rows)
        + f"\n`predict.py` is {times} times faster than timm; goal {at_least(times, goal)}.\n"
    )


def engine_cache(results: RESULTS) -> str:
    rows = (
        (f"`{name}`", *(f"{row[kind]['median_ms'] / 1000:.1f}" for kind in ("made", "kept")), row["times_faster"])
        for name, row in results.items()
        if isinstance(row, dict) and "kept" in row
    )
    return table("engine | made, s: | kept, s: | times faster:", rows)


def create_model(results: RESULTS) -> str:
    rows = [(name, results[name]["median_ms"]) for name in ("timm", "mnv2zoo")]
    goal = at_most(results["ratio"], results["goal"])
    told = f"\nOf timm's time {results['ratio']}; at most {goal}.\n"
    return table("`create_model(..., pretrained=True)` of | ms:", rows) + told


def import_time(results: RESULTS) -> str:
    rows = [("`import timm`", results["timm"]["median_ms"]), ("then `import mnv2zoo`", results["more"]["median_ms"])]
    goal = at_most(results["more"]["median_ms"], results["goal_ms"])
    return table("import | ms:", rows) + f"\nAt most {goal}.\n"


def training(results: RESULTS) -> str:
    rows = (
        (name, row["images_per_second"], row["ratio_to_timm"], row["peak_mb"]) for name, row in results["steps"].items()
    )
    settings = f"\n{results['batch']} images of {results['side']} pixels a step, {results['threads']} threads.\n"
    return table("network | images a second: | time against timm's: | memory of training, MB:", rows) + settings


def large_photos(results: RESULTS) -> str:
    """Epochs of timm's loader and ours; the goals are those of this project."""
    ms, times = results["ms_a_photo"], results["times_timm"]
    rows = [
        ("timm, every epoch", ms["timm"], "1"),
        *((f"mnv2zoo, {name}", ms[name], f"{times[name]:.1f}") for name in times),
    ]
    settings = f"\n{results['photos']} photos of {results['megabytes']} MB, {results['workers']} workers.\n"
    return table("loader | ms a photo: | times as fast as timm's:", rows) + settings


SECTIONS = {
    section.__name__: section
    for section in (
        *(deploy, engine_profile, deploy_accuracy, folder, detection_folder, first_prediction),
        *(engine_cache, create_model, import_time, training, large_photos),
    )
}


def all_drawings() -> Iterator[tuple[str, str]]:
    """The name of each drawing's file, and its text."""
    results = measured("deploy") if is_measured("deploy") else {}
    for batch in batches_of(results):
        rows = [drawings.Bar(name, row["times_timm"], row["goal"]) for name, row in results[batch].items()]
        title = f"Speed of each engine at {batch}"
        label = f"{batch[0].upper()}{batch[1:]}: times as fast as timm in eager mode"
        yield f"{drawing(batch)}.svg", drawings.bars(drawing(batch), title, label, rows)
