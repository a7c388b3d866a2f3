"""Writes models for LiteRT, and quantizes them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mnv2zoo.deploy.engines import Flat, Source


def write(source: Source, precision: str, layout: str, file: Path) -> None:
    """Writes a model. Its inputs and outputs are in fp32 for all precisions.

    Args:
        source: The folded model, an example (1, C, H, W), and calibration images for `int8`.
        precision: `fp32`; `fp16` for weights in half precision; or `int8` for weights and activations.
        layout: The memory layout of the input: `nchw`, or `nhwc`, which cameras produce.
        file: The file.
    """
    import litert_torch

    model, example = Flat(source.model).eval(), source.example
    if layout == "nhwc":
        model, example = litert_torch.to_channel_last_io(model, args=[0]).eval(), example.movedim(1, -1).contiguous()
    converted = litert_torch.convert(model, (example,))
    if precision == "fp32":
        converted.export(str(file))
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.tflite"
        converted.export(str(whole))
        quantizer = _to_fp16(whole) if precision == "fp16" else _to_int8(whole)
        ranges = _ranges(quantizer, whole, source, layout) if precision == "int8" else None
        quantizer.quantize(ranges).export_model(str(file))


def _to_fp16(file: Path) -> Any:
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    made = quantizer.Quantizer(str(file))
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT)
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    made.update_quantization_recipe(".*", every, config, AlgorithmName.FLOAT_CASTING)
    return made


def _to_int8(file: Path) -> Any:
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    made = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
    for end in ("INPUT", "OUTPUT"):  # which stay in fp32
        made.update_quantization_recipe(".*", qtyping.TFLOperationName(end), algorithm_key=AlgorithmName.NO_QUANTIZE)
    return made


def _ranges(quantizer: Any, file: Path, source: Source, layout: str) -> Any:
    """The ranges of the activations on the calibration images."""
    from ai_edge_litert.interpreter import Interpreter

    assert source.calibration is not None
    images = source.calibration.images
    rows = images.movedim(1, -1) if layout == "nhwc" else images
    ((signature, ends),) = Interpreter(str(file)).get_signature_list().items()
    (given,) = ends["inputs"]
    return quantizer.calibrate({signature: [{given: row[None].contiguous().numpy()} for row in rows]})
