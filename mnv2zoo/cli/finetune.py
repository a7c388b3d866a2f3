"""`mnv2zoo finetune`: fine-tune a model on your images."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mnv2zoo.cli.options import Debug, Device, Task
from mnv2zoo.cli.output import print_json
from mnv2zoo.tasks.recipe import CHOICES, FIELDS, MODEL, SIZES, Recipe, read

EXAMPLE = """\b
Examples:
  mnv2zoo finetune photos --out run
  mnv2zoo finetune photos --train head --epochs 20 --out quick
  mnv2zoo finetune photos --out run --resume
  mnv2zoo finetune photos --folds 5 --group-by 'plant(\\d+)' --out folds
  accelerate launch -m mnv2zoo finetune photos --out run
"""


def _with_recipe(function: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for every field of `Recipe` to a command, so that each default is written only once."""
    signature = inspect.signature(function, eval_str=True)
    kinds = get_type_hints(Recipe)
    options = []
    for field in dataclasses.fields(Recipe):
        kind, default = _option_kind(field.name, kinds[field.name]), field.default
        flag = "--" + field.name.replace("_", "-")
        if kind is bool:
            flag += "/--no-" + flag.removeprefix("--")
        tail = "" if default is None else f" [default: {_words(default)}]"
        # The default is None, so that the recipe file or the resumed run decides.
        option = typer.Option(
            flag,
            metavar="PIXELS|HxW" if field.name in SIZES else _choices(field.name),
            help=_sentence(field.metadata["meaning"]) + tail,
            show_default=False,
        )
        parameter = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
        )
        options.append(parameter)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command: Any = function
    command.__signature__ = signature.replace(
        parameters=[*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *options]
    )
    return command


def _option_kind(name: str, kind: Any) -> Any:
    """The type of an option. Types that typer does not support become text, which `Recipe` checks."""
    if name in CHOICES or name in SIZES:
        return str
    return tuple[float, float, float] if name in ("mean", "std") else kind


def _choices(name: str) -> str | None:
    """The allowed values of a field, in typer's notation."""
    return f"<{'|'.join(choice or repr(choice) for choice in CHOICES[name])}>" if name in CHOICES else None


def _sentence(meaning: str) -> str:
    """Turns a field's description into help text. Literals in backticks are quoted instead, and keep their case."""
    return meaning.replace("`", "'") + "."


def _words(default: object) -> str:
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


@_with_recipe
def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Your images. Classification: a folder with one subfolder per class, or with train, val and test "
            "folders laid out like that; a .tar file of either, or one .tar file per split; or a timm dataset name "
            "such as torch/cifar10. Multi-label: a CSV file with the columns image and labels, or a folder that "
            "contains one. Detection: images with boxes in Pascal VOC or COCO format. Segmentation: the folders images "
            "and masks, or images with COCO polygons.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|RUN",
            help="The model to fine-tune: a name from `mnv2zoo list`, the timm name of such a model, a run folder, or "
            f"hf-hub:OWNER/NAME. [default: {MODEL}]",
            show_default=False,
        ),
    ] = None,
    task: Task = None,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to create.")] = Path("run"),
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML or JSON file with values for the options below. Options on the command line take precedence.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted run in the run folder, with its own recipe.")
    ] = False,
    device: Device = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the metrics as JSON on stdout, and progress on stderr.")
    ] = False,
    debug: Debug = False,
    **values: Any,
) -> None:
    """Fine-tune a model on your images.

    The run folder receives the model, a model card, the metrics, and a report with training curves and the worst
    predictions. Use the model with `mnv2zoo predict --model RUN`, or in timm as local-dir:RUN.
    """
    import sys

    from mnv2zoo.training import finetune
    from mnv2zoo.training.progress import Log

    given = {name: value for name in FIELDS if (value := values[name]) is not None}
    written = read(recipe) if recipe is not None else {}
    log = Log(stream=sys.stderr if as_json else sys.stdout)
    result = finetune(data, model, out, task=task, resume=resume, device=device, log=log, **{**written, **given})
    if as_json:
        print_json({"run": str(result.run)} | result.to_json())
