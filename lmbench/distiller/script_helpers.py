"""Small functions that scripts written for the original call."""

from __future__ import annotations

import argparse
import copy
import inspect
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Size, Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.reports.tensor_sparsity import size_to_str


def model_device(model: nn.Module) -> torch.device | str:
    """Where the parameters are; ``cpu`` for a model without any."""
    first = next(model.parameters(), None)
    return "cpu" if first is None else first.device


def to_np(var: Tensor) -> np.ndarray[Any, Any]:
    """The values as an array of numpy."""
    return var.detach().cpu().numpy()


def size2str(torch_size: Size | Tensor) -> str:
    """``(97, 24)``, of a size or of a tensor."""
    return size_to_str(torch_size.shape if isinstance(torch_size, Tensor) else torch_size)


def pretty_int(i: int) -> str:
    """``1,234``."""
    return f"{i:,}"


def normalize_module_name(layer_name: str) -> str:
    """The name of a layer without the ``module`` that `nn.DataParallel` puts into it."""
    return ".".join(part for part in layer_name.split(".") if part != "module")


def has_children(module: nn.Module) -> bool:
    """Whether there are modules inside."""
    return next(module.children(), None) is not None


def set_seed(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic(seed: int = 0) -> None:
    """`set_seed`, and choose cuDNN's algorithms that repeat themselves."""
    set_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def optimizer_device_name(opt: Optimizer) -> str:
    """Where the first parameter of an optimizer is."""
    return str(opt.param_groups[0]["params"][0].device)


class MutableNamedTuple(dict[str, Any]):
    """A dictionary whose entries are attributes, too."""

    def __init__(self, init_dict: Mapping[str, Any]) -> None:
        super().__init__(init_dict)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in self:
            raise AttributeError(key)
        self[key] = value


def assign_layer_fq_names(container: nn.Module, name: str | None = None) -> None:
    """Give every module below ``container`` its full name as ``distiller_name``."""
    for path, module in container.named_modules(prefix=name or ""):
        module.distiller_name = path  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def find_module_by_fq_name(model: nn.Module, fq_mod_name: str) -> nn.Module | None:
    """The module that `assign_layer_fq_names` gave this name, None when there is none."""
    named = (m for m in model.modules() if getattr(m, "distiller_name", None) == fq_mod_name)
    return next(named, None)


def denormalize_module_name(parallel_model: nn.Module, normalized_name: str) -> str:
    """The name in a model under `nn.DataParallel` of a layer without its ``module``."""
    names = (n for n, _ in parallel_model.named_modules())
    return next((n for n in names if normalize_module_name(n) == normalized_name), normalized_name)


def make_non_parallel_copy(model: nn.Module) -> nn.Module:
    """A deep copy without `nn.DataParallel`."""

    def unwrapped(module: nn.Module) -> nn.Module:
        while isinstance(module, nn.DataParallel):
            module = module.module
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, unwrapped(child))
        return module

    return unwrapped(copy.deepcopy(model))


get_nonparallel_clone_model = make_non_parallel_copy


def yaml_ordered_load(
    stream: Any,
    Loader: Any = None,  # noqa: N803 - the name of the argument
    object_pairs_hook: Any = OrderedDict,
) -> Any:
    """Read YAML with `yaml.SafeLoader`, each mapping as an ``object_pairs_hook``.

    ``Loader`` is not used: the original's could run code.
    """

    class _Ordered(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Any:
        loader.flatten_mapping(node)
        return object_pairs_hook(loader.construct_pairs(node, deep=True))

    _Ordered.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return yaml.load(stream, _Ordered)


def yaml_ordered_save(fname: str | Path, ordered_dict: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, in its order."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    text = yaml.safe_dump(plain(ordered_dict), sort_keys=False)
    Path(fname).write_text(text, encoding="utf-8")


def float_range_argparse_checker(
    min_val: float = 0.0, max_val: float = 1.0, exc_min: bool = False, exc_max: bool = False
) -> Callable[[str], float]:
    """For the ``type`` of an argument of argparse: a float in a range, bounds included or not."""

    def check(text: str) -> float:
        value = float(text)
        low_ok = value > min_val if exc_min else value >= min_val
        high_ok = value < max_val if exc_max else value <= max_val
        if low_ok and high_ok:
            return value
        low, high = "(" if exc_min else "[", ")" if exc_max else "]"
        raise argparse.ArgumentTypeError(f"must be in {low}{min_val}, {max_val}{high}")

    return check


def filter_kwargs(
    dict_to_filter: Mapping[str, Any], function_to_call: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries that a function takes as arguments, and the others."""
    taken = inspect.signature(function_to_call).parameters
    valid = {key: value for key, value in dict_to_filter.items() if key in taken}
    return valid, {key: value for key, value in dict_to_filter.items() if key not in valid}


def convert_tensors_recursively_to(val: Any, *args: Any, **kwargs: Any) -> Any:
    """``Tensor.to(*args, **kwargs)`` of every tensor in nested lists, tuples and dictionaries."""
    if isinstance(val, Tensor):
        return val.to(*args, **kwargs)
    if isinstance(val, Mapping):
        pairs = {k: convert_tensors_recursively_to(v, *args, **kwargs) for k, v in val.items()}
        return type(val)(pairs)  # pyright: ignore[reportCallIssue]
    if isinstance(val, list | tuple):
        items = [convert_tensors_recursively_to(item, *args, **kwargs) for item in val]
        return type(val)(*items) if hasattr(val, "_fields") else type(val)(items)
    return val


def model_setattr(model: nn.Module, attr_name: str, val: Any, register: bool = False) -> None:
    """Set an attribute by its dotted name; a tensor as a buffer when ``register``."""
    owner, _, name = attr_name.rpartition(".")
    module = model.get_submodule(owner)
    if register and isinstance(val, Tensor) and not isinstance(val, nn.Parameter):
        module.register_buffer(name, val)
    else:
        setattr(module, name, val)


def param_name_2_module_name(param_name: str) -> str:
    """The module of a parameter: its name without the last part."""
    return param_name.rpartition(".")[0]


def is_scalar(val: Any) -> bool:
    """Whether a value is a number, or a tensor without dimensions."""
    return np.isscalar(val) or (isinstance(val, Tensor) and val.dim() == 0)
