"""The comfortable screen: the conversation above, an input line that nothing breaks, a status line between them.

Needs prompt_toolkit (the extra ``chat``). Everything shown comes out of :mod:`.lines`.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    UIContent,
    UIControl,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style as Colours

from .commands import completions
from .lines import Kind, Line, Piece, Style, wrapped
from .plain import PlainScreen
from .safe import MAX_NICK_SHOWN, shown
from .session import Session

KEPT: Final = 5000
"""Lines that can be scrolled back to."""
_AT_ONCE: Final = 100
_TICK: Final = 0.25
_BESIDE_CODE: Final = 8
"""Rows that a QR code leaves to what belongs to it."""
_LEFT_BEHIND: Final = 30
"""Lines of the conversation that stay on the terminal when the chat is left."""

_COLOURS: Final = {
    Style.PLAIN: "",
    Style.TIME: "ansibrightblack",
    Style.ME: "ansicyan bold",
    Style.PEER: "bold",
    Style.PRIVATE: "ansimagenta",
    Style.NOTE: "ansibrightblack",
    Style.GOOD: "ansigreen",
    Style.WARN: "ansiyellow",
    Style.BAD: "ansired",
    Style.QUESTION: "ansiyellow bold",
    Style.CODE: "bold",
    Style.QR: "bg:ansiblack ansiwhite",
    "status": "reverse",
    "asking": "ansiyellow bold",
    "prompt": "ansicyan bold",
}
_PEER_COLOURS: Final = ("ansigreen", "ansiblue", "ansimagenta", "ansiyellow", "ansibrightgreen", "ansibrightblue")


class History(UIControl):
    """The conversation, wrapped to the width there is; only what is seen is computed."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque(maxlen=KEPT)
        self.back = 0
        """Rows scrolled back from the end."""
        self._width, self._height = 80, 24
        self._rows: dict[Line, tuple[str, list[StyleAndTextTuples]]] = {}

    def add(self, lines: Iterable[Line]) -> None:
        """New lines at the end. Who has scrolled back goes on seeing what he saw."""
        for line in lines:
            if len(self.lines) == KEPT:
                self._rows.pop(self.lines[0], None)
            self.lines.append(line)
            if self.back:
                self.back += len(self._rows_of(line))

    def scroll(self, rows: int) -> None:
        """Go back by so many rows, or forward if negative."""
        most = max(0, sum(len(self._rows_of(line)) for line in self.lines) - self._height)
        self.back = max(0, min(most, self.back + rows))

    def scroll_page(self, direction: int) -> None:
        """A page back (1) or forward (-1)."""
        self.scroll(direction * max(1, self._height - 2))

    def create_content(self, width: int, height: int) -> UIContent:
        """The rows to be seen."""
        if width != self._width:
            self._rows.clear()
        self._width, self._height = width, height
        rows: list[StyleAndTextTuples] = []
        wanted = height + self.back
        for line in reversed(self.lines):
            rows[:0] = self._rows_of(line)
            if len(rows) >= wanted:
                break
        rows = rows[: len(rows) - self.back] if self.back else rows
        rows = rows[-height:]
        return UIContent(get_line=lambda number: rows[number], line_count=len(rows), show_cursor=False)

    def _rows_of(self, line: Line) -> list[StyleAndTextTuples]:
        pieces = line.pieces()
        mark = "" if line.receipt is None else line.receipt.mark()[1]
        cached = self._rows.get(line)
        if cached is not None and cached[0] == mark:
            return cached[1]
        if line.receipt is not None:
            pieces = [*pieces, (Style.PLAIN, " "), line.receipt.mark()]
        rows: list[StyleAndTextTuples] = []
        for row in wrapped(pieces, self._width):
            rows.append([(_class_of(piece), piece[1]) for piece in row])
        self._rows[line] = mark, rows
        return rows


def _class_of(piece: Piece) -> str:
    style, text = piece
    if style == Style.PEER:  # everybody has a colour, the same each time
        return f"class:peer {_PEER_COLOURS[zlib.crc32(text.encode()) % len(_PEER_COLOURS)]}"
    return f"class:{style}"


