"""The run folder. Every file in it is either complete or absent.

| file | content |
| --- | --- |
| `model.safetensors`, `config.json`, `labels.txt` | the trained model, which timm loads as `local-dir:` |
| `README.md` | the model card |
| `recipe.json` | the task and all recipe values |
| `split.json` | the images of each split, with the hash of each file |
| `metrics.jsonl`, `results.json` | one row per epoch; the final metrics |
| `report/`, `tensorboard/` | training curves and other reports of the task |
| `checkpoints/last.pt` | the state from which `--resume` continues |
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
# The files of a run that was killed before its first checkpoint. Hidden files are the lock and partial files.
_OF_A_START = (RECIPE, SPLIT, "tensorboard", "checkpoints")


class RunFolder:
    """A run folder.

    Nothing is created or changed before `begin` or `lock`, so that everything else can be checked first.

    Args:
        path: The folder, which need not exist.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = contextlib.ExitStack()
        self._made: list[Path] = []
        self._fresh = False

    def inspect(self, resume: bool) -> dict[str, Any] | None:
        """Checks whether the folder contains a run to resume. Changes nothing.

        A run that was killed before its first checkpoint is started again, because it has nothing to lose.

        Args:
            resume: Whether the folder may contain a run.

        Returns:
            The content of the run's `recipe.json`; None if a new run starts.

        Raises:
            RunError: If the folder cannot be used for this run, or contains a run that cannot be resumed.
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
                    found="no such file",
                    where=self.path,
                    fix=f"Start a new run from its weights with --model {self.path} and another --out.",
                )
            return self._recorded()
        if other or has_checkpoint:
            raise RunError(
                "the folder already contains a run",
                where=self.path,
                fix="Resume it with --resume, or choose another folder with --out.",
            )
        try:
            self._recorded()
        except RunError as error:
            raise self._not_empty(f"{RECIPE!r}, which does not belong to a run") from error
        return None

    def _not_empty(self, found: str) -> RunError:
        return RunError(
            "the run folder is not empty",
            expected="a new or empty folder",
            found=found,
            where=self.path,
            fix="Choose another folder with --out.",
        )

    def _names(self) -> set[str]:
        """The names of the files in the folder, without hidden ones."""
        if not self.path.exists():
            parent = next(parent for parent in self.path.absolute().parents if parent.exists())
            if parent.is_dir() and os.access(parent, os.W_OK):
                return set()
            found = "a read-only folder" if parent.is_dir() else "a file"
            raise RunError(
                "the run folder cannot be created",
                expected="a writable parent folder",
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
                "the recipe of the run cannot be read",
                expected="the recipe and versions of a run",
                found="another JSON document",
                where=self.path / RECIPE,
                fix="Restore the file, or start a new run with another --out.",
            )
        return document

    def outside(self, place: str | Path) -> None:
        """Checks that the run folder is outside the data, because its plots would be read as training images.

        Args:
            place: The data.

        Raises:
            DataError: If the run folder is inside the data.
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
        """Creates the folder of a new run, and locks it.

        Args:
            documents: JSON documents to write, by name. The recipe comes last, because it marks the folder as a run.

        Raises:
            RunError: If the folder cannot be created or written, or another process created it first.
        """
        made = missing(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                "the run folder cannot be written",
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
        """Locks the folder against other processes.

        Raises:
            RunError: If another process uses the folder, or it cannot be written.
        """
        try:
            self._lock.enter_context(locked(self.path / ".lock", seconds=0))
        except TimeoutError as error:
            raise RunError(
                "another process is using the run folder",
                where=self.path,
                fix="Wait until it has finished, or choose another folder with --out.",
            ) from error
        except OSError as error:
            raise RunError(
                "the run folder cannot be written",
                found=error.strerror,
                where=self.path,
                fix="Make it writable, or choose another folder with --out.",
            ) from error

    def discard(self) -> None:
        """Removes a new run that failed before its first checkpoint, so that you can run the corrected command."""
        if not self._fresh or (self.path / CHECKPOINT).exists():
            return
        for name in _OF_A_START:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name, ignore_errors=True)
            else:
                (self.path / name).unlink(missing_ok=True)
        self.close()
        with contextlib.suppress(OSError):  # on Windows, the lock file may still be open elsewhere
            (self.path / ".lock").unlink(missing_ok=True)
        remove_empty(self._made)

    def close(self) -> None:
        """Unlocks the folder."""
        self._lock.close()

    def write(self, name: str, data: bytes | str) -> Path:
        """Writes a file atomically.

        Args:
            name: The path of the file in the folder.
            data: The content.

        Returns:
            The file.

        Raises:
            RunError: If the file cannot be written. An existing file is then unchanged.
        """
        file = self.path / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as open_file:
                open_file.write(data.encode() if isinstance(data, str) else data)
        except OSError as error:
            raise RunError(
                "a file in the run folder cannot be written",
                found=error.strerror or str(error),
                where=file,
                fix="Free some disk space, then continue with --resume. The existing files are intact.",
            ) from error
        return file

    def write_json(self, name: str, document: Any) -> Path:
        """Writes a JSON document as `write` does."""
        return self.write(name, json.dumps(document, indent=2) + "\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Writes JSON documents, one per line, as `write` does."""
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def read_json(self, name: str) -> Any:
        """Reads a JSON document from the folder.

        Raises:
            RunError: If the file is missing or not JSON.
        """
        return records.read_json(self.path, name)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint.

        Args:
            state: Tensors, numbers and containers of them.

        Raises:
            RunError: If it cannot be written. The previous checkpoint is then unchanged.
        """
        # Serialized in memory first, because torch.save hides the cause of a write error.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write(CHECKPOINT, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Reads the checkpoint.

        Returns:
            The last saved state; None if there is no checkpoint.

        Raises:
            RunError: If the checkpoint cannot be read.
        """
        file = self.path / CHECKPOINT
        if not file.exists():
            return None
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # an altered file can cause any error
            raise self.bad_checkpoint(error) from error

    def bad_checkpoint(self, error: Exception) -> RunError:
        """Returns the error for a checkpoint that cannot be read or does not belong to the run."""
        return RunError(
            "the checkpoint cannot be read",
            found=first_line(error),
            where=self.path / CHECKPOINT,
            fix="Restore the file, or start a new run with another --out.",
        )
