"""`mnv2zoo finetune`: train a network on photos."""

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
    """Gives a command an option for every field of `Recipe`, so that no default is written twice."""
    signature = inspect.signature(function, eval_str=True)
    kinds = get_type_hints(Recipe)
    options = []
    for field in dataclasses.fields(Recipe):
        kind, default = _option_kind(field.name, kinds[field.name]), field.default
        flag = "--" + field.name.replace("_", "-")
        if kind is bool:
            flag += "/--no-" + flag.removeprefix("--")
        tail = "" if default is None else f" [default: {_words(default)}]"
        # Nothing given is None, so that a recipe's file or an interrupted run may decide.
        option = typer.Option(
            flag,
            metavar="PIXELS|HxW" if field.name in SIZES else _choices(field.name),
            help=_sentence(field.metadata["meaning"] + tail),
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
    """The type of an option; what typer has no type for is text, which `Recipe` checks."""
    if name in CHOICES or name in SIZES:
        return str
    return tuple[float, float, float] if name in ("mean", "std") else kind


def _choices(name: str) -> str | None:
    """The values of a closed set, in typer's notation."""
    return f"<{'|'.join(choice or repr(choice) for choice in CHOICES[name])}>" if name in CHOICES else None


def _sentence(meaning: str) -> str:
    """Makes a meaning a line of help. What is to be typed as it is, in backticks, becomes quoted and keeps its case."""
    words = meaning.replace("`", "'")
    return words[0].upper() + words[1:] + "."


def _words(default: object) -> str:
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


@_with_recipe
def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with a subfolder a class, or with train, val and test of these; a tar file of either, or "
            "one a split; or a dataset of timm, such as torch/cifar10. For several labels per image: a CSV file with "
            "the columns image and labels, or a folder with one. To segment: folders images and masks, or images with "
            "COCO polygons.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|RUN",
            help=f"A name of the zoo or timm's for it, a folder, or an hf-hub: name. [default: {MODEL}]",
            show_default=False,
        ),
    ] = None,
    task: Task = None,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder, which is made.")] = Path("run"),
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Values in a TOML or JSON file; options come before it.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder by its own recipe.")] = False,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and all else to stderr.")] = False,
    debug: Debug = False,
    **values: Any,
) -> None:
    """Train a network on photos.

    Afterwards the run folder holds the network (for `mnv2zoo predict --model RUN`, and for timm as
    local-dir:RUN), its model card, its figures and a report with curves and mistakes.
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
