"""Multi-label classification: any number of labels per image."""

from mnv2zoo.tasks.multilabel.task import Multilabel

__all__ = ["Multilabel"]
