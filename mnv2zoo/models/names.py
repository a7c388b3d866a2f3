"""A name becomes a description here, and nowhere else: a name of the zoo, a folder, or a Hub repository.

Neither PyTorch nor timm is imported, which takes as long as classifying hundreds of images, until a model is built.
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

HUB, FOLDER = "hf-hub", "local-dir"  # what timm puts before a repository and a folder
HUB_WORDS = (HUB, "hf_hub")  # timm takes both
TIMM_OWNER = "timm/"  # whose repositories hold the weights of timm's own names


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

        # What belongs to an entry's weights does not belong to its architecture.
        used = {} if isinstance(self.source, WeightsEntry) and not pretrained else self.arguments
        own = {name: value for name, value in used.items() if name != "pretrained_cfg"}
        return timm.create_model(
            self.config.name, pretrained=pretrained, pretrained_cfg=self.cfg, **{**own, **arguments}
        )


def describe(name: str) -> Description:
    """Finds out what a name stands for.

    Args:
        name: An architecture, `architecture.tag`, a folder with `config.json` and `model.safetensors` as timm or
            transformers saves them, or such a repository as `hf-hub:owner/name`. timm's names for the networks of the
            zoo and for their weights are taken too, as in `mobilenetv2_140.ra_in1k`.

    Returns:
        The description.

    Raises:
        UnknownModelError: If there is no model of that name.
        WeightsUnavailableError: If its `config.json` cannot be read.
        WeightsIndexError: If an index file is bad.
    """
    kind, _, place = name.partition(":")
    if kind in HUB_WORDS:
        return _on_the_hub(place)
    if (folder := folder_of(name)) is not None:
        return _from_folder(name, folder)
    return _of_the_zoo(architecture.native_name(name))


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
    known = architecture.native_name(name).partition(".")[0] in architecture.CONFIGS
    return Path(name) if not known and Path(name).is_dir() else None


def _of_the_zoo(name: str) -> Description:
    entry, config = weights_of(name), architecture.get(name)
    arguments = _arguments(entry) if entry else {}
    return Description(entry.name if entry else name, config, pretrained_cfg(config, entry), arguments, entry)


def _arguments(entry: WeightsEntry) -> dict[str, Any]:
    """The arguments that the network of an entry's weights is built with."""
    pad_type = LAYOUTS[entry.layout].pad_type
    return {} if pad_type == "symmetric" else {"pad_type": pad_type}


def _on_the_hub(place: str) -> Description:
    """Describes `owner/name` or `owner/name@revision`, at the revision that an index pins, unless one is given."""
    repo_id, _, revision = place.partition("@")
    entry = index.entry_at(repo_id, revision or None)
    if entry and repo_id.startswith(TIMM_OWNER) and entry.layout == "timm":
        return _of_the_zoo(entry.name)  # timm's own weights need nothing that the index does not say
    pinned = f"{repo_id}@{entry.revision}" if entry and entry.revision else place
    name = f"{HUB}:{place}"
    file = HubFile.of_hub_id(pinned, name, CONFIG)
    hub = Hub()
    folder = hub.download(file, file.revision).parent
    for further in config_file.further_files(folder):
        # Of the same commit, which is what the folder is called.
        folder = hub.download(replace(file, filename=further), folder.name).parent
    return _from_folder(name, folder, repository=pinned)


def _explained(error: UnknownModelError, name: str) -> UnknownModelError:
    """Says where a network is from that timm has and the zoo has not."""
    found = str(error.found).strip("'")
    if found.startswith(architecture.OURS):
        return error
    import timm  # takes seconds, and the name is wrong anyway

    if not timm.is_model(found.partition(".")[0]):
        return error
    return UnknownModelError(
        f"{name} is a timm network of another family",
        expected="a MobileNetV2: one of `mnv2zoo list`, or timm's mobilenetv2_*",
        found=repr(found),
        where=name,
        fix="Use it with timm itself, or choose a network of `mnv2zoo list`.",
    )


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
    return None if name.partition(":")[0] in HUB_WORDS else describe(name)


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
    # Where its weights are is not for the file to say.
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
