"""Tables about a model: sparsity, modules, operations; and loggers."""
