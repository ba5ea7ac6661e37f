"""A chat template: compiled, and rendered for a few turns."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import patch

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.runtime import meter
from arkinfer.runtime.chat import ChatTemplate
from fuzz.files import DEMO, refusing

DICTIONARY = """{{ }} {% %} {%- -%} {# #} for endfor in if else elif endif set endset macro endmacro
 call endcall filter endfilter block endblock recursive loop loop( self. caller() namespace( range(
 messages message.content ['role'] |join( |list |map( |select( |selectattr( |replace( |tojson( |sum(
 |sort |unique |batch( |slice( |groupby( |indent( |center( |format( |int( |round( |string |reverse
 |default( |items |dictsort |length |first |last |trim |safe |escape .format( .split( .replace(
 .join( .items() .get( .count( .center( .strip( .upper() ** // * % ~ + - == not is defined and or
 [::-1] [1:] [0] 99999 1e9 none true raise_exception( strftime_now( generation endgeneration break
 continue add_generation_prompt enable_thinking cycler( joiner( dict( a.x ns.x '{:>9}' '%9d' 'aaaa'
""".split()
LENGTH = 1024
_LIMITS = {"STEPS": 20_000, "BYTES": 4 << 20}
"""Less than users have, so that what runs into the limits does it in a blink."""

_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Was ist <b>eine</b> Liste? 😀"},
    {"role": "assistant", "content": "A sequence.", "tool_calls": [{"name": "f", "x": [1, None]}]},
    {"role": "user", "content": "More /think"},
]


def seeds() -> list[bytes]:
    """The demo's template, and those that the tests compare with other libraries."""
    tests = DEMO.parents[1] / "tests" / "runtime"
    text = (tests / "test_sandbox.py").read_text("utf-8")
    found = re.findall(r'^\s+\(?"((?:\{\{|\{%).*?)"[,:]', text, re.MULTILINE)
    return [(DEMO / "checkpoint" / "chat_template.jinja").read_bytes()] + [
        template.replace("\\n", "\n").encode() for template in found
    ]


def one(data: bytes) -> None:
    try:
        source = data.decode()
    except UnicodeDecodeError:
        return
    with patch.multiple(meter, **_LIMITS), refusing(CheckpointError, UsageError):
        chat = ChatTemplate(source, {"bos_token": "<s>"})
        text = chat.render(_TALK)
        assert len(text) < 1 << 26
