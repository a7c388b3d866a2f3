"""Segmentation: the class of each pixel."""

from mnv2zoo.tasks.segment.task import Segment

__all__ = ["Segment"]
