"""File transfers as an application sees them: two sockets that talk, and hostile peers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from srmudp import Delivery, EventKind, Identity, Message, MultiHolepunchSocket, PeerEvent, PeerId
from srmudp.files import FileTransfers, Transfer, TransferState
from srmudp.files.hub import MAX_ALL_QUESTIONS, MAX_QUESTIONS
from srmudp.files.messages import (
    CHANNEL,
    Accept,
    Chunk,
    Code,
    Done,
    Entry,
    FileMessage,
    Offer,
    Stop,
    Unknown,
    decode,
    encode,
)

PATIENCE = 20.0


class News:
    """What ``on_change`` is told, to be waited for. ``answer`` is called for each question."""

    def __init__(self, answer: Callable[[Transfer], object] = lambda transfer: None) -> None:
        self.told: list[Transfer] = []
        self._answer = answer
        self._changed = threading.Condition()

    def __call__(self, transfer: Transfer) -> None:
        with self._changed:
            self.told.append(transfer)
            self._changed.notify_all()
        if transfer.state is TransferState.OFFERED and not transfer.outgoing:
            self._answer(transfer)

    def wait_for(self, *states: TransferState, count: int = 1) -> Transfer:
        """The ``count``-th transfer that was told to be in one of ``states``."""
        deadline = monotonic() + PATIENCE
        with self._changed:
            while len(found := [t for t in self.told if t.state in states]) < count:
                assert self._changed.wait(deadline - monotonic()), self.told
            return found[count - 1]


OVER = (TransferState.DONE, TransferState.REFUSED, TransferState.CANCELLED, TransferState.FAILED)


class Two:
    """Alice and Bob, connected; Bob receives into ``folder`` and says yes to everything unless told otherwise."""

    def __init__(self, tmp_path: Path, answer: Callable[[Two, Transfer], object] | None = None) -> None:
        self.folder = tmp_path / "downloads"
        self._answer = answer or (lambda two, transfer: two.bobs.accept(transfer.number))
        self.alice, self.bob = MultiHolepunchSocket(), MultiHolepunchSocket()
        self.alice.add_peer("bob", f"{self.bob.peer_id}@127.0.0.1:{self.bob.port}")
        self.bob.add_peer("alice", f"{self.alice.peer_id}@127.0.0.1:{self.alice.port}")
        self.start_alice()
        self.start_bob()

    def start_alice(self) -> None:
        self.alice_news = News()
        self.alices = FileTransfers(self.alice, str(self.folder.with_name("unused")), on_change=self.alice_news)
        self.alice.register_message_hook(self.alices.handle)

    def start_bob(self) -> None:
        self.bob_news = News(lambda transfer: self._answer(self, transfer))
        self.bobs = FileTransfers(self.bob, str(self.folder), on_change=self.bob_news)
        self.bob.register_message_hook(self.bobs.handle)

    def close(self) -> None:
        self.alices.close()
        self.bobs.close()
        self.alice.close(timeout=0)
        self.bob.close(timeout=0)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    pair = Two(tmp_path)
    yield pair
    pair.close()


def big_file(path: Path, size: int) -> Path:
    path.write_bytes(hashlib.shake_128(str(size).encode()).digest(size))
    return path


class TestTwoSockets:
    def test_a_file_and_a_folder(self, two: Two, tmp_path: Path) -> None:
        file = big_file(tmp_path / "Grüße.bin", 3_000_001)
        album = tmp_path / "album"
        (album / "inner" / "deep").mkdir(parents=True)
        (album / ".hidden").write_text("h", "ascii")
        (album / "empty").touch()
        big_file(album / "inner" / "deep" / "x", 300_000)
        if os.name == "posix":
            (album / "link").symlink_to("/etc/passwd")
        two.alices.send("bob", str(file))
        done = two.bob_news.wait_for(*OVER)
        assert (done.state, done.path) == (TransferState.DONE, str(two.folder / "Grüße.bin")), done
        assert (done.done, done.size, done.fraction, done.resumed) == (3_000_001, 3_000_001, 1.0, 0)
        two.alices.send("bob", str(album))
        done = two.bob_news.wait_for(*OVER, count=2)
        assert (done.state, done.files, done.size) == (TransferState.DONE, 3, 300_001), done
        sent = two.alice_news.wait_for(*OVER, count=2)
        assert (sent.state, sent.done, sent.name) == (TransferState.DONE, 300_001, "album")
        assert (two.folder / "Grüße.bin").read_bytes() == file.read_bytes()
        got = {str(path.relative_to(two.folder)) for path in two.folder.rglob("*") if path.is_file()}
        assert got == {"Grüße.bin", "album/.hidden", "album/empty", "album/inner/deep/x"}
        assert (two.folder / "album/inner/deep/x").read_bytes() == (album / "inner/deep/x").read_bytes()
        states = [transfer.state.value for transfer in two.bob_news.told if transfer.number == 1]
        assert states == ["offered", "preparing", "moving", "finishing", "done"]

    def test_nothing_is_written_over(self, two: Two, tmp_path: Path) -> None:
        two.folder.mkdir()
        (two.folder / "a.txt").write_text("mine", "ascii")
        if os.name == "posix":
            (two.folder / "a (2).txt").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "a.txt").write_text("theirs", "ascii")
        two.alices.send("bob", str(tmp_path / "a.txt"))
        done = two.bob_news.wait_for(*OVER)
        assert done.path == str(two.folder / "a (3).txt")
        assert (two.folder / "a.txt").read_text("ascii") == "mine"
        assert (two.folder / "a (3).txt").read_text("ascii") == "theirs"
        assert not (tmp_path / "elsewhere").exists()

    def test_no_is_no(self, tmp_path: Path) -> None:
        two = Two(tmp_path, lambda two, transfer: two.bobs.reject(transfer.number, "not\x1b now"))
        try:
            two.alices.send("bob", str(big_file(tmp_path / "a", 5)))
            sent = two.alice_news.wait_for(*OVER)
            assert (sent.state, sent.reason) == (TransferState.REFUSED, "bob: not\\x1b now")
            assert not two.folder.exists()
        finally:
            two.close()

    def test_a_file_that_changes_is_not_sent_half_old_half_new(self, two: Two, tmp_path: Path) -> None:
        file = big_file(tmp_path / "log", 1_000_000)

        def change_then_accept(two: Two, transfer: Transfer) -> None:
            with file.open("ab") as log:
                log.write(b"more")
            two.bobs.accept(transfer.number)

        two._answer = change_then_accept
        two.alices.send("bob", str(file))
        assert two.alice_news.wait_for(*OVER).reason == "log was changed while it was sent"
        assert two.bob_news.wait_for(*OVER).state is TransferState.FAILED
        assert list(two.folder.iterdir()) == []

    def test_a_receiver_that_is_started_again_goes_on(self, two: Two, tmp_path: Path) -> None:
        file = big_file(tmp_path / "big", 6_000_000)
        stopped = threading.Event()

        def stop_in_the_middle(message: Message) -> None:
            (transfer,) = two.bobs.transfers or (None,)
            if transfer is not None and transfer.done > 1_500_000 and not stopped.is_set():
                two.bobs.close()
                stopped.set()

        two.bob.register_message_hook(stop_in_the_middle)
        two.alices.send("bob", str(file))
        assert stopped.wait(PATIENCE)
        part = two.folder / "big.part"
        had = part.stat().st_size
        assert 1_500_000 <= had < 6_000_000
        two.bob.unregister_message_hook(stop_in_the_middle)
        old = two.bobs
        two.bob_news.told.clear()
        two.start_bob()
        two.bob.unregister_message_hook(old.handle)
        done = two.bob_news.wait_for(*OVER)
        assert (done.state, done.resumed, done.path) == (TransferState.DONE, had, str(two.folder / "big")), done
        assert TransferState.OFFERED not in [transfer.state for transfer in two.bob_news.told]  # not asked again
        assert (two.folder / "big").read_bytes() == file.read_bytes()
        assert two.alice_news.wait_for(*OVER).state is TransferState.DONE
        assert [path.name for path in two.folder.iterdir()] == ["big"]

    def test_what_came_before_is_compared_before_it_is_used(self, two: Two, tmp_path: Path) -> None:
        file = big_file(tmp_path / "big", 1_000_000)
        two.alices.send("bob", str(file))
        two.bob_news.wait_for(TransferState.DONE)
        offer = Offer(bytes(8), "big", False, (Entry("", 1_000_000, hashlib.sha256(file.read_bytes()).digest()),))
        (two.folder / "big").rename(two.folder / "first")
        part, state = two.folder / "big.part", two.folder / "big.part.state"
        part.write_bytes(b"not what you think" * 1000)
        state.write_text(json.dumps({"srmudp": 1, "peer": str(two.alice.peer_id), "digest": offer.digest.hex()}))
        two.alices.send("bob", str(file))
        done = two.bob_news.wait_for(*OVER, count=2)
        assert (done.state, done.resumed) == (TransferState.DONE, 0)
        assert (two.folder / "big").read_bytes() == file.read_bytes()


# --- a peer that is not this program ---


class FakeSock:
    """Takes what is sent, so that a test may play the network."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, FileMessage]] = []
        self.hooks: list[Callable[[PeerEvent], object]] = []

    def send(self, data: bytes, recipient: str | Iterable[str] | None = None, **_: object) -> Delivery:
        assert isinstance(recipient, str)
        self.sent.append((recipient, decode(data)))
        return Delivery()

    def on_event(self, hook: Callable[[PeerEvent], object], /) -> object:
        self.hooks.append(hook)
        return hook

    def off_event(self, hook: Callable[[PeerEvent], object], /) -> None:
        self.hooks.remove(hook)


