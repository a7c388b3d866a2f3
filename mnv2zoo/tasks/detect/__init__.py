"""Detection: boxes of objects and their classes."""

from mnv2zoo.tasks.detect.task import Detect

__all__ = ["Detect"]
