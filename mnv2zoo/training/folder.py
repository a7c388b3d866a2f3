"""The run folder: what is in it, and that each file in it is whole.

| file | what |
| --- | --- |
| `model.safetensors`, `config.json`, `labels.txt` | the trained network, as timm's `local-dir:` reads it |
| `README.md` | its model card |
| `recipe.json` | every value that was used |
| `split.json` | every image that was used, by split, with the hash of its bytes |
| `metrics.jsonl`, `results.json` | a row an epoch; the figures at the end |
| `report/`, `tensorboard/` | curves, confusion matrix, worst mistakes |
| `checkpoints/last.pt` | where `--resume` goes on |
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mnv2zoo.errors import RunError
from mnv2zoo.files import whole_file


class RunFolder:
    """A run's folder.

    Args:
        path: The folder; it need not exist.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    def open(self, resume: bool) -> None:
        """Makes the folder, or finds the one that an interrupted run left, and locks it.

        Args:
            resume: Whether there may be a run in it.

        Raises:
            RunError: If there is a run in it and should not be, if another process is at work in it, or
                if it cannot be written.
        """
        has_run = (self.path / "recipe.json").exists()
        if has_run and not resume:
            raise RunError(
                "there is a run in the folder already",
                where=self.path,
                fix="Go on with it by --resume, or choose another folder by --out.",
            )
        if not has_run and self.path.exists() and (not self.path.is_dir() or any(self._others())):
            raise RunError(
                "the run folder must be new or empty", found="something else", where=self.path, fix="Choose another."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError("another process is at work in the run folder", where=self.path) from error
        except OSError as error:
            raise RunError("cannot write the run folder", found=error.strerror, where=self.path) from error

    def close(self) -> None:
        """Lets others work in the folder."""
        self._lock.release()

    def _others(self) -> Iterable[Path]:
        return (file for file in self.path.iterdir() if file.name != ".lock")

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
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                "cannot read a file of the run", expected="a run folder", found=str(error).rstrip("."), where=file
            ) from error

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
        self.write("checkpoints/last.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Reads the checkpoint.

        Returns:
            What was saved last; None if nothing was.

        Raises:
            RunError: If it cannot be read.
        """
        file = self.path / "checkpoints/last.pt"
        if not file.exists():
            return None
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever an altered file causes
            raise RunError("cannot read the checkpoint", found=str(error).splitlines()[0], where=file) from error
