"""The packed file: what goes in comes out, and nothing damaged or hostile gets past its reader."""

import json
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from lmbench.config import PackConfig
from lmbench.deploy.load_model import PackedModel, load_file, load_packed
from lmbench.deploy.packed_file import reading
from lmbench.deploy.packed_file.header import VERSION, open_container, write_container
from lmbench.deploy.packed_file.metadata import About
from lmbench.deploy.packed_file.reading import PackedFile, is_packed, open_packed
from lmbench.deploy.packed_file.tensor_encoding import quantize_rows
from lmbench.deploy.packed_file.writing import (
    packed_bytes,
    rewrite_about,
    write_packed,
)
from lmbench.distiller import thin
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel

WORDS = ["the", "café", "<eos>", "<unk>", "日本"] + [f"w{i}" for i in range(45)]


def small_model(kind: str = "LSTM", *, tied: bool = True, sparsity: float = 0.0) -> RNNModel:
    torch.manual_seed(0)
    model = RNNModel(kind, len(WORDS), 24, 24, 2, 0.2, tie_weights=tied)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
    return model.eval()


def everything_of(path: Path) -> None:
    """Read all that a packed file has, as the runtimes do."""
    packed = open_packed(path)
    assert packed.vocabulary
    assert packed.to_model()


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("kind,tied", [("LSTM", True), ("GRU", False), ("RNN_TANH", False)])
def test_an_fp32_file_gives_back_the_very_model(tmp_path, kind, tied, sparsity, zstd):
    model = small_model(kind, tied=tied, sparsity=sparsity)
    info = write_packed(model, WORDS, tmp_path / "m.lmpack", PackConfig(zstd=zstd))
    packed = open_packed(tmp_path / "m.lmpack")
    restored = packed.to_model()
    assert restored.tied == tied
    assert packed.vocabulary == WORDS
    for name, tensor in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor), name
    assert info.bytes == (tmp_path / "m.lmpack").stat().st_size == packed.bytes
    assert info.fp32 == 4 * sum(p.numel() for p in model.parameters())


def test_tied_weights_are_stored_once(tmp_path):
    info = write_packed(small_model(), WORDS, tmp_path / "m.lmpack")
    assert "decoder.weight" not in [tensor.name for tensor in info.tensors]
    assert "decoder.bias" in [tensor.name for tensor in info.tensors]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("values", ["fp32", "fp16", "int8", "int4"])
def test_the_size_that_is_told_before_packing_is_the_file_s_without_its_header(
    tmp_path, sparsity, tied, values
):
    model = small_model(sparsity=sparsity, tied=tied)
    info = write_packed(model, WORDS, tmp_path / "m.lmpack", auto=values)
    stored = sum(tensor.stored for tensor in info.tensors) + info.vocabulary
    told = packed_bytes(model, WORDS, values)
    # Rounding makes a few more zeros, each a number less.
    assert 0 <= told - stored <= 0.01 * stored


def test_units_that_nothing_reads_are_not_counted(tmp_path):
    model = small_model(tied=False)
    whole = packed_bytes(model, WORDS)
    units = torch.arange(model.nhid) % 2 == 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("rnn.weight_hh") or name in ("decoder.weight", "rnn.weight_ih_l1"):
                weight[:, units] = 0.0
    info = write_packed(thin(model), WORDS, tmp_path / "m.lmpack")
    stored = sum(tensor.stored for tensor in info.tensors) + info.vocabulary
    assert packed_bytes(model, WORDS) == stored < whole


@pytest.mark.parametrize("values", ["fp16", "int8", "int4"])
def test_fewer_bits_are_smaller_and_close(tmp_path, values):
    model = small_model()
    wide = write_packed(model, WORDS, tmp_path / "wide.lmpack")
    info = write_packed(model, WORDS, tmp_path / "m.lmpack", PackConfig(weights=values))
    restored = open_packed(tmp_path / "m.lmpack").to_model()
    bound = {"fp16": 1e-4, "int8": 1e-3, "int4": 5e-2}[values]
    for name, tensor in model.state_dict().items():
        assert (restored.state_dict()[name] - tensor).abs().max() <= bound, name
    assert sum(t.stored for t in info.tensors) < sum(t.stored for t in wide.tensors)


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("biases", ["fp16", "int8"])
def test_biases_are_in_fewer_bits_where_that_is_asked_for(tmp_path, weights, biases):
    model = small_model()
    write_packed(model, WORDS, tmp_path / "a.lmpack", PackConfig(weights=weights))
    write_packed(model, WORDS, tmp_path / "b.lmpack", PackConfig(weights=weights, biases=biases))
    wide, few = (open_packed(tmp_path / name) for name in ("a.lmpack", "b.lmpack"))
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            bias = tensor.numpy()
            step = (np.abs(bias).max() or 1) / np.float32(127)
            near = {"fp16": bias.astype(np.float16), "int8": np.rint(bias / step) * step}[biases]
            assert few.specs[name].values == biases
            assert few.dense(name) == pytest.approx(near, rel=1e-6)
        elif name in few.specs:
            assert few.specs[name] == wide.specs[name]
            assert np.array_equal(few.dense(name), wide.dense(name))


