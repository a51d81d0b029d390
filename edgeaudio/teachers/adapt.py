"""Adapting a foundation model to a task, from given training examples only.

`fit_head` puts logistic regression on frozen embeddings (seconds; the stronger of the two on ESC-10's whole
clips). `finetune` trains the whole network on short windows (minutes; better where a student hears 1 s).
"""

from edgeaudio.teachers.adapted import AdaptedTeacher
from edgeaudio.teachers.finetune import finetune
from edgeaudio.teachers.finetune_spec import FinetuneSpec, FinetuneWindow
from edgeaudio.teachers.probe import LinearHead, fit_head

__all__ = ["AdaptedTeacher", "FinetuneSpec", "FinetuneWindow", "LinearHead", "finetune", "fit_head"]
