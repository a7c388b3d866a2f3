"""`mnv2zoo predict`: classifies images."""

from __future__ import annotations

import glob
import json as json_module
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer


def predict(
    paths: Annotated[list[str], typer.Argument(help="Image files, folders and globs.", metavar="PATH...")],
    model: Annotated[str, typer.Option(help="An architecture, or architecture.tag.")] = "mnv2zoo_100",
    topk: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the lines of JSON to this file, too.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu",
) -> None:
    """Classifies images; one that cannot be read is reported by name, and the rest go on.

    Example: `mnv2zoo predict photos/ 'more/*.jpg' --model mnv2zoo_100 --topk 3 --json`
    """
    from mnv2zoo import images, registry, weights

    entry = weights.entry(model) if "." in model else None
    files, failed = _find(paths, images.EXTENSIONS)
    network = registry.create(registry.architecture.get(model), True, pretrained_cfg=entry.tag if entry else None)
    entry = weights.entry(model)
    network.eval().to(device)

    rows = []
    for path, predictions in _classify(files, network, entry, topk, batch_size, device):
        if predictions is None:
            failed = True
            continue
        row = {"image": str(path), "model": entry.name, "predictions": predictions}
        rows.append(json_module.dumps(row))
        if json:
            print(rows[-1], flush=True)
        else:
            print(path)
            for prediction in predictions:
                print(f"  {prediction['score']:7.2%}  {prediction['label']}", flush=True)
    if output is not None:
        # Written aside and moved, so that there is never half a file.
        partial = output.with_name(f".{output.name}.{os.getpid()}")
        partial.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        partial.replace(output)
    if failed:
        raise typer.Exit(1)


def _find(patterns: list[str], extensions: tuple[str, ...]) -> tuple[list[Path], bool]:
    """Lists the images that files, folders and globs name, each once, and whether a name matched nothing."""
    found: dict[Path, None] = {}
    failed = False
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in extensions and p.is_file())
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207  # it may be absolute
        if not matches:
            failed = True
            print(f"error: no image: {pattern}", file=sys.stderr)
        found |= dict.fromkeys(matches)
    return list(found), failed


def _classify(
    files: list[Path], network: Any, entry: Any, topk: int, batch_size: int, device: str
) -> Iterator[tuple[Path, list[dict[str, Any]] | None]]:
    """Yields each image with its predictions, or None after reporting that it cannot be read."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from mnv2zoo import images, info
    from mnv2zoo.errors import ImageReadError

    preprocess = info.transforms(entry.name)

    def load(path: Path) -> Any:
        try:
            return preprocess(images.read(path))
        except ImageReadError as error:
            return error

    console = Console(stderr=True)
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for batch in track(batches, "classifying", console=console, transient=True, disable=not console.is_terminal):
            loaded = list(pool.map(load, batch))
            tensors = [one for one in loaded if isinstance(one, torch.Tensor)]
            scores = iter(network(torch.stack(tensors).to(device)).softmax(1).cpu() if tensors else ())
            for path, one in zip(batch, loaded, strict=True):
                if isinstance(one, ImageReadError):
                    print(f"error: {' '.join(str(one).split())}", file=sys.stderr)
                    yield path, None
                    continue
                values, classes = next(scores).topk(min(topk, entry.num_classes))
                pairs = zip(classes.tolist(), values.tolist(), strict=True)
                yield path, [{"class": c, "label": entry.label_names[c], "score": score} for c, score in pairs]
