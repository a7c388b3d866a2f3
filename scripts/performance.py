"""The parts of docs/performance.md, and its drawings, from the newest results of the benchmarks.

The table that compares processors shows the newest of each. If a benchmark has no results yet, its section shows the
command that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import drawings
from catalog import is_measured, measured, measurements, table

from benchmarks import report

RESULTS = Mapping[str, Any]
ARGUMENTS = {"deploy_accuracy": " RUN DATA"}  # arguments that a benchmark requires


def performance(section: str) -> str:
    """A section of the page.

    Args:
        section: The benchmark whose results it shows.
    """
    if not is_measured(section):
        return f"Not measured yet. Run `python benchmarks/{section}.py{ARGUMENTS.get(section, '')}`.\n"
    results = measured(section)
    return SECTIONS[section](results) + f"\n*{processor(results)}.*\n"


def machine(results: RESULTS) -> str:
    """The machine and the versions that a benchmark ran on, for a page that names it once."""
    about = results["machine"]
    flags = f" ({', '.join(about['flags'])})" if about.get("flags") else ""
    versions = {name: about[name] for name in ("torch", "timm")} | results.get("versions", {})
    with_them = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"*{about['cpu']}, {about['cores']} cores{flags}; Python {about['python']}, {with_them}.*"


def processor(results: RESULTS) -> str:
    """The short name of the processor that a benchmark ran on."""
    return report.processor(results["machine"]["cpu"])


def processors() -> str:
    """A row for each machine that the page's benchmarks ran on."""
    found: dict[str, dict[str, Any]] = {}
    for results in (results for section in SECTIONS for results in measurements(section)):
        about, row = results["machine"], found.setdefault(processor(results), {"flags": [], "versions": {}})
        row["cores"] = about["cores"]
        row["flags"] = max(row["flags"], about.get("flags", []), key=len)
        row["versions"] |= {name: about[name] for name in ("torch", "timm")} | results.get("versions", {})
        row["python"] = about["python"]
    rows = (
        (
            name,
            row["cores"],
            ", ".join(f"`{flag}`" for flag in row["flags"]),
            ", ".join(f"{what} {version}" for what, version in {"Python": row["python"], **row["versions"]}.items()),
        )
        for name, row in sorted(found.items())
    )
    return table("processor | cores: | instructions | versions", rows)


# The goal of a reader, the processors that it suits, and the engine for it.
JOBS = (
    ("start at once, install nothing", "any", "torch fp32"),
    ("install nothing, in a process that keeps running", "any, with a C++ compiler", "inductor fp32"),
    ("ship a small runtime to many platforms", "any", "onnxruntime fp32"),
    ("get the most speed at full precision", "x86", "openvino fp32"),
    ("install nothing, at lower precision", "`avx512_bf16` or `amx_bf16`", "torch bf16"),
    ("get the most speed without calibration images", "`avx512_bf16` or `amx_bf16`", "openvino bf16"),
    ("get the most speed", "`avx512_vnni` or `amx_int8`", "openvino int8"),
)


def engine_choice() -> str:
    """A row for each job, with the engine for it, its speed and the accuracy that it costs."""
    speed, accuracy = measured("deploy"), measured("deploy_accuracy")["engines"]
    batches = batches_of(speed)
    rows = []
    for job, fits, engine in JOBS:
        times = (f"{speed[batch][engine]['times_timm']:.1f}" if engine in speed[batch] else "" for batch in batches)
        lost = f"{accuracy[engine]['points_lost']:.2f}" if engine in accuracy else ""
        rows.append((job, fits, f"`{engine}`", *times, lost))
    header = " | ".join(f"speedup, {batch}:" for batch in batches)
    choice = table(f"you want to | processor | engine and precision | {header} | top-1 points lost:", rows)
    return choice + f"\n*{processor(speed)}.*\n"


def fastest(found: RESULTS, batch: str, precision: str) -> float:
    """The speedup of the fastest engine in a precision."""
    return max(row["times_timm"] for name, row in found[batch].items() if name.endswith(f" {precision}"))