class Words(Completer):
    """Completes commands, nicks and files."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        line = document.text_before_cursor
        start, words, is_file = completions(line, self._names())
        if is_file:
            path = Document(line[start:], len(line) - start)
            for completion in self._paths.get_completions(path, complete_event):
                name = shown(completion.text, 80)
                if name == completion.text:  # a file name that would steer the terminal is not offered
                    yield Completion(completion.text, completion.start_position)
            return
        for word in words:
            if word.isprintable():
                yield Completion(word, start - len(line), display=shown(word, MAX_NICK_SHOWN + 10))


class Terminal:
    """The screen of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        session.chat.bars = True
        session.chat.inviting.room = lambda: (self.history._width, self.history._height - _BESIDE_CODE)
        self.history = History()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pumping = False
        self._before = ""
        self.buffer = Buffer(
            completer=Words(session.chat.names),
            complete_while_typing=Condition(lambda: self.buffer.text.startswith("/")),
            multiline=False,
            accept_handler=self._accept,
        )
        self.app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=Colours.from_dict({str(name): colour for name, colour in _COLOURS.items()}),
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
            full_screen=True,
            mouse_support=False,
            min_redraw_interval=0.04,
        )
        self.app.ttimeoutlen = 0.1

    def _layout(self) -> Layout:
        moving = ConditionalContainer(
            Window(FormattedTextControl(self._moving), dont_extend_height=True, height=Dimension(max=5)),
            Condition(lambda: bool(self.session.chat.moving())),
        )
        status = Window(FormattedTextControl(self._status), height=1, style="class:status")
        field = Window(
            BufferControl(self.buffer, input_processors=[BeforeInput(self._prompt)]),
            height=Dimension(min=1, max=4),
            wrap_lines=True,
            dont_extend_height=True,
        )
        body = HSplit([Window(self.history), moving, status, field])
        menu = Float(CompletionsMenu(max_height=8, scroll_offset=1), xcursor=True, ycursor=True)
        return Layout(FloatContainer(body, [menu]), focused_element=field)

    def _status(self) -> StyleAndTextTuples:
        chat = self.session.chat
        text = f" {shown(chat.nick, MAX_NICK_SHOWN)} ({chat.net.peer_id.tag})  {chat.summary()}"
        if self.history.back:
            text += "  ↓ PageDown for what is new"
        return [("", text)]

    def _moving(self) -> StyleAndTextTuples:
        return [("class:note", "\n".join(f" {shown(text, 200)}" for text in self.session.chat.moving()))]

    def _prompt(self) -> StyleAndTextTuples:
        if self.session.chat.questions:
            return [("class:asking", "y/n? > ")]
        return [("class:prompt", f"{shown(self.session.chat.nick, MAX_NICK_SHOWN)}> ")]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            self._leave()

        @keys.add("c-d", filter=Condition(lambda: not self.buffer.text))
        def _(event: KeyPressEvent) -> None:
            self._leave()

        @keys.add("pageup")
        def _(event: KeyPressEvent) -> None:
            self.history.scroll_page(1)

        @keys.add("pagedown")
        def _(event: KeyPressEvent) -> None:
            self.history.scroll_page(-1)

        @keys.add("c-l")
        def _(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        return keys

    def _accept(self, buffer: Buffer) -> bool:
        # What is pasted is one message: lines within it must not become commands.
        text = " ".join(buffer.text.splitlines())
        self.history.back = 0
        self._add(self.session.chat.typed(text))
        return False  # and the input line is empty again

    def _add(self, lines: list[Line]) -> None:
        self.history.add(lines)
        if lines:
            self.app.invalidate()
        if self.session.chat.over:
            self._leave()

    def _leave(self) -> None:
        if self.app.is_running and not self.app.is_done:
            self.app.exit()

    # --- the loop ---

    def _wake(self) -> None:
        """From any thread."""
        loop = self._loop
        if loop is not None and not self._pumping:
            self._pumping = True
            try:
                loop.call_soon_threadsafe(self._pump)
            except RuntimeError:  # it has just been closed
                pass

    def _pump(self) -> None:
        self._pumping = False
        self._add(self.session.work(_AT_ONCE))
        if not self.session.is_idle:
            self._wake()  # after what else the loop has to do: keys come first

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            chat = self.session.chat
            self._add(chat.tick())
            now = f"{chat.summary()} {chat.outstanding()} {chat.moving()}"
            if now != self._before:
                self._before = now
                self.app.invalidate()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        ticking = self._loop.create_task(self._tick())
        self.session.wake = self._wake
        self._wake()
        try:
            await self.app.run_async()
        finally:
            ticking.cancel()
            self.session.wake = lambda: None
            self._loop = None

    def run(self) -> None:
        """Chat until the user leaves."""
        try:
            asyncio.run(self._run())
        except (EOFError, KeyboardInterrupt):
            pass  # the terminal is gone, or a signal
        PlainScreen().show(list(self.history.lines)[-_LEFT_BEHIND:])


def run(session: Session) -> int:
    """Chat until the user leaves. The exit status: 1 if something was not delivered."""
    terminal = Terminal(session)
    screen = PlainScreen()
    try:
        terminal.run()
        screen.show(session.chat.tick())
        waiting = session.chat.outstanding()
        if waiting:
            text = f"delivering {waiting} more before leaving; Ctrl-C leaves at once"
            screen.show([Line(Kind.NOTE, text, when=session.chat.wall())])
    finally:
        undelivered = session.close()
    screen.show(session.chat.tick())
    return 1 if undelivered else 0
