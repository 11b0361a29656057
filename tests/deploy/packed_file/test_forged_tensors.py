"""Packed files whose numbers someone made up, with a right checksum: refused, or run unharmed."""

from __future__ import annotations

import copy
import math
import tracemalloc
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import zstandard as zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmbench.config import PackConfig
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.native import tensors as native_tensors
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file import reading
from lmbench.deploy.packed_file.code_planes import interleave, separate
from lmbench.deploy.packed_file.dequantize import dequantized
from lmbench.deploy.packed_file.header import open_container, write_container
from lmbench.deploy.packed_file.mask_coding import code_mask
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.stored_tensor import Spec
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes.table import RUNTIMES, as_is_runtime, build_runtime
from lmbench.distiller.quantization import QuantSettings, quantize
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of
from lmbench.model_shapes import parameter_shapes

WORDS = [f"w{i}" for i in range(45)]
FORMS = {
    "dense": ("int8", None, "native-int8"),
    "bitmask": ("int8", (1, 1), "sparse-int8"),
    "blocks of 16x4": ("int8", (16, 4), "block-int8"),
    "blocks of 8x8": ("int8", (8, 8), "block-int8"),
    "int4": ("int4", None, "native-int4"),
    "codes": ("code3", None, "native-codes"),
    "codes beside zeros": ("code3", (1, 1), "sparse-int8"),
    "codes, with zstd": ("code3", None, "native-codes"),
    "codes beside zeros, with zstd": ("code3", (1, 1), "sparse-int8"),
    "coded masks of blocks": ("int8", (8, 8), "block-int8"),
}


def packed(form: str, path: Path) -> None:
    path.write_bytes(_bytes_of(form))


@cache
def _bytes_of(form: str) -> bytes:
    """Packed once, since each example begins with it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.lmpack"
        _pack(form, path)
        return path.read_bytes()


def _pack(form: str, path: Path) -> None:
    values, block, _ = FORMS[form]
    torch.manual_seed(4)
    model = RNNModel("LSTM", len(WORDS), 24, 24, 1, 0.0, True).eval()
    generator = np.random.default_rng(1)
    with torch.no_grad():
        for p in model.parameters():
            if block and p.dim() == 2:
                grid = [-(-size // side) for size, side in zip(p.shape, block, strict=True)]
                keep = np.kron(generator.random(grid) < 0.2, np.ones(block))
                p.mul_(torch.from_numpy(keep[: p.shape[0], : p.shape[1]]).float())
    if values == "code3":
        write_codes(model, path, zstd="zstd" in form)
        return
    sparse = "auto" if block else "never"
    write_packed(
        model, WORDS, path, PackConfig.model_validate({"weights": values, "sparse": sparse})
    )
    if "coded" in form:
        code_masks(path)


def write_codes(
    model: RNNModel, path: Path, bits: int = 3, group: int = 16, *, zstd: bool = False
) -> None:
    settings = {"bits_activations": None, "rounding": "codes"}
    settings |= {"bits_weights": bits, "group_size": group}
    taken = dequantized(quantize(model, QuantSettings.from_dict(settings)), shape_of(model))
    write_packed(
        taken.model, WORDS, path, PackConfig(zstd=zstd),
        grids=taken.grids, groups=taken.groups, auto=taken.values,
    )  # fmt: skip


def code_masks(path: Path) -> None:
    """As a writer does with those of larger matrices, of which they become smaller."""
    arrays, document = contents(path)
    for name, spec in open_packed(path).specs.items():
        if spec.layout != "dense":
            coded = code_mask(arrays[f"{name}/mask"], *spec.grid())
            arrays[f"{name}/mask"] = np.frombuffer(coded, np.uint8)
            document["tensors"][name]["parts"]["mask"]["coded"] = True
    write_container(path, arrays, document)


def contents(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the document of a packed file, to be changed and written again."""
    container = open_container(path)
    arrays = {name: np.array(container.array(name)) for name in container.names()}
    return arrays, copy.deepcopy(container.metadata)