def first_prediction_of(found: RESULTS, name: str) -> float:
    """The speedup of a process from its start to the first prediction."""
    return found["timm"]["median_ms"] / found[name]["median_ms"]


FIRST, LATER = "no option, first", "no option"  # processes with an empty and a filled cache, as benchmarks name them

# A comparison as a user would name it, its benchmark, and its speedup from the results of that.
COMPARISONS: tuple[tuple[str, str, Callable[[RESULTS], float]], ...] = (
    ("one image, fastest `fp32` engine", "deploy", lambda r: fastest(r, "batch 1", "fp32")),
    ("one image, fastest `bf16` engine", "deploy", lambda r: fastest(r, "batch 1", "bf16")),
    ("one image, fastest `int8` engine", "deploy", lambda r: fastest(r, "batch 1", "int8")),
    ("batch of 32, fastest `fp32` engine", "deploy", lambda r: fastest(r, "batch 32", "fp32")),
    ("batch of 32, fastest `bf16` engine", "deploy", lambda r: fastest(r, "batch 32", "bf16")),
    ("batch of 32, fastest `int8` engine", "deploy", lambda r: fastest(r, "batch 32", "int8")),
    ("classify 1,000 images from a folder, first run", "folder", lambda r: r[FIRST]["times_timm"]),
    ("classify 1,000 images from a folder, later runs", "folder", lambda r: r[LATER]["times_timm"]),
    ("the same with 12-megapixel photos, first run", "folder_large", lambda r: r[FIRST]["times_timm"]),
    ("the same with 12-megapixel photos, later runs", "folder_large", lambda r: r[LATER]["times_timm"]),
    ("first prediction, first process", "first_prediction", lambda r: first_prediction_of(r, "mnv2zoo predict, first")),
    ("first prediction, later processes", "first_prediction", lambda r: first_prediction_of(r, "mnv2zoo predict")),
    ("load verified weights", "create_model", lambda r: 1 / r["ratio"]),
    ("SSDLite, over torchvision, on PyTorch", "detection_folder", lambda r: r["results"][FIRST]["times_torchvision"]),
    ("SSDLite, over torchvision, exported", "detection_folder", lambda r: r["results"][LATER]["times_torchvision"]),
    (
        "fine-tune all layers, batch of 32",
        "finetune_step",
        lambda r: r["cases"]["all layers, batch 32"]["mnv2zoo"]["times_timm"],
    ),
    (
        "fine-tune from `Bottleneck_12`",
        "finetune_step",
        lambda r: r["cases"]["Bottleneck_12, batch 32"]["mnv2zoo"]["times_timm"],
    ),
    ("read 12-megapixel photos, first epoch", "large_photos", lambda r: r["times_timm"]["first epoch with the check"]),
    ("read 12-megapixel photos, later epochs", "large_photos", lambda r: r["times_timm"]["later epochs"]),
)


def speedups() -> str:
    """A row for each comparison, and a column for each processor with results of any of their benchmarks."""
    found = {
        words: {processor(results): cell(speedup, results) for results in measurements(benchmark)}
        for words, benchmark, speedup in COMPARISONS
    }
    names = sorted({name for row in found.values() for name in row})
    rows = ((words, *(row.get(name, "") for name in names)) for words, row in found.items())
    return table(" | ".join(["speedup over timm", *(f"{name}:" for name in names)]), rows)


def cell(speedup: Callable[[RESULTS], float], results: RESULTS) -> str:
    """A speedup with one decimal; empty if it was not measured."""
    try:
        return f"{speedup(results):.1f}"
    except (KeyError, ValueError):  # `max` raises the latter where a batch has no engine of a precision
        return ""


def deploy(results: RESULTS) -> str:
    batches = batches_of(results)
    names = dict.fromkeys(name for batch in batches for name in results[batch])
    rows = []
    for name in names:
        cells: list[object] = [name if "," in name or " " not in name else f"`{name}`"]
        for batch in batches:
            row = results[batch].get(name)
            cells += [row["ms_an_image"], row["times_timm"]] if row else ["", ""]
        rows.append(cells)
    header = " | ".join(f"{batch}, ms/image: | speedup:" for batch in batches)
    pictures = "".join(f'--8<-- "drawings/{drawing(batch)}.svg"\n' for batch in batches)
    return (
        f'<figure class="drawing pair">\n{pictures}</figure>\n\n'
        + table(f"engine | {header}", rows)
        + f"\n{results['threads']} threads, {results['weights']} weights.\n"
    )


