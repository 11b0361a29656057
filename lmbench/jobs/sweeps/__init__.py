"""Sweeps: one YAML file that says many runs, made up front in an ordinary session. No torch here
but where `checking` judges quantizations.

To read top to bottom: `axes` (the values of a setting), `sweep_file` (the file, every mistake with
its line), `plan` (which runs there are, and their settings), `checking` (corpora, schedules, hours
and disk), `making` (the runs), `halving` and `early_stopping`, `tpe` and `proposals`, `advance`
(what follows when a run has ended), `control` (starting, resuming, stopping, deleting), `status`
(the table).
"""