def run(path: Path, name: str | None = None) -> float:
    """Step and score as the file's own runtime does; gives the loss."""
    loaded = load_packed(path)
    runtime = build_runtime(name or as_is_runtime(loaded), loaded)
    data = torch.arange(44).view(22, 2)
    state = runtime.initial_state(2)
    for ids in data:
        _, state = runtime.step(ids, state)
    return runtime.evaluate(data, 5).loss


def complaint(path: Path, name: str | None) -> str | None:
    """What is said of the file, or None where it runs."""
    try:
        run(path, name)
    except LmbenchError as error:
        return error.message
    return None


@pytest.mark.parametrize("form", FORMS)
def test_each_form_runs_on_the_kernel_of_its_layout(tmp_path: Path, form: str) -> None:
    packed(form, tmp_path / "m.lmpack")
    found = as_is_runtime(load_packed(tmp_path / "m.lmpack"))
    assert found == ("int8" if why_unavailable() else FORMS[form][2])
    assert math.isfinite(run(tmp_path / "m.lmpack"))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 30),
    place=st.floats(0, 1, exclude_max=True),
    forged=st.binary(min_size=1, max_size=24),
)
def test_no_numbers_make_it_crash(
    tmp_path: Path, form: str, which: int, place: float, forged: bytes
) -> None:
    path = tmp_path / "m.lmpack"
    packed(form, path)
    arrays, document = contents(path)
    names = sorted(name for name in arrays if not name.startswith("vocabulary"))
    array = arrays[names[which % len(names)]]
    raw = bytearray(array.tobytes())
    at = int(place * len(raw))
    raw[at : at + len(forged)] = forged[: len(raw) - at]
    arrays[names[which % len(names)]] = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    write_container(path, arrays, document)
    for name in (None, "torch"):
        problem = complaint(path, name)
        assert problem is None or (str(path) in problem and "\n" not in problem)


@pytest.mark.parametrize("form", ["int4", "codes"])
def test_a_group_wider_than_its_matrix_takes_no_more_memory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.lmpack"
    packed(form, path)
    arrays, document = contents(path)
    entry = document["tensors"]["encoder.weight"]
    entry["group"] = 65536
    scale = np.ascontiguousarray(arrays["encoder.weight/scale"][..., :1])
    arrays["encoder.weight/scale"] = scale
    entry["parts"]["scale"]["shape"] = list(scale.shape)
    write_container(path, arrays, document)
    opened = open_packed(path)
    tracemalloc.start()
    weights = opened.dense("encoder.weight")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert weights.shape == tuple(entry["shape"])
    assert peak < 1_000_000


def test_a_block_shape_of_what_has_no_blocks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.lmpack"
    packed("dense", path)
    arrays, document = contents(path)
    for block in ([0, 0], [3, 5], ["a", None]):
        document["tensors"]["encoder.weight"]["block"] = block
        write_container(path, arrays, document)
        assert "'encoder.weight' is not described in full" in (complaint(path, None) or "")


def test_a_block_shape_in_floats_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.lmpack"
    packed("blocks of 16x4", path)
    arrays, document = contents(path)
    document["tensors"]["encoder.weight"]["block"] = [16.0, 4.0]
    write_container(path, arrays, document)
    assert "'encoder.weight' is not described in full" in (complaint(path, None) or "")


def test_few_zeros_in_a_bitmask_run_on_the_dense_kernel(tmp_path: Path) -> None:
    """A bitmask is smaller from an eighth of zeros on, and faster only from a third on."""
    torch.manual_seed(4)
    model = RNNModel("LSTM", len(WORDS), 64, 64, 1, 0.0, True).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.rand_like(p) >= 0.2)
    path = tmp_path / "m.lmpack"
    write_packed(model, WORDS, path, PackConfig(weights="int8"))
    loaded = load_packed(path)
    assert "bitmask" in {spec.layout for spec in loaded.packed.specs.values()}
    expected = "int8" if why_unavailable() else "native-int8"
    assert as_is_runtime(loaded) == expected
    assert RUNTIMES[expected].refusal(loaded) is None
    assert math.isfinite(run(path))


def test_a_scale_that_makes_weights_overflow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.lmpack"
    packed("dense", path)
    arrays, document = contents(path)
    arrays["encoder.weight/scale"][3] = -3e38
    write_container(path, arrays, document)
    assert "so large that weights overflow" in str(complaint(path, None))