def batches_of(results: RESULTS) -> list[str]:
    return [key for key in results if key.startswith("batch ")]


def drawing(batch: str) -> str:
    return f"performance-{batch.replace(' ', '-')}"


def engines(results: RESULTS) -> str:
    """What `auto` picked with the most threads, and how one image fares directly after an operation of PyTorch."""
    threads = max(row["threads"] for row in results["rows"])
    models: dict[str, dict[int, RESULTS]] = {}
    for row in results["rows"]:
        if row["threads"] == threads:
            models.setdefault(row["model"], {})[row["batch"]] = row
    batches = sorted({batch for rows in models.values() for batch in rows})
    rows = []
    for name, own in models.items():
        cells: list[object] = [f"`{name}`"]
        for batch in batches:
            ms, picked = own[batch]["ms"], own[batch]["picked"]
            cells += [f"`{picked}`", f"{ms[picked] / batch:.1f}"]
        one = own[min(batches)]
        rows.append([*cells, f"{one['ms_after_pytorch'][one['picked']]:.1f}"])
    header = " | ".join(f"batch {batch} | ms/image:" for batch in batches)
    return (
        table(f"model, `fp32` | {header} | one image after PyTorch, ms:", rows)
        + f"\n{threads} threads. With any model, batch size and number of threads that were measured, the picked "
        f"engine takes at most {100 * (results['worst'] - 1):.0f} % longer than the fastest.\n"
    )


def scale(results: RESULTS) -> str:
    """A row for each case: time per unit at the smallest and the largest size, and the peak of memory."""
    rows = []
    for name, case in results["results"].items():
        sizes = {int(size): row for size, row in case["sizes"].items()}
        first, last = sizes[min(sizes)], sizes[max(sizes)]
        growth = max(row.get("growth", 1.0) for row in sizes.values())
        rows.append(
            [
                SCALED[name],
                f"{min(sizes):,} to {max(sizes):,} {case['unit']}",
                f"{first['us_per_unit']:,.1f}",
                f"{last['us_per_unit']:,.1f}",
                f"{growth:.2f}",
                f"{first['mb']:,}",
                f"{last['mb']:,}",
            ]
        )
    header = "µs per unit, smallest: | µs per unit, largest: | growth: | MB, smallest: | MB, largest:"
    return table(f"what | sizes | {header}", rows)


# The cases of benchmarks/scale.py, as a user would name them.
SCALED = {
    "predict": "`predict` on a folder",
    "resume": "resume `predict`, all rows but 100 done",
    "split": "split for validation",
    "evaluate": "`evaluate` on a folder",
    "tar": "`evaluate` on a tar file",
    "finetune": "`finetune` the classifier, with report",
    "answer": "`predict` 100 images",
    "index": "import, list models, create one",
}


def deploy_accuracy(results: RESULTS) -> str:
    rows = (
        (
            "PyTorch" if name == "original" else f"`{name}`",
            f"{row['top1']:.2f}",
            f"{row['points_lost']:.2f}",
            f"{row['agreement']:.2f}",
        )
        for name, row in results["engines"].items()
    )
    return (
        table("engine | top-1 (%): | points lost: | same class as PyTorch (%):", rows)
        + f"\n{results['photos']:,} test images; int8 is calibrated on {results['calibration']} training images.\n"
    )


def engine_profile(results: RESULTS) -> str:
    kinds = [kind for kind in results["profile"]["fp32"] if kind not in ("kernels", "call")]
    names = {"all else": "other"}
    rows = []
    for precision, row in results["profile"].items():
        bare = results["products"].get(precision, "")
        rows.append((f"`{precision}`", *(row[kind] for kind in kinds), row["kernels"], row["call"], bare))
    header = " | ".join(f"{names.get(kind, kind)}:" for kind in kinds)
    return (
        table(f"OpenVINO, ms | {header} | all kernels: | one call: | bare matmuls:", rows)
        + f"\n{results['threads']} threads.\n"
    )


