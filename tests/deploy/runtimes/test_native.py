"""Native and block-sparse runtimes: near the fp32 model, one arithmetic in all ways of use."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lmbench.config import PackConfig
from lmbench.deploy.load_model import LoadedModel, load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.native.kernels import Kernels
from lmbench.deploy.native.matrices import ISAS
from lmbench.deploy.native.tensors import LAYOUTS, TensorSource, as_is_layout
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.stored_tensor import ValueType
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes.bsr import BsrRuntime
from lmbench.deploy.runtimes.choose import open_runtime
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.deploy.runtimes.native import (
    BlockInt8Runtime,
    NativeInt4Runtime,
    NativeInt8Runtime,
    NativeRuntime,
    SparseInt8Runtime,
)
from lmbench.deploy.runtimes.table import RUNTIMES, as_is_runtime, build_runtime, supported
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of

needs_kernels = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

WORDS = [f"w{i}" for i in range(203)]
KINDS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
NATIVE = (NativeInt8Runtime, SparseInt8Runtime, BlockInt8Runtime, NativeInt4Runtime)


def model(
    kind: str = "LSTM",
    *,
    tied: bool = True,
    block: tuple[int, int] | None = None,
    projection: bool = False,
) -> RNNModel:
    """A small model; with `block`, four fifths of such blocks of its matrices are zero."""
    torch.manual_seed(1)
    width = 36
    # Wider than the layers, or narrower: what a step works in is as wide as the wider one.
    emsize = 52 if projection else width if tied else 20
    built = RNNModel(kind, len(WORDS), emsize, width, 2, 0.2, tied, projection)
    generator = np.random.default_rng(2)
    with torch.no_grad():
        built.decoder.bias.normal_(std=0.1)
        for p in built.parameters():
            p.mul_(2.0)
            if block and p.dim() == 2:
                rows, columns = p.shape
                keep = generator.random((-(-rows // block[0]), -(-columns // block[1]))) < 0.2
                mask = np.kron(keep, np.ones(block))[:rows, :columns]
                p.mul_(torch.from_numpy(mask).float())
    return built.eval().requires_grad_(False)


def loaded(built: RNNModel) -> LoadedModel:
    return LoadedModel(built, WORDS, shape_of(built), "test/001-train", Path("test"))


def source_for(runtime: type[NativeRuntime], built: RNNModel, folder: Path) -> LoadedModel:
    """The model in the form that the runtime is for: packed in 4 bits, or plain."""
    if runtime is not NativeInt4Runtime:
        return loaded(built)
    write_packed(built, WORDS, folder / "four.lmpack", PackConfig(weights="int4", sparse="never"))
    return load_packed(folder / "four.lmpack")


def text(rows: int = 40, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, len(WORDS), (rows, batch), generator=generator)


def stepped(runtime, ids: Tensor) -> Tensor:
    """Logits [T, B, V] word by word."""
    state, out = runtime.initial_state(ids.shape[1]), []
    for row in ids:
        logits, state = runtime.step(row, state)
        out.append(logits.clone())
    return torch.stack(out)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied,projection", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("runtime", NATIVE)
def test_native_runtimes_score_near_fp32(tmp_path, runtime, kind, tied, projection):
    built = model(kind, tied=tied, block=(16, 4), projection=projection)
    source = source_for(runtime, built, tmp_path)
    wanted = NaiveRuntime(source).evaluate(text(), 7)
    score = runtime(source).evaluate(text(), 7)
    assert score.tokens == wanted.tokens
    assert score.ppl == pytest.approx(wanted.ppl, rel=0.01)


@needs_kernels
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", NATIVE)
def test_stepping_alone_in_a_batch_and_scoring_are_one_arithmetic(
    tmp_path, runtime, kind, projection
):
    source = source_for(runtime, model(kind, block=(8, 8), projection=projection), tmp_path)
    built = runtime(source)
    ids = text(12, 5)
    batch = stepped(built, ids)
    alone = torch.cat([stepped(built, ids[:, i : i + 1]) for i in range(5)], dim=1)
    torch.testing.assert_close(batch, alone, rtol=0, atol=2e-6)
    nll = torch.nn.functional.cross_entropy(
        alone[:-1].flatten(0, 1).double(), ids[1:].reshape(-1), reduction="sum"
    )
    for bptt in (1, 4, 100):
        assert built.evaluate(ids, bptt).nll == pytest.approx(nll.item(), rel=1e-6)


@needs_kernels
@pytest.mark.parametrize("runtime", [NativeInt8Runtime, SparseInt8Runtime])
def test_a_vocabulary_is_gone_through_from_either_end(runtime):
    """Of more parts than one, from the first and from the last in turns."""
    torch.manual_seed(1)
    built = RNNModel("LSTM", 1203, 36, 36, 1, 0.2, tie_weights=True).eval().requires_grad_(False)
    source = replace(loaded(built), vocabulary=[f"w{i}" for i in range(1203)])
    ids = torch.randint(0, 1203, (6, 4), generator=torch.Generator().manual_seed(3))
    ready = runtime(source)
    alone = torch.cat([stepped(ready, ids[:, i : i + 1]) for i in range(4)], dim=1)
    torch.testing.assert_close(alone, stepped(ready, ids), rtol=0, atol=2e-6)


@needs_kernels
def test_every_instruction_set_scores_the_same():
    source = loaded(model(block=(16, 4)))
    scores = [
        SparseInt8Runtime(source, Kernels(isa)).evaluate(text(), 35).nll
        for isa in ISAS[: Kernels().isa + 1]
    ]
    assert scores == pytest.approx([scores[0]] * len(scores), rel=1e-6)


@needs_kernels
def test_threads_do_not_change_a_score():
    source = loaded(model())
    one = NativeInt8Runtime(source, Kernels()).evaluate(text(60, 9), 20).nll
    assert NativeInt8Runtime(source, Kernels(threads=2)).evaluate(text(60, 9), 20).nll == one


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_two_scores_that_are_made_in_turn_do_not_disturb_each_other(tmp_path, threads, monkeypatch):
    source = source_for(NativeInt4Runtime, model(projection=True), tmp_path)
    built = NativeInt4Runtime(source, Kernels(threads=threads))._model
    made_by, kernels_of_scores = set(), []
    features = type(built)._features

    def noted(model, ids, state, kernels):
        made_by.add(threading.current_thread() is threading.main_thread())
        if kernels not in kernels_of_scores:
            kernels_of_scores.append(kernels)
        return features(model, ids, state, kernels)

    monkeypatch.setattr(type(built), "_features", noted)

    def losses(seed: int):
        ids = np.random.default_rng(seed).integers(0, len(WORDS), (61, 40, 1))
        windows = ((part[:-1], part[1:].reshape(-1)) for part in ids)
        return built.losses(windows, built.initial_state())

    alone = [np.concatenate(list(losses(seed))) for seed in (1, 2)]
    in_turn = zip(*zip(losses(1), losses(2), strict=True), strict=True)
    for one, other in zip(alone, map(np.concatenate, in_turn), strict=True):
        np.testing.assert_array_equal(one, other)
    # On one thread nothing is computed beside it.
    assert made_by == {threads == 1}
    # Of four scores, which else would write over what another is computing.
    assert len(kernels_of_scores) == 4


@needs_kernels
def test_weights_that_are_no_numbers_are_refused_by_name():
    built = model()
    with torch.no_grad():
        built.encoder.weight[3, 4] = torch.nan
    with pytest.raises(LmbenchError, match=r"test/001-train: encoder.weight holds a number that"):
        build_runtime("native-int8", loaded(built))


@needs_kernels
@pytest.mark.parametrize("runtime", NATIVE)
def test_a_state_is_a_snapshot_and_can_be_gone_back_to(tmp_path, runtime):
    built = runtime(source_for(runtime, model(block=(16, 4)), tmp_path))
    ids = torch.tensor([5])
    _, early = built.step(ids, built.initial_state())
    first = built.step(ids, early)[0].clone()
    built.step(torch.tensor([9]), early)
    assert torch.equal(built.step(ids, early)[0], first)


@needs_kernels
def test_a_packed_file_runs_on_its_stored_integers(tmp_path):
    built = model()
    write_packed(built, WORDS, tmp_path / "m.lmpack", PackConfig(weights="int8", sparse="never"))
    packed = load_packed(tmp_path / "m.lmpack")
    # The same integers are found from the fp32 model, whose rounding they are.
    plain = NativeInt8Runtime(loaded(built))
    assert torch.equal(stepped(NativeInt8Runtime(packed), text()), stepped(plain, text()))
    assert "model" not in vars(packed)


@needs_kernels
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_packed_file_runs_as_it_is_without_its_fp32_weights(tmp_path, weights):
    path = tmp_path / "m.lmpack"
    write_packed(model(block=(1, 1)), WORDS, path, PackConfig(weights=weights))
    packed = load_packed(path)
    runtime = open_runtime("as-is", packed, "score")
    assert runtime.evaluate(text(), 35).nll > 0
    assert "model" not in vars(packed)
    assert packed.device.type == "cpu"


def test_floats_of_a_file_that_holds_integers_too_are_not_rounded_as_it_is(tmp_path):
    kinds: dict[str, ValueType] = {"encoder.weight": "int8"}
    path = tmp_path / "m.lmpack"
    info = write_packed(model(), WORDS, path, PackConfig(weights="auto"), auto=kinds)
    assert {tensor.spec.values for tensor in info.tensors} == {"int8", "fp32"}
    assert as_is_runtime(load_packed(path)) == "torch"
    assert as_is_layout(open_packed(path)) is None


@pytest.mark.parametrize(
    "weights, block, other, runtime",
    [("int4", (16, 4), None, "native-int4"), ("int8", (1, 1), (16, 4), "block-int8")],
)
def test_in_a_file_of_several_layouts_each_matrix_runs_in_its_own(
    tmp_path, weights, block, other, runtime
):
    """The embedding pruned one way, the layers another way or not."""
    built, pruned = model(block=other), model(block=block)
    built.encoder.weight.copy_(pruned.encoder.weight)
    write_packed(built, WORDS, tmp_path / "m.lmpack", PackConfig(weights=weights))
    packed = open_packed(tmp_path / "m.lmpack")
    assert as_is_layout(packed) == runtime
    source, name = TensorSource.of_file(packed), "encoder.weight"
    own = {"bitmask": "sparse-int8", "block": "block-int8"}[packed.specs[name].layout]
    found, wanted = (LAYOUTS[one](source, name, "avx512") for one in (runtime, own))
    assert (found.struct.kind, found.nbytes) == (wanted.struct.kind, wanted.nbytes)


@needs_kernels
def test_a_matrix_that_was_packed_in_8_bits_is_not_cut_to_4(tmp_path):
    built = model(block=(1, 1))
    # So sparse that asking for int4 gives bitmask and int8 for some matrices.
    info = write_packed(built, WORDS, tmp_path / "m.lmpack", PackConfig(weights="int4"))
    assert "int8" in {tensor.spec.values for tensor in info.tensors}
    packed = load_packed(tmp_path / "m.lmpack")
    wanted = NaiveRuntime(packed).evaluate(text(), 35).ppl
    assert NativeInt4Runtime(packed).evaluate(text(), 35).ppl == pytest.approx(wanted, rel=3e-3)


@needs_kernels
@pytest.mark.parametrize(
    "block,runtime", [((1, 1), SparseInt8Runtime), ((16, 4), BlockInt8Runtime)]
)
def test_a_sparse_packed_file_scores_within_its_rounding_of_the_pruned_parent(
    tmp_path, block, runtime
):
    parent = model(block=block)
    write_packed(parent, WORDS, tmp_path / "m.lmpack", PackConfig(weights="int8", zstd=True))
    packed = load_packed(tmp_path / "m.lmpack")
    wanted = NaiveRuntime(loaded(parent)).evaluate(text(), 35).ppl
    assert runtime(packed).evaluate(text(), 35).ppl == pytest.approx(wanted, rel=3e-3)


@needs_kernels
def test_sparse_and_block_layouts_take_less_memory_than_dense():
    torch.manual_seed(0)
    source = loaded(model(block=(16, 4)))
    dense = NativeInt8Runtime(source).bytes
    assert BlockInt8Runtime(source).bytes < SparseInt8Runtime(source).bytes < dense


@needs_kernels
def test_a_word_that_is_none_never_reaches_the_kernels():
    built = NativeInt8Runtime(loaded(model()))
    for bad in (-1, len(WORDS)):
        with pytest.raises(IndexError, match="word ids"):
            built.step(torch.tensor([bad]), built.initial_state())
        with pytest.raises(IndexError, match="word ids"):
            built.evaluate(torch.tensor([[0, 1], [2, bad]]), 35)


@needs_kernels
def test_progress_is_told_while_scoring():
    told = []
    NativeInt8Runtime(loaded(model())).evaluate(text(21, 2), 8, lambda *at: told.append(at))
    assert told == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied,projection", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("columns", [1, 16])
def test_the_bsr_runtime_is_the_fp32_model(kind, tied, projection, columns, monkeypatch):
    monkeypatch.setattr("lmbench.deploy.runtimes.bsr.fewest_columns", lambda: columns)
    source = loaded(model(kind, tied=tied, block=(8, 8), projection=projection))
    naive, bsr = NaiveRuntime(source), BsrRuntime(source)
    ids = text(9, 4)
    torch.testing.assert_close(stepped(bsr, ids), stepped(naive, ids), rtol=1e-4, atol=1e-5)
    assert bsr.evaluate(ids, 3).nll == pytest.approx(naive.evaluate(ids, 3).nll, rel=1e-6)
    assert bsr.bytes < naive.bytes


def test_with_how_many_columns_bsr_multiplies_is_measured(monkeypatch):
    from lmbench.deploy.runtimes import bsr

    for slow in (1, 16):
        bsr.fewest_columns.cache_clear()
        monkeypatch.setattr(bsr, "_time_of", lambda _, x, slow=slow: float(len(x) == slow))
        assert bsr.fewest_columns() == 17 - slow
    bsr.fewest_columns.cache_clear()


def test_runtimes_for_compressed_models_say_why_they_refuse_a_dense_one():
    source = loaded(model())
    for name, reason in {
        "bsr": "8x8",
        "sparse-int8": "zeros",
        "block-int8": "blocks",
        "native-int4": "pack it with --weights int4",
    }.items():
        refused = RUNTIMES[name].refusal(source)
        assert refused
        assert reason in refused or "not available" in refused


@needs_kernels
def test_the_registry_builds_each_for_the_model_it_is_for(tmp_path):
    blocks = loaded(model(block=(8, 8)))
    for name in ("native-int8", "sparse-int8", "block-int8", "bsr"):
        assert build_runtime(name, blocks).name == name
    write_packed(model(), WORDS, tmp_path / "m.lmpack", PackConfig(weights="int4"))
    assert isinstance(
        build_runtime("native-int4", load_packed(tmp_path / "m.lmpack")), NativeRuntime
    )


@needs_kernels
@pytest.mark.parametrize("runtime", NATIVE)
def test_a_model_on_a_gpu_is_left_to_what_a_gpu_runs(tmp_path, monkeypatch, runtime):
    source = source_for(runtime, model(block=(8, 8)), tmp_path)
    assert runtime.name in [entry.name for entry in supported(source)]
    monkeypatch.setattr(type(source), "device", torch.device("cuda"))
    assert RUNTIMES[runtime.name].refusal(source) == "it runs on the CPU only (--device cpu)"
    assert {entry.name for entry in supported(source)} <= {"naive", "torch", "fp16", "bf16", "cuda"}


def test_without_the_kernels_each_native_runtime_says_so(monkeypatch):
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    with pytest.raises(LmbenchError, match="LMBENCH_NATIVE=0 is set"):
        build_runtime("native-int8", loaded(model()))
