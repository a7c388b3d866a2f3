"""Resolves a model name (of this package, a folder or a Hub repository) to a description of the model.

PyTorch and timm take seconds to import, so this module imports them only when a model is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.convert import LAYOUTS
from mnv2zoo.data import preprocessing
from mnv2zoo.data.preprocessing import Fast
from mnv2zoo.errors import ConversionError, UnknownModelError
from mnv2zoo.models import config_file
from mnv2zoo.models.cfg import pretrained_cfg
from mnv2zoo.models.config_file import CONFIG
from mnv2zoo.weights import index
from mnv2zoo.weights.hub import Hub, HubFile
from mnv2zoo.weights.schema import WeightsEntry

HUB, FOLDER = "hf-hub", "local-dir"  # timm's prefixes of a repository and a folder
HUB_WORDS = (HUB, "hf_hub")  # timm accepts both
TIMM_OWNER = "timm/"  # owner of the repositories with timm's own weights


@dataclass(frozen=True)
class Description:
    """A model before it is built.

    Attributes:
        name: Name of its weights in the index, or the given name if the index does not list them.
        config: Its architecture.
        cfg: timm's description of its weights and their preprocessing.
        arguments: Arguments that it is built with, such as `pad_type`.
        source: Source of its weights: an index entry or a folder. None for the Hub and for random weights.
        own_label_names: Class names in class order, if `config.json` has them.
        task: The task that it was trained for, if `config.json` records it.
        head: The head of a detector or a segmenter, as in `config_file.ConfigFile`. Empty for other models.
        own_temperature: Softmax temperature, if `config.json` records it.
        thresholds: Score threshold per label, as in `config_file.ConfigFile`. Empty for other models.
    """

    name: str
    config: Config
    cfg: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    source: WeightsEntry | Path | None = None
    own_label_names: Sequence[str] = ()
    task: str | None = None
    head: dict[str, Any] = field(default_factory=dict)
    own_temperature: float | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def label_names(self) -> Sequence[str]:
        """Class names of the weights, in class order."""
        return self.source.label_names if isinstance(self.source, WeightsEntry) else self.own_label_names

    @property
    def temperature(self) -> float | None:
        """Softmax temperature, or None if the model was not calibrated."""
        return self.source.temperature if isinstance(self.source, WeightsEntry) else self.own_temperature

    @property
    def in_chans(self) -> int:
        """Number of image channels."""
        return self.arguments.get("in_chans") or self.cfg.get("input_size", (3,))[0]

    @property
    def preprocessing(self) -> Fast | None:
        """The fast preprocessing of its images. None if it depends on the built model."""
        same_channels = self.in_chans == self.cfg.get("input_size", (3,))[0]
        return preprocessing.from_cfg(self.cfg) if self.source and same_channels else None

    def build(self, pretrained: bool = True, **arguments: Any) -> Any:
        """Builds the model.

        Args:
            pretrained: Load the weights. Otherwise they are random.
            **arguments: Arguments for `timm.create_model` that override its own.

        Returns:
            The model, in training mode as timm returns it.

        Raises:
            WeightsError: If the weights cannot be found, downloaded or verified.
            ConversionError: If the weights do not fit, or the model is a detector or a segmenter.
        """
        if pretrained and self.head:
            load = {"detect": "mnv2zoo.detection.load", "segment": "mnv2zoo.segmentation.load"}.get(self.task or "")
            raise ConversionError(
                f"{self.name} is not a classifier",
                expected="a classifier or a backbone",
                found=f"the head {self.head.get('name')!r} of the task {self.task!r}",
                where=self.name,
                fix=f"Load it with {load}." if load else "Use the version of mnv2zoo that trained it.",
            )
        import timm

        import mnv2zoo.models.registry  # noqa: F401  # registers the architectures with timm

        # An entry's arguments belong to its weights, not to its architecture.
        used = {} if isinstance(self.source, WeightsEntry) and not pretrained else self.arguments
        own = {name: value for name, value in used.items() if name != "pretrained_cfg"}
        return timm.create_model(
            self.config.name, pretrained=pretrained, pretrained_cfg=self.cfg, **{**own, **arguments}
        )


def describe(name: str) -> Description:
    """Resolves a model name.

    Args:
        name: An architecture, `architecture.tag`, a folder with `config.json` and `model.safetensors` as timm or
            transformers saves them, or a Hub repository such as `hf-hub:owner/name`. timm's MobileNetV2 names and
            tags work too, such as `mobilenetv2_140.ra_in1k`.

    Returns:
        The description of the model.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsUnavailableError: If `config.json` cannot be read.
        WeightsIndexError: If an index file is invalid.
    """
    kind, _, place = name.partition(":")
    if kind in HUB_WORDS:
        return _on_the_hub(place)
    if (folder := folder_of(name)) is not None:
        return _from_folder(name, folder)
    return _of_the_zoo(architecture.native_name(name))


def folder_of(name: str) -> Path | None:
    """Finds the folder that a name refers to.

    Args:
        name: As for `describe`.

    Returns:
        The folder. None for a name of this package, a Hub repository or an unknown name.
    """
    kind, _, place = name.partition(":")
    if kind == FOLDER:
        return Path(place)
    known = architecture.native_name(name).partition(".")[0] in architecture.CONFIGS
    return Path(name) if not known and Path(name).is_dir() else None


def _of_the_zoo(name: str) -> Description:
    entry, config = weights_of(name), architecture.get(name)
    arguments = _arguments(entry) if entry else {}
    return Description(entry.name if entry else name, config, pretrained_cfg(config, entry), arguments, entry)


def _arguments(entry: WeightsEntry) -> dict[str, Any]:
    """Returns the arguments for building the model of an index entry."""
    pad_type = LAYOUTS[entry.layout].pad_type
    return {} if pad_type == "symmetric" else {"pad_type": pad_type}


def _on_the_hub(place: str) -> Description:
    """Describes `owner/name` or `owner/name@revision`. Without a revision, an index pin decides."""
    repo_id, _, revision = place.partition("@")
    entry = index.entry_at(repo_id, revision or None)
    if entry and repo_id.startswith(TIMM_OWNER) and entry.layout == "timm":
        return _of_the_zoo(entry.name)  # the index records all that timm's own weights need
    pinned = f"{repo_id}@{entry.revision}" if entry and entry.revision else place
    name = f"{HUB}:{place}"
    file = HubFile.of_hub_id(pinned, name, CONFIG)
    hub = Hub()
    folder = hub.download(file, file.revision).parent
    for further in config_file.further_files(folder):
        # From the same commit, which names the folder.
        folder = hub.download(replace(file, filename=further), folder.name).parent
    return _from_folder(name, folder, repository=pinned)


def _explained(error: UnknownModelError, name: str) -> UnknownModelError:
    """Explains that a model is one of timm's but not in this package, if that is so."""
    found = str(error.found).strip("'")
    if found.startswith(architecture.OURS):
        return error
    import timm  # takes seconds, but only for a wrong name

    if not timm.is_model(found.partition(".")[0]):
        return error
    return UnknownModelError(
        f"{name} is a timm model of another family",
        expected="a MobileNetV2: a name from `mnv2zoo list`, or timm's mobilenetv2_*",
        found=repr(found),
        where=name,
        fix="Use it with timm directly, or choose a model from `mnv2zoo list`.",
    )


