"""Words and sentences as they stand on the wire. Knows: lengths and bytes. Must not know: what a sentence means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

Sentence = list[str]


def encode_length(length: int) -> bytes:
    """The one to five bytes that stand before a word of `length` bytes."""
    for limit, size, mark in ((0x80, 1, 0), (0x4000, 2, 0x8000), (0x200000, 3, 0xC00000), (0x10000000, 4, 0xE0000000)):
        if length < limit:
            return (length | mark).to_bytes(size, "big")
    return b"\xf0" + length.to_bytes(4, "big")


def encode(words: Iterable[str]) -> bytes:
    """A sentence: its words, then the word of no length."""
    raw = [word.encode() for word in words]
    return b"".join(encode_length(len(word)) + word for word in raw) + b"\0"


async def read_length(reader: asyncio.StreamReader) -> int:
    """The length of the next word; ValueError for a control byte, IncompleteReadError at the end."""
    first = (await reader.readexactly(1))[0]
    for limit, more, mask in ((0x80, 0, 0), (0xC0, 1, 0x80), (0xE0, 2, 0xC0), (0xF0, 3, 0xE0)):
        if first < limit:
            return int.from_bytes(bytes([first ^ mask]) + await reader.readexactly(more), "big")
    if first != 0xF0:
        raise ValueError(f"control byte {first:#x}")
    return int.from_bytes(await reader.readexactly(4), "big")


async def read_sentence(reader: asyncio.StreamReader) -> Sentence:
    """The next sentence that is not empty."""
    words: Sentence = []
    while True:
        length = await read_length(reader)
        if length:
            words.append((await reader.readexactly(length)).decode())
        elif words:
            return words
