"""Writes model cards of runs, of packages for the Hub, and of exported bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mnv2zoo.errors import WeightsError
from mnv2zoo.models import config_file

if TYPE_CHECKING:
    from mnv2zoo.weights.schema import WeightsEntry

SPLITS = {"val": "validation", "test": "test"}  # by their names in results.json
PIPELINES = {"detect": "object-detection", "segment": "image-segmentation"}  # the Hub's names, by task
LIBRARIES = "## In other libraries"  # the last section of a card
METRICS = {"top1": "top-1 accuracy (%)", "top5": "top-5 accuracy (%)"}

# https://huggingface.co/docs/hub/repositories-licenses. A card names any other license as `license_name`. No library
# has this list: license-expression lacks 20 of these names, and knows 2,404 that the Hub rejects.
HUB_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0
ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib
"""


class Scores(Protocol):
    """The metrics of a model on a split, as in `evaluation.metrics.Scores`, as percentages from 0 to 100."""

    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def top1(self) -> float: ...  # noqa: D102
    @property
    def top5(self) -> float: ...  # noqa: D102
    @property
    def calibration_error(self) -> float: ...  # noqa: D102
    @property
    def label_names(self) -> Sequence[str]: ...  # noqa: D102


def run_card(
    model_name: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
) -> str:
    """Writes the model card of a run.

    Args:
        model_name: Name of the model.
        architecture: Its architecture.
        origin: The weights that it was fine-tuned from.
        run: The content of the run's `recipe.json`.
        scores: Metrics by split.

    Returns:
        The card, as Markdown with metadata.
    """
    dataset = Path(run["data"]).name or "images"
    rows = [
        f"| {s} | {own.images} | {own.top1:.2f} | {own.top5:.2f} | {own.calibration_error:.2f} |"
        for s, own in scores.items()
    ]
    values = [f"| `{name}` | `{value}` |" for name, value in run["recipe"].items() if value is not None]
    names = next(iter(scores.values())).label_names if scores else ()
    return "\n".join(
        [
            f"---\n{_run_metadata(model_name, dataset, scores).to_yaml()}\n---",
            f"# {model_name}\n",
            f"`{architecture}` fine-tuned on `{dataset}` with mnv2zoo, from {origin}. {len(names)} classes.\n"
            if names
            else f"`{architecture}`, from {origin}.\n",
            "| split | images | top-1 (%) | top-5 (%) | calibration error (%) |",
            "| --- | --: | --: | --: | --: |",
            *rows,
            "\n## Use\n",
            "```python",
            "import timm, mnv2zoo\n",
            'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()',
            "```\n",
            "```sh",
            "mnv2zoo predict --model THIS_FOLDER photo.jpg",
            "```\n",
            "## Training\n",
            "| parameter | value |",
            "| --- | --- |",
            *values,
            "",
        ]
    )


def _run_metadata(model_name: str, dataset: str, scores: Mapping[str, Scores]) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(own.top1, 2),
        )
        for split, own in scores.items()
    ]
    return ModelCardData(
        library_name="timm",
        tags=["image-classification", "timm", "mnv2zoo"],
        model_name=model_name,
        eval_results=results or None,
    )


def with_libraries(card: str, document: Mapping[str, Any]) -> str:
    """Adds a section to a card that says which other libraries can open the folder, and why others cannot.

    Args:
        card: The card, as Markdown with metadata. If it already has the section, it is unchanged.
        document: The content of the folder's `config.json`.

    Returns:
        The card.
    """
    if LIBRARIES in card.splitlines():
        return card
    return f"{card.rstrip()}\n\n{LIBRARIES}\n\n{_libraries(document).rstrip()}\n"


def _libraries(document: Mapping[str, Any]) -> str:
    """Writes the section for `with_libraries`, without its heading."""
    reason = config_file.obstacle(document)
    if document.get("head"):
        return f"Only mnv2zoo can open this folder: {reason}."
    if reason:
        said = f"Import mnv2zoo before you open this folder with timm or transformers: {reason}."
    else:
        said = f"timm and transformers can open this folder without mnv2zoo, as timm's `{document['architecture']}`."
    ours = "import mnv2zoo\n" if reason else ""
    code = f'{ours}import timm\n\nmodel = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()'
    parts = [said, f"```python\n{code}\n```"]
    if document.get("label_names"):
        pipe = 'classify = pipeline("image-classification", model="THIS_FOLDER")'
        parts.append(f"```python\n{ours}from transformers import pipeline\n\n{pipe}\n```")
    if document.get("temperature"):
        parts.append(
            "Only mnv2zoo divides the logits by the `temperature` in `config.json`. Other libraries predict the same "
            "classes with uncalibrated scores."
        )
    return "\n\n".join(parts)