MALLORY = Identity.generate().peer_id
CONTENT = b"0123456789"
HASH = hashlib.sha256(CONTENT).digest()


class Victim:
    """Transfers of somebody who accepts everything, and the hand that feeds them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.sock = FakeSock()
        self.news = News(lambda transfer: self.accepts and self.files.accept(transfer.number))
        self.accepts = True
        self.folder = folder
        self.files = FileTransfers(self.sock, str(folder), on_change=self.news, **options)

    def give(self, message: FileMessage | bytes, peer: str = "mallory", peer_id: PeerId | None = MALLORY) -> None:
        data = message if isinstance(message, bytes) else encode(message)
        assert self.files.handle(Message(data, peer, 0.0, peer_id, CHANNEL))

    def answers(self, kind: type) -> list[FileMessage]:
        return [message for _, message in self.sock.sent if isinstance(message, kind)]

    def accepted(self) -> Accept:
        self.news.wait_for(TransferState.MOVING)
        deadline = monotonic() + PATIENCE
        while not (found := self.answers(Accept)):
            assert monotonic() < deadline
        answer = found[-1]
        assert isinstance(answer, Accept)
        return answer


@contextmanager
def victim_in(folder: Path, **options: Any) -> Iterator[Victim]:
    victim = Victim(folder, **options)
    try:
        yield victim
    finally:
        victim.files.close()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    with victim_in(tmp_path / "downloads") as victim:
        yield victim


def offer(number: int = 1, size: int = len(CONTENT), name: str = "x", sha256: bytes = HASH) -> Offer:
    return Offer(number.to_bytes(8, "big"), name, False, (Entry("", size, sha256),))


def test_what_is_on_other_channels_is_not_ours(victim: Victim) -> None:
    assert not victim.files.handle(Message(encode(offer()), "mallory", 0.0, MALLORY, 0))


def test_who_has_proven_nothing_is_not_heard(victim: Victim) -> None:
    victim.give(offer(), peer_id=None)
    assert victim.files.drops == {"not authenticated": 1}
    assert victim.files.transfers == ()


def test_attack_66_an_offer_larger_than_the_disk_is_refused_with_a_reason(victim: Victim) -> None:
    victim.give(offer(size=1 << 61))
    told = victim.news.wait_for(*OVER)
    assert "not enough room on the disk" in told.reason
    (stop,) = victim.answers(Stop)
    assert isinstance(stop, Stop)
    assert stop.code is Code.NO_ROOM
    assert not (victim.folder / "x.part").exists()


def test_attack_66_larger_than_allowed_is_not_even_a_question(tmp_path: Path) -> None:
    with victim_in(tmp_path / "downloads", max_size=9) as victim:
        victim.give(offer())
        assert victim.answers(Stop) == [Stop(offer().id, Code.NO_ROOM, "at most 9 bytes are taken here")]
        assert victim.news.told == []
        assert victim.files.transfers == ()


def test_attack_66_wrong_content_is_removed_and_told(victim: Victim) -> None:
    victim.give(offer(sha256=hashlib.sha256(b"else").digest()))
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT))
    assert "checksum is wrong" in victim.news.wait_for(*OVER).reason
    assert [stop.code for stop in victim.answers(Stop) if isinstance(stop, Stop)] == [Code.DAMAGED]
    assert list(victim.folder.iterdir()) == []


@pytest.mark.parametrize(("offset", "size"), [(5, 1), (1 << 60, 1), (0, 11)])
def test_attack_66_gaps_and_surplus_are_refused(victim: Victim, offset: int, size: int) -> None:
    victim.give(offer())
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, offset, bytes(size)))
    assert victim.news.wait_for(*OVER).state is TransferState.FAILED
    assert list(victim.folder.iterdir()) == []


def test_attack_80_a_flood_of_offers_is_three_questions(victim: Victim) -> None:
    victim.accepts = False
    for number in range(1000):
        victim.give(offer(number, name=f"file {number}"))
    questions = [transfer for transfer in victim.files.transfers if transfer.state is TransferState.OFFERED]
    assert len(questions) == MAX_QUESTIONS == 3
    refusals = victim.answers(Stop)
    assert 10 <= len(refusals) <= 25  # and then silence
    assert {stop.code for stop in refusals if isinstance(stop, Stop)} == {Code.TOO_MANY}
    assert victim.files.drops["too many offers"] == 1000 - len(refusals) - 3


def test_attack_80_many_keys_together_are_bounded_too(victim: Victim) -> None:
    victim.accepts = False
    for number in range(50):
        victim.give(offer(number, name=f"file {number}"), f"m{number}", PeerId(number.to_bytes(32, "big")))
    assert len(victim.files.transfers) == MAX_ALL_QUESTIONS
    assert len(victim.answers(Stop)) == 50 - MAX_ALL_QUESTIONS


def test_another_peer_cannot_speak_in_a_transfer(victim: Victim) -> None:
    eve = Identity.generate().peer_id
    victim.give(offer())
    answer = victim.accepted()
    for message in (Chunk(answer.id, answer.attempt, 0, 0, b"evil"), Stop(answer.id, Code.CANCELLED, "ha")):
        victim.give(message, "eve", eve)
    assert victim.sock.sent[-1] == ("eve", Unknown(answer.id))
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT))
    assert victim.news.wait_for(*OVER).state is TransferState.DONE
    assert (victim.folder / "x").read_bytes() == CONTENT


def test_chunks_of_nothing_are_asked_about_once(victim: Victim) -> None:
    for _ in range(1000):
        victim.give(Chunk(bytes(8), 1, 0, 0, b"x"))
    assert victim.sock.sent == [("mallory", Unknown(bytes(8)))]


def test_garbage_is_counted(victim: Victim) -> None:
    for garbage in (b"", b"\xff", b"\x01", encode(offer()) + b"x", bytes(5000)):
        victim.give(garbage)
    assert victim.files.drops == {"malformed": 5}


def test_only_who_was_accepted_before_needs_no_question(victim: Victim) -> None:
    victim.give(offer())
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT[:4]))
    victim.files.close()
    with victim_in(victim.folder) as again:
        again.accepts = False
        again.give(offer(2), "eve", Identity.generate().peer_id)
        assert again.news.wait_for(TransferState.OFFERED).peer == "eve"
        again.give(offer(3))
        again.news.wait_for(TransferState.PREPARING)
        answer = again.accepted()
        assert [have.offset for have in answer.have] == [4]
        again.give(Chunk(answer.id, answer.attempt, 0, 4, CONTENT[4:]))
        assert again.news.wait_for(*OVER).state is TransferState.DONE
        again.give(offer(3))  # it did not hear
        assert again.answers(Done) == [Done(answer.id), Done(answer.id)]


def test_a_forged_note_cannot_be_sent(victim: Victim) -> None:
    note = json.dumps({"srmudp": 1, "peer": str(MALLORY), "digest": offer(9, name="evil").digest.hex()}).encode()
    victim.give(offer(1, len(note), "evil.part.state", hashlib.sha256(note).digest()))
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, note))
    assert victim.news.wait_for(*OVER).path == str(victim.folder / "evil.part.state_")
    victim.accepts = False
    victim.give(offer(9, name="evil"))
    assert victim.files.transfers[-1].state is TransferState.OFFERED


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
@pytest.mark.parametrize("ending", [".part", ".part.state"])
def test_attack_64_a_link_in_the_way_is_not_followed(victim: Victim, tmp_path: Path, ending: str) -> None:
    victim.folder.mkdir()
    (victim.folder / f"x{ending}").symlink_to(tmp_path / "elsewhere")
    victim.give(offer())
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT))
    assert victim.news.wait_for(*OVER).path == str(victim.folder / "x (2)")
    assert not (tmp_path / "elsewhere").exists()


def test_cancelled_here_is_removed_and_asked_about_again(victim: Victim) -> None:
    victim.give(offer())
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT[:4]))
    assert victim.files.cancel(1)
    assert list(victim.folder.iterdir()) == []
    assert not victim.files.cancel(1)
    victim.accepts = False
    victim.give(offer(2))
    assert victim.files.transfers[-1].state is TransferState.OFFERED


def test_a_name_that_gets_another_key_gets_nothing(victim: Victim, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s", "ascii")
    victim.files.send("mallory", str(tmp_path / "secret"))
    victim.news.wait_for(TransferState.OFFERED)
    for hook in victim.sock.hooks:
        hook(PeerEvent(EventKind.PEER_CHANGED, "mallory", MALLORY))
    assert victim.news.wait_for(*OVER).reason == "the name has another key now"
    (sent,) = victim.answers(Offer)
    assert isinstance(sent, Offer)
    victim.give(Accept(sent.id, 1))
    assert not victim.answers(Chunk)


def test_a_disk_without_room_is_told(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 1 << 40, 16 << 20))
    victim.give(offer())
    assert victim.news.wait_for(*OVER).reason == ("not enough room on the disk: 10 bytes are needed, 0 are free")


def test_a_sender_that_is_started_again_while_the_file_is_finished_hears_of_it(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    victim.give(offer(1))
    answer = victim.accepted()
    victim.give(Chunk(answer.id, answer.attempt, 0, 0, CONTENT))
    assert begun.wait(PATIENCE)
    victim.give(offer(2))
    go_on.set()
    victim.news.wait_for(TransferState.DONE)
    assert victim.answers(Done) == [Done(offer(2).id)]


def test_attack_66_whatever_comes_stays_in_the_folder_and_within_what_was_offered(victim: Victim) -> None:
    dice = random.Random(7)
    ids = [number.to_bytes(8, "big") for number in range(6)]
    names = ["x", "x.part", "x.part.state", "a/b", "..", "nul", "Ü" * 90, "\x1b"]
    for _ in range(3000):
        id_, size, attempt = dice.choice(ids), dice.choice([0, 1, 10, 10, 1 << 40]), dice.randrange(3)
        peer = str(dice.randrange(40))
        known = [(to, answer) for to, answer in victim.sock.sent if isinstance(answer, Accept)]
        if known and dice.random() < 0.8:
            peer, answer = dice.choice(known)
            id_, attempt = answer.id, answer.attempt
        entries = tuple(Entry(dice.choice(names), size, HASH) for _ in range(dice.randrange(3)))
        victim.give(
            dice.choice(
                [
                    Offer(id_, dice.choice(names), False, (Entry("", size, HASH),)),
                    Offer(id_, dice.choice(names), True, entries),
                    Chunk(
                        id_,
                        attempt,
                        dice.randrange(2),
                        dice.choice([0, 0, 5, 1 << 50]),
                        CONTENT[: dice.randrange(1, 11)],
                    ),
                    Stop(id_, Code.CANCELLED, ""),
                    Done(id_),
                    Unknown(id_),
                    Accept(id_, attempt),
                    dice.randbytes(dice.randrange(40)),
                ]
            ),
            peer,
            PeerId(bytes([int(peer)] * 32)),
        )
    victim.files.close()
    outside = [path for path in victim.folder.parent.iterdir() if path != victim.folder]
    assert outside == []
    received = [path for path in victim.folder.rglob("*") if path.is_file() and not path.name.endswith(".part.state")]
    assert sum(path.stat().st_size for path in received) <= 3000 * len(CONTENT)
    assert all(path.read_bytes() in (CONTENT, b"") or ".part" in str(path) for path in received)
    assert len(received) > 3


def test_attack_66_a_receiver_cannot_have_us_read_our_files_without_end(victim: Victim, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    victim.files.send("mallory", str(tmp_path / "file"))
    victim.news.wait_for(TransferState.OFFERED)
    (sent,) = victim.answers(Offer)
    assert isinstance(sent, Offer)
    for attempt in range(2000):
        victim.give(Accept(sent.id, attempt))
    assert victim.news.wait_for(*OVER).reason == "the receiver begins anew without end"
