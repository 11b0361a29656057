"""Writes docs/distiller-api.md: what of the original's public names lmbench.distiller has.

    python docs/make_api_table.py NAMES

NAMES lists them, module by module: a line ``distiller.module`` without indent, below it by two
spaces ``function(arguments)`` or ``class Name(Base)``, and by four ``method(arguments)``. Ends with
1, and says which, where a name is neither there nor has a reason.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "distiller-api.md"

CLASSIFIERS = "for image classifiers"
CONVOLUTIONS = "for convolutions, which a language model has not"
GRAPH = "needs a traced graph of the model; export to ONNX and use a viewer"
TORCH_QUANT = "torch's own quantized modules; `lmbench pack` and `lmbench export` instead"
BATCH_NORM = "for batch normalization, which a recurrent model has not"

# Why a name is not there: by its full name, or by a module for all that it lacks.
REASONS = {
    "distiller.config": "inside of `file_config`",
    "distiller.directives": "two lines of torch: `requires_grad_(False)`, `module.p = …`",
    "distiller.early_exit": CLASSIFIERS,
    "distiller.model_summaries": GRAPH,
    "distiller.model_summaries.masks_sparsity_summary": "`masks_table(scheduler)` gives the table",
    "distiller.model_summaries.model_performance_summary": "`modules_table(model)`: MACs a token",
    "distiller.model_summaries.model_performance_tbl_summary": "`modules_table(model)` as text",
    "distiller.model_transforms": BATCH_NORM,
    "distiller.norms": CONVOLUTIONS,
    "distiller.sensitivity.sensitivities_to_png": "`lmbench sensitivity` draws the curves",
    "distiller.summary_graph": GRAPH,
    "distiller.thinning": CONVOLUTIONS + "; `pruning.thin` removes hidden units",
    "distiller.utils": CONVOLUTIONS,
    "distiller.utils.get_dummy_input": CLASSIFIERS,
    "distiller.utils.set_model_input_shape_attr": CLASSIFIERS,
    "distiller.apputils.checkpoint.get_contents_table": "prints a pickled checkpoint",
    "distiller.apputils.data_loaders": CLASSIFIERS,
    "distiller.apputils.dataset_summaries": CLASSIFIERS,
    "distiller.apputils.execution_env.apply_default_logger_cfg": "`config_pylogger` does it",
    "distiller.apputils.image_classifier": CLASSIFIERS,
    "distiller.apputils.performance_tracker": CLASSIFIERS + " (ranks by top-1)",
    "distiller.data_loggers.collector.WeightedAverageValueMeter": "torchnet's meter, used inside",
    "distiller.data_loggers.collector.TrainingProgressCollector": "a dictionary does it",
    "distiller.data_loggers.tbbackend": "`TensorBoardLogger` writes by torch's SummaryWriter",
    "distiller.modules": "no part of a recurrent model",
    "distiller.modules.aggregate": "no part of a recurrent model",
    "distiller.modules.eltwise": "no part of a recurrent model",
    "distiller.modules.grouping": "no part of a recurrent model",
    "distiller.modules.matmul": "no part of a recurrent model",
    "distiller.modules.topology": CLASSIFIERS,
    "distiller.modules.rnn.process_sequence_wise": "inside of `DistillerLSTM`",
    "distiller.modules.tsvd": "factorization is not part of lmbench",
    "distiller.pruning.automated_gradual_pruner": CONVOLUTIONS,
    "distiller.pruning.automated_gradual_pruner.AutomatedGradualPrunerBase": (
        "subclass `pruning.ParameterPruner`"
    ),
    "distiller.pruning.automated_gradual_pruner.StructuredAGP": (
        "subclass `pruning.L1RankedStructureParameterPruner_AGP`"
    ),
    "distiller.pruning.greedy_filter_pruning": CONVOLUTIONS,
    "distiller.pruning.ranked_structures_pruner": CONVOLUTIONS,
    "distiller.pruning.ranked_structures_pruner.LpRankedStructureParameterPruner": (
        "`pruning.structured.RankedStructureParameterPruner`, columns and blocks of a matrix"
    ),
    "distiller.quantization.clipped_linear": "inside of the quantizers",
    "distiller.quantization.ptq_coordinate_search": "`auto_quantize` searches settings",
    "distiller.quantization.ptq_greedy_search": "`auto_quantize` searches settings",
    "distiller.quantization.pytorch_quant_conversion": TORCH_QUANT,
    "distiller.quantization.q_utils": "inside of the clip modes LAPLACE and GAUSS",
    "distiller.quantization.quantizer": "inside of `Quantizer`",
    "distiller.quantization.range_linear": "inside of the wrappers",
    "distiller.quantization.range_linear.NCFQuantAwareTrainQuantizer": "for recommenders",
    "distiller.quantization.sim_bn_fold": BATCH_NORM,
    "distiller.regularization.drop_filter": CONVOLUTIONS,
}
# What else differs, beside the arguments and methods that are compared.
DIFFERENCES = {
    "distiller.apputils.checkpoint.save_checkpoint": "safetensors and JSON in place of a pickle",
    "distiller.apputils.checkpoint.load_checkpoint": "reads no pickle",
    "distiller.apputils.checkpoint.load_lean_checkpoint": "reads no pickle",
    "distiller.knowledge_distillation.KnowledgeDistillationPolicy": "the loss has the factor T²",
    "distiller.model_summaries.model_summary": "returns its table, too",
    "distiller.model_summaries.draw_model_to_file": "refused, with what to do instead",
    "distiller.quantization.range_linear.QuantSettings": (
        "a named tuple; `quantization.QuantSettings` is of a whole model"
    ),
    "distiller.summary_graph.SummaryGraph": "refused, with what to do instead",
    "distiller.utils.yaml_ordered_load": "with a safe loader, whatever `Loader` says",
    "distiller.regularization.group_regularizer.GroupLassoRegularizer": (
        "`Rows`, `Cols`, both, and `HiddenUnits`"
    ),
    "distiller.regularization.group_regularizer.GroupVarianceRegularizer": (
        "the variance of the norms of rows or columns"
    ),
    "distiller.data_loggers.collector.SummaryActivationStatsCollector": "saves CSV, not a workbook",
    "distiller.data_loggers.collector.RecordsActivationStatsCollector": "saves CSV, not a workbook",
    "distiller.data_loggers.collector.ActivationHistogramsCollector": "saves safetensors",
    "distiller.data_loggers.collector.RawActivationsCollector": "saves safetensors",
}


@dataclass
class Name:
    """A public name of the original.

    Attributes:
        module: that holds it.
        name: of a function or class.
        signature: its arguments as text, of a function.
        methods: of a class, with their arguments.
    """

    module: str
    name: str
    signature: str | None
    methods: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


def read_names(text: str) -> list[Name]:
    """The names of a list as the head of this file describes it."""
    names: list[Name] = []
    module = ""
    for line in text.splitlines():
        entry, depth = line.strip(), len(line) - len(line.lstrip())
        if not entry or entry.startswith("#"):
            continue
        word, _, rest = entry.removeprefix("class ").partition("(")
        if depth == 0:
            module = entry
        elif depth == 2:
            is_class = entry.startswith("class ")
            names.append(Name(module, word, None if is_class else rest.removesuffix(")")))
        else:
            names[-1].methods[word] = rest.removesuffix(")")
    return names


def find(name: Name) -> Any:
    """The object of that name in lmbench.distiller, None when there is none."""
    path = f"lmbench.{name.module}"
    try:
        return getattr(importlib.import_module(path), name.name, None)
    except ModuleNotFoundError:
        return None


def difference(there: str, here: Any) -> str:
    """How the arguments of a callable differ from those of the original; empty when they do not."""
    wanted = ast.parse(f"def f({there}): pass").body[0]
    assert isinstance(wanted, ast.FunctionDef)
    first = ("self", "cls", "ctx")
    names = [one.arg for one in wanted.args.args if one.arg not in first]
    parameters = [p for p in inspect.signature(here).parameters.values() if p.name not in first]
    mine = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    taken = {p.kind for p in parameters}
    parts = []
    lacking = [one for one in names if one not in mine]
    added = [p.name for p in parameters if p.name not in names and p.kind is not p.VAR_KEYWORD]
    if wanted.args.vararg:
        added = [p.name for p in parameters if p.name in added and p.kind is not p.VAR_POSITIONAL]
    if lacking and inspect.Parameter.VAR_KEYWORD not in taken:
        parts.append("without " + ", ".join(f"`{one}`" for one in lacking))
    if added:
        parts.append("also takes " + ", ".join(f"`{one}`" for one in added))
    common = [one for one in names if one in mine]
    if common != [one for one in mine if one in names]:
        parts.append("another order")
    defaults = dict(zip(reversed(names), reversed(wanted.args.defaults), strict=False))
    for p in parameters:
        if p.name in defaults:
            try:
                value = ast.literal_eval(defaults[p.name])
            except ValueError:
                continue
            given = list(p.default) if isinstance(p.default, tuple) else p.default
            if (list(value) if isinstance(value, tuple) else value) != given:
                parts.append(f"`{p.name}` is {p.default!r} by default")
    if wanted.args.kwarg and inspect.Parameter.VAR_KEYWORD not in taken:
        parts.append("refuses unknown arguments")
    return ", ".join(parts)


def differences(name: Name, found: Any) -> list[str]:
    """Every difference of a name that is there."""
    parts = []
    if name.signature is not None:
        parts.append(difference(name.signature, found))
    lacking = []
    for method, arguments in name.methods.items():
        here = getattr(found, method, None)
        if here is None:
            lacking.append(f"`{method}`")
        elif method == "__init__":
            parts.append(difference(arguments, found))
        elif callable(here):
            text = difference(arguments, here)
            parts.append(f"`{method}`: {text}" if text else "")
    if lacking:
        parts.append("without the methods " + ", ".join(lacking))
    parts.append(DIFFERENCES.get(name.full, ""))
    return [part for part in parts if part]


def row(name: Name) -> tuple[str, str] | None:
    """The two last cells of a name's line; None where it has none."""
    found = find(name)
    if found is None:
        reason = REASONS.get(name.full) or REASONS.get(name.module)
        return None if reason is None else ("no", reason)
    parts = differences(name, found)
    return ("differs", "; ".join(parts)) if parts else ("same", "")


def main(names_file: str) -> int:
    names = read_names(Path(names_file).read_text(encoding="utf-8"))
    rows = [(name, row(name)) for name in names]
    missing = [name.full for name, cells in rows if cells is None]
    kinds = [cells[0] for _, cells in rows if cells is not None]
    lines = [
        "# The original's public names",
        "",
        "Made by `docs/make_api_table.py`. `same`: there, under the same path below",
        "`lmbench.distiller`, with the same arguments, defaults and methods. `differs`: there, and",
        "how it differs. `no`: not there, and why.",
        "",
        f"Of {len(rows)} functions and classes {kinds.count('same')} are the same, "
        f"{kinds.count('differs')} differ, {kinds.count('no')} are not there.",
    ]
    module = ""
    for name, cells in rows:
        if cells is None:
            continue
        if name.module != module:
            module = name.module
            lines += ["", f"## {module}", "", "| name | here | |", "| --- | --- | --- |"]
        lines.append(f"| `{name.name}` | {cells[0]} | {cells[1].replace('|', chr(92) + '|')} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for full in missing:
        print(f"{full}: not there, and REASONS says not why")
    print(lines[6])
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
