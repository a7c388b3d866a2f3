"""Converts ONNX files for older runtimes, to a given opset and the lowest IR version that supports it."""

from __future__ import annotations

from typing import Any

from mnv2zoo.errors import DeployError, first_line

OLDEST = 14  # ONNX cannot convert the operators of our models to earlier opsets


def newest() -> int:
    """The newest opset that the installed `onnx` supports."""
    import onnx

    return int(onnx.defs.onnx_opset_version())


def check(opset: int | None) -> None:
    """Checks that models can be converted to an opset.

    Args:
        opset: The opset; None for the exporter's own.

    Raises:
        DeployError: If the opset does not exist, or models cannot be converted to it.
    """
    if opset is not None and not OLDEST <= opset <= newest():
        raise DeployError(
            f"the opset {opset} is not supported",
            expected=f"{OLDEST} to {newest()}",
            found=opset,
            where="opset",
            fix="Choose an opset that your runtime supports: up to 18 for ONNX Runtime 1.14, up to 15 for 1.10.",
        )


def convert(document: Any, opset: int | None) -> Any:
    """Converts an ONNX model to an opset.

    Args:
        document: The model, an `onnx.ModelProto` of standard operators. It may change.
        opset: The opset; None leaves the model as it is.

    Returns:
        The model in that opset, with the lowest IR version that supports it.

    Raises:
        DeployError: If an operator of the model cannot be converted to that opset.
    """
    if opset is None:
        return document
    import onnx

    if opset != version(document):
        _drop_defaults(document)
        try:
            document = onnx.version_converter.convert_version(document, opset)
            onnx.checker.check_model(document)
        except Exception as error:  # of any class: assertions in the converter are raised as RuntimeError
            raise DeployError(
                f"the model cannot be converted to opset {opset}",
                expected=f"operators that ONNX can convert to opset {opset}",
                found=first_line(error),
                where="opset",
                fix="Choose a newer opset, or leave it out.",
            ) from error
    document.ir_version = onnx.helper.find_min_ir_version_for(document.opset_import)
    return document


def version(document: Any) -> int:
    """The opset of an ONNX model."""
    return next(int(entry.version) for entry in document.opset_import if not entry.domain)


def _drop_defaults(document: Any) -> None:
    """Removes attributes with their default value, because older opsets lack some and the converter keeps them."""
    import onnx

    own = version(document)
    for node in document.graph.node:
        known = onnx.defs.get_schema(node.op_type, own, node.domain).attributes
        defaults = {name: one.default_value for name, one in known.items() if one.default_value.type}
        for given in [given for given in node.attribute if given.name in defaults]:
            if onnx.helper.get_attribute_value(given) == onnx.helper.get_attribute_value(defaults[given.name]):
                node.attribute.remove(given)
