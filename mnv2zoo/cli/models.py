"""`mnv2zoo list` and `mnv2zoo info`."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mnv2zoo.weights import WeightsEntry

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def trust(entry: WeightsEntry) -> str:
    """How an entry's bytes are vouched for, in a word or two."""
    if entry.bundled:
        return "bundled"
    return "pinned" if entry.pinned else "first use"


def list_(
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with weights.")] = False,
    json: Json = False,
) -> None:
    """Lists the networks and their weights.

    Example: `mnv2zoo list --pretrained`
    """
    from mnv2zoo import info, weights

    rows: list[dict[str, Any]] = []
    for name in info.list_models():
        figures = info.model_info(name)
        row: dict[str, Any] = {
            "name": name,
            "params": figures.params,
            "macs": figures.macs,
            "input_size": figures.input_size,
        }
        entries = [weights.entry(tagged) for tagged in figures.weights]
        if entries or not pretrained:
            rows.append(
                row
                | {
                    "weights": [
                        {"name": e.name, "trust": trust(e), "metrics": e.metrics, "license": e.license} for e in entries
                    ]
                }
            )
    if json:
        print(json_module.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("name", no_wrap=True), "params", "GMAC", "input", "weights", "trust", "top-1", "licence", box=None
    )
    for row in rows:
        figures_ = [row["name"], f"{row['params'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.4f}", str(row["input_size"][-1])]
        for entry in row["weights"] or [None]:
            tag = [] if entry is None else [entry["name"].partition(".")[2], entry["trust"]]
            tag += [] if entry is None else [str(entry["metrics"].get("top1", "")), entry["license"]]
            table.add_row(*figures_, *tag)
    Console().print(table)


def info(
    name: Annotated[str, typer.Argument(help="An architecture, or architecture.tag.")],
    json: Json = False,
) -> None:
    """Tells a network's figures and where its weights come from.

    Example: `mnv2zoo info mnv2zoo_100`
    """
    from mnv2zoo import info as info_module
    from mnv2zoo import weights

    figures = info_module.model_info(name)
    entries = {tagged: weights.entry(tagged).to_json() for tagged in figures.weights}
    if json:
        print(json_module.dumps(asdict(figures) | {"weights": entries}, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for key, value in asdict(figures).items():
        if key != "weights":
            console.print(
                f"[bold]{key}[/bold]  {value:,}" if isinstance(value, int) else f"[bold]{key}[/bold]  {value}"
            )
    for tagged, fields in entries.items():
        console.print(f"\n[bold]{tagged}[/bold]")
        for key, value in fields.items():
            if value is not None and key != "label_names":
                console.print(f"  {key}  {value}")
