"""Chat templates: the text that transformers renders, and a sandbox that holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from arkinfer.errors import ArkError, CheckpointError, UsageError
from arkinfer.runtime.chat import (
    ChatTemplate,
    requested_thinking,
    special_tokens,
    with_system,
)
from tests.runtime.artifacts import TEMPLATE, THINKING

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is a <b>list</b>?"}]
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    *QUESTION,
    {"role": "assistant", "content": "A sequence."},
    {"role": "user", "content": "Ünïcode & 'quotes'\n\n  indented"},
]
LLAMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system = 'none' %}{%- endif %}
{{ system }}
{% for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {% generation %}[{{ loop.index }}:{{ message | tojson }}]{% endgeneration %}

{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}{{ tools is none }}{% endif %}
"""


@pytest.mark.parametrize("template", [TEMPLATE, THINKING, LLAMA])
@pytest.mark.parametrize("messages", [QUESTION, TALK])
@pytest.mark.parametrize("prompt", [True, False])
def test_the_text_is_that_of_transformers(
    template: str, messages: list[dict[str, Any]], prompt: bool
):
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    expected = utilities.render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=prompt, bos_token="<s>"
    )[0][0]
    chat = ChatTemplate(template, {"bos_token": "<s>"})
    assert chat.render(messages, add_generation_prompt=prompt) == expected


def test_minicpm4_prompt():
    assert ChatTemplate(TEMPLATE).render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is a <b>list</b>?<|im_end|>\n"
        "<|im_start|>assistant\nA sequence.<|im_end|>\n"
        "<|im_start|>user\nÜnïcode & 'quotes'\n\n  indented<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("content", "thinking", "switched_off"),
    [
        ("Why?", None, False),
        ("Why?", True, False),
        ("Why?", False, True),
        ("Why? /no_think", None, True),
        ("Why? /think", None, False),
        ("Why? /no_think\n", None, True),
        ("Is /no_think a switch?", None, False),
        ("Why? /no_think", True, False),  # the option is more explicit than the words
    ],
)
def test_thinking(content: str, thinking: bool | None, switched_off: bool):
    chat = ChatTemplate(THINKING)
    text = chat.render([{"role": "user", "content": content}], thinking=thinking)
    assert chat.can_think
    assert text.endswith("<think>\n\n</think>\n") == switched_off
    assert content in text  # the words stay: models are trained on them


def test_the_most_recent_switch_counts():
    talk = [
        {"role": "user", "content": "One /no_think"},
        {"role": "assistant", "content": "I say /think"},
        {"role": "user", "content": "Two"},
    ]
    assert requested_thinking(talk) is False
    talk.append({"role": "user", "content": "Three /think"})
    assert requested_thinking(talk) is True
    assert requested_thinking(QUESTION) is None


def test_a_model_that_cannot_think_says_so():
    chat = ChatTemplate(TEMPLATE)
    assert not chat.can_think
    for thinking in (True, False):
        with pytest.raises(UsageError) as caught:
            chat.render(QUESTION, thinking=thinking)
        assert str(caught.value) == (
            "This model has no thinking switch. Its chat template does not know enable_thinking. "
            "Leave out --think and --no-think (thinking=None)."
        )
    assert "/no_think" in chat.render([{"role": "user", "content": "Why? /no_think"}])


HARMLESS = [
    "{{ ''.__class__ }}", "{{ ''|attr('__class__')|attr('__mro__') }}", "{{ self.__init__ }}",
]  # fmt: skip
ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch FILE') }}",
    "{{ lipsum.__globals__['os'].system('touch FILE') }}",
    "{{ lipsum.__globals__.__builtins__.open('FILE', 'w') }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__globals__.__builtins__.__import__('os').system('touch FILE') }}",
    "{{ strftime_now.__code__.co_consts }}",
    "{{ (messages|map(attribute='__class__')|first).__mro__ }}",
    "{{ joiner.__init__['__globals__'] }}",
    "{{ messages.__class__.__name__ }}",
    "{{ '{0.__class__.__mro__[1].__subclasses__}'.format('') }}",
    "{{ '{0.__class__}'.format_map({'0': ''}) }}",
    "{{ messages.append(1) }}", "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}", "{{ messages.pop() }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends '/etc/passwd' %}",
    "{% for i in range(999999999) %}x{% endfor %}", "{{ 1 / 0 }}", "{{ messages[0].content.x.y }}",
    "{{ raise_exception('roles must alternate') }}", "{{ missing.attribute }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]  # fmt: skip


@pytest.mark.parametrize("template", ATTACKS)
def test_the_sandbox_holds(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    messages = [dict(message) for message in QUESTION]
    with pytest.raises(ArkError) as caught:
        ChatTemplate(template).render(messages)
    assert isinstance(caught.value, UsageError | CheckpointError)
    assert messages == QUESTION
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("template", HARMLESS)
def test_forbidden_attributes_are_nothing(template: str):
    assert ChatTemplate(template).render(QUESTION) == ""


def test_a_template_sees_copies():
    template = "{% set ns = namespace(m=messages[0]) %}{% set ns.m = 1 %}{{ messages[0].content }}"
    messages = [{"role": "user", "content": "hi"}]
    assert ChatTemplate(template).render(messages) == "hi"
    assert messages == [{"role": "user", "content": "hi"}]


def test_a_refusal_carries_the_templates_reason():
    with pytest.raises(UsageError) as caught:
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(QUESTION)
    assert str(caught.value) == (
        "The model's chat template refused the conversation. roles must alternate. "
        "Change the messages, or write the prompt yourself and run it with --raw."
    )


def test_a_broken_template_is_named():
    with pytest.raises(CheckpointError) as caught:
        ChatTemplate("{% for %}")
    assert str(caught.value) == (
        "The chat template is not valid. Expected an expression, got 'end of statement block'. "
        "Correct chat_template.jinja of the checkpoint and build again; --raw runs without it."
    )


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], 'The conversation has no message. Give at least {"role": "user", "content": "…"}.'),
        ([{"content": "hi"}], "A message has no role. It is {'content': 'hi'}. "
         'Give {"role": "user", "content": "…"}.'),
        (["hi"], "A message has no role. It is 'hi'. Give "
         '{"role": "user", "content": "…"}.'),
        ([{"role": "user", "content": b"hi"}], "A message is not plain data. Object of type bytes "
         "is not JSON serializable. Give texts, numbers, lists and objects only."),
    ],
)  # fmt: skip
def test_malformed_messages(messages: list[Any], text: str):
    with pytest.raises(UsageError) as caught:
        ChatTemplate(TEMPLATE).render(messages)
    assert str(caught.value) == text


def test_guard_reaches_what_users_and_tools_say_only():
    seen: list[str] = []

    def guard(text: str) -> str:
        seen.append(text)
        return text.upper()

    parts = {"role": "user", "content": [{"type": "text", "text": "part"}]}
    talk = [{"role": "tool", "content": "result"}, *TALK, parts]
    ChatTemplate("{{ messages | tojson }}").render(talk, guard=guard)
    assert "result" in seen
    assert "part" in seen
    assert "Be brief." not in seen
    assert "A sequence." not in seen


def test_system_prompts():
    assert with_system(QUESTION, None) == QUESTION
    assert with_system(QUESTION, "Be kind.")[0] == {"role": "system", "content": "Be kind."}
    with pytest.raises(UsageError, match=r"^There are two system prompts\. "):
        with_system(TALK, "Be kind.")


def test_the_special_tokens_of_a_checkpoint():
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}
    assert special_tokens(tokens) == {"bos_token": "<s>", "eos_token": "</s>"}
