"""Each format holds what it should, and no more."""

import pytest

from mnv2zoo import deploy
from tests.deploy.conftest import DETECTORS, detector, network


@pytest.fixture(scope="module")
def small():
    return network("mnv2zoo_050_c20", num_classes=3)


@pytest.mark.slow
def test_onnx_tells_its_opset(small, tmp_path):
    import onnx

    document = onnx.load(deploy.export(small, tmp_path / "bundle") / "model.onnx")
    onnx.checker.check_model(document)
    assert {prop.key: prop.value for prop in document.metadata_props}["opset"] == str(document.opset_import[0].version)


def test_a_torch_export_holds_the_weights_and_little_else(small, tmp_path):
    bundle = deploy.export(small, tmp_path / "bundle", "torch-export")
    weights = sum(value.numel() * value.element_size() for value in deploy.fold(small).state_dict().values())
    assert (bundle / "model.pt2").stat().st_size < weights + 400_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detectors_file_names_its_inputs_and_outputs(kind, tmp_path):
    import onnx

    document = onnx.load(deploy.export(detector(kind), tmp_path / "bundle") / "model.onnx")
    onnx.checker.check_model(document)
    wanted = ["images"] if kind == "ssdlite" else ["images", "size"]
    assert [given.name for given in document.graph.input] == wanted
    assert [taken.name for taken in document.graph.output] == ["boxes", "labels", "scores"]
    assert {entry.domain for entry in document.opset_import} == {""}  # standard operators alone
    assert "NonMaxSuppression" in {node.op_type for node in document.graph.node}
