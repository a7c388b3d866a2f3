"""Measures two ways to compile `mnv2zoo_100` that `deploy.optimize` does not offer, in turns with engines that it does.

AOTInductor compiles a model to a package once, and other processes load it without a compiler. torchao quantizes to
int8 in PyTorch, and TorchInductor compiles the result. Both get the folded model at 224 pixels. All take the same
images, after warm-up calls, in one process. If Google's weights and the sample photos are available next to the
repository, they are used, also to calibrate int8. Otherwise both are random.

    python benchmarks/compilers.py --rounds 15
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from deploy import SETTLE, photos
from torch import Tensor, nn

from mnv2zoo.deploy import fold, optimize
from mnv2zoo.models.timm_compat import inductor_settings
from mnv2zoo.runtimes.cache import versions

OFFERED = ("inductor fp32", "onnxruntime fp32", "openvino fp32", "openvino int8")
CALIBRATED = 96  # photos, whose top class is also compared with the model's
Run = Callable[[Tensor], Any]


def aot_inductor(model: nn.Module, images: Tensor, calibration: Tensor) -> tuple[Run, dict[str, float]]:
    """Compiles a package and loads it."""
    del calibration
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        started = time.perf_counter()
        program = torch.export.export(model, (images,))
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / "model.pt2"), inductor_configs={"freezing": True}
        )
        compiled = time.perf_counter()
        run = torch._inductor.aoti_load_package(package)
        return run, {"compile_s": compiled - started, "load_s": time.perf_counter() - compiled}


def torchao_int8(model: nn.Module, images: Tensor, calibration: Tensor) -> tuple[Run, dict[str, float]]:
    """Quantizes with torchao's settings for x86, and compiles."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    started = time.perf_counter()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad(), inductor_settings(freezing=True):
        observed = prepare_pt2e(torch.export.export(model, (images,)).module(), quantizer)
        for part in calibration.split(len(images)):
            observed(part)
        run = torch.compile(convert_pt2e(observed))
        run(images)
    return run, {"compile_s": time.perf_counter() - started}


TRIED = {"AOTInductor fp32": aot_inductor, "torchao int8": torchao_int8}


def laid_out(images: Tensor, name: str) -> Tensor:
    """The images in the memory format that a contender takes."""
    return images.contiguous(memory_format=torch.channels_last if name in TRIED else torch.contiguous_format)


def contenders(model: nn.Module, images: Tensor, calibration: Tensor) -> tuple[dict[str, Run], dict[str, Any]]:
    """The functions to time, and what is known about those that are not offered."""
    runs: dict[str, Run] = {"timm": report.network("mobilenetv2_100")}
    for name in OFFERED:
        engine, precision = name.split()
        calibrating = calibration if precision == "int8" else None
        runs[name] = optimize(model, images, engine, precision, calibrating)  # type: ignore[arg-type]
    about = {}
    folded = fold(model).to(memory_format=torch.channels_last)
    for name, build in TRIED.items():
        runs[name], seconds = build(folded, laid_out(images, name), laid_out(calibration, name))
        about[name] = {key: round(value, 2) for key, value in seconds.items()}
        parts = laid_out(calibration, name).split(len(images))
        same = [(runs[name](part).argmax(1) == model(part).argmax(1)).float().mean().item() for part in parts]
        about[name]["same_top1_percent"] = round(100 * statistics.fmean(same), 1)
    return runs, about


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each at batch 1, a third of it at 32")
    args = parser.parse_args()
    model, calibration = report.network(), photos(CALIBRATED)
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "versions": versions(["onnxruntime", "openvino", "nncf", "torchao"]),
    }
    for batch in (1, 32):
        with torch.no_grad():
            runs, about = contenders(model, calibration[:batch], calibration)
            turns = {name: partial(run, laid_out(calibration[:batch], name)) for name, run in runs.items()}
            series = report.take_turns(turns, args.rounds if batch == 1 else args.rounds // 3, warm_up=2, settle=SETTLE)
        rows = results[f"batch {batch}"] = {}
        for name, seconds in series.items():
            rows[name] = {"ms_an_image": round(1000 * statistics.median(seconds) / batch, 2)}
            rows[name]["times_timm"] = round(report.ratio(series["timm"], seconds), 2)
            rows[name] |= about.get(name, {})
            print(f"batch {batch}, {name}: {rows[name]}")
    report.write("compilers", results)


if __name__ == "__main__":
    main()
