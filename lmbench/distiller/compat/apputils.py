"""``distiller.apputils``, without its loaders of image data sets and its image classifier."""

from lmbench.distiller.reports.run_log import config_pylogger, log_execution_env_state
