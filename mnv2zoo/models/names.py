"""A name becomes a description here, and nowhere else: a name of the zoo, a folder, or a Hub repository.

Neither PyTorch nor timm is imported, which takes as long as classifying hundreds of images, until a model is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.data import preprocessing
from mnv2zoo.data.preprocessing import Fast
from mnv2zoo.errors import ConversionError
from mnv2zoo.models import config_file
from mnv2zoo.models.cfg import pretrained_cfg
from mnv2zoo.weights import index
from mnv2zoo.weights.hub import Hub, HubFile
from mnv2zoo.weights.schema import WeightsEntry

HUB, FOLDER = "hf-hub", "local-dir"  # what timm puts before a repository and a folder


@dataclass(frozen=True)
class Description:
    """A model before it is built.

    Attributes:
        name: The name of its weights in the index, or the name that was given if no index lists them.
        config: Its architecture.
        cfg: timm's description of its weights and their preprocessing.
        arguments: Arguments that it is built with, such as `pad_type`.
        source: Where its weights come from: an index entry or a folder. None for the Hub and for random weights.
        own_label_names: Names of the classes in class order, where a `config.json` has them.
        task: The task that its weights were trained for, where a `config.json` has it.
        head: The head of a detector or a segmenter, as in `config_file.ConfigFile`; empty for other models.
        own_temperature: Number that divides the logits before the softmax, where a `config.json` has it.
        thresholds: The lowest score of each label, as in `config_file.ConfigFile`; empty for other models.
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
        """Names of the weights' classes in class order."""
        return self.source.label_names if isinstance(self.source, WeightsEntry) else self.own_label_names

    @property
    def temperature(self) -> float | None:
        """Number that divides the logits before the softmax; None for none."""
        return self.source.temperature if isinstance(self.source, WeightsEntry) else self.own_temperature

    @property
    def in_chans(self) -> int:
        """Channels of the images that it takes."""
        return self.arguments.get("in_chans") or self.cfg.get("input_size", (3,))[0]

    @property
    def preprocessing(self) -> Fast | None:
        """The fast preprocessing of its images; None if only the built model can tell."""
        same_channels = self.in_chans == self.cfg.get("input_size", (3,))[0]
        return preprocessing.from_cfg(self.cfg) if self.source and same_channels else None

    def build(self, pretrained: bool = True, **arguments: Any) -> Any:
        """Builds the model.

        Args:
            pretrained: Load its weights. Otherwise they are random.
            **arguments: Arguments of `timm.create_model` that override its own.

        Returns:
            The model, in training mode as timm leaves it.

        Raises:
            WeightsError: If its weights cannot be found, fetched or verified.
            ConversionError: If they do not fit, or the model is a detector or a segmenter.
        """
        if pretrained and self.head:
            load = {"detect": "mnv2zoo.detection.load", "segment": "mnv2zoo.segmentation.load"}.get(self.task or "")
            raise ConversionError(
                f"{self.name} is not a classifier",
                expected="a model whose weights are those of the network alone",
                found=f"the head {self.head.get('name')!r} of the task {self.task!r}",
                where=self.name,
                fix=f"Load it with {load}." if load else "Train with the version of mnv2zoo that wrote it.",
            )
        import timm

        import mnv2zoo.models.registry  # noqa: F401  # registers the architectures with timm

        own = {name: value for name, value in self.arguments.items() if name != "pretrained_cfg"}
        return timm.create_model(
            self.config.name, pretrained=pretrained, pretrained_cfg=self.cfg, **{**own, **arguments}
        )


def describe(name: str) -> Description:
    """Finds out what a name stands for.

    Args:
        name: An architecture, `architecture.tag`, a folder with timm's `config.json` and
            `model.safetensors`, or such a repository as `hf-hub:owner/name`.

    Returns:
        The description.

    Raises:
        UnknownModelError: If there is no model of that name.
        WeightsUnavailableError: If its `config.json` cannot be read.
        WeightsIndexError: If an index file is bad.
    """
    kind, _, place = name.partition(":")
    if kind == HUB:
        file = HubFile.of_hub_id(place, filename="config.json")
        return _from_folder(name, Hub().download(file, file.revision).parent, repository=place)
    if (folder := folder_of(name)) is not None:
        return _from_folder(name, folder)
    config, entry = architecture.get(name), weights_of(name)
    return Description(entry.name if entry else name, config, pretrained_cfg(config, entry), source=entry)


def folder_of(name: str) -> Path | None:
    """Finds the folder that a name stands for.

    Args:
        name: As for `describe`.

    Returns:
        The folder; None for a name of the zoo, a repository on the Hub and a name that stands for nothing.
    """
    kind, _, place = name.partition(":")
    if kind == FOLDER:
        return Path(place)
    return Path(name) if name.partition(".")[0] not in architecture.CONFIGS and Path(name).is_dir() else None


def describe_local(name: str) -> Description | None:
    """Finds out what a name stands for, without network access.

    Args:
        name: As for `describe`.

    Returns:
        The description; None for a repository on the Hub.

    Raises:
        UnknownModelError: If there is no model of that name.
        WeightsUnavailableError: If its `config.json` cannot be read.
        WeightsIndexError: If an index file is bad.
    """
    return None if name.startswith(f"{HUB}:") else describe(name)


def weights_of(name: str) -> WeightsEntry | None:
    """Looks up the weights that a name of the zoo means.

    Args:
        name: An architecture, whose default weights are meant, or `architecture.tag`.

    Returns:
        Their index entry; None for an architecture that has no weights.

    Raises:
        UnknownModelError: If there is no architecture or there are no weights of that name.
        WeightsIndexError: If an index file is bad.
    """
    config = architecture.get(name)
    return index.entry(name) if "." in name or index.entries_of(config.name) else None


def _from_folder(name: str, folder: Path, repository: str | None = None) -> Description:
    found = config_file.read(folder, name, repository)
    # Where its weights are is not for the file to say.
    cfg = found.cfg | {"url": None, "state_dict": None, "hf_hub_id": None, "custom_load": False}
    if repository is None:
        cfg |= {"file": str(folder), "source": FOLDER}
    else:
        cfg |= {"file": None, "source": HUB, "hf_hub_id": repository}
    config = architecture.get(found.architecture)
    source = folder if repository is None else None
    own = (found.label_names, found.task, found.head, found.temperature, found.thresholds)
    return Description(name, config, cfg, found.arguments, source, *own)
