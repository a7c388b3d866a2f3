"""A name, and what it stands for: one of the zoo's, or a folder or Hub repository with timm's config.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.errors import UnknownModelError, WeightsUnavailableError
from mnv2zoo.models import arguments, registry
from mnv2zoo.models.config_file import check_config, check_label_names, check_origin
from mnv2zoo.models.timm_compat import load_model_config_from_path
from mnv2zoo.weights import index, schema
from mnv2zoo.weights.hub import Hub, HubFile


@dataclass(frozen=True)
class Description:
    """What a network is, before it is built.

    Attributes:
        name: The weights' name in the index; where they are in none, what was asked for.
        config: Its architecture.
        cfg: timm's description of its weights and their preprocessing.
        arguments: Arguments that it is built with, such as `pad_type`.
        label_names: Names of its weights' classes in class order.
    """

    name: str
    config: Config
    cfg: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    label_names: Sequence[str] = ()

    @property
    def in_chans(self) -> int:
        """Channels of the images that it takes."""
        return self.arguments.get("in_chans") or self.cfg.get("input_size", (3,))[0]

    def build(self, pretrained: bool = True, **arguments: Any) -> Any:
        """Builds the network.

        Args:
            pretrained: With its weights, not random ones.
            **arguments: Arguments of `timm.create_model` that come before its own.

        Returns:
            The network, in training mode as timm leaves it.

        Raises:
            WeightsError: If its weights cannot be found, fetched or verified.
            ConversionError: If they do not fit.
        """
        own = {name: value for name, value in self.arguments.items() if name != "pretrained_cfg"}
        return timm.create_model(
            self.config.name, pretrained=pretrained, pretrained_cfg=self.cfg, **{**own, **arguments}
        )


def describe(name: str) -> Description:
    """Finds out what a network is.

    Args:
        name: An architecture, `architecture.tag`, a folder with timm's `config.json` and
            `model.safetensors`, or such a repository as `hf-hub:owner/name`.

    Returns:
        Its description.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsUnavailableError: If its `config.json` cannot be read.
    """
    source, _, place = name.partition(":")
    if source in ("hf-hub", "local-dir"):
        return _from_config_file(name, source, place)
    if name.partition(".")[0] not in architecture.CONFIGS and Path(name).is_dir():
        return _from_config_file(name, "local-dir", name)
    config = architecture.get(name)
    if "." not in name and not index.entries_of(config.name):
        return Description(name, config, registry.pretrained_cfg(config).to_dict())
    entry = index.entry(name)
    return Description(
        entry.name, config, registry.pretrained_cfg(config, entry).to_dict(), label_names=entry.label_names
    )


def _from_config_file(name: str, source: str, place: str) -> Description:
    if source == "hf-hub":
        file = HubFile.of_hub_id(place, filename="config.json")
        folder = Hub().download(file, file.revision).parent
    else:
        folder = Path(place)
    try:
        size = (folder / "config.json").stat().st_size
        if size > schema.MAX_BYTES:
            raise ValueError(f"{size} bytes, where {schema.MAX_BYTES} are the most")
        check_origin(json.loads((folder / "config.json").read_text(encoding="utf-8")), name, place, source, folder)
        cfg, architecture_name, built_with = load_model_config_from_path(folder)
        config = architecture.get(architecture_name)  # nothing here would verify the weights of others
        check_config(cfg, built_with)
        built_with = arguments.checked(built_with)
        # What is null has timm's default, but for the classes: of how many the weights are must be one number.
        cfg, built_with = ({k: v for k, v in values.items() if v is not None} for values in (cfg, built_with))
        classes = cfg.setdefault("num_classes", built_with.get("num_classes", config.num_classes))
        if built_with.get("num_classes", classes) != classes:
            raise ValueError(f"model_args with num_classes = {built_with['num_classes']} for weights with {classes}")
        label_names = check_label_names(cfg, classes)
    except (UnknownModelError, WeightsUnavailableError):
        raise
    except Exception as error:  # whatever a broken file causes
        raise WeightsUnavailableError(
            "cannot tell what the model is",
            expected="a config.json as timm writes it",
            found=f"{type(error).__name__}: {error}"[:400],
            where=name,
            fix="Restore the config.json, or name another network.",
        ) from error
    # Where its weights are is not for the file to say.
    cfg |= {"url": None, "state_dict": None, "hf_hub_id": None, "custom_load": False}
    if source == "hf-hub":
        cfg |= {"file": None, "source": "hf-hub", "hf_hub_id": place}
    return Description(name, config, cfg, built_with, label_names)
