"""The chat without a terminal: what lines, messages and events do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srmudp import Address, EventKind, NatBehaviour, PeerEvent, PublicAddress, QueueFull, Trust
from srmudp.chat import letters
from srmudp.chat.book import Book, Entry
from srmudp.chat.conversation import Accept
from srmudp.files import Transfer, TransferState

from .fakes import HERE, Rig, peer_id_of, texts


def test_what_is_typed_goes_to_everybody_who_is_here() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.meet("Carol")
    rig.type("/add Dave 192.0.2.3:8000")
    assert rig.type("Hello!") == ["you: Hello!"]
    assert rig.said() == [("Hello!", ("Bob", "Carol"))]
    rig.chat.happened(PeerEvent(EventKind.LOST, "Carol", reason="nothing heard for 21 s"))
    rig.type("Who was lost a moment ago gets it, too.")
    assert rig.said()[-1][1] == ("Bob", "Carol")
    rig.now += 60
    rig.type("And not for ever.")
    assert rig.said()[-1][1] == ("Bob",)


def test_nobody_is_here() -> None:
    rig = Rig()
    (line,) = rig.type("Hello?")
    assert line.startswith("! nobody is connected: nothing was sent")
    assert rig.net.sent == []


def test_a_private_message() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.meet("Carol")
    assert rig.type("/msg bob pssst") == ["you to Bob alone: pssst"]
    letter, names, _ = rig.net.sent[-1]
    assert (letter, names) == (letters.Letter(letters.Kind.PRIVATE, "pssst"), ("Bob",))
    assert rig.hear("Bob", "what?", letters.Kind.PRIVATE) == ["Bob to you alone: what?"]
    assert rig.hear("Bob", "Hello all") == ["Bob: Hello all"]


@pytest.mark.parametrize("line", ["/msg Bbo secret", "/msgBob secret", "/mgs Bob secret", "7msg Bob secret"])
def test_a_typo_is_sent_to_nobody(line: str) -> None:
    rig = Rig()
    rig.meet("Bob")
    (answer,) = rig.type(line)
    assert answer.startswith("!")
    assert rig.said() == []


def test_attack_67_commands_of_others_are_text() -> None:
    """Attack 67."""
    rig = Rig()
    rig.meet("Bob")
    rig.chat.ask_about(peer_id_of("Eve"), "Eve", HERE)
    for text in ("/quit", "/save /tmp/x", "y", "/yes Eve", "//x"):
        assert rig.hear("Bob", text) == [f"Bob: {text}"]
    assert not rig.chat.over
    assert rig.net.calls == []


def test_attack_68_who_says_it_is_who_has_the_key() -> None:
    """Attack 68: nothing in a message names its author, and nobody passes anything on for others."""
    rig = Rig()
    rig.meet("Bob")
    rig.meet("Mallory")
    line = letters.write(letters.Letter(letters.Kind.ALL, "I owe Mallory 100"))
    assert rig.get("Bob", line) == ["Bob: I owe Mallory 100"]
    assert rig.get("Mallory", line) == ["Mallory: I owe Mallory 100"]
    assert rig.hear("Mallory", "Bob: me, too") == ["Mallory: Bob: me, too"]


def test_the_prompt_that_lets_somebody_in() -> None:
    rig = Rig()
    bob = peer_id_of("Bob")
    (question,) = texts(rig.chat.ask_about(bob, "Bob", HERE))
    assert question.startswith(f"? Bob (key {bob.tag}, at 192.0.2.9:8001) would like to come in.")
    rig.now += 5
    assert rig.type("y") == ["* Bob may come in"]
    assert rig.net.calls == [("admit", bob, True)]
    assert rig.meet("Bob")[0].startswith("* Bob is here at 192.0.2.9:8001 (let in, key ")
    assert rig.chat.verdict(bob, "Bob", HERE) is True, "the next time there is no question"


def test_the_prompt_that_keeps_somebody_out() -> None:
    rig = Rig()
    rig.chat.ask_about(peer_id_of("Eve"), "Eve", HERE)
    rig.now += 5
    assert rig.type("no") == ["* Eve was refused"]
    assert rig.net.calls == [("admit", peer_id_of("Eve"), False)]
    assert rig.said() == []


def test_an_answer_to_something_else_lets_nobody_in() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.chat.ask_about(peer_id_of("Eve"), "Eve", HERE)
    rig.now += 0.5
    (line,) = rig.type("yes")
    assert "just come up" in line
    assert "type yes once more" in line
    assert rig.net.calls == []
    assert rig.said() == []
    rig.type("Wait, who is that?")
    assert rig.said() == [("Wait, who is that?", ("Bob",))]


def test_one_of_several_questions_can_be_answered() -> None:
    rig = Rig()
    for name in ("Eve", "Frank"):
        rig.chat.ask_about(peer_id_of(name), name, HERE)
    assert rig.type("/yes frank") == ["* Frank may come in"]
    assert rig.type("/no") == ["* Eve was refused"]
    assert rig.type("/yes") == ["! there is no question to answer"]
    assert rig.net.calls == [("admit", peer_id_of("Frank"), True), ("admit", peer_id_of("Eve"), False)]


def test_attack_80_few_questions_at_a_time_and_none_twice() -> None:
    """Attack 80: the socket asks seldom; what it asks is still bounded here."""
    rig = Rig()
    for number in range(100):
        for _ in range(2):
            rig.chat.ask_about(peer_id_of(f"stranger {number}"), "Bob", HERE)
    assert len(rig.chat.questions) == 16


@pytest.mark.parametrize(
    ("accept", "stranger", "friend"),
    [(Accept.KNOWN, False, True), (Accept.ASK, None, True), (Accept.ALL, True, True)],
)
def test_who_may_come_in(accept: Accept, stranger: bool | None, friend: bool) -> None:
    rig = Rig(accept=accept)
    rig.book.put("Bob", Entry((), peer_id_of("Bob")))
    rig.book.put("Eve", Entry((), peer_id_of("Eve"), blocked=True))
    for name, expected in (("Stranger", stranger), ("Bob", friend), ("Eve", False)):
        assert rig.chat.verdict(peer_id_of(name), name, HERE) is expected


def test_attack_63_a_name_that_looks_like_a_friends() -> None:
    """Attack 63 (and 27): told apart by the key."""
    rig = Rig()
    rig.meet("Bob")
    mallory = peer_id_of("Mallory")
    (question,) = texts(rig.chat.ask_about(mallory, "B0b", HERE))
    assert "this is not the Bob you know" in question
    rig.type("/yes B0b")
    (line,) = rig.meet("B0b", key="Mallory")
    assert line.startswith(f"* B0b#{mallory.tag} is here")
    assert rig.hear("B0b", "It is me") == [f"B0b#{mallory.tag}: It is me"]
    assert rig.hear("Bob", "No, me") == [f"Bob#{peer_id_of('Bob').tag}: No, me"]
    (question,) = texts(rig.chat.ask_about(peer_id_of("Eve"), "ALICE", HERE))
    assert "this is not the Alice (you) you know" in question


def test_attack_63_a_verified_name_stays_and_the_other_gets_the_tag() -> None:
    """Attack 63."""
    rig = Rig()
    rig.book.put("Bob", Entry((), peer_id_of("Bob"), verified=True))
    rig.meet("Bob")
    rig.meet("Mallory")
    (line,) = rig.hear("Mallory", "Bob", letters.Kind.NICK)
    assert line == f"* Mallory is called Bob#{peer_id_of('Mallory').tag} now"
    assert rig.hear("Bob", "hi") == ["Bob: hi"]
    assert rig.chat.people.labels()["Bob"].name == "Bob"


def test_nicks() -> None:
    rig = Rig()
    rig.meet("Bob")
    assert rig.net.sent[-1][:2] == (letters.Letter(letters.Kind.NICK, "Alice"), ("Bob",))
    assert rig.hear("Bob", "Bobby", letters.Kind.NICK) == ["* Bob is called Bobby now"]
    assert rig.hear("Bob", "hi") == ["Bobby: hi"]
    rig.type("/msg bobby hello")
    assert rig.said()[-1] == ("hello", ("Bob",))
    assert rig.type("/nick Al")[0].startswith("* you are Al until you leave")
    assert rig.net.sent[-1][:2] == (letters.Letter(letters.Kind.NICK, "Al"), ("Bob",))
    assert rig.type("/nick \x1b[2J")[0].startswith("! a nick must not have the control character")


def test_a_name_that_we_gave_stays() -> None:
    rig = Rig()
    rig.type("/add Carol 192.0.2.9:8001")
    rig.meet("Carol", trust=Trust.FIRST_USE)
    assert rig.hear("Carol", "Caroline", letters.Kind.NICK) == ["* Carol calls themselves Caroline"]
    assert rig.hear("Carol", "hi") == ["Carol: hi"]


def test_attack_62_hostile_nicks_and_texts() -> None:
    """Attack 62."""
    rig = Rig()
    rig.meet("Eve")
    for nick in ("\x1b]0;x\x07", "a\nb", "\u202eecilA", "", " "):
        rig.hear("Eve", nick, letters.Kind.NICK)
    assert rig.hear("Eve", "\x1b[2J\nroot: hi") == [r"Eve: \x1b[2J\nroot: hi"]
    (line,) = rig.get("Eve", b"\x01\x01" + b"N" * 2**20)
    assert line == "* Eve sent what this chat does not understand (too long); it is ignored"
    assert rig.chat.odd == {"bad nick": 5, "too long": 1}


def test_a_peer_that_changes_its_nick_all_the_time() -> None:
    rig = Rig()
    rig.meet("Eve")
    shown = [line for number in range(1000) for line in rig.hear("Eve", f"Eve{number}", letters.Kind.NICK)]
    assert len(shown) < 10
    assert rig.chat.odd["nick changed too often"] > 900


def test_a_peer_that_comes_and_goes_all_the_time() -> None:
    rig = Rig()
    shown = []
    for _ in range(500):
        shown += rig.meet("Eve")
        shown += texts(rig.chat.happened(PeerEvent(EventKind.LOST, "Eve", reason="x")))
    assert len(shown) < 10


def test_what_is_no_chat_is_counted_and_told_once() -> None:
    rig = Rig()
    rig.meet("Bob")
    told = [line for _ in range(50) for line in rig.get("Bob", b"\x01\x63?")]
    assert told == ["* Bob sent what this chat does not understand (unknown kind); it is ignored"]
    assert rig.chat.odd == {"unknown kind": 50}
    assert any("50 ignored: unknown kind" in line for line in rig.type("/whois Bob"))


def test_ticks_are_true() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.meet("Carol")
    (line,) = rig.chat.typed("hi")
    _, _, delivery = rig.net.sent[-1]
    assert line.receipt is not None
    assert line.receipt.mark()[1] == "✓"
    delivery.deliver("Bob")
    assert line.receipt.mark()[1] == "✓ 1/2"
    rig.chat.happened(PeerEvent(EventKind.LOST, "Carol", reason="x"))
    assert line.receipt.mark()[1] == "… 1/2"
    delivery.fail("Carol", "the peer removed us")
    assert line.receipt.mark()[1] == "✗ 1/2"
    assert texts(rig.chat.tick()) == ["! not delivered: 'hi' (Carol: the peer removed us)"]
    assert rig.chat.undelivered == 1
    (line,) = rig.chat.typed("again")
    rig.net.sent[-1][2].deliver()
    assert line.receipt is not None
    assert line.receipt.mark()[1] == "✓✓"
    assert texts(rig.chat.tick()) == []


def test_what_takes_long_is_told_and_its_end_too() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.type("are you there?")
    assert texts(rig.chat.tick()) == []
    rig.now += 11
    assert texts(rig.chat.tick()) == ["* still waiting for Bob: 'are you there?'"]
    assert texts(rig.chat.tick()) == []
    assert rig.chat.outstanding() == 1
    rig.net.sent[-1][2].deliver()
    assert texts(rig.chat.tick()) == ["* delivered to Bob: 'are you there?'"]
    assert rig.chat.outstanding() == 0


def test_a_full_queue_and_a_long_text() -> None:
    rig = Rig()
    rig.meet("Bob")
    assert "4001 characters are more than 4000" in rig.type("x" * 4001)[0]
    assert "not text" in rig.type("\ud800")[0]
    rig.net.refusal = QueueFull("full")
    assert rig.type("hi") == ["! not sent: too much is waiting to be delivered already"]


def test_adding() -> None:
    rig = Rig()
    assert rig.type("/add Bob 192.0.2.9:8001") == ["* connecting to Bob at 192.0.2.9:8001; they may have to let you in"]
    assert not rig.chat.is_settled()
    assert rig.meet("Bob", trust=Trust.FIRST_USE)[0].startswith("* Bob is here at 192.0.2.9:8001 (first use, key")
    assert rig.chat.is_settled()
    for line in ("/add Bob 192.0.2.9", "/add Bob nonsense:x", "/add \x1b[2J 192.0.2.9:1", "/add B 1.2.3.4:0"):
        assert rig.type(line)[0].startswith("! nothing was added: ")


def test_a_name_means_the_same_key_tomorrow(tmp_path: Path) -> None:
    path = str(tmp_path / "peers.json")
    rig = Rig(book=Book(path))
    rig.type("/add Bob 192.0.2.9:8001")
    rig.meet("Bob", trust=Trust.FIRST_USE)
    tomorrow = Rig(book=Book(path))
    tomorrow.type("/add Bob 192.0.2.77:8001")
    assert tomorrow.net.calls[0][1]["Bob"].peer_id == peer_id_of("Bob")
    (line,) = tomorrow.type(f"/add Bob {peer_id_of('Mallory')}@192.0.2.9:8001")
    assert "had another key before" in line
    told = texts(
        tomorrow.chat.happened(PeerEvent(EventKind.REFUSED, "Bob", reason="another key than the pinned one answered"))
    )
    assert "/remove Bob, then /add" in told[0]
    tomorrow.type("/remove Bob")
    tomorrow.type("/add Bob 192.0.2.77:8001")
    assert tomorrow.net.calls[-1][1]["Bob"].peer_id is None


def test_a_weak_match_is_not_written_down() -> None:
    rig = Rig()
    rig.type("/add Bob 192.0.2.9:8001")
    rig.meet("Bob", trust=Trust.MATCHED_BY_IP)
    assert rig.book.names() == []


def test_another_key_under_the_same_name() -> None:
    rig = Rig()
    rig.type("/add Bob 192.0.2.9:8001")
    rig.meet("Bob", trust=Trust.FIRST_USE)
    (line,) = texts(rig.chat.happened(PeerEvent(EventKind.PEER_CHANGED, "Bob", peer_id_of("Mallory"))))
    assert "ANOTHER KEY" in line
    assert rig.book.get("Bob") is None


def test_verifying() -> None:
    rig = Rig()
    rig.meet("Bob")
    lines = rig.type("/verify Bob")
    assert lines[1].split() == ["00000", "00001", "00002", "00003", "00004", "00005"]
    assert rig.type("y") == ["* Bob is verified: any other key will be refused"]
    assert rig.net.calls == [("trust", "Bob")]
    assert rig.book.get("Bob") == Entry(("192.0.2.9:8001",), peer_id_of("Bob"), verified=True)
    assert "verified" in rig.type("/list")[-1]
    rig.type("/verify Bob")
    assert rig.type("n")[0].startswith("! if the codes differ")


def test_verifying_takes_the_key_that_was_compared() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.type("/verify Bob")
    rig.chat.happened(PeerEvent(EventKind.PEER_CHANGED, "Bob", peer_id_of("Mallory")))
    assert rig.type("y") == ["! Bob has another key now: /verify again"]
    assert rig.net.calls == []


def test_a_book_that_cannot_be_written_ends_no_chat(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    rig = Rig(accept=Accept.ALL, book=Book(str(folder / "peers.json")))
    rig.type("/add Bob 192.0.2.9:8001")
    rig.meet("Bob", trust=Trust.FIRST_USE)
    rig.meet("Eve")
    (folder / "peers.json").unlink()
    folder.rmdir()

    def is_told(lines: list[str]) -> bool:
        return any("the list of people you met cannot be written" in line for line in lines)

    assert is_told(rig.type("/verify Bob yes"))
    assert "verified" in rig.type("/whois Bob")[2]
    assert is_told(texts(rig.chat.happened(PeerEvent(EventKind.PEER_CHANGED, "Bob", peer_id_of("Mallory")))))
    assert is_told(rig.type("/block Eve"))
    assert rig.chat.verdict(peer_id_of("Eve"), "Eve", HERE) is False
    assert is_told(rig.type("/unblock Eve"))
    assert rig.chat.verdict(peer_id_of("Eve"), "Eve", HERE) is True


def test_blocking() -> None:
    rig = Rig(accept=Accept.ALL)
    rig.meet("Eve")
    rig.hear("Eve", "Evelyn", letters.Kind.NICK)
    assert rig.type("/block Evelyn") == ["* blocked Evelyn; /unblock Eve undoes it"]
    assert ("remove", "Eve") in rig.net.calls
    assert rig.chat.verdict(peer_id_of("Eve"), "Eve", HERE) is False
    assert rig.hear("Eve", "still here") == []
    assert "is blocked" in rig.type("/add Eve 192.0.2.9:8001")[0]
    assert rig.type("/unblock Eve")[0].startswith("* Eve is not blocked any more")
    assert rig.chat.verdict(peer_id_of("Eve"), "Eve", HERE) is True


def test_saving_and_loading(tmp_path: Path) -> None:
    path = tmp_path / "my_peers.json"
    rig = Rig()
    assert "nobody to save" in rig.type(f"/save {path}")[0]
    rig.meet("Bob")
    rig.type("/verify Bob yes")
    rig.type("/add Carol carol.example:8000")
    assert rig.type(f"/save {path}") == [f"* saved 2 in {path}"]
    assert json.loads(path.read_text()) == {
        "Bob": {"address": "192.0.2.9:8001", "peer_id": str(peer_id_of("Bob")), "verified": True},
        "Carol": {"address": "carol.example:8000"},
    }
    other = Rig(nick="Alice")
    assert other.type(f"/load {path}") == ["* connecting to Bob, Carol"]
    ((_, added),) = other.net.calls
    assert added["Bob"].peer_id == peer_id_of("Bob")
    assert other.chat.trust_of(other.chat.people.get("Bob"), None) == "no key yet"  # type: ignore[arg-type]
    other.meet("Bob", trust=Trust.PINNED)
    assert "(verified" in other.type("/list")[-1] or "verified" in other.type("/list")[-2]


def test_a_group_has_one_file_for_all(tmp_path: Path) -> None:
    path = tmp_path / "group.json"
    path.write_text('{"Alice": "192.0.2.1:8000", "Bob": "192.0.2.2:8000"}')
    rig = Rig(nick="Alice")
    assert rig.type(f"/load {path}") == ["* connecting to Bob"]
    path.write_text('{"Alice": "192.0.2.1:8000"}')
    assert rig.type(f"/load {path}") == [f"* {path}: nobody in it"]


def test_saving_asks_before_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "my peers.json"
    path.write_text("precious")
    rig = Rig()
    rig.meet("Bob")
    assert rig.type(f"/save {path}") == [f"? {path} exists. Replace it? y or n"]
    assert rig.type("n") == [f"* {path} is left as it is"]
    assert path.read_text() == "precious"
    rig.type(f'/save "{path}"')
    assert rig.type("y") == [f"* saved 1 in {path}"]
    assert "Bob" in path.read_text()


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    rig = Rig()
    for content in ('{"Bob": "192.0.2.9:8001", "Eve": 5}', "{", '{"Bob": "192.0.2.9:8001", "Bob": "x:1"}'):
        path.write_text(content)
        (line,) = rig.type(f"/load {path}")
        assert line.startswith(f"! {path}: ")
        assert line.endswith("Nothing was changed.")
    assert "No such file" in rig.type(f"/load {tmp_path}/nothing")[0]
    assert rig.type("/load")[0] == "! usage: /load <file>"
    assert rig.net.calls == []
    rig.net.refusal = ValueError("too many")
    path.write_text('{"Bob": "192.0.2.9:8001"}')
    assert rig.type(f"/load {path}") == [f"! {path}: too many. Nothing was changed."]
    assert rig.chat.names() == []


def test_a_second_answer_is_not_a_message() -> None:
    rig = Rig()
    rig.meet("Bob")
    rig.chat.ask_about(peer_id_of("Eve"), "Eve", HERE)
    rig.now += 5
    rig.type("y")
    assert rig.type("y") == ["! not sent: there is no question any more. To say it all the same: /say y"]
    assert rig.type("/say y") == ["you: y"]
    rig.now += 60
    assert rig.type("y") == ["you: y"]
    assert rig.said() == [("y", ("Bob",))] * 2


def test_the_list_and_the_greeting_show_our_own_addresses() -> None:
    rig = Rig()
    rig.chat.addresses = lambda: ["192.0.2.1:8000", "[2001:db8::1]:8000"]
    greeting = texts(rig.chat.greeting())
    assert any("/add Alice 192.0.2.1:8000" in line for line in greeting)
    assert any("/add Alice [2001:db8::1]:8000" in line for line in greeting)
    assert rig.type("/list") == [*greeting[:-1], "  Nobody is here yet."]
    rig.meet("Bob")
    row = rig.type("/list")[-1].split()
    assert row == ["Bob", "connected", "192.0.2.9:8001", "12.0", "ms", "key", peer_id_of("Bob").tag, "let", "in"]


def test_the_public_address() -> None:
    rig = Rig()
    asked: list[str | None] = []
    rig.chat.discover = asked.append
    rig.type("/public")
    rig.type("/public stun.example:3478")
    assert asked == [None, "stun.example:3478"]
    found = PublicAddress(Address("192.0.2.5", 8000), mapping=NatBehaviour.ENDPOINT_INDEPENDENT)
    assert texts(rig.chat.seen_at(found)) == [
        "* from outside you are seen at 192.0.2.5:8000: others type /add Alice 192.0.2.5:8000"
    ]
    found = replace(found, mapping=NatBehaviour.ADDRESS_AND_PORT_DEPENDENT)
    assert "every destination another port" in texts(rig.chat.seen_at(found))[1]
    assert texts(rig.chat.seen_at(OSError("no answer"))) == ["! your public address was not found: no answer"]


def test_help() -> None:
    rig = Rig()
    assert any("/msg <nick> <message>" in line for line in rig.type("/help"))
    assert rig.type("/help msg") == ["  /msg <nick> <message>    say something to one alone"]
    assert rig.type("/help xyz")[0].startswith("! there is no /xyz")


def test_offering_files(tmp_path: Path) -> None:
    (tmp_path / "holiday photo.jpg").write_bytes(bytes(123_456))
    rig = Rig()
    assert rig.type("/send * x") == ["! nobody is connected: nothing was offered"]
    rig.meet("Bob")
    rig.meet("Carol")
    path = f"{tmp_path}/holiday photo.jpg"
    assert rig.type(f"/send bob {path}") == ["* offering holiday photo.jpg (123.5 kB) to Bob; /cancel 1 takes it back"]
    rig.type(f"/send * '{path}'")
    assert rig.files.calls == [("send", name, path) for name in ("Bob", "Bob", "Carol")]
    assert rig.type(f"/send Bob {tmp_path}/nothing")[0].endswith("No such file or directory. Nothing was offered.")
    assert "did you mean Bob?" in rig.type(f"/send Bbo {path}")[0]
    assert rig.type("/cancel 2") == []
    assert rig.files.calls[-1] == ("cancel", 2)


def test_being_offered_files() -> None:
    rig = Rig()
    rig.meet("Bob")
    assert rig.type("/accept") == ["! nothing is offered to you"]
    offer = Transfer(7, "Bob", False, "x\x1b[2J.jpg", False, 1, 10**6, 0, 0, 0.0, TransferState.OFFERED)
    (line,) = texts(rig.chat.transferred(offer))
    assert line == r"? Bob offers you x\x1b[2J.jpg (1.0 MB). /accept 7 takes it, /reject 7 does not."
    rig.files.transfers = (offer, replace(offer, number=9))
    assert rig.type("/accept 8") == ["! there is no 8 among what could be meant; there are: 7, 9"]
    rig.type("/accept 9")
    rig.type("/reject")
    rig.type("/accept bob")
    assert rig.files.calls == [("accept", 9), ("reject", 7), ("accept", 7)]
    done = replace(offer, state=TransferState.DONE, path="/tmp/x.jpg")
    assert texts(rig.chat.transferred(done))[0].endswith("from Bob is there: /tmp/x.jpg")
    failed = replace(offer, state=TransferState.FAILED, reason="the disk is full")
    assert texts(rig.chat.transferred(failed))[0].endswith("from Bob: failed (the disk is full)")


def test_files_on_their_way() -> None:
    rig = Rig()
    rig.meet("Bob")
    moving = Transfer(1, "Bob", True, "a.iso", False, 1, 2 * 10**8, 10**8, 0, 2e6, TransferState.MOVING)
    rig.files.transfers = (moving,)
    assert rig.chat.moving() == ["↑ a.iso to Bob  ████████░░░░░░░░  50 %  2.0 MB/s  0:50 left"]
    assert texts(rig.chat.tick()) == ["* ↑ a.iso to Bob  ████████░░░░░░░░  50 %  2.0 MB/s  0:50 left"]
    assert texts(rig.chat.tick()) == []
    assert not rig.chat.is_settled(), "a script does not leave before its file has arrived"
    resumed = replace(moving, resumed=10**8, rate=0.0)
    assert texts(rig.chat.transferred(resumed)) == ["* a.iso (200.0 MB) goes on where it stopped, at 50 %"]
    rig.files.transfers = (resumed,)
    assert rig.chat.moving()[0].endswith("50 %  waiting")


def test_leaving() -> None:
    rig = Rig()
    rig.type("/quit")
    assert rig.chat.over


def test_why_somebody_is_not_reached_is_told_once() -> None:
    rig = Rig()
    rig.type("/add Bob 192.0.2.9:8001")
    rig.net.connections_status["Bob"] = replace(rig.net.connections_status["Bob"], failure="no answer yet")
    assert texts(rig.chat.tick()) == ["! Bob is not connected: no answer yet"]
    assert texts(rig.chat.tick()) == []
    assert rig.chat.summary() == "0 here, 1 not connected"


def test_the_status_line() -> None:
    rig = Rig()
    for number in range(8):
        rig.meet(f"P{number}x")
    rig.chat.tick()
    assert rig.chat.summary().startswith("8 here (direct): P0x 12 ms, P1x 12 ms")
    assert rig.chat.summary().endswith("and 2 more")


def test_the_address_of_a_question_is_shown() -> None:
    rig = Rig()
    (line,) = texts(rig.chat.ask_about(peer_id_of("Z"), "", Address("2001:db8::5", 9)))
    assert f"? {peer_id_of('Z').tag} (key {peer_id_of('Z').tag}, at [2001:db8::5]:9)" in line


def test_why_somebody_is_not_connected() -> None:
    rig = Rig()
    rig.type("/add Bob 192.0.2.9:8001")
    lines = rig.type("/explain bob")
    assert lines[0].endswith(
        "Bob: connecting for 9.0 s: no answer yet: is the other program running, and has it added us?"
    )
    assert any("do: " in line for line in lines)
    assert any("192.0.2.9:8001 (given): knocked 3x" in line for line in lines)
    assert any("/explain Bob says more" in line for line in rig.type("/whois Bob"))
    assert any("Carol" in line for line in rig.type("/explain Carol"))