def test_auto_keeps_what_the_run_computes_with(tmp_path):
    info = write_packed(small_model(), WORDS, tmp_path / "m.lmpack", auto="int8")
    assert {t.spec.values for t in info.tensors if len(t.spec.shape) == 2} == {"int8"}


def test_weights_on_a_grid_are_stored_on_that_grid(tmp_path):
    model = small_model()
    weight = model.encoder.weight
    # A grid that reaches twice as far as the weights do, as a clipped or shared range may.
    scale = weight.detach().abs().amax(1) / 60
    with torch.no_grad():
        weight.copy_(torch.round(weight / scale[:, None]) * scale[:, None])
    grids = {"encoder.weight": scale}
    write_packed(model, WORDS, tmp_path / "m.lmpack", grids=grids, auto="int8")
    stored = open_packed(tmp_path / "m.lmpack").tensor("encoder.weight")
    assert np.abs(stored.parts["values"]).max() <= 60
    restored = open_packed(tmp_path / "m.lmpack").to_model().encoder.weight
    assert torch.allclose(restored, weight, atol=1e-7)


def test_zstd_makes_a_sparse_int8_file_smaller(tmp_path):
    torch.manual_seed(0)
    model = RNNModel("LSTM", 50, 128, 128, 1, 0.0, tie_weights=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) >= 0.9)
    plain = write_packed(model, WORDS, tmp_path / "a.lmpack", PackConfig(weights="int8"))
    small = write_packed(model, WORDS, tmp_path / "b.lmpack", PackConfig(weights="int8", zstd=True))
    assert small.bytes < plain.bytes
    levels, _ = quantize_rows(model.encoder.weight.detach().numpy())
    stored = open_packed(tmp_path / "b.lmpack").tensor("encoder.weight")
    assert np.array_equal(stored.parts["values"], levels[levels != 0])


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_the_mask_of_a_large_matrix_is_entropy_coded_under_zstd(tmp_path, monkeypatch, weights):
    torch.manual_seed(0)
    words = [str(i) for i in range(1500)]
    model = RNNModel("LSTM", len(words), 128, 128, 1, 0.0, tie_weights=True)
    with torch.no_grad():
        rows = torch.rand(len(words), 1)
        model.encoder.weight.mul_(torch.rand_like(model.encoder.weight) < rows**3)
    for zstd in (True, False):
        config = PackConfig(weights=weights, zstd=zstd)
        write_packed(model, words, tmp_path / f"{zstd}.lmpack", config)
    small, plain = (open_packed(tmp_path / f"{zstd}.lmpack") for zstd in (True, False))
    container = open_container(small.path)
    assert container.metadata["tensors"]["encoder.weight"]["parts"]["mask"] == {
        "shape": [1500 * 128 // 8], "zstd": False, "coded": True,
    }  # fmt: skip
    assert b'"version":"6"' in small.path.read_bytes()[:500]
    bare = plain.tensor("encoder.weight").parts["mask"]
    assert container.array("encoder.weight/mask").nbytes < len(zstandard.compress(bare.tobytes()))
    reads, asked = Mock(wraps=reading.read_mask), Mock()
    monkeypatch.setattr(reading, "read_mask", reads)
    monkeypatch.setattr(PackedFile, "_check_memory", asked)
    assert np.array_equal(small.tensor("encoder.weight").parts["mask"], bare)
    assert call(5 * 1500 * 128) in asked.mock_calls
    assert np.array_equal(small.dense("encoder.weight"), plain.dense("encoder.weight"))
    assert reads.call_count == 1


def test_compression_changes_the_bytes_and_nothing_that_is_stored(tmp_path):
    model = small_model(sparsity=0.8)
    for zstd in (True, False):
        config = PackConfig(weights="int8", zstd=zstd)
        write_packed(model, WORDS, tmp_path / f"{zstd}.lmpack", config)
    a, b = (open_packed(tmp_path / f"{zstd}.lmpack") for zstd in (True, False))
    assert a.path.read_bytes() != b.path.read_bytes()
    assert (a.specs, a.vocabulary, a.about) == (b.specs, b.vocabulary, b.about)
    for name in a.specs:
        ours, theirs = a.tensor(name).parts, b.tensor(name).parts
        assert all(np.array_equal(ours[part], theirs[part]) for part in theirs)


def test_what_is_said_about_the_model_is_kept_and_can_be_renewed(tmp_path):
    path = tmp_path / "m.lmpack"
    about = About("small/001-train", ("small/001-train",), {"lr": 20.0}, {}, {"name": "pydoc"})
    write_packed(small_model(), WORDS, path, about=about)
    assert open_packed(path).about == about
    before = open_packed(path).to_model().state_dict()
    rewrite_about(path, lambda old: About(old.title, old.lineage, old.settings, {"test_ppl": 99.5}))
    renewed = open_packed(path)
    assert renewed.about.scores == {"test_ppl": 99.5}
    assert renewed.about.title == "small/001-train"
    for name, tensor in renewed.to_model().state_dict().items():
        assert torch.equal(tensor, before[name])


def test_any_safetensors_reader_opens_it(tmp_path):
    write_packed(
        small_model(sparsity=0.8), WORDS, tmp_path / "m.lmpack", PackConfig(weights="int8")
    )
    with safe_open(tmp_path / "m.lmpack", "np") as file:
        assert file.metadata()["format"] == "lmpack"
        assert file.get_tensor("decoder.bias/values").shape == (len(WORDS),)
        assert file.get_tensor("vocabulary/words").tobytes().decode().split("\n") == WORDS


def test_loading_by_path_takes_packed_files_and_makes_the_model_on_demand(tmp_path):
    model = small_model()
    write_packed(model, WORDS, tmp_path / "m.lmpack")
    loaded = load_file(tmp_path / "m.lmpack")
    assert isinstance(loaded, PackedModel)
    assert loaded.plain
    assert loaded.vocabulary == WORDS
    assert "model" not in vars(loaded)
    assert torch.equal(loaded.weights.encoder, model.encoder.weight)


def test_a_packed_file_is_known_by_its_content_too(tmp_path):
    write_packed(small_model(), WORDS, tmp_path / "renamed.bin")
    (tmp_path / "other.bin").write_bytes(b"text")
    assert is_packed(tmp_path / "renamed.bin")
    assert not is_packed(tmp_path / "other.bin")
    assert is_packed(tmp_path / "missing.lmpack")


def test_a_vocabulary_of_another_size_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LmbenchError, match="vocabulary has 49 words, the model 50"):
        write_packed(small_model(), WORDS[1:], tmp_path / "m.lmpack")
    assert not (tmp_path / "m.lmpack").exists()


