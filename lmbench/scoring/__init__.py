"""Texts of one's own under a trained model: their probability, what may come next, rescoring.

A packed file is opened and run without torch here.
"""

from lmbench.scoring.language_model import LanguageModel, Stream
from lmbench.scoring.score import LineScore, Score

__all__ = ["LanguageModel", "LineScore", "Score", "Stream"]
