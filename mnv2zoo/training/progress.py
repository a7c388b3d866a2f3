"""Training output: log lines, a progress bar and TensorBoard."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between lines within an epoch, where there is no progress bar


class Log:
    """Prints log lines, draws a progress bar on a terminal, and writes TensorBoard scalars.

    Args:
        stream: The output stream, by default `sys.stdout`. If it is a terminal, the progress bar is drawn there too.

    Attributes:
        active: Whether this process is the one that prints.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.active = True
        stream = stream or sys.stdout
        self._console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._writer: Any = None

    @property
    def _live(self) -> bool:
        # A property, because `active` is only set once the processes are connected.
        return self.active and self._console.is_terminal

    def say(self, line: str) -> None:
        """Prints a line."""
        if self.active:
            self._console.print(line)
            if not self._live:
                self._console.file.flush()

    def stage(self, title: str, total: int) -> Stage:
        """Starts a stage of work with a progress bar.

        Args:
            title: The title of the stage.
            total: Total number of images.

        Returns:
            A context manager with a method `advance`.
        """
        return Stage(self, title, total)

    def open_tensorboard(self, folder: Path, done_epochs: int) -> None:
        """Opens TensorBoard's files in a folder. Entries of epochs after the finished ones are replaced."""
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=done_epochs + 1)

    def epoch(self, row: Mapping[str, Any], epochs: int, validation: Sequence[str] = ()) -> None:
        """Reports an epoch.

        Args:
            row: The row of the epoch in the history.
            epochs: Total number of epochs.
            validation: The validation metrics as text.
        """
        words = [f"epoch {row['epoch']}/{epochs}", f"loss {row['train_loss']:.4f}", *validation]
        words += [f"lr {row['lr']:.3g}", f"{row['images_per_second']:.0f} images/s", f"{row['seconds']:.1f} s"]
        self.say("  ".join(words))
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])

    def figure(self, name: str, figure: Any, epoch: int) -> None:
        """Shows a matplotlib figure in TensorBoard."""
        if self._writer is not None:
            self._writer.add_figure(name, figure, epoch)

    def close(self) -> None:
        """Closes TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


class Stage:
    """A stage of work with a progress bar; see `Log.stage`."""

    def __init__(self, log: Log, title: str, total: int) -> None:
        self._log, self._title, self._total, self._done = log, title, total, 0

    def __enter__(self) -> Stage:
        self._began = self._told = time.monotonic()
        if self._log._live:
            self._log._bar.start()
            self._task = self._log._bar.add_task(self._title, total=self._total, figures="")
        return self

    def advance(self, images: int) -> None:
        """Advances the progress by a number of images."""
        self._done += images
        now = time.monotonic()
        speed = self._done / max(now - self._began, 1e-9)
        if self._log._live:
            self._log._bar.update(self._task, advance=images, figures=f"{speed:.0f} images/s")
        elif now - self._told > LINE_EVERY:
            self._told = now
            left = (self._total - self._done) / speed
            self._log.say(f"{self._title}: {self._done}/{self._total} images, {speed:.0f} images/s, {left:.0f} s left")

    def __exit__(self, *error: object) -> None:
        if self._log._live:
            self._log._bar.remove_task(self._task)
            self._log._bar.stop()
