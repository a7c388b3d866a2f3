"""Rewrites a quantized ONNX model so that ONNX Runtime runs its convolutions and additions with integer kernels.

Around each layer, the quantizer writes QuantizeLinear and DequantizeLinear. ONNX Runtime replaces them and the layer by
an integer kernel, but only if the layer's inputs and output have the same type
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). NNCF gives maps with negative values
the type int8 and others uint8. The layers between such maps would convert inputs, outputs and weights from and to
floating point on each call, and take longer than without quantization.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def make_maps_unsigned(model: Any) -> None:
    """Changes all quantized maps from int8 to uint8.

    The values and the zero point of a map increase by 128, so the map stands for the same numbers.

    Args:
        model: An `onnx.ModelProto`, which is changed in place.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    quantized = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        # Not the constants: integer kernels take weights in int8.
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and node.input[0] in quantized):
            zero = numpy_helper.to_array(constants[node.input[2]])
            if zero.dtype == np.int8:
                node.input[2] += "_unsigned"
                raised = (zero.astype(np.int16) + 128).astype(np.uint8)
                constants[node.input[2]] = numpy_helper.from_array(raised, node.input[2])
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:], graph.value_info[:]  # `value_info` has the types before
    graph.initializer.extend(constant for name, constant in constants.items() if name in used)
