"""Packages a finished run for the Hub, with the index entry for its weights.

A package contains `model.safetensors` and `config.json`, which timm reads with `hf-hub:` and `local-dir:`, the model
card `README.md`, and `index_entry.json`. Everything is checked before anything is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import huggingface_hub
from huggingface_hub import constants

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.convert.layouts import native
from mnv2zoo.errors import ConversionError, WeightsError, WeightsIndexError
from mnv2zoo.model_dir import cards
from mnv2zoo.model_dir.cards import METRICS, SPLITS
from mnv2zoo.model_dir.records import RESULTS, WEIGHTS
from mnv2zoo.models import arguments, config_file, names
from mnv2zoo.system.files import whole_file
from mnv2zoo.system.hub_failures import Failure, explain
from mnv2zoo.weights import schema, store
from mnv2zoo.weights.schema import WeightsEntry
from mnv2zoo.weights.store import Verified

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, CARD, ENTRY = "config.json", "README.md", "index_entry.json"
PUSHED = (WEIGHTS, CONFIG, CARD)  # the entry is not pushed, because it needs the commit of these

# Model arguments that an index entry cannot change, with their values for a name from the index.
AS_PUBLISHED = {"in_chans": 3, "global_pool": "avg", "output_stride": 32, "pad_type": "symmetric", "bn_eps": 1e-5}
FROM_CONFIG = {"classifier": "classifier", "act_layer": "activation"}  # model argument: field of the config
NO_DEFAULT = ("norm_layer",)
NOT_COMPUTED = ("num_classes", "bn_momentum", "drop_rate", "drop_path_rate")  # in the entry, or used in training only

# Fields of timm's cfg about the initial weights of a run and their location.
ELSEWHERE = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "origin_url", "description")


@dataclass(frozen=True)
class Package:
    """A folder that is ready for the Hub.

    Attributes:
        directory: The folder.
        entry: Its index entry.
        beyond: Fields of its `config.json` that an index entry cannot express, by name. If there are any, do not load
            the weights by an index name, which would build a different model.
    """

    directory: Path
    entry: WeightsEntry
    beyond: dict[str, Any]

    def index_entry(self) -> dict[str, Any]:
        """The entry by name, as in an index. Empty if it would build a different model."""
        return {} if self.beyond else {self.entry.name: self.entry.to_json()}


def pack(
    run: Path,
    name: str,
    license: str,
    directory: Path | None = None,
    repo_id: str | None = None,
    description: str | None = None,
) -> Package:
    """Packages a run after checking that its files match each other.

    Args:
        run: A run folder with `model.safetensors` in the native layout and timm's `config.json`. The card and
            `results.json` are optional.
        name: The name of the weights, `architecture.tag`.
        license: Their license, as an SPDX identifier if there is one.
        directory: The package: a new or empty folder, or an earlier package. Default: `package` in the run.
        repo_id: The target repository, `owner/name`. Without one, the entry is for a file `<name>.safetensors` next
            to the index.
        description: A description of the weights, on one line.

    Returns:
        The package. Its entry does not have a revision yet.

    Raises:
        WeightsError: If the run is incomplete or inconsistent, a weight is not finite, or the folder contains
            other files or cannot be written.
        IntegrityError: If the weights are not a safetensors file.
        ConversionError: If the weights do not match the model in `config.json`.
        WeightsIndexError: If an index would reject the entry or its name.
        UnknownModelError: If no architecture has that name.
    """
    config = architecture.get(name)
    directory = run / "package" if directory is None else directory
    document = _document(run / CONFIG, config, name)
    weights = _read(run / WEIGHTS)
    _check_tensors(weights, run, config, document)
    results = _results(run)

    cfg = {key: value for key, value in document["pretrained_cfg"].items() if key not in ELSEWHERE}
    cfg |= {"tag": name.partition(".")[2], "license": license}
    cfg |= {"description": description} if description else {}
    document = config_file.portable(document | {"pretrained_cfg": cfg})
    location = {"repo_id": repo_id, "revision": None, "filename": WEIGHTS}
    if repo_id is None:
        location = {"bundled": f"{name}.safetensors"}
    fields = {
        **location,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "size": len(weights),
        "license": license,
        "description": description,
        **_entry_fields(document, results),
    }
    package = Package(directory, _validated(name, fields, directory), _beyond(config, document))
    card = cards.package_card(run / CARD, package.entry, results, document)
    _write(package, {WEIGHTS: weights, CONFIG: _json(document), CARD: card.encode()})
    return package


def _entry_fields(document: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the fields of an index entry that come from a run's `config.json` and `results.json`."""
    cfg = document["pretrained_cfg"]
    scores = results.get("test") or results.get("val") or {}  # validation images may have selected the weights
    return {
        "layout": "timm",
        "num_classes": document["num_classes"],
        "input_size": cfg.get("test_input_size") or cfg.get("input_size"),
        "crop_pct": cfg.get("test_crop_pct") or cfg.get("crop_pct"),
        "interpolation": cfg.get("interpolation"),
        "mean": cfg.get("mean"),
        "std": cfg.get("std"),
        "label_names": document.get("label_names", cfg.get("label_names")),
        "temperature": document.get("temperature"),
        "metrics": {metric: scores[metric] for metric in METRICS if metric in scores} or None,
    }