def test_weights_that_diverged_are_refused_by_name(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.get_parameter("rnn.weight_hh_l0")[3, 4] = float("nan")
    with pytest.raises(LmbenchError, match=r"tensor 'rnn.weight_hh_l0' holds a number"):
        write_packed(model, WORDS, tmp_path / "m.lmpack")


def test_a_file_that_is_missing_or_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(LmbenchError, match="no such file"):
        open_packed(tmp_path / "none.lmpack")
    with pytest.raises(LmbenchError, match="cannot be written"):
        write_packed(small_model(), WORDS, tmp_path / "no" / "folder.lmpack")


# ------------------------------------------------------------------------- damaged and hostile


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "m.lmpack"
    write_packed(small_model(sparsity=0.8), WORDS, path, PackConfig(weights="int8", zstd=True))
    return path.read_bytes()


def refused(path: Path, data: bytes) -> str:
    """Reading must end in an LmbenchError of one line that names the file; gives the line."""
    path.write_bytes(data)
    with pytest.raises(LmbenchError) as caught:
        everything_of(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path, sound, place, bit):
    data = bytearray(sound)
    data[int(place * len(data))] ^= 1 << bit
    refused(tmp_path / "f.lmpack", bytes(data))


@fuzz
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_noticed(tmp_path, sound, share):
    refused(tmp_path / "f.lmpack", sound[: int(share * len(sound))])


@fuzz
@given(extra=st.binary(min_size=1, max_size=64))
def test_anything_appended_is_noticed(tmp_path, sound, extra):
    refused(tmp_path / "f.lmpack", sound + extra)


@fuzz
@given(data=st.binary(max_size=300))
def test_noise_is_no_packed_model(tmp_path, data):
    refused(tmp_path / "f.lmpack", data)


@fuzz
@given(length=st.integers(0, 2**64 - 1))
def test_any_other_header_length_is_refused(tmp_path, sound, length):
    if length != int.from_bytes(sound[:8], "little"):
        refused(tmp_path / "f.lmpack", length.to_bytes(8, "little") + sound[8:])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(document: object) -> list[list[str]]:
    """The path to each value of a JSON document."""
    if not isinstance(document, dict):
        return [[]]
    return [[]] + [[key, *rest] for key, value in document.items() for rest in places(value)]


@fuzz
@given(data=st.data(), value=JSON)
def test_a_document_that_lies_is_refused_even_with_a_right_checksum(tmp_path, sound, data, value):
    path = tmp_path / "f.lmpack"
    path.write_bytes(sound)
    container = open_container(path)
    arrays = {name: np.array(container.array(name)) for name in container.names()}
    document = json.loads(json.dumps(container.metadata))
    where = data.draw(st.sampled_from([p for p in places(document) if p]))
    parent = document
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    write_container(path, arrays, document)
    problem = complaint(path)
    if problem is not None:
        assert str(path) in problem
    else:
        # What a model says of itself may be anything of the right type, and its dropout any rate;
        # what it computes may not change.
        assert (
            where[0] == "about" or where == ["shape", "dropout"] or unchanged(where, value, sound)
        )
        assert open_packed(path).shape["ntoken"] == len(WORDS)


def complaint(path: Path) -> str | None:
    """The reader's line about a damaged file, or None for a sound one."""
    try:
        everything_of(path)
    except LmbenchError as error:
        return error.message
    return None


def unchanged(where: list[str], value: object, sound: bytes) -> bool:
    """Was the value at this place of the sound file's document the same, or one ignored there?"""
    length = int.from_bytes(sound[:8], "little")
    old = json.loads(json.loads(sound[8 : 8 + length])["__metadata__"]["document"])
    for key in where:
        old = old[key]
    return old == value or where[-1] in ("block", "group")


def forged(sound: bytes, path: Path, change) -> bytes:
    """The file after `change(document, arrays)`, with a right checksum."""
    path.write_bytes(sound)
    container = open_container(path)
    arrays = {name: np.array(container.array(name)) for name in container.names()}
    document = json.loads(json.dumps(container.metadata))
    change(document, arrays)
    write_container(path, arrays, document)
    return path.read_bytes()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, sound):
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))

    def plant(document, arrays):
        arrays["vocabulary/words"] = np.frombuffer(bomb, np.uint8)
        document["vocabulary"]["words"] = {"shape": [1 << 28], "zstd": True}

    line = refused(tmp_path / "f.lmpack", forged(sound, tmp_path / "f.lmpack", plant))
    assert "claims to unpack to 268,435,456 bytes" in line


