"""The runtimes by name: which can run a model here, and building the one that is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from lmbench.deploy.load_model import LoadedModel, PackedModel
from lmbench.deploy.native.tensors import as_is_layout
from lmbench.deploy.runtimes.bsr import BsrRuntime
from lmbench.deploy.runtimes.cuda_graph import CudaRuntime
from lmbench.deploy.runtimes.interface import Runtime
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.deploy.runtimes.native import (
    BlockInt8Runtime,
    NativeCodesRuntime,
    NativeInt4Runtime,
    NativeInt8Runtime,
    SparseInt8Runtime,
)
from lmbench.deploy.runtimes.onnx_runtime import OnnxFp32Runtime, OnnxInt4Runtime, OnnxInt8Runtime
from lmbench.deploy.runtimes.torch_cells import Bf16Runtime, Fp16Runtime, TorchRuntime
from lmbench.errors import LmbenchError

__all__ = ["RUNTIMES", "as_is_runtime", "build_runtime", "supported"]

RUNTIMES: Mapping[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (
        NaiveRuntime,
        TorchRuntime,
        Fp16Runtime,
        Bf16Runtime,
        OnnxFp32Runtime,
        OnnxInt8Runtime,
        OnnxInt4Runtime,
        CudaRuntime,
        NativeInt8Runtime,
        NativeInt4Runtime,
        NativeCodesRuntime,
        SparseInt8Runtime,
        BlockInt8Runtime,
        BsrRuntime,
    )
}


def supported(loaded: LoadedModel) -> list[type[Runtime]]:
    """The runtimes that can run this model on this machine."""
    return [runtime for runtime in RUNTIMES.values() if runtime.refusal(loaded) is None]


def build_runtime(name: str, loaded: LoadedModel) -> Runtime:
    """The runtime of that name over this model.

    ``torch`` stands for torch in general: a model whose modules a quantizer has wrapped is run
    by ``naive``, as it is.

    Raises:
        LmbenchError: no such runtime, or it cannot run this model here; says which can.
    """
    if name == "torch" and not loaded.plain:
        name = "naive"
    runtime = RUNTIMES.get(name)
    if runtime is None:
        raise LmbenchError(f"runtime '{name}': use one of {', '.join(RUNTIMES)}, as-is or auto")
    reason = runtime.refusal(loaded)
    if reason:
        can = ", ".join(one.name for one in supported(loaded))
        raise LmbenchError(f"runtime '{name}' cannot run {loaded.title}: {reason}; use {can}")
    try:
        return runtime(loaded)
    except (MemoryError, ValueError) as error:
        reason = str(error)
        if isinstance(error, MemoryError):
            reason = "there is not enough free memory for it"
        raise LmbenchError(f"runtime '{name}' cannot run {loaded.title}: {reason}") from None


def as_is_runtime(loaded: LoadedModel) -> str:
    """The name of the runtime that computes with the stored numbers themselves.

    Integers of a packed file run on the compiled kernels of their layout, and where those cannot be
    had in ONNX Runtime's int8; modules that a quantizer has wrapped run as they are, and floats in
    torch. So do integers on another device than the CPU, on the fp32 weights that the file unpacks
    to.
    """
    if not loaded.plain:
        return "naive"
    if isinstance(loaded, PackedModel) and loaded.device.type == "cpu":
        layout = as_is_layout(loaded.packed)
        for name in (layout, "int8") if layout else ():
            if RUNTIMES[name].refusal(loaded) is None:
                return name
    return "torch"