def push(package: Package, private: bool = False) -> Package:
    """Uploads a package in one commit, and writes that commit into its entry.

    Args:
        package: A package with a repository, which is created if necessary.
        private: Create a private repository. If a public one exists, upload nothing.

    Returns:
        The package with the entry's revision.

    Raises:
        WeightsError: If the Hub client fails, or the repository is public although `private` is set.
    """
    entry, api = package.entry, huggingface_hub.HfApi(library_name="mnv2zoo")
    assert entry.repo_id is not None
    try:
        api.create_repo(entry.repo_id, private=private or None, exist_ok=True)
        exposed = private and not api.model_info(entry.repo_id).private  # an existing one is not changed
        if not exposed:
            commit = api.upload_folder(
                repo_id=entry.repo_id,
                folder_path=package.directory,
                allow_patterns=list(PUSHED),
                commit_message=f"Add {entry.name}",
            )
    except Exception as error:  # the client can raise anything, even a plain ValueError or OSError
        raise _not_pushed(package, explain(error)) from error
    if exposed:
        raise WeightsError(
            f"cannot push {entry.name}: the repository {entry.repo_id} is public",
            expected="a private repository",
            found="an existing public one",
            where=entry.repo_id,
            fix="Make it private on the Hub, or name another one.",
        )
    pushed = _validated(entry.name, entry.to_json() | {"revision": commit.oid}, package.directory)
    package = replace(package, entry=pushed)
    _write(package, {})
    return package


def _not_pushed(package: Package, failure: Failure) -> WeightsError:
    repo_id = package.entry.repo_id
    if failure.kind in ("forbidden", "repository"):
        fix = f"Set HF_TOKEN to a token with write access to {repo_id}."
    else:
        fix = failure.fix(repo_id, constants.ENDPOINT, package.directory)
    return WeightsError(
        f"cannot push {package.entry.name}",
        expected=f"write access to {repo_id} on the Hub",
        found=failure.found[:400].rstrip("."),
        fix=f"{fix} The package itself is complete, in {package.directory}.",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path.parent} is not a finished run",
            expected=f"a {path.name} from `mnv2zoo finetune`",
            found=error.strerror or error,
            where=path,
            fix="Name the folder that `mnv2zoo finetune --out` wrote.",
        ) from error


def _parsed(path: Path) -> dict[str, Any]:
    """Parses a file with a JSON object that contains only finite numbers."""

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name}, which JSON does not have")

    try:
        document = json.loads(_read(path), parse_constant=constant)
        if not isinstance(document, dict):
            raise ValueError(f"a JSON {type(document).__name__} at the top level")
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"cannot read {path.name}",
            expected="a JSON object",
            found=f"{type(error).__name__}: {error}"[:200],
            where=path,
            fix="Restore the file that `mnv2zoo finetune` wrote.",
        ) from error
    return document


def _document(path: Path, config: Config, name: str) -> dict[str, Any]:
    """Reads timm's `config.json`, and checks everything that the index's rules do not cover."""
    document = _parsed(path)

    def bad(
        expected: object, found: object, field: str, fix: str = "Restore the file that `mnv2zoo finetune` wrote."
    ) -> NoReturn:
        raise WeightsError(
            f"the run's {CONFIG} is inconsistent",
            expected=expected,
            found=found,
            where=f"{path}, {field}",
            fix=fix,
        )

    found = document.get("architecture")
    if isinstance(found, str):
        found = document["architecture"] = architecture.native_name(found)
    if found != config.name:
        tag = name.partition(".")[2]
        ours = isinstance(found, str) and found in architecture.CONFIGS
        fix = f"Use the name {found}.{tag}." if ours else "Only models of this package can be packaged."
        bad(f"{config.name}, from the name {name}", repr(found), "architecture", fix)
    model_args = document.setdefault("model_args", {})
    for field in ("pretrained_cfg", "model_args"):
        if not isinstance(document.get(field), dict):
            bad("an object, as timm writes it", repr(document.get(field))[:80], field)
    for argument in model_args:
        if argument not in (*AS_PUBLISHED, *FROM_CONFIG, *NO_DEFAULT, *NOT_COMPUTED):
            bad("arguments of mnv2zoo.models.mobilenetv2.MobileNetV2", repr(argument), "model_args")
    classes = document.get("num_classes")
    for field, holder in (("model_args", model_args), ("pretrained_cfg", document["pretrained_cfg"])):
        if holder.get("num_classes", classes) != classes:
            bad(f"num_classes {classes!r}, as at the top level", repr(holder["num_classes"]), field)
    return document