def test_a_frame_that_hides_its_size_or_lies_about_it_is_refused(tmp_path, sound):
    text = "\n".join(WORDS).encode()
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(text)
    longer = zstandard.ZstdCompressor().compress(text + b"x" * 10)
    for frame in (hidden, longer, b"\x28\xb5\x2f\xfd" + b"\xff" * 20, b""):

        def plant(document, arrays, frame=frame):
            arrays["vocabulary/words"] = np.frombuffer(frame, np.uint8)
            document["vocabulary"]["words"] = {"shape": [len(text)], "zstd": True}

        refused(tmp_path / "f.lmpack", forged(sound, tmp_path / "f.lmpack", plant))


def test_a_shape_that_its_tensors_do_not_have_is_refused(tmp_path, sound):
    def widen(document, _arrays):
        document["shape"]["nhid"] = document["shape"]["emsize"] = 65536

    line = refused(tmp_path / "f.lmpack", forged(sound, tmp_path / "f.lmpack", widen))
    assert "tensor 'encoder.weight' is [50, 24]" in line


def test_a_claim_of_more_memory_than_there_is_is_refused_before_it_is_taken(tmp_path, sound):
    path = tmp_path / "f.lmpack"
    path.write_bytes(sound)
    packed = open_packed(path)
    with pytest.raises(LmbenchError, match=r"unpacking needs 1000000\.0 GB of memory"):
        packed._check_memory(10**15)


def test_deeply_nested_json_is_no_crash(tmp_path):
    text = b'{"a":' + b"[" * 100_000
    refused(tmp_path / "f.lmpack", len(text).to_bytes(8, "little") + text)


def test_a_newer_format_says_to_upgrade(tmp_path, sound):
    newer = sound.replace(b'"version":"1"', b'"version":"%d"' % (VERSION + 1))
    assert "upgrade lmbench" in refused(tmp_path / "f.lmpack", newer)


def test_overlapping_arrays_are_refused(tmp_path, sound):
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    text = json.dumps(header).encode()
    refused(tmp_path / "f.lmpack", len(text).to_bytes(8, "little") + text + sound[8 + length :])


def test_the_document_is_read_without_touching_the_tensors(tmp_path, sound):
    # Damage in a tensor shows when it is read, not before: opening stays instant for large files.
    path = tmp_path / "f.lmpack"
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    packed = open_packed(path)
    assert packed.shape["ntoken"] == len(WORDS)
    with pytest.raises(LmbenchError, match="checksum"):
        packed.tensor("encoder.weight")


def test_a_loaded_packed_model_is_checked_when_it_is_loaded(tmp_path, sound):
    path = tmp_path / "f.lmpack"
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(LmbenchError, match="checksum"):
        load_packed(path)
