"""Tasks: the targets, network, loss, metrics, report and predictions of whatever is trained.

`base` has the `Task` that training, evaluation and inference work with, and `lookup` finds one by name.
"""

from mnv2zoo.tasks.base import Metric, Scores, Task
from mnv2zoo.tasks.lookup import find_task

__all__ = ["Metric", "Scores", "Task", "find_task"]
