"""Changes to bytes, to text and to what YAML and JSON hold, all drawn from one seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["Mutations"]

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)

_NUMBERS = (0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 255, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63)),
    *(10**30, 10**400, 0.0, -0.0, 0.5, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "0", "-1", "1e400", "nan", "../../x", "/etc/passwd", "a/b", "a\0b", "\ud800"),
    *("x" * 5000, "9" * 5000, "\u202e\u0000", "{}", "[", "%s%n", "~", "file:///x", "http://[a"),
    *("s3://", "~nobody/x", "CON", ".", "..", "<b>"),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3], ["y", "x"], {"type": "scale", "scale": [0, 0]}),
)

_PIECES = (
    *(
        "",
        "\0",
        "\ud800",
        "\ufeff",
        "\u202e",
        "\n",
        "\r",
        "\t",
        '"',
        "'",
        "\\",
        "/",
        "//",
        "..",
        "%",
    ),
    *("%00", "%2e%2e%2f", "?", "#", "@", ":", "[", "]", "{", "}", "*", "&a", "*a", "!!int x", "- "),
    *(": ", "<<: *a", "~", "=", ",", ";", "|", ">", "1e400", "-1", "99999999999999999999", "nan"),
    *(
        "x" * 3000,
        "[" * 300,
        "\u00e9",
        "\u0660",
        "\U0001f52c",
        "!!float .",
        "!!bool x",
        "!!python/x",
    ),
)


class Mutations:
    """Draws changes from a random source; ``still`` gives everything back as it is."""

    def __init__(self, rng: random.Random, *, still: bool = False) -> None:
        self.rng, self.still = rng, still

    def choose(self, among: Sequence[Any]) -> Any:
        """Give one of several; the first where nothing is changed."""
        return among[0] if self.still else self.rng.choice(among)

    def binary(self, data: bytes, likely: Sequence[int] = ()) -> bytes:
        """Change some bytes, mostly at the ``likely`` places; seldom also how many there are."""
        if self.still or not data:
            return data
        changed = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 1, 2, 3, 8))):
            self._overwrite(changed, likely)
        if self.rng.random() < 0.15:
            self._reshape(changed)
        return bytes(changed)

    def _overwrite(self, changed: bytearray, likely: Sequence[int]) -> None:
        rng = self.rng
        near = bool(likely) and rng.random() < 0.8
        at = rng.choice(likely) if near else rng.randrange(len(changed))
        width = rng.choice((1, 1, 2, 4, 8))
        if rng.random() < 0.2:
            number = rng.choice(_NUMBERS) % 2 ** (8 * width)
            new = number.to_bytes(width, rng.choice(("little", "big")))
        elif rng.random() < 0.2 and at < len(changed):
            new = bytes([changed[at] ^ 1 << rng.randrange(8)])
        else:
            few = rng.random() < 0.7
            new = bytes(
                rng.choice(INTERESTING) if few else rng.randrange(256) for _ in range(width)
            )
        changed[at : at + len(new)] = new[: max(len(changed) - at, 0)]

    def _reshape(self, changed: bytearray) -> None:
        rng = self.rng
        at = rng.randrange(len(changed))
        end = min(at + rng.choice((1, 2, 16, 500)), len(changed))
        how = rng.randrange(4)
        if how == 0:
            del changed[at:]
        elif how == 1:
            del changed[at:end]
        elif how == 2:
            changed[at:at] = changed[at:end]
        else:
            changed[at:at] = rng.randbytes(end - at)

    def text(self, text: str) -> str:
        """Put something in, take something out, or say something twice."""
        if self.still:
            return text
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(text) + 1)
            end = min(at + rng.choice((0, 0, 1, 1, 3, 20)), len(text))
            new = rng.choice((*_PIECES, text[at:end] * 2, chr(rng.randrange(0x250))))
            text = text[:at] + new + text[end:]
        return text

    def value(self, value: Any) -> Any:
        """Change some parts of what YAML or JSON holds; the original stays as it is."""
        if self.still:
            return value
        whole = [copy.deepcopy(value)]
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            self._change(whole)
        return whole[0]

    def _change(self, whole: list[Any]) -> None:
        rng = self.rng
        places = list(_places(whole))
        holder, key = rng.choice(places)
        now, how = holder[key], rng.randrange(10)
        if how < 5:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
        elif how == 5 and len(places) > 1 and holder is not whole:
            del holder[key]
        elif how == 6:
            other, where = rng.choice(places)
            holder[key] = copy.deepcopy(other[where])
        elif how == 7 and isinstance(now, list):
            now[:] = now * rng.choice((2, 3, 50))
        elif how == 8 and isinstance(holder, dict):
            holder[rng.choice(("", "name", f"{key}x", "a.b", "\0"))] = holder.pop(key)
        elif isinstance(now, int | float) and not isinstance(now, bool):
            holder[key] = now * rng.choice((-1, 0, 0.5, 2, 1000, 2**31))
        elif isinstance(now, str):
            holder[key] = self.text(now)
        else:
            holder[key] = [now]

    def yaml(self, value: Any) -> bytes:
        """Give the text of a changed value, itself changed now and then."""
        text = yaml.safe_dump(_plain(self.value(value)), sort_keys=False, allow_unicode=True)
        return self._said(text)

    def json(self, value: Any) -> bytes:
        """Give the text of a changed value, itself changed now and then."""
        return self._said(json.dumps(self.value(value)))

    def _said(self, text: str) -> bytes:
        if not self.still and self.rng.random() < 0.3:
            text = self.text(text)
        said = text.encode("utf-8", "surrogatepass")
        return self.binary(said) if self.rng.random() < 0.1 else said


def _places(holder: Any) -> Any:
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def _plain(value: Any) -> Any:
    """Give it without aliases, which safe_dump makes of what is there twice."""
    return json.loads(json.dumps(value))
