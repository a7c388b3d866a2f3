"""The run folder, in which every file is either complete or absent.

| file | content |
| --- | --- |
| `model.safetensors`, `config.json`, `labels.txt` | the trained network, as timm's `local-dir:` reads it |
| `README.md` | its model card |
| `recipe.json` | the task and every value that was used |
| `split.json` | every image that was used, by split, with the hash of its bytes |
| `metrics.jsonl`, `results.json` | a row per epoch; the metrics at the end |
| `report/`, `tensorboard/` | curves and whatever else the task reports |
| `checkpoints/last.pt` | the state that `--resume` continues from |
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mnv2zoo.errors import DataError, RunError, first_line
from mnv2zoo.model_dir import records
from mnv2zoo.model_dir.records import RECIPE, SPLIT
from mnv2zoo.system.files import locked, missing, remove_empty, whole_file

CHECKPOINT = "checkpoints/last.pt"
# What a training leaves that was killed before its first checkpoint; hidden files are the lock and half files.
_OF_A_START = (RECIPE, SPLIT, "tensorboard", "checkpoints")


class RunFolder:
    """A run's folder.

    Nothing is made or changed before `begin` or `lock`, so that everything else can be checked first.

    Args:
        path: The folder; it need not exist.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = contextlib.ExitStack()
        self._made: list[Path] = []
        self._fresh = False

    def inspect(self, resume: bool) -> dict[str, Any] | None:
        """Finds out whether there is a run to resume, and changes nothing.

        A run that was killed before its first checkpoint has nothing to lose: it is started again.

        Args:
            resume: Whether there may be a run in it.

        Returns:
            What the run's `recipe.json` records; None where a new run starts.

        Raises:
            RunError: If the folder cannot hold this run, or holds one that cannot be resumed.
        """
        names = self._names()
        if RECIPE not in names:
            if other := sorted(names - {SPLIT}):  # the split is written before the recipe
                raise self._not_empty(f"{other[0]!r} in it")
            return None
        has_checkpoint = (self.path / CHECKPOINT).exists()
        other = sorted(names - {*_OF_A_START})
        if resume:
            if other and not has_checkpoint:
                raise RunError(
                    "the run has no checkpoint to resume from",
                    expected=CHECKPOINT,
                    found="none",
                    where=self.path,
                    fix=f"Start a new run from its weights: --model {self.path} and another --out.",
                )
            return self._recorded()
        if other or has_checkpoint:
            raise RunError(
                "there is a run in the folder already",
                where=self.path,
                fix="Resume it with --resume, or choose another folder with --out.",
            )
        try:
            self._recorded()
        except RunError as error:
            raise self._not_empty(f"{RECIPE!r}, which is not that of a run") from error
        return None

    def _not_empty(self, found: str) -> RunError:
        return RunError(
            "the run folder must be new or empty",
            found=found,
            where=self.path,
            fix="Choose another folder with --out.",
        )

    def _names(self) -> set[str]:
        """Names of what is in the folder and not hidden."""
        if not self.path.exists():
            parent = next(parent for parent in self.path.absolute().parents if parent.exists())
            if parent.is_dir() and os.access(parent, os.W_OK):
                return set()
            found = "a read-only folder" if parent.is_dir() else "a file"
            raise RunError(
                "cannot make the run folder",
                found=f"{found}, {parent}",
                where=self.path,
                fix="Choose another folder with --out.",
            )
        if not self.path.is_dir():
            raise self._not_empty("a file")
        return {file.name for file in self.path.iterdir() if not file.name.startswith(".")}

    def _recorded(self) -> dict[str, Any]:
        document = self.read_json(RECIPE)
        if not isinstance(document, dict) or not {"recipe", "versions"} <= document.keys():
            raise RunError(
                "cannot read the run's recipe",
                expected="the values of a run",
                found="another JSON document",
                where=self.path / RECIPE,
                fix="Restore the file, or start a new run with another --out.",
            )
        return document

    def outside(self, place: str | Path) -> None:
        """Refuses a run folder among the images: its pictures would be taken for photos of a class.

        Args:
            place: The data.

        Raises:
            DataError: If the run folder is within the data.
        """
        root = Path(place)
        if root.is_dir() and self.path.resolve().is_relative_to(root.resolve()):
            raise DataError(
                "the run folder is inside the data folder",
                expected="a folder outside the data",
                found=str(self.path),
                where=place,
                fix=f"Choose a folder outside with --out, such as --out {root.resolve().parent / 'run'}.",
            )

    def begin(self, documents: Mapping[str, Any]) -> None:
        """Makes the folder of a new run, and locks it.

        Args:
            documents: JSON documents to write into it, by name; the recipe comes last, and marks the run.

        Raises:
            RunError: If it cannot be made or written, or if another process came first.
        """
        made = missing(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                "cannot write the run folder",
                found=error.strerror,
                where=self.path,
                fix="Choose another folder with --out.",
            ) from error
        self.lock()
        self.inspect(resume=False)
        self._made, self._fresh = made, True
        for name, document in documents.items():
            self.write_json(name, document)

    def lock(self) -> None:
        """Keeps other processes out.

        Raises:
            RunError: If another process is at work in the folder, or if it cannot be written.
        """
        try:
            self._lock.enter_context(locked(self.path / ".lock", seconds=0))
        except TimeoutError as error:
            raise RunError(
                "another process is at work in the run folder",
                where=self.path,
                fix="Wait until it ends, or choose another folder with --out.",
            ) from error
        except OSError as error:
            raise RunError(
                "cannot write the run folder",
                found=error.strerror,
                where=self.path,
                fix="Make it writable, or choose another folder with --out.",
            ) from error

    def discard(self) -> None:
        """Removes a new run that failed before its first checkpoint, so that the corrected command finds no trace."""
        if not self._fresh or (self.path / CHECKPOINT).exists():
            return
        for name in _OF_A_START:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name, ignore_errors=True)
            else:
                (self.path / name).unlink(missing_ok=True)
        self.close()
        with contextlib.suppress(OSError):  # on Windows the lock's file may still be open elsewhere
            (self.path / ".lock").unlink(missing_ok=True)
        remove_empty(self._made)

    def close(self) -> None:
        """Lets others work in the folder."""
        self._lock.close()

    def write(self, name: str, data: bytes | str) -> Path:
        """Writes a file, whole or not at all.

        Args:
            name: Its path in the folder.
            data: Its content.

        Returns:
            The file.

        Raises:
            RunError: If it cannot be written; what was there before stays.
        """
        file = self.path / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as open_file:
                open_file.write(data.encode() if isinstance(data, str) else data)
        except OSError as error:
            raise RunError(
                "cannot write to the run folder",
                found=error.strerror or str(error),
                where=file,
                fix="What was there before is whole. Make room or choose another disk, and go on with --resume.",
            ) from error
        return file

    def write_json(self, name: str, document: Any) -> Path:
        """Writes a JSON document as `write` does."""
        return self.write(name, json.dumps(document, indent=2) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Writes JSON documents, a line each, as `write` does."""
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def read_json(self, name: str) -> Any:
        """Reads a JSON document of the folder.

        Raises:
            RunError: If it is not there or no JSON.
        """
        return records.read_json(self.path, name)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint.

        Args:
            state: Tensors, numbers and containers of them.

        Raises:
            RunError: If it cannot be written; the one before stays.
        """
        # Serialised in memory first, since torch.save hides why a disk refuses to take more.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write(CHECKPOINT, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Reads the checkpoint.

        Returns:
            What was saved last; None if nothing was.

        Raises:
            RunError: If it cannot be read.
        """
        file = self.path / CHECKPOINT
        if not file.exists():
            return None
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever an altered file causes
            raise self.bad_checkpoint(error) from error

    def bad_checkpoint(self, error: Exception) -> RunError:
        """The error for a checkpoint that cannot be read or does not belong to the run."""
        return RunError(
            "cannot read the checkpoint",
            found=first_line(error),
            where=self.path / CHECKPOINT,
            fix="Restore the file, or start a new run with another --out.",
        )
