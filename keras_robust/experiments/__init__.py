"""The papers' tables and figures: recipes trained and measured row by row, our numbers beside the paper's."""

from keras_robust.experiments.figure import Line, draw_lines
from keras_robust.experiments.measures import attacked_and_noisy, corrupted
from keras_robust.experiments.study import Row, change, run_study, study_table

__all__ = ["Line", "Row", "attacked_and_noisy", "change", "corrupted", "draw_lines", "run_study", "study_table"]
