"""Classification: one class per image."""

from mnv2zoo.tasks.classify.task import Classify

__all__ = ["Classify"]
