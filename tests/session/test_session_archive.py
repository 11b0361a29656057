"""One file to share: the same bytes out as in, and nothing of an attack is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from live_runs import make_live

from lmbench.config import EvaluateConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Session, archive
from lmbench.session.archive import pack, unpack


@pytest.fixture
def session(tmp_path: Path) -> Session:
    home = Home(tmp_path / "home")
    session = home.open_session("mine")
    session.write_vocabulary("ab" * 32, ["the", "<eos>", "naïve"])
    for name in ("schedules/my own.yaml", "quantization/001-train-1.yaml", "recipes/mine.yaml"):
        (session.path / name).parent.mkdir()
        (session.path / name).write_text("version: 1\n")
    session.samples_path.write_text('{"run": "mine/1"}\n')
    parent = session.new_run(TrainConfig(), "train")
    child = session.new_run(TrainConfig(), "prune", parent=parent)
    for run in (parent, child):
        run.update(status="finished", started=1.0, ended=2.0)
        run.events_path.write_bytes(b'{"v": 1}\n' * 100 + b'{"torn')
        run.log_path.write_text("a line\n")
        (run.path / "schedule.yaml").write_text("version: 1\n")
        for which in ("last", "best"):
            (run.path / which).mkdir()
            (run.path / which / "model.safetensors").write_bytes(os.urandom(5000) + bytes(5000))
            (run.path / which / "trainer.json").write_text("{}\n")
        run.control_path.write_text("stop\n")
    return session


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_unpacked_is_bit_for_bit_what_was_packed(session: Session, tmp_path: Path) -> None:
    packed = pack(session, tmp_path / "mine.lmbench")
    assert packed.left_out == ()
    made = unpack(packed.path, Home(tmp_path / "elsewhere"))
    expected = {
        name: data
        for name, data in tree(session.path).items()
        if not name.endswith((".lock", "control"))
    }
    assert tree(made.path) == expected
    again = pack(made, tmp_path / "again.lmbench")
    assert again.path.read_bytes() == packed.path.read_bytes()


def test_packing_twice_gives_the_same_bytes_whatever_the_clock_says(
    session: Session, tmp_path: Path
) -> None:
    one = pack(session, tmp_path / "one").path.read_bytes()
    for path in session.path.rglob("*"):
        os.utime(path, (10**9, 10**9))
    assert pack(session, tmp_path / "two").path.read_bytes() == one


def test_unpacked_under_another_name_the_session_refers_to_itself(
    session: Session, tmp_path: Path
) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    made = unpack(path, session.runs()[0].home, "yours")
    assert made.read().name == "yours"
    assert made.runs()[1].read().parent == "yours/001-train"


def test_a_session_that_is_there_is_not_overwritten(session: Session, tmp_path: Path) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    home = session.runs()[0].home
    before = tree(home.path)
    with pytest.raises(LmbenchError, match="there is a session 'mine' already"):
        unpack(path, home)
    assert tree(home.path) == before


def test_runs_arrive_with_no_process_and_nothing_waiting(session: Session, tmp_path: Path) -> None:
    lost = session.new_run(EvaluateConfig(), "evaluate")
    lost.update(status="paused", pid=os.getpid(), process_started=1e-3)
    session.new_run(EvaluateConfig(), "evaluate")
    made = unpack(pack(session, tmp_path / "f").path, Home(tmp_path / "elsewhere"))
    records = [run.read() for run in made.runs()[2:]]
    assert [(r.status, r.pid) for r in records] == [("lost", None), ("stopped", None)]


def test_a_session_of_which_a_run_begins_while_it_is_packed_is_not_packed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint may have been read half before and half after it was written anew."""
    run, write = session.runs()[0], archive._write

    def worked_on(*arguments: Any) -> None:
        write(*arguments)
        run.update(attempt=run.read().attempt + 1)

    monkeypatch.setattr(archive, "_write", worked_on)
    with pytest.raises(LmbenchError, match="a run of it began or was deleted"):
        pack(session, tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("name, words", [("001-prune", "several runs 1"), ("007-mine", "'kind'")])
def test_folders_of_runs_that_unpacking_would_refuse_are_refused(
    session: Session, tmp_path: Path, name: str, words: str
) -> None:
    shutil.copytree(session.runs()[0].path, session.runs_path / name)
    with pytest.raises(LmbenchError, match=words):
        pack(session, tmp_path / "s.lmbench")


def test_a_live_run_keeps_its_session_from_being_packed(session: Session, tmp_path: Path) -> None:
    make_live(session.runs()[0])
    with pytest.raises(LmbenchError, match="run 1 is running"):
        pack(session, tmp_path / "mine.lmbench")
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_file_of_the_session_that_may_not_be_read_is_named(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = session.runs()[0].log_path

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(secret))

    monkeypatch.setattr(archive, "_write", refuse)
    with pytest.raises(LmbenchError, match=rf"^cannot be read: Permission denied; .*{secret}\)$"):
        pack(session, tmp_path / "s.lmbench")


@pytest.mark.parametrize("moved", [("",), ("last",), ("last", ""), ("..",)])
def test_runs_and_checkpoints_behind_links_are_packed_whole_and_other_links_are_named(
    session: Session, tmp_path: Path, moved: tuple[str, ...]
) -> None:
    run = session.runs()[0].path
    for number, name in enumerate(moved):
        folder = session.runs_path if name == ".." else run / name
        folder.rename(tmp_path / f"elsewhere{number}")
        folder.symlink_to(tmp_path / f"elsewhere{number}")
    link = session.path / "schedules" / "linked.yaml"
    link.symlink_to(session.path / "schedules" / "my own.yaml")
    (run / "plots").symlink_to(tmp_path)
    packed = pack(session, tmp_path / "s.lmbench")
    assert packed.left_out == (f"runs/{run.name}/plots", "schedules/linked.yaml")
    made = unpack(packed.path, Home(tmp_path / "other"))
    weights = "last/model.safetensors"
    assert (made.runs()[0].path / weights).read_bytes() == (run / weights).read_bytes()


def test_what_is_packed_can_be_unpacked_whatever_folders_of_runs_there_are(
    session: Session, tmp_path: Path
) -> None:
    shutil.copytree(session.runs()[0].path, session.runs_path / "007-train")
    (session.runs_path / "008-train").mkdir()
    (session.runs_path / "008-train" / "log.txt").touch()
    packed = pack(session, tmp_path / "s.lmbench")
    assert packed.left_out == ("runs/008-train/log.txt",)
    made = unpack(packed.path, Home(tmp_path / "other"))
    assert [(run.id, run.read().id) for run in made.runs()] == [(1, 1), (2, 2), (7, 7)]


def test_what_no_session_holds_is_left_out_and_named(session: Session, tmp_path: Path) -> None:
    (session.path / "thesis.docx").write_text("x")
    (session.path / "evil").symlink_to("/etc/passwd")
    packed = pack(session, tmp_path / "mine.lmbench")
    assert packed.left_out == ("evil", "thesis.docx")
    made = unpack(packed.path, Home(tmp_path / "elsewhere"))
    assert not {"thesis.docx", "evil"} & {p.name for p in made.path.iterdir()}


def test_names_that_unpacking_takes_for_one_are_refused(session: Session, tmp_path: Path) -> None:
    schedules = session.path / "schedules"
    for name in ("agp.yaml", "AGP.yaml"):
        (schedules / name).write_text("version: 1\n")
    with pytest.raises(LmbenchError, match=r"AGP\.yaml and schedules/agp\.yaml differ in case"):
        pack(session, tmp_path / "s.lmbench")
    assert not (tmp_path / "s.lmbench").exists()


def test_a_file_that_a_sweep_kept_under_an_unusual_name_is_packed(
    session: Session, tmp_path: Path
) -> None:
    (session.path / "schedules" / "_parse-50.yaml").write_text("version: 1\n")
    assert pack(session, tmp_path / "s.lmbench").left_out == ()
    unpacked = unpack(tmp_path / "s.lmbench", Home(tmp_path / "elsewhere"))
    assert (unpacked.path / "schedules" / "_parse-50.yaml").is_file()


def test_a_checkpoint_between_two_renames_is_packed_under_its_name(
    session: Session, tmp_path: Path
) -> None:
    run = session.runs()[0]
    weights = (run.path / "last" / "model.safetensors").read_bytes()
    (run.path / "last").rename(run.path / "last.new")
    (run.path / "last.old").mkdir()
    (run.path / "last.old" / "model.safetensors").write_bytes(b"older")
    made = unpack(pack(session, tmp_path / "f").path, Home(tmp_path / "elsewhere"))
    folder = made.runs()[0].path
    assert (folder / "last" / "model.safetensors").read_bytes() == weights
    assert not (folder / "last.old").exists()


def test_a_session_of_nothing_but_zeros_can_be_unpacked_again(
    session: Session, tmp_path: Path
) -> None:
    zeros = session.runs()[0].path / "last" / "trainer.safetensors"
    with zeros.open("wb") as file:
        file.truncate(80 * 2**20)
    packed = pack(session, tmp_path / "f")
    made = unpack(packed.path, Home(tmp_path / "elsewhere"))
    assert (made.runs()[0].path / "last" / "trainer.safetensors").stat().st_size == 80 * 2**20


Change = Callable[[zipfile.ZipFile], None]


def add(name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Change:
    def change(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo()
        info.filename = name
        info.external_attr = mode << 16
        archive.writestr(info, data)

    return change


def add_bomb(declared: int) -> Change:
    """A real 10 GB of zeros in 10 MB; what the table of contents says of it is another matter."""

    def change(archive: zipfile.ZipFile) -> None:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        mebibyte = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
        data = mebibyte * (10 * 2**10) + deflate.flush(zlib.Z_FINISH)
        info = zipfile.ZipInfo("runs/001-train/last/trainer.safetensors")
        archive.writestr(info, data)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.file_size = declared

    return change


def add_overlap(archive: zipfile.ZipFile) -> None:
    """A second entry that claims the bytes of the first."""
    first = archive.infolist()[-1]
    for number in range(3):
        info = copy(first)
        info.filename = f"vocabulary/{number}.txt"
        info.compress_size = 10**4
        archive.filelist.append(info)
    archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]


def add_method(archive: zipfile.ZipFile) -> None:
    archive.writestr("samples.jsonl", b"x" * 99, zipfile.ZIP_LZMA)


def encrypt(archive: zipfile.ZipFile) -> None:
    archive.writestr("samples.jsonl", b"x")
    archive.infolist()[-1].flag_bits |= 0x1


def add_run(name: str, **fields: object) -> Change:
    record = {"version": 1, "id": 7, "name": "n", "kind": "train", "status": "finished", **fields}
    return add(f"runs/{name}/run.json", json.dumps(record).encode())


@pytest.mark.parametrize(
    "change, complaint",
    [
        (add("../x"), "leads out of the session"),
        (add("runs/../../x"), "leads out of the session"),
        (add("..\\x"), "leads out of the session"),
        (add("/etc/cron.d/x"), "has an absolute path"),
        (add("C:/x"), "has an absolute path"),
        (add("\\\\host\\x"), "has an absolute path"),
        (add("samples.jsonl", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
        (add("samples.jsonl", b"", stat.S_IFIFO | 0o644), "is no plain file"),
        (add("samples.jsonl", b"", stat.S_IFCHR | 0o644), "is no plain file"),
        (add("runs/001-train/evil.py"), "is nothing that a session holds"),
        (add("runs/001-train/last/model.pt"), "is nothing that a session holds"),
        (add("runs/001-train/control"), "is nothing that a session holds"),
        (add("runs/001-train/.lock"), "is nothing that a session holds"),
        (add("runs/001-train/"), "is nothing that a session holds"),
        (add("runs/001-train/last/a/b.json"), "is nothing that a session holds"),
        (add("samples.jsonl\0.exe"), "is nothing that a session holds"),
        (add("session.json"), "is there twice"),
        (add("Session.json"), "is nothing that a session holds"),
        (add_bomb(10 * 2**30), "no honest session"),
        (add_bomb(2**20), "damaged"),
        (add_overlap, "overlap"),
        (add_method, "compressed in a way"),
        (encrypt, "is encrypted"),
        (add("runs/007-train/log.txt"), "runs/007-train has no run.json"),
        (add_run("008-train"), "is the record of another run"),
        (add_run("007-prune"), "is the record of another run"),
        (add_run("007-train", status="queued"), "is queued"),
        (add_run("007-train", status="running"), "is running"),
        (add_run("007-train", status="asleep"), "field 'status'"),
        (add_run("007-train", version=2), "written by a newer lmbench"),
        (add("runs/007-train/run.json", b"{"), "cannot be read as JSON"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_attack_is_refused_with_nothing_written(
    session: Session, tmp_path: Path, change: Change, complaint: str
) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    # Its place is for entries that have nothing wrong with them but their nature.
    rewrite(path, without="samples.jsonl")
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    check_refused(path, tmp_path, complaint)


def rewrite(path: Path, *, without: str) -> None:
    with zipfile.ZipFile(path) as archive:
        kept = [(i, archive.read(i)) for i in archive.infolist() if i.filename != without]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in kept:
            archive.writestr(info, data)


def check_refused(path: Path, tmp_path: Path, complaint: str) -> None:
    before = tree(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LmbenchError) as caught:
        unpack(path, Home(tmp_path / "empty"))
    assert complaint in caught.value.message
    # The cause first: a narrow line may end before the path.
    assert caught.value.message.endswith(f"{path})")
    assert "\n" not in caught.value.message
    assert list((tmp_path / "empty").iterdir()) == []
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../evil", "", "a/b"])
def test_a_session_name_that_leads_elsewhere_is_refused(
    session: Session, tmp_path: Path, name: str
) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    rewrite(path, without="session.json")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("session.json", json.dumps({"version": 1, "name": name}))
    before = tree(tmp_path)
    with pytest.raises(LmbenchError, match="session name"):
        unpack(path, Home(tmp_path / "empty"))
    assert tree(tmp_path) == before
    assert not (tmp_path / "empty").exists()


def test_an_archive_without_a_session_is_refused(session: Session, tmp_path: Path) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    rewrite(path, without="session.json")
    check_refused(path, tmp_path, "holds no session.json")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lmbench"
    path.write_bytes(os.urandom(1000))
    check_refused(path, tmp_path, "no lmbench archive")


def test_a_missing_archive_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match=r"^no such file \(.*gone\.lmbench\)$"):
        unpack(tmp_path / "gone.lmbench", Home(tmp_path))


def test_no_flipped_byte_is_fatal_or_lets_a_damaged_session_in(
    session: Session, tmp_path: Path
) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    whole = path.read_bytes()
    expected = tree(unpack(path, Home(tmp_path / "good")).path)
    for number in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = bytearray(whole)
        damaged[number] ^= 0x41
        path.write_bytes(damaged)
        home = Home(tmp_path / f"home-{number}")
        try:
            made = unpack(path, home)
        except LmbenchError:
            assert not home.path.exists()
        else:
            # Bytes that mean nothing (a date) may differ; what is unpacked may not.
            assert tree(made.path) == expected


def test_an_archive_cut_anywhere_is_refused(session: Session, tmp_path: Path) -> None:
    path = pack(session, tmp_path / "mine.lmbench").path
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(LmbenchError):
            unpack(path, Home(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()
