"""ONNX Runtime has integer kernels for all of a quantized model, which computes the same numbers as before."""

from collections import Counter

import numpy as np
import pytest
from torch import nn

from mnv2zoo import architecture, deploy
from mnv2zoo.deploy import engines, integer_kernels
from mnv2zoo.deploy.calibration import prepare
from mnv2zoo.deploy.engines import ENGINES

pytest.importorskip("onnxruntime")
pytest.importorskip("nncf")


@pytest.fixture
def int8_onnx(small, x, made_once):
    """A quantized model as ONNX, as NNCF makes it and as ONNX Runtime gets it."""

    def make(folder):
        def keep(model):
            (folder / "before.onnx").write_bytes(model.SerializeToString())
            rewrite(model)

        rewrite = integer_kernels.make_maps_unsigned
        source = engines.Source(deploy.fold(small), x[:1], prepare(x, small, x))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(integer_kernels, "make_maps_unsigned", keep)
            (folder / "after.onnx").write_bytes(ENGINES["onnxruntime"].prepare(source, "int8")["model"])

    folder = made_once("int8-onnx", make)
    return tuple((folder / f"{name}.onnx").read_bytes() for name in ("before", "after"))


@pytest.mark.slow
def test_int8_of_onnxruntime_has_one_range_for_what_goes_into_a_convolution(int8_onnx):
    import onnx

    graph = onnx.load_from_string(int8_onnx[1]).graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) > 50
    assert all(sizes[node.input[1]] == [] for node in quantized)


def zero_points(model):
    """The types of the quantized maps of an ONNX model."""
    import onnx

    graph = onnx.load_from_string(model).graph
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    return {constants[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}


def outputs(model, images, level, file=None):
    """What ONNX Runtime computes at a level of optimization; it writes the optimized model to the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3  # the file is for this machine only, which is a warning
    if file is not None:
        options.optimized_model_filepath = str(file)
    (found,) = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(
        None, {"images": images.numpy()}
    )
    return found


@pytest.mark.slow
def test_int8_of_onnxruntime_has_integer_kernels_for_every_convolution_and_addition(int8_onnx, small, x, tmp_path):
    import onnx
    import onnxruntime

    outputs(int8_onnx[1], x, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, tmp_path / "optimized.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == sum(isinstance(module, nn.Conv2d) for module in small.modules())
    assert kinds["QLinearAdd"] == sum(block.shortcut for block in architecture.bottlenecks(small.arch_config))
    assert not kinds["Conv"]
    assert not kinds["Add"]


@pytest.mark.slow
def test_unsigned_maps_stand_for_the_same_numbers(int8_onnx, x):
    import onnx
    import onnxruntime

    before, after = int8_onnx
    onnx.checker.check_model(onnx.load_from_string(after))
    assert zero_points(before) == {np.dtype("int8"), np.dtype("uint8")}
    assert zero_points(after) == {np.dtype("uint8")}
    literally = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (outputs(after, x, literally) == outputs(before, x, literally)).all()