def _shapes(run: Path, config: Config, document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shape of every tensor of a model, by name."""
    if document.get("task") in ("detect", "segment"):
        from mnv2zoo import detection, segmentation  # import PyTorch, which `--help` does not need

        build = detection.untrained if document["task"] == "detect" else segmentation.untrained
        state = build(names.describe(str(run))).state_dict()
        return {key: tuple(tensor.shape) for key, tensor in state.items()}
    model_args = document["model_args"]
    built = replace(config, classifier=model_args.get("classifier") or config.classifier)
    return dict(native.shapes(built, document["num_classes"], model_args.get("in_chans") or 3))


def _check_tensors(data: bytes, run: Path, config: Config, document: Mapping[str, Any]) -> None:
    """Checks that a file contains all tensors of a model and no others, and that all are finite."""
    path = run / WEIGHTS
    tensors = store.tensors(Verified(path, data, ""), config.name, "timm")
    wanted = _shapes(run, config, document)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in (*wanted, *found):
        if wanted.get(key) != found.get(key):
            raise ConversionError(
                f"the weights do not match {config.name} as described in {CONFIG}",
                expected=f"a tensor {wanted[key]}" if key in wanted else "no such tensor",
                found=f"a tensor {found[key]}" if key in found else "no such tensor",
                where=f"{path}, {key}",
                fix=f"Restore {WEIGHTS} or {CONFIG}: they come from different runs.",
            )
    broken = [key for key, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        raise WeightsError(
            f"the weights in {path.name} are not finite",
            expected="finite numbers",
            found=f"NaN or infinity in {broken[0]}" + (f" and {len(broken) - 1} more" if broken[1:] else ""),
            where=path,
            fix="Training has diverged. Start a new run with a lower learning rate.",
        )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _results(run: Path) -> dict[str, dict[str, Any]]:
    """Reads the metrics of each split that has some."""
    path = run / RESULTS
    if not path.exists():
        return {}
    splits = {split: figures for split, figures in _parsed(path).items() if split in SPLITS and figures is not None}
    for split, figures in splits.items():
        if not isinstance(figures, dict):
            raise WeightsError(
                f"cannot read {RESULTS}",
                expected="metrics by name",
                found=repr(figures)[:80],
                where=f"{path}, {split}",
                fix="Restore the file that `mnv2zoo finetune` wrote.",
            )
    return splits


def _beyond(config: Config, document: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the properties of a model and its preprocessing in `config.json` that an index entry cannot express."""
    published = AS_PUBLISHED | {argument: getattr(config, field) for argument, field in FROM_CONFIG.items()}
    beyond = {
        argument: value
        for argument, value in arguments.checked(document["model_args"]).items()
        if argument not in NOT_COMPUTED and value is not None and value != published.get(argument)
    }
    beyond |= {key: document[key] for key in ("task", "head") if document.get(key)}
    crop_mode = document["pretrained_cfg"].get("crop_mode") or "center"
    return beyond if crop_mode == "center" else {**beyond, "crop_mode": crop_mode}


def _validated(name: str, fields: Mapping[str, Any], directory: Path) -> WeightsEntry:
    """Builds an entry and applies the index's rules to it."""
    text = json.dumps({"schema_version": schema.SCHEMA_VERSION, "weights": {name: fields}})
    try:
        return schema.parse(text, directory / ENTRY)[name]
    except WeightsIndexError as error:
        error.problem = "an index would reject these weights"
        error.fix = "Correct your arguments, or the run's config.json or results.json."
        raise


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _write(package: Package, files: Mapping[str, bytes]) -> None:
    """Writes a package: the entry first, because it marks the folder as a package, then the files."""
    directory = package.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in directory.iterdir()]
        if others and ENTRY not in others:
            raise WeightsError(
                "the folder contains other files",
                expected=f"an empty folder, or an earlier package with its {ENTRY}",
                found=", ".join(sorted(others)[:3]),
                where=directory,
                fix="Name another folder.",
            )
        for name, data in {ENTRY: _json(package.index_entry()), **files}.items():
            with whole_file(directory / name) as file:
                file.write(data)
    except OSError as error:
        raise WeightsError(
            "cannot write the package",
            expected="a writable folder",
            found=f"{type(error).__name__}: {error.strerror or error}",
            where=directory,
            fix="Free some space or make the folder writable, or name another one.",
        ) from error
