"""The query words of print: a stack machine, as the manual describes it. Knows: `?` words. Must not know: menus."""

from __future__ import annotations

from collections.abc import Mapping

from tests.simulators.routeros.values import Trap, boolean


def _equal(have: str | None, want: str) -> bool:
    if have is None:
        return False
    # clients write yes and no where rows say true and false
    return have == want or (boolean(have) is not None and boolean(have) == boolean(want))


def passes(row: Mapping[str, str], words: list[str]) -> bool:
    """Whether a row passes; an empty query lets every row pass."""
    stack: list[bool] = []
    for word in words:
        body = word[1:]
        if body.startswith("#"):
            for op in body[1:]:
                if op == "!":
                    stack.append(not stack.pop() if stack else False)
                elif op in "&|":
                    right, left = (stack.pop() if stack else True), (stack.pop() if stack else True)
                    stack.append(left and right if op == "&" else left or right)
                elif op == ".":
                    stack.append(stack[-1] if stack else True)
                else:
                    raise Trap("invalid query")
        elif body.startswith("-"):
            stack.append(body[1:] not in row)
        elif body[:1] in "<>":
            name, _, value = body[1:].partition("=")
            have = row.get(name)
            both = have is not None and have.isdigit() and value.isdigit()
            if have is None:
                stack.append(False)
            elif body[0] == "<":
                stack.append(int(have) < int(value) if both else have < value)
            else:
                stack.append(int(have) > int(value) if both else have > value)
        else:
            name, equals, value = body.removeprefix("=").partition("=")
            stack.append(_equal(row.get(name), value) if equals else name in row)
    return all(stack)
