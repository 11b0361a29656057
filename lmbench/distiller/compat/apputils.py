"""``distiller.apputils``, without its loaders of image data sets and its image classifier."""

from lmbench.distiller import checkpoint
from lmbench.distiller.checkpoint import load_checkpoint, load_lean_checkpoint, save_checkpoint
from lmbench.distiller.reports import run_log as execution_env
from lmbench.distiller.reports.run_log import config_pylogger, log_execution_env_state