@pytest.mark.parametrize(
    "part,value,words",
    [
        ("scale", -0.5, "part 'scale' holds a number below zero"),
        ("scale", np.inf, "part 'scale' holds a number that is not finite"),
        ("values", 255, "part 'values' has bits beyond the ends of its rows"),
    ],
)
def test_codes_that_no_writer_makes_are_refused(
    tmp_path: Path, part: str, value: float, words: str
) -> None:
    path = tmp_path / "m.lmpack"
    write_codes(RNNModel("LSTM", len(WORDS), 21, 21, 1, 0.0, True).eval(), path)
    arrays, document = contents(path)
    arrays[f"encoder.weight/{part}"][0, 3, -1] = value
    write_container(path, arrays, document)
    assert words in str(complaint(path, None))


@pytest.mark.parametrize(
    "form,part,change",
    [
        ("codes, with zstd", "scale", {"interleaved": False}),
        ("codes, with zstd", "scale", {"interleaved": 1}),
        ("codes, with zstd", "scale", {"zstd": False}),
        ("codes", "values", {"interleaved": True}),
        ("codes beside zeros", "mask", {"zstd": True, "interleaved": True}),
        ("dense", "values", {"zstd": True, "interleaved": True}),
        ("int4", "scale", {"zstd": True, "interleaved": True}),
        ("coded masks of blocks", "mask", {"coded": False}),
        ("coded masks of blocks", "mask", {"zstd": True}),
        ("coded masks of blocks", "values", {"coded": True}),
    ],
)
def test_what_is_interleaved_or_coded_as_no_writer_does_is_refused(
    tmp_path: Path, form: str, part: str, change: dict[str, object]
) -> None:
    path = tmp_path / "m.lmpack"
    packed(form, path)
    arrays, document = contents(path)
    document["tensors"]["encoder.weight"]["parts"][part] |= change
    write_container(path, arrays, document)
    assert f"part '{part}' of 'encoder.weight' is not described in full" in str(
        complaint(path, None)
    )


@pytest.mark.parametrize("form,most", [("codes beside zeros", 135), ("bitmask", 1080)])
def test_more_values_than_the_matrix_has_places_are_refused_before_they_are_unpacked(
    tmp_path: Path, form: str, most: int
) -> None:
    path = tmp_path / "m.lmpack"
    packed(form, path)
    arrays, document = contents(path)
    part = document["tensors"]["encoder.weight"]["parts"]["values"]
    for longer, words in ((0, "its mask counts"), (1, "part 'values' of 'encoder.weight' has")):
        shape = [*part["shape"][:-1], most + longer]
        values = np.zeros(shape, arrays["encoder.weight/values"].dtype)
        arrays["encoder.weight/values"], part["shape"] = values, shape
        write_container(path, arrays, document)
        assert words in str(complaint(path, None))


