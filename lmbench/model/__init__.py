"""The four recurrent language models."""

from lmbench.model.rnn import Hidden, RNNModel, build_model, count_weights, detach, shared_names

__all__ = ["Hidden", "RNNModel", "build_model", "count_weights", "detach", "shared_names"]
