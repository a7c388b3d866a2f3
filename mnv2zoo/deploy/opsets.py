"""ONNX files for older runtimes: the opset that you ask for, and the lowest IR version that has it."""

from __future__ import annotations

from typing import Any

from mnv2zoo.errors import DeployError, first_line

OLDEST = 14  # ONNX has no converter to earlier ones for the operators of our networks


def newest() -> int:
    """The newest opset that the installed `onnx` knows."""
    import onnx

    return int(onnx.defs.onnx_opset_version())


def check(opset: int | None) -> None:
    """Requires an opset that a network can be converted to.

    Args:
        opset: The opset; None for the exporter's own.

    Raises:
        DeployError: If there is no such opset, or no converter to it.
    """
    if opset is not None and not OLDEST <= opset <= newest():
        raise DeployError(
            f"cannot write opset {opset}",
            expected=f"{OLDEST} to {newest()}",
            found=opset,
            where="opset",
            fix="ONNX Runtime 1.14 runs 18 and older, 1.10 runs 15 and older.",
        )


def convert(document: Any, opset: int | None) -> Any:
    """Converts an ONNX model to an opset.

    Args:
        document: The model, an `onnx.ModelProto` of standard operators. It may change.
        opset: The opset; None leaves the model as it is.

    Returns:
        The model in that opset, with the lowest IR version that has it.

    Raises:
        DeployError: If an operator of the model has no form in that opset.
    """
    if opset is None:
        return document
    import onnx

    if opset != version(document):
        _drop_defaults(document)
        try:
            document = onnx.version_converter.convert_version(document, opset)
            onnx.checker.check_model(document)
        except Exception as error:  # of any class: the converter's assertions come as RuntimeError
            raise DeployError(
                f"the model has no form in opset {opset}",
                expected=f"operators that ONNX converts to opset {opset}",
                found=first_line(error),
                where="opset",
                fix="Take a newer opset, or leave it out.",
            ) from error
    document.ir_version = onnx.helper.find_min_ir_version_for(document.opset_import)
    return document


def version(document: Any) -> int:
    """The opset of an ONNX model."""
    return next(int(entry.version) for entry in document.opset_import if not entry.domain)


def _drop_defaults(document: Any) -> None:
    """Removes attributes that hold their default: older opsets lack some, and the converter would keep them."""
    import onnx

    own = version(document)
    for node in document.graph.node:
        known = onnx.defs.get_schema(node.op_type, own, node.domain).attributes
        defaults = {name: one.default_value for name, one in known.items() if one.default_value.type}
        for given in [given for given in node.attribute if given.name in defaults]:
            if onnx.helper.get_attribute_value(given) == onnx.helper.get_attribute_value(defaults[given.name]):
                node.attribute.remove(given)