def describe_local(name: str) -> Description | None:
    """Resolves a model name without network access.

    Args:
        name: As for `describe`.

    Returns:
        The description, or None for a Hub repository.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsUnavailableError: If `config.json` cannot be read.
        WeightsIndexError: If an index file is invalid.
    """
    return None if name.partition(":")[0] in HUB_WORDS else describe(name)


def weights_of(name: str) -> WeightsEntry | None:
    """Looks up the weights for a name of this package.

    Args:
        name: An architecture, for its default weights, or `architecture.tag`.

    Returns:
        The index entry, or None for an architecture without weights.

    Raises:
        UnknownModelError: If no architecture or set of weights has that name.
        WeightsIndexError: If an index file is invalid.
    """
    try:
        config = architecture.get(name)
    except UnknownModelError as error:
        raise _explained(error, name) from None
    return index.entry(name) if "." in name or index.entries_of(config.name) else None


def _from_folder(name: str, folder: Path, repository: str | None = None) -> Description:
    try:
        found = config_file.read(folder, name)
    except UnknownModelError as error:
        raise _explained(error, name) from None
    # Do not let the file choose the location of its weights.
    cfg = found.cfg | {"url": None, "state_dict": None, "hf_hub_id": None, "custom_load": False}
    if repository is None:
        cfg |= {"file": str(folder), "source": FOLDER}
    else:
        cfg |= {"file": None, "source": HUB, "hf_hub_id": repository}
    config = architecture.get(found.architecture)
    cfg["architecture"] = config.name
    source = folder if repository is None else None
    own = (found.label_names, found.task, found.head, found.temperature, found.thresholds)
    return Description(name, config, cfg, found.arguments, source, *own)