def compilers(results: RESULTS) -> str:
    one, many = results["batch 1"], results["batch 32"]
    rows = [
        (
            name if "compile_s" in row else f"`{name}`",
            row.get("compile_s", ""),
            row.get("load_s", ""),
            row["ms_an_image"],
            row["times_timm"],
            many[name]["ms_an_image"],
            many[name]["times_timm"],
            row.get("same_top1_percent", ""),
        )
        for name, row in one.items()
        if name != "timm"
    ]
    header = "compiler or engine | compile, s: | load, s:"
    figures = "batch 1, ms/image: | speedup: | batch 32, ms/image: | speedup: | same class as PyTorch (%):"
    return table(f"{header} | {figures}", rows) + f"\n{results['threads']} threads.\n"


def folder(results: RESULTS) -> str:
    return table_of_folder(results, f"{results['images']:,} images")


def folder_large(results: RESULTS) -> str:
    return table_of_folder(results, f"{results['images']:,} images of 12 megapixels, {results['megabytes']} MB each")


def table_of_folder(results: RESULTS, title: str) -> str:
    """A row for each command, with its speedup over each of its rivals."""
    measured_rows = {name: row for name, row in results.items() if isinstance(row, dict) and "median_s" in row}
    rivals = [key.removeprefix("times_") for key in measured_rows["timm"] if key.startswith("times_")]
    names = {
        FIRST: "`mnv2zoo predict`, first process",
        LATER: "`mnv2zoo predict`, later processes",
    }
    rows = []
    for name, row in measured_rows.items():
        # Without options, the first process has a row of its own.
        seconds = {FIRST: (row["median_s"], ""), LATER: ("", row["median_s"])}
        first, later = seconds.get(name, (row["first_s"], row["median_s"]))
        words = names.get(name, name if name in rivals else f"`{name}`")
        rows.append((words, first, later, *(row[f"times_{rival}"] for rival in rivals)))
    header = " | ".join(f"speedup over {rival}:" for rival in rivals)
    return table(f"{title} | first run, s: | later runs, s: | {header}", rows)


def detection_folder(results: RESULTS) -> str:
    names = {
        FIRST: "`mnv2zoo predict`, on PyTorch",
        LATER: "`mnv2zoo predict`, exported",
        "torchvision": "torchvision, eager",
    }
    rows = [
        (
            names.get(name, f"`mnv2zoo predict --engine {name}`"),
            results["torchvision_gmacs" if name == "torchvision" else "gmacs"],
            row["images_per_second"],
            row["times_torchvision"],
        )
        for name, row in results["results"].items()
    ]
    peaks = [f"{mb:,} MB for {int(count):,} images" for count, mb in results["peak_mb_by_photos"].items()]
    return (
        table("SSDLite at 320 pixels | GMACs: | images/s: | speedup over torchvision:", rows)
        + f"\n{results['images']:,} images, whole processes. "
        f"Peak memory of `mnv2zoo predict`: {' and '.join(peaks)}.\n"
    )


def first_prediction(results: RESULTS) -> str:
    names = {
        "timm": "a script that imports timm",
        "predict.py": "a bundle's `predict.py`",
        "mnv2zoo predict, first": "`mnv2zoo predict`, first process",
        "mnv2zoo predict": "`mnv2zoo predict`, later processes",
    }
    rows = [
        (words, f"{results[name]['median_ms']:.0f}", f"{first_prediction_of(results, name):.1f}")
        for name, words in names.items()
        if name in results
    ]
    return table("process | start to first prediction, ms: | speedup:", rows)


def engine_cache(results: RESULTS) -> str:
    rows = (
        (f"`{name}`", *(f"{row[kind]['median_ms'] / 1000:.1f}" for kind in ("made", "kept")), row["times_faster"])
        for name, row in results.items()
        if isinstance(row, dict) and "kept" in row
    )
    return table("engine | empty cache, s: | filled cache, s: | speedup:", rows)


