"""A stranger's checkpoint can only be wrong: nothing in it is run, no memory is taken at will."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._utils
from foreign_checkpoints import distiller_checkpoint, example_model, rezipped, save

from lmbench.deploy.pytorch_checkpoint import pickle_values
from lmbench.deploy.pytorch_checkpoint.model_weights import import_model
from lmbench.deploy.pytorch_checkpoint.pickle_values import Made, Name, read_pickle
from lmbench.errors import LmbenchError


class Calls:
    """Pickled, it asks whoever unpickles it for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


def attacks(proof: Path) -> dict[str, Any]:
    touch = f"touch {proof}"
    return {
        "os.system": Calls(os.system, touch),
        "builtins.eval": Calls(builtins.eval, f"open({str(proof)!r}, 'w')"),
        "builtins.exec": Calls(builtins.exec, f"open({str(proof)!r}, 'w')"),
        "a chain of getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "torch.load": Calls(torch.load, str(proof)),
        "a function of the list": Calls(torch._utils._rebuild_tensor_v2, touch, 0, (1,), (1,)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("attack", attacks(Path()))
def test_a_call_that_a_file_asks_for_is_not_made(tmp_path: Path, attack: str, zipped: bool) -> None:
    proof = tmp_path / "proof"
    value = attacks(proof)[attack]
    path = save(value, tmp_path / "evil.pt", zipped=zipped)
    with pytest.raises(LmbenchError):
        import_model(path)
    beside = {"state_dict": example_model().state_dict(), "extras": value}
    lines = import_model(save(beside, tmp_path / "beside.pt", zipped=zipped)).lines
    assert "left behind: extras" in lines
    if attack == "os.system":
        assert "posix.system" in lines[-1]
    assert not proof.exists()


@pytest.mark.parametrize("attack", ["os.system", "builtins.eval", "builtins.exec"])
def test_the_attacks_would_work_on_who_unpickles(tmp_path: Path, attack: str) -> None:
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(attacks(proof)[attack]))
    assert proof.exists()


def test_protocol_0_and_its_instances_are_inert(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    text = f"(S'touch {proof}'\nios\nsystem\n.".encode()
    value, names, _ = read_pickle(io.BytesIO(text))
    assert isinstance(value, Made)
    assert value.of == Name("os", "system")
    assert names == [Name("os", "system")]
    assert not proof.exists()


SHARED = b")" + b"2\x86" * 64
"""A pair of twice the same pair, and so on: to hash it is to hash 2**64 of them."""


@pytest.mark.parametrize(
    "operations, type",
    [
        (b"\x80\x02}" + SHARED + b"Ns.", dict),
        (b"\x80\x02}(" + SHARED + b"Nu.", dict),
        (b"\x80\x02(" + SHARED + b"Nd.", dict),
        (b"\x80\x04\x8f(" + SHARED + b"\x90.", list),
        (b"\x80\x04(" + SHARED + b"\x91.", list),
        (b"\x80\x02})" + b"\x85" * 50_000 + b"Ns.", dict),
        (b"\x80\x02]q\x002a.", list),
    ],
    ids=["item", "items", "dictionary", "set", "frozen set", "deep", "in itself"],
)
def test_values_that_would_never_be_hashed_are_read_at_once(operations: bytes, type: type) -> None:
    value, _, _ = read_pickle(io.BytesIO(operations))
    assert isinstance(value, type)


@pytest.mark.parametrize(
    "operations, says",
    [
        (b"", "pickle exhausted"),
        (b"\x80\x02.", "do not fit together"),
        (b"\x80\x02R.", "do not fit together"),
        (b"\x80\x02h\x07.", "do not fit together"),
        (b"\x80\x02u.", "do not fit together"),
        (b"\x80\x02NNs.", "do not fit together"),
        (b"\x80\x02N]Ne.", "do not fit together"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "expected"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00a.", "expected"),
        (b"\x80\x02\x82\x01.", "do not fit together"),
        (b"\x80\x05\x97.", "do not fit together"),
        (b"\x80\x02NN\x93.", "a name that is no text"),
    ],
)
def test_operations_that_make_no_sense_are_refused(operations: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_pickle(io.BytesIO(operations))


def test_operations_without_end_are_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_values, "_MOST_OPCODES", 100)
    with pytest.raises(ValueError, match="more than 100 operations"):
        read_pickle(io.BytesIO(b"\x80\x02" + b"N0" * 100 + b"N."))


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, _Storage) else None


class _Storage:
    def __init__(self, key: Any = "0", type: Any = torch.FloatStorage, count: int = 152) -> None:
        self.id = ("storage", type, key, "cpu", count)


def with_encoder(path: Path, *arguments: Any) -> Path:
    """A file whose embedding says these things of itself."""
    state = OrderedDict(example_model(tied=False).state_dict())
    state["encoder.weight"] = Calls(
        torch._utils._rebuild_tensor_v2, *arguments, False, OrderedDict()
    )
    for name in list(state):
        if name != "encoder.weight":
            del state[name]
    written = io.BytesIO()
    _Pickler(written, 2).dump(state)
    return with_one_storage(path, written.getvalue())


def with_one_storage(path: Path, operations: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", operations)
        archive.writestr("a/data/0", bytes(4 * 152))
    return path


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((_Storage(), 0, (2**40, 8), (8, 1)), "claims more numbers than are stored"),
        ((_Storage(), 0, (2**40, 8), (0, 0)), "claims more numbers than are stored"),
        ((_Storage(), 2**40, (19, 8), (8, 1)), "claims more numbers than are stored"),
        ((_Storage(), 0, (19, 8), (2**40, 1)), "claims more numbers than are stored"),
        ((_Storage(), -8, (19, 8), (8, 1)), "has no sizes that a tensor can have"),
        ((_Storage(), 0, (19, -8), (8, 1)), "has no sizes that a tensor can have"),
        ((_Storage(), 0, (19.0, 8), (8, 1)), "has no sizes that a tensor can have"),
        ((_Storage(), 0, (1,) * 60, (1,) * 60), "has no sizes that a tensor can have"),
        ((_Storage(), 0, (0, 2**47, 2**47), (1, 1, 1)), "has no sizes that a tensor can have"),
        ((_Storage(), 0, (19, 8), (8,)), "has no sizes that a tensor can have"),
        ((_Storage(), 0, 19, 8), "has no sizes that a tensor can have"),
        ((_Storage("9"), 0, (19, 8), (8, 1)), "the numbers of 'encoder.weight' are missing"),
        ((_Storage("../0"), 0, (19, 8), (8, 1)), "the numbers of 'encoder.weight' are missing"),
        ((_Storage(type=os.system), 0, (19, 8), (8, 1)), "of a type that is not read"),
        ((_Storage(type=3), 0, (19, 8), (8, 1)), "of a type that is not read"),
        ((_Storage(key=3), 0, (19, 8), (8, 1)), "a storage has no name"),
        (("0", 0, (19, 8), (8, 1)), "holds no tensors of a model"),
    ],
)
def test_a_tensor_that_claims_what_it_has_not_takes_no_memory(
    tmp_path: Path, arguments: tuple[Any, ...], says: str
) -> None:
    path = with_encoder(tmp_path / "model.pt", *arguments)
    tracemalloc.start()
    try:
        with pytest.raises(LmbenchError, match=says):
            import_model(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_many_tensors_of_one_storage_take_no_memory(tmp_path: Path) -> None:
    shared = torch.zeros(2**16)
    path = save({f"t{i}": shared for i in range(100)}, tmp_path / "model.pt")
    with pytest.raises(LmbenchError, match="more than twice the bytes that are stored, up to 't2'"):
        import_model(path)


CALL = b"ctorch._utils\n_rebuild_tensor_v2\n("
WEIGHTS = [b"X\x0e\x00\x00\x00%scoder.weight" % which for which in (b"en", b"de")]


def a_storage(type: bytes) -> bytes:
    return b"(X\x07\x00\x00\x00storage%bX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ" % type


@pytest.mark.parametrize("nested", [SHARED, b")" + b"\x85" * 50_000], ids=["shared", "deep"])
@pytest.mark.parametrize("place", ["key", "type", "offset"])
def test_what_is_nested_is_neither_shown_nor_compared(
    tmp_path: Path, nested: bytes, place: str
) -> None:
    floats = b"ctorch\nFloatStorage\n"
    operations, says = {
        "key": (
            b"X\x0a\x00\x00\x00state_dict}scos\nsystem\n" + nested + b"RNs",
            "holds no tensors of a model",
        ),
        "type": (
            WEIGHTS[0] + CALL + a_storage(nested) + b"K\x00K\x01\x85K\x01\x85tRs",
            "of a type that is not read",
        ),
        "offset": (
            b"".join(
                name + CALL + a_storage(floats) + nested + b"K\x01\x85K\x01\x85tRs"
                for name in WEIGHTS
            ),
            "holds no tensors of a model",
        ),
    }[place]
    path = with_one_storage(tmp_path / "model.pt", b"\x80\x02}" + operations + b".")
    with pytest.raises(LmbenchError, match=says):
        import_model(path)


class Whole:
    """A module with this state."""

    def __init__(self, **state: Any) -> None:
        self._state = state

    def __reduce__(self) -> Any:
        return torch.nn.Module, (), self._state


def test_what_a_module_says_of_itself_may_be_anything(tmp_path: Path) -> None:
    rnn = Whole(mode=[], _parameters={"weight_hh_l0": torch.ones(2, 2)})
    path = save(Whole(_modules={"rnn": rnn}), tmp_path / "model.pt")
    with pytest.raises(LmbenchError, match="is no recurrent language model"):
        import_model(path)


def test_an_integer_of_many_digits_is_left_behind_unwritten(tmp_path: Path) -> None:
    beside = {"state_dict": example_model().state_dict(), "big": 10**5000}
    assert "left behind: big" in import_model(save(beside, tmp_path / "model.pt")).lines


def test_what_the_helper_writes_is_read_where_it_is_in_order(tmp_path: Path) -> None:
    path = with_encoder(tmp_path / "model.pt", _Storage(), 0, (19, 8), (8, 1))
    with pytest.raises(LmbenchError, match=r"is no recurrent .* has encoder.weight\)"):
        import_model(path)


def test_a_legacy_storage_that_is_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = save(example_model().state_dict(), tmp_path / "model.pt", zipped=False)
    data = path.read_bytes()
    place = data.rindex((19).to_bytes(8, "little"))
    for count in (2**62, 2**40, -1):
        number = count.to_bytes(8, "little", signed=True)
        path.write_bytes(data[:place] + number + data[place + 8 :])
        with pytest.raises(LmbenchError, match="cut off, or of a type that is not read"):
            import_model(path)


def test_a_legacy_storage_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [[]])
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(LmbenchError, match="a storage is no whole one"):
        import_model(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off_anywhere_is_one_line(tmp_path: Path, zipped: bool) -> None:
    model = example_model()
    checkpoint = distiller_checkpoint(model, {})
    path = save(checkpoint, tmp_path / "model.pt", zipped=zipped, model=model)
    data = path.read_bytes()
    for end in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(LmbenchError) as error:
            import_model(path)
        assert "\n" not in str(error.value)


def test_zips_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = save(example_model().state_dict(), tmp_path / "model.pt")
    data = path.read_bytes()
    rezipped(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(LmbenchError, match="holds more than its size"):
        import_model(path)
    path.write_bytes(data)
    rezipped(path, lambda name, content: b"big" if name.endswith("byteorder") else content)
    with pytest.raises(LmbenchError, match="big-endian"):
        import_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(LmbenchError, match=r"no data\.pkl in it"):
        import_model(path)


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"not a pickle", "cannot be read as a file of torch.save"),
        (pickle.dumps({"a": 1}), "it does not begin as one"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LmbenchError, match=says):
        import_model(path)