def test_taking_interleaved_codes_apart_needs_little_more_than_they_take(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 1 << 20), np.uint8)
    data = interleave(planes).tobytes()
    tracemalloc.start()
    apart = separate(data, planes.dtype, planes.shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(apart, planes)
    assert peak < 2 * len(data)


@pytest.mark.parametrize("value", [0, 63, 64, 255])
def test_interleaved_bits_that_belong_to_no_code_are_refused(tmp_path: Path, value: int) -> None:
    path = tmp_path / "m.lmpack"
    packed("codes, with zstd", path)
    arrays, document = contents(path)
    part = document["tensors"]["encoder.weight"]["parts"]["values"]
    codes = bytearray(interleave(open_packed(path).tensor("encoder.weight").parts["values"]))
    codes[5] = value
    arrays["encoder.weight/values"] = np.frombuffer(zstd.compress(bytes(codes)), np.uint8)
    part |= {"zstd": True, "interleaved": True}
    write_container(path, arrays, document)
    found = complaint(path, None)
    if value < 64:
        assert found is None
    else:
        assert "part 'values' of 'encoder.weight' has bits that belong to no code" in str(found)


def test_a_mask_that_was_not_coded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.lmpack"
    packed("bitmask", path)
    arrays, document = contents(path)
    plain, coded = arrays["encoder.weight/mask"], code_mask(arrays["encoder.weight/mask"], 45, 24)
    document["tensors"]["encoder.weight"]["parts"]["mask"]["coded"] = True
    pieces = np.frombuffer(coded, np.uint8)
    for array in (plain, pieces.view(np.int8), pieces[None], pieces):
        arrays["encoder.weight/mask"] = array
        write_container(path, arrays, document)
        said = str(complaint(path, None))
        assert ("part 'mask' of 'encoder.weight' is no coded mask" in said) != (array is pieces)


def test_a_projection_must_be_there_and_fit_where_the_shape_has_one(tmp_path: Path) -> None:
    path = tmp_path / "m.lmpack"
    model = RNNModel("LSTM", len(WORDS), 24, 24, 1, 0.0, True, True).eval()
    write_packed(model, WORDS, path, PackConfig(weights="int8"))
    assert complaint(path, None) is None
    arrays, document = contents(path)
    for name, value, says in (
        ("projection", False, "holds tensors that its model does not have"),
        ("projection", "yes", "'projection' is impossible"),
        ("emsize", 16, "but the model's shape says"),
    ):
        write_container(path, arrays, {**document, "shape": {**document["shape"], name: value}})
        assert says in str(complaint(path, None))
    del document["tensors"]["projection.weight"]
    kept = {name: array for name, array in arrays.items() if not name.startswith("projection")}
    write_container(path, kept, document)
    assert "tensor 'projection.weight' is missing" in str(complaint(path, None))


@pytest.mark.parametrize(
    "change",
    [{"values": "code5"}, {"values": "code2"}, {"group": 4}, {"group": None}, {"layout": "block"}],
)
def test_codes_that_are_described_as_others_are_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "m.lmpack"
    packed("codes", path)
    arrays, document = contents(path)
    document["tensors"]["encoder.weight"] |= change
    write_container(path, arrays, document)
    assert str(path) in str(complaint(path, None))


def huge(path: Path) -> None:
    """Half a megabyte of mask that stands for a matrix of a gigabyte, with a right checksum."""
    words, width = 1 << 20, 256
    shape = {"model": "RNN_TANH", "emsize": width, "nhid": width, "nlayers": 1, "ntoken": words}
    sizes = parameter_shapes("RNN_TANH", words, width, width, 1, tied=True)
    arrays, tensors = {}, {}
    for name, size in sizes.items():
        if name == "encoder.weight":
            spec = Spec("block", "int8", size, (16, 4))
            tensors[name] = {"layout": "block", "values": "int8", "block": [16, 4]}
        else:
            spec = Spec("dense", "fp16", size)
            tensors[name] = {"layout": "dense", "values": "fp16"}
        tensors[name] |= {"shape": list(size), "parts": {}}
        for part, (dtype, lengths) in spec.parts().items():
            array = np.zeros([length or 0 for length in lengths], dtype)
            plain = part == "mask"
            raw = (
                array
                if plain
                else np.frombuffer(zstd.ZstdCompressor().compress(array.tobytes()), np.uint8)
            )
            arrays[f"{name}/{part}"] = raw
            tensors[name]["parts"][part] = {"shape": list(array.shape), "zstd": not plain}
    about = {"title": "", "lineage": [], "settings": {}, "scores": {}, "corpus": {}}
    metadata = {
        "shape": {**shape, "dropout": 0.0, "tied": True},
        "tensors": tensors,
        "vocabulary": {},
        "about": about,
    }
    write_container(path, arrays, metadata)


def test_a_small_file_that_stands_for_a_huge_model_is_refused_before_memory_is_taken(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.lmpack"
    huge(path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(LmbenchError, match=r"its tensors claim 1\.1 GB"):
        open_packed(path)


def test_memory_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lmpack"
    packed("blocks of 16x4", path)

    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "levels_of", none_left)
    assert "than this process can have" in (complaint(path, "native-int8") or "")
    monkeypatch.undo()
    monkeypatch.setattr(native_tensors, "dense_matrix", none_left)
    assert "not enough free memory" in (complaint(path, "native-int8") or "")