def create_model(results: RESULTS) -> str:
    names = {"timm": "timm", "mnv2zoo": "mnv2zoo", "hash": "SHA-256 of the file alone"}
    rows = [(words, results[name]["median_ms"]) for name, words in names.items() if name in results]
    return table("`create_model(..., pretrained=True)` | ms:", rows) + f"\nRatio to timm: {results['ratio']}.\n"


def import_time(results: RESULTS) -> str:
    rows = [("`import timm`", results["timm"]["median_ms"]), ("then `import mnv2zoo`", results["more"]["median_ms"])]
    return table("import | ms:", rows)


def training(results: RESULTS) -> str:
    rows = (
        (name, row["images_per_second"], row["ratio_to_timm"], row["peak_mb"]) for name, row in results["steps"].items()
    )
    settings = (
        f"\nBatches of {results['batch']} images of {results['side']} pixels, {results['threads']} threads. "
        "*Checkpointed* is with gradient checkpointing.\n"
    )
    return table("model | images/s: | time relative to timm: | memory of training, MB:", rows) + settings


# timm's programs in `finetune_step`, and their names on the page.
PROGRAMS = {
    "timm": "timm's `train.py`",
    "timm, frozen batch norms": "timm's `train.py`, frozen batch norms",
}


def finetune_step(results: RESULTS) -> str:
    """A row for each program in each case."""
    rows = [
        (
            case.replace("Bottleneck_12", "`--train Bottleneck_12`"),
            PROGRAMS.get(name, f"`{name.replace('mnv2zoo', 'mnv2zoo finetune')}`"),
            *(row[key] for key in ("images_per_second", "times_timm", "peak_mb")),
        )
        for case, programs in results["cases"].items()
        for name, row in programs.items()
    ]
    settings = f"\nImages of {results['side']} pixels, {results['threads']} threads, fp32.\n"
    return table("trained layers | program | images/s: | speedup over timm: | peak memory, MB:", rows) + settings


def large_photos(results: RESULTS) -> str:
    """Epochs of timm's loader and ours."""
    ms, times = results["ms_a_photo"], results["times_timm"]
    rows = [
        ("timm, every epoch", ms["timm"], "1"),
        *((f"mnv2zoo, {name}", ms[name], f"{times[name]:.1f}") for name in times),
    ]
    settings = f"\n{results['photos']} photos of {results['megabytes']} MB, {results['workers']} workers.\n"
    return table("loader | ms/photo: | speedup over timm:", rows) + settings


def large_photos_accuracy(results: RESULTS) -> str:
    """The accuracy of models trained on photos that were read at full size, and at a reduced one."""
    rows = [(name, f"{results['mean'][name]:.2f}", results["standard_deviation"][name]) for name in results["top1"]]
    seeds = len(next(iter(results["top1"].values())))
    how = f"{seeds} seeds, {results['epochs']} epochs from `Bottleneck_12` at {results['side']} pixels"
    settings = f"\n{how}. The reader reduces {results['reduced_percent']:g} % of the photos.\n"
    return table("photos are read at | test top-1 (%): | standard deviation:", rows) + settings


SECTIONS = {
    section.__name__: section
    for section in (
        *(deploy, engines, engine_profile, compilers, deploy_accuracy, folder, folder_large, detection_folder),
        *(first_prediction, engine_cache, create_model, import_time, training, finetune_step, large_photos),
        *(large_photos_accuracy, scale),
    )
}


def all_drawings() -> Iterator[tuple[str, str]]:
    """The name of each drawing's file, and its text."""
    results = measured("deploy") if is_measured("deploy") else {}
    for batch in batches_of(results):
        rows = [drawings.Bar(name, row["times_timm"]) for name, row in results[batch].items()]
        title = f"Speedup of each engine at {batch}"
        label = f"{batch[0].upper()}{batch[1:]}: speedup over timm in eager mode"
        yield f"{drawing(batch)}.svg", drawings.bars(drawing(batch), title, label, rows)
