"""The little of RouterOS's script language that hooks and undo scripts use.

Knows: tokens, blocks, `:put`, `:do`, `:foreach`, `:error`, `:delay`, menu commands with `find`. Must not know:
sessions, the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulators.routeros.values import Trap

Run = Callable[[str, str, dict[str, str]], Any]  # menu, verb, arguments -> rows or id


class Script:
    """Runs a script against a router; `output` is what `:put` printed."""

    def __init__(self, menus: set[str], run: Run, find: Callable[[str, dict[str, str]], list[str]]) -> None:
        self.menus = menus
        self.run_command = run
        self.find = find
        self.output: list[str] = []

    def run(self, text: str, variables: dict[str, str] | None = None) -> None:
        """Runs every statement; Trap at the first that fails, those before it stay done."""
        for statement in split(text):
            self._statement(statement, dict(variables or {}))

    def _statement(self, text: str, variables: dict[str, str]) -> None:
        words = tokens(text)
        if not words:
            return
        head = words[0]
        if head == ":put":
            self.output.append(self._value(words[1], variables))
        elif head == ":error":
            raise Trap(self._value(words[1], variables))
        elif head in (":delay", ":log"):
            return
        elif head == ":do":
            self._do(words, variables)
        elif head == ":foreach":
            variable, _, expression = words[1], words[2], words[2].partition("=")[2]
            body = words[3].partition("=")[2]
            for item in [i for i in self._value(expression, variables).split(",") if i]:
                self.run(_inside(body, "{}"), {**variables, variable: item})
        else:
            self._command(words, variables)

    def _do(self, words: list[str], variables: dict[str, str]) -> None:
        handler = next((word.partition("=")[2] for word in words if word.startswith("on-error=")), None)
        try:
            self.run(_inside(words[1], "{}"), variables)
        except Trap:
            if handler is None:
                raise
            self.run(_inside(handler, "{}"), variables)

    def _command(self, words: list[str], variables: dict[str, str]) -> None:
        menu, verb, rest = self._menu(words)
        arguments: dict[str, str] = {}
        for word in rest:
            name, equals, value = word.partition("=")
            if equals and not name.startswith("["):
                arguments[name] = self._value(value, variables, menu)
            elif word.startswith("!"):
                arguments[word] = ""
            else:
                arguments["numbers"] = self._value(word, variables, menu)
        if verb in ("remove", "set", "move", "disable", "enable") and "numbers" not in arguments:
            raise Trap("missing value(s) of argument(s) numbers")
        if arguments.get("numbers") == "":
            return  # [find] without a hit: the console does nothing
        self.run_command(menu, verb, arguments)

    def _menu(self, words: list[str], here: str = "") -> tuple[str, str, list[str]]:
        path = "" if words[0].startswith("/") else here
        for number, word in enumerate(words):
            parts = [part for part in word.split("/") if part]
            for depth, part in enumerate(parts):
                if path in self.menus and not any(menu.startswith(f"{path}/{part}") for menu in self.menus):
                    if depth != len(parts) - 1:
                        raise Trap(f"bad command name {part} (line 1 column 1)")
                    return path, part, words[number + 1 :]
                path += f"/{part}"
                if not any(menu == path or menu.startswith(path + "/") for menu in self.menus):
                    raise Trap(f"bad command name {part} (line 1 column 1)")
        raise Trap("bad command name (line 1 column 1)")

    def _value(self, text: str, variables: dict[str, str], here: str = "") -> str:
        if text.startswith('"'):
            return unquote(text)
        if text.startswith("$"):
            if text[1:] not in variables:
                raise Trap(f"variable {text[1:]} is not defined")
            return variables[text[1:]]
        if text.startswith("["):
            words = tokens(_inside(text, "[]"))
            if words[0] == ":error":
                raise Trap(self._value(words[1], variables))
            menu, verb, rest = self._menu(words, here)
            if verb != "find":
                raise Trap(f"bad command name {verb} (line 1 column 1)")
            conditions = [word.partition("=") for word in rest if word != "where"]
            return ",".join(self.find(menu, {name: self._value(value, variables) for name, _, value in conditions}))
        return text


def _inside(text: str, pair: str) -> str:
    text = text.strip()
    if not (text.startswith(pair[0]) and text.endswith(pair[1])):
        raise Trap("syntax error (line 1 column 1)")
    return text[1:-1]


def _scan(text: str, separators: str) -> list[str]:
    """Parts between separators that stand in no quotes, brackets or braces."""
    parts, current, stack, quoted = [], "", [], False
    position = 0
    while position < len(text):
        char = text[position]
        if quoted:
            if char == "\\":
                current += text[position : position + 2]
                position += 2
                continue
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "[{(":
            stack.append({"[": "]", "{": "}", "(": ")"}[char])
        elif stack and char == stack[-1]:
            stack.pop()
        elif char in separators and not stack:
            parts.append(current)
            current = ""
            position += 1
            continue
        current += char
        position += 1
    if quoted or stack:
        raise Trap("syntax error (line 1 column 1)")
    return [part.strip() for part in [*parts, current] if part.strip()]


def split(text: str) -> list[str]:
    """Statements of a script."""
    return _scan(text, ";\n")


def tokens(text: str) -> list[str]:
    """Words of a statement."""
    return _scan(text, " \t")


def unquote(text: str) -> str:
    """The text of a quoted string: escapes as the manual lists them, `\\E2` is a byte."""
    body = _inside(text, '""') if len(text) > 1 else ""
    raw, position = bytearray(), 0
    while position < len(body):
        char = body[position]
        if char == "$":
            raise Trap("syntax error: a variable in a string is not simulated")
        if char != "\\":
            raw += char.encode()
            position += 1
            continue
        following = body[position + 1 : position + 2]
        plain = {"n": b"\n", "r": b"\r", "t": b"\t", '"': b'"', "\\": b"\\", "$": b"$", "?": b"?"}
        if following in plain:
            raw += plain[following]
            position += 2
        else:
            raw.append(int(body[position + 1 : position + 3], 16))
            position += 3
    return raw.decode()
