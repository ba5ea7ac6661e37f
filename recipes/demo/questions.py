"""Questions and answers from the cleaned documentation, by templates. Knows no tokens.

Every answer is the documentation's own first sentences on a name; nothing is made up. The last
phrasings of each kind (`HELD_OUT_PHRASINGS`) and a thirtieth of the names are never shown in
training, so that both can be asked about afterwards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

HELD_OUT_PHRASINGS = 2
LONGEST_ANSWER = 300

PHRASINGS: Mapping[str, tuple[str, ...]] = {
    "module": (
        "What is the module {n} for?", "What is {n}?", "What does the {n} module do?",
        "What does the module {n} provide?", "Explain the {n} module.", "Tell me about {n}.",
        "Tell me about the {n} module.", "What can I use {n} for?", "Describe the module {n}.",
        "What is the purpose of the {n} module?", "When should I use {n}?", "Why import {n}?",
        "I want to know what {n} does.", "Please explain {n}.", "How would you describe {n}?",
        "what is {n}", "what does {n} do?", "Give me a short description of {n}.",
        "Can you tell me what the {n} module is for?", "What is Python's {n} module?",
        "Could you explain the {n} module?", "Explain {n} in one or two sentences.",
        "What is the standard library module {n} used for?", "Introduce the {n} module.",
        "Summarize the {n} module.", "I found {n} in a program. What is it?",
        "My code imports {n}. What does it do?", "What would I import {n} for?",
        "In a few words, what is the {n} module good for?",
        "Could you describe what the {n} module offers?",
    ),
    "callable": (
        "What does {n} do?", "What is {n}?", "Explain {n}.", "What does the function {n} do?",
        "Tell me about {n}.", "How do I use {n}?", "What is {n} for?", "Describe {n}.",
        "What is the purpose of {n}?", "What does calling {n} do?", "Please explain {n}.",
        "what does {n} do", "Can you explain what {n} does?", "When would I use {n}?",
        "In Python, what does {n} do?", "Give me a short description of {n}.",
        "I want to know what {n} does.", "What will {n} do for me?",
        "I see {n} in some code. What is it?", "Explain {n} in one or two sentences.",
        "What happens when I call {n}?",
        "Could you describe what {n} is good for?",
    ),
    "attribute": (
        "What is {n}?", "Explain {n}.", "Tell me about {n}.", "What does {n} mean?",
        "What is {n} for?", "Describe {n}.", "Please explain {n}.", "what is {n}",
        "What is the meaning of {n}?", "In Python, what is {n}?",
        "Give me a short description of {n}.", "Explain {n} in one or two sentences.",
        "I see {n} in some code. What is it?",
        "Could you describe what {n} stands for?",
        "In a few words, what is {n}?",
    ),
    "term": (
        "What is {a}{n}?", "Explain {n}.", "What does {n} mean?", "Define {n}.",
        "What is meant by {n}?", "Tell me about {n}.", "In Python, what is {a}{n}?",
        "What do people mean by {n}?", "What is {a}{n} in Python?", "Please explain {n}.",
        "what is {a}{n}", "Give me a definition of {n}.", "Can you explain what {a}{n} is?",
        "Explain {n} in one or two sentences.", "I do not know what {a}{n} is.",
        "What is the meaning of {n}?", "How would you define {n}?",
        "Can you describe what {a}{n} is?",
        "In a few words, what is {a}{n}?",
    ),
    "signature": (
        "What are the arguments of {n}?", "What is the signature of {n}?",
        "How is {n} called?", "Which parameters does {n} take?", "Show me how to call {n}.",
        "What arguments does {n} take?", "How do I call {n}?",
        "Which arguments can I give to {n}?",
        "What can be passed to {n}?",
    ),
    "reverse": (
        "Which module is described as: {n}?", "Which module should I import for this: {n}?",
        "What is the name of the module for {n}?", "Name the module: {n}.",
        "Which Python module is for {n}?",
        "I need {n}. Which module has it?",
        "Which part of the standard library is about {n}?",
    ),
}  # fmt: skip

COMMON = frozenset(
    (
    "abs", "all", "any", "bool", "chr", "dict", "enumerate", "eval", "filter", "float",
    "input", "int", "isinstance", "len", "list", "map", "max", "min", "open", "ord",
    "print", "range", "repr", "reversed", "round", "set", "sorted", "str", "sum", "super",
    "tuple", "type", "zip", "os.path.join", "os.path.exists", "os.path.basename",
    "os.path.dirname", "os.listdir", "os.getcwd", "os.remove", "os.mkdir", "os.walk",
    "json.dumps", "json.loads", "json.dump", "json.load", "math.sqrt", "math.floor",
    "math.ceil", "math.factorial", "math.gcd", "random.random", "random.choice",
    "random.randint", "random.shuffle", "re.match", "re.search", "re.sub", "re.findall",
    "re.compile", "re.split", "heapq.heappush", "heapq.heappop", "heapq.heapify",
    "itertools.chain", "itertools.product", "itertools.permutations", "functools.reduce",
    "functools.partial", "functools.lru_cache", "collections.Counter", "collections.deque",
    "collections.defaultdict", "time.sleep", "time.time", "shutil.copy", "shutil.rmtree",
    "subprocess.run", "copy.deepcopy", "str.join", "str.split", "str.strip", "str.replace",
    "str.upper", "str.lower", "str.startswith", "str.format", "sys.exit", "sys.argv",
    "sys.path", "os.environ", "math", "json", "os", "os.path", "sys", "re", "random",
    "datetime", "time", "collections", "itertools", "functools", "heapq", "pathlib",
    "shutil", "subprocess", "threading", "multiprocessing", "asyncio", "logging",
    "argparse", "unittest", "csv", "sqlite3", "socket", "urllib.request", "string", "copy",
    "pickle", "struct", "decimal", "typing", "dataclasses", "enum", "zipfile", "hashlib",
    "tempfile", "glob", "operator", "contextlib", "io", "abc", "queue", "secrets", "uuid",
    "textwrap", "generator", "decorator", "iterator", "iterable", "lambda", "dictionary",
    "module", "package", "class", "function", "method", "argument", "parameter", "mutable",
    "immutable", "object", "bytecode", "interpreted", "coroutine", "expression",
    "statement", "slice", "namespace",
    )
)  # fmt: skip
"""Names that everybody uses; they are asked for more often."""

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You answer questions about Python.", "Answer briefly.",
    "You are a Python expert.", "You are an assistant for Python programmers. Be concise.",
    "You help people to read the documentation of Python.",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """What the documentation says of one name."""

    kind: str
    name: str
    """As asked for: a dotted name without backquotes, or a glossary term."""
    answer: str
    about: str
    """The module, or where the name stands: what the reasoning mentions."""

    @property
    def held_out(self) -> bool:
        """Whether its questions are kept out of the training."""
        digest = hashlib.sha256(f"{self.kind}:{self.name}".encode()).digest()
        return digest[0] % 32 == 0


def first_sentences(paragraph: str, most: int = LONGEST_ANSWER) -> str:
    """The leading sentences of a paragraph, as many as fit in `most` characters ("": none)."""
    text = " ".join(paragraph.split())
    parts = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=[A-Z`\"(])", text)
    kept = ""
    for part in parts:
        if len(kept) + len(part) + 1 > most:
            break
        kept = f"{kept} {part}".strip()
    kept = re.sub(r"\s*:$", ".", kept)
    if not kept or kept[0] in "*+|>-=:" or kept.startswith(("New in", "Deprecated", "Changed")):
        return ""
    return kept if kept[-1] in ".!?)" else f"{kept}."


def _paragraph(lines: Sequence[str], start: int, depth: int) -> str:
    """The first paragraph at or after `start` that is indented deeper than `depth`."""
    while start < len(lines) and not lines[start].strip():
        start += 1
    taken: list[str] = []
    while start < len(lines) and lines[start].strip():
        if len(lines[start]) - len(lines[start].lstrip()) <= depth:
            break
        taken.append(lines[start].strip())
        start += 1
    return " ".join(taken)


def module_facts(text: str) -> list[Fact]:
    """The module that a document is about, from its title and first paragraph."""
    title = re.match(r"# `([\w.]+)` --- (.+)", text)
    if title is None:
        return []
    name, synopsis = title[1], title[2].strip().rstrip(".")
    for paragraph in text.split("\n\n")[1:8]:
        if paragraph[:1] in ("", " ", "#", "`", "*", "+", "|", "-") and not re.match(
            r"`[\w.]+` (is|provides|exposes)", paragraph
        ):
            continue
        body = first_sentences(paragraph)
        if len(body) > 30 and not paragraph.startswith(("Note", "Lib/", "See", "Warning")):
            answer = f"`{name}` is the module for: {synopsis}. {body}"
            about = f"the module `{name}`"
            return [
                Fact("module", name, answer, about),
                Fact("reverse", synopsis, f"The module `{name}`. {body}", about),
            ]
    return []


def described_facts(text: str) -> list[Fact]:
    """Functions, classes, methods and attributes: a signature line and what stands under it."""
    title = re.match(r"# `([\w.]+)` ---", text)
    module = title[1] if title else ""
    lines = text.splitlines()
    owners: list[tuple[int, str]] = []
    facts: list[Fact] = []
    for index, line in enumerate(lines):
        match = re.fullmatch(r"( *)`([A-Za-z_][\w.]*)(\(.*\))?`", line)
        if line.strip() and match is None:
            depth = len(line) - len(line.lstrip())
            owners = [owner for owner in owners if owner[0] < depth]
        if match is None:
            continue
        depth, name, arguments = len(match[1]), match[2], match[3]
        owners = [owner for owner in owners if owner[0] < depth]
        prefix = owners[-1][1] if owners else module
        if prefix and not name.startswith(prefix.split(".")[0] + "."):
            name = f"{prefix}.{name}"
        owners.append((depth, name))
        following = index + 1
        while following < len(lines) and re.fullmatch(r" *`.*`", lines[following]):
            following += 1
        body = first_sentences(_paragraph(lines, following, depth))
        if len(body) < 20:
            continue
        about = f"the module `{module}`" if module else "the language"
        shown = f"`{name}{arguments}`" if arguments else f"`{name}`"
        kind = "callable" if arguments else "attribute"
        facts.append(Fact(kind, name, f"{shown}: {body}", about))
        if arguments and 2 < len(arguments) < 100:
            facts.append(Fact("signature", name, f"It is called as {shown}.", about))
    return facts


def glossary_facts(text: str) -> list[Fact]:
    """The terms of the glossary."""
    lines = text.splitlines()
    facts: list[Fact] = []
    for index, line in enumerate(lines[:-1]):
        if re.fullmatch(r" {3}[\w `-]+", line) and lines[index + 1].startswith("      "):
            name = line.strip().replace("`", "")
            body = first_sentences(_paragraph(lines, index + 1, 3))
            if len(body) > 20 and len(name) < 40:
                answer = f"{name[0].upper()}{name[1:]}: {body}"
                facts.append(Fact("term", name, answer, "the glossary of Python"))
    return facts


def all_facts(documents: Sequence[Mapping[str, str]]) -> list[Fact]:
    """The facts of the documents ({"name", "text"}), in order, each name and kind once."""
    found: dict[tuple[str, str], Fact] = {}
    for document in documents:
        text = document["text"]
        facts = module_facts(text) + described_facts(text)
        if document["name"] == "glossary":
            facts = glossary_facts(text)
        for fact in facts:
            found.setdefault((fact.kind, fact.name), fact)
    return list(found.values())


def ask(fact: Fact, phrasing: str, quoted: bool = True) -> str:
    """One question about a fact."""
    article = "an " if fact.name[0] in "aeiouAEIOU" else "a "
    name = f"`{fact.name}`" if quoted and fact.kind not in ("term", "reverse") else fact.name
    return phrasing.format(n=name, a=article)


def training_question(fact: Fact, rng: np.random.Generator) -> str:
    """A random phrasing that is not held out, sometimes with call brackets or without quotes."""
    phrasings = PHRASINGS[fact.kind][:-HELD_OUT_PHRASINGS]
    question = ask(fact, str(rng.choice(phrasings)), quoted=bool(rng.random() < 0.7))
    if fact.kind == "callable" and rng.random() < 0.25:
        question = question.replace(fact.name, f"{fact.name}()")
    return question


def reasoning(fact: Fact) -> str:
    """The short thought before an answer."""
    wanted = {
        "module": "what it is for", "callable": "what it does", "attribute": "what it is",
        "term": "what it means", "signature": "how it is called", "reverse": "the module's name",
    }[fact.kind]  # fmt: skip
    if fact.kind == "reverse":
        return f"The question describes a module of the standard library. I should say {wanted}."
    shown = fact.name if fact.kind == "term" else f"`{fact.name}`"
    return f"The question is about {shown}. It belongs to {fact.about}. I should say {wanted}."