def package_card(
    path: Path, entry: WeightsEntry, results: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any]
) -> str:
    """Completes a run's card for the Hub, or writes a new one.

    Args:
        path: The run's card, which may be missing.
        entry: The index entry of the weights.
        results: Metrics by split, from `results.json`.
        document: The content of the package's `config.json`.

    Returns:
        The card, as Markdown with metadata.

    Raises:
        WeightsError: If an existing card cannot be read.
    """
    kind = PIPELINES.get(document.get("task") or "", "image-classification")
    try:
        card = ModelCard.load(path) if path.exists() else ModelCard(_new_page(entry, kind))
    except Exception as error:  # of many classes, including PyYAML's
        raise WeightsError(
            "cannot read the model card",
            expected="Markdown with a YAML header",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
            where=path,
            fix="Correct the file, or delete it to get a new card.",
        ) from error
    data: Any = card.data
    data.model_name = entry.name
    known = entry.license.lower() in HUB_LICENSES.split()
    data.license = entry.license.lower() if known else "other"
    data.license_name = None if known else entry.license
    library = ("timm", "mnv2zoo") if kind == "image-classification" else ("mnv2zoo",)
    data.library_name = data.library_name or library[0]
    data.pipeline_tag = data.pipeline_tag or kind
    data.tags = list(dict.fromkeys([*(data.tags or []), kind, *library]))
    former = data.eval_results or [EvalResult("image-classification", "imagefolder", "unnamed", "accuracy", None)]
    evaluations = [
        replace(
            former[0],
            dataset_split=SPLITS[split],
            metric_type="accuracy",
            metric_name=METRICS[metric],
            metric_value=figures[metric],
        )
        for split, figures in results.items()
        for metric in METRICS
        if metric in figures
    ]
    data.eval_results = evaluations or data.eval_results
    return with_libraries(str(card), document)


def _new_page(entry: WeightsEntry, kind: str) -> str:
    """Writes a card whose metadata are filled in later."""
    _, height, width = entry.input_size
    labels = ", ".join(entry.label_names[:20]) + (", ..." if entry.num_classes > 20 else "")
    name = f"hf-hub:{entry.repo_id or 'OWNER/NAME'}"
    size = f"The input size is {height} x {width} pixels. "
    code = f'import timm, mnv2zoo\n\nmodel = timm.create_model("{name}", pretrained=True)'
    if kind != "image-classification":
        room = "detection" if kind == "object-detection" else "segmentation"
        size, code = "", f'import mnv2zoo\n\nmodel = mnv2zoo.{room}.load("{name}")'
    return f"""---
{ModelCardData(library_name="timm" if size else "mnv2zoo").to_yaml()}
---

# {entry.name}

{entry.description or f"Weights of {entry.architecture}."}

{size}There are {entry.num_classes} classes: {labels}.

```python
{code}
```
"""


def bundle_card(facts: Mapping[str, Any], *, use: str, outputs: str, loss: str | None = None) -> str:
    """Writes the model card of an exported bundle.

    Args:
        facts: The content of its `manifest.json`.
        use: Commands that use it.
        outputs: Description of its outputs.
        loss: A sentence about the accuracy cost of its precision, if that was measured.

    Returns:
        The card, as Markdown.
    """
    listed = "".join(f"- `{file}`: `{sha256}`\n" for file, sha256 in facts["files"].items())
    variant = [facts["format"], f"in {facts['precision']}"]
    if "opset" in facts:
        variant.append(f"with opset {facts['opset']} and IR version {facts['ir_version']}")
    if facts["layout"] == "nhwc":
        variant.append("for images (N, H, W, 3)")
    return f"""# {facts["name"]}

{facts["architecture"]}, exported by {facts["producer"]} as {" ".join(variant)}.

```sh
{use}
```

Images preprocessed according to `preprocess.json` give {outputs}.

- License of the weights: {facts["license"] or "unknown"}
- {facts["comparison"]}
{f"- {loss}" + chr(10) if loss else ""}
SHA-256:

{listed}"""
