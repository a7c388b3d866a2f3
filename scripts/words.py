"""Finds words and phrases in the documentation that send a reader back to read again, by the rules in `words.toml`.

It reads prose: Markdown outside code, docstrings, comments, help texts and messages of Python files, and comments of
Makefiles, TOML, YAML and shell scripts. Each hit is reported with its file, its line and a better wording.

    python scripts/words.py                       # everything that people read
    python scripts/words.py README.md docs/zh     # these files and folders
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = Path(__file__).with_name("words.toml")
# Generated API tables are read too: their text comes from docstrings, and the hit shows that `make generate` is due.
READ = (
    *("README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "mkdocs.yml"),
    *("pyproject.toml", "docs", "mnv2zoo", "examples", "benchmarks", "scripts", "_mnv2zoo_entry.py"),
)
HASH_COMMENTS = {".toml", ".yml", ".yaml", ".sh", ".ini", ".cfg"}
SUFFIXES = {".md", ".py", *HASH_COMMENTS}

# These stand for code in a sentence and for lines of code, so that no phrase matches across them.
CODE, CODE_LINE = "§", "¶"
# The gap between the words of a phrase: never the end of a paragraph, of a list item or of a table's row.
GAP = r"(?:[ \t*_\[]|\n(?!\s*(?:\n|[-*] |[#|])))+"
# The start of a sentence, outside headings.
START = r"(?:^[ \t]*(?:[-*>]|\d+\.)?[ \t*_]*|[.!?][)*_]*\s+[*_]*)"
COMMENT = re.compile(r"(?:^|(?<=\s))#+[ \t!]?(?P<text>.*)")
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<ticks>`{3,}|~{3,})(?P<language>.*)$")
COMMENTED = {"python", "py", "sh", "bash", "shell", "toml", "yaml", "yml"}
NOT_PROSE = re.compile(
    r"<!--.*?-->"  # comments
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"  # inline code
    r"|(?<=\])\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)|^\[[^\]]+\]:.*$"  # targets of links
    r"|</?[a-zA-Z][^>]*>"
    r"|https?://\S+"
    r"|\{[:#.][^}\n]*\}",  # attribute lists
    re.S | re.M,
)


@dataclass(frozen=True)
class Rule:
    pattern: str  # of the style guide, such as P2
    match: re.Pattern[str]
    why: str
    better: str
    bad: tuple[str, ...]
    good: tuple[str, ...]


@dataclass(frozen=True)
class Allowed:
    file: str
    phrase: str
    why: str


@dataclass(frozen=True)
class Hit:
    file: str
    line: int
    text: str
    rule: Rule

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}: {self.text!r} ({self.rule.pattern}): {self.rule.why} Better: {self.rule.better}"
        )


def read_rules(path: Path = RULES) -> tuple[list[Rule], list[Allowed]]:
    """The rules and the allow-list of a rule file."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    rules = []
    for row in content["rule"]:
        expression = row["match"].replace(" ", GAP).replace("<start>", START)
        examples = ((row[kind],) if isinstance(row[kind], str) else tuple(row[kind]) for kind in ("bad", "good"))
        rules.append(Rule(row["pattern"], re.compile(expression, re.I | re.M), row["why"], row["better"], *examples))
    return rules, [Allowed(**row) for row in content.get("allow", [])]


def hidden(text: str, stand_in: str = CODE_LINE) -> str:
    """As many characters and lines, none of them prose."""
    return re.sub(r"[^\n]", stand_in, text)


def without_code(text: str) -> str:
    return NOT_PROSE.sub(lambda found: hidden(found[0], CODE), text)


def comments(text: str) -> str:
    """Only the comments that begin with `#`, each line where it was."""
    lines = []
    for line in text.split("\n"):
        found = COMMENT.search(line)
        before = line[: found.start("text")] if found else line
        # A comment on a line of its own continues the one above it.
        blank = " " * len(before) if found and not before.strip(" \t#!") else hidden(before)
        lines.append(blank + (found["text"] if found else ""))
    return "\n".join(lines)


def markdown(text: str) -> str:
    """The prose of a page, and the comments in its code, each line where it was."""
    lines = text.split("\n")
    fence, block, start = None, [], 0
    for number, line in enumerate(lines):
        found = FENCE.match(line)
        if fence is None and found:
            fence, block, start = found, [], number
            lines[number] = hidden(line)
        elif fence is not None and line.strip() == fence["ticks"]:
            language = fence["language"].split(maxsplit=1)[:1]
            read = comments if language and language[0] in COMMENTED else hidden
            lines[start + 1 : number] = read("\n".join(block)).split("\n") if block else []
            lines[number], fence = hidden(line), None
        elif fence is not None:
            block.append(line)
    return without_code("\n".join(lines))


def python(text: str) -> Iterator[tuple[int, int, str]]:
    """Every comment, docstring and other string of several words, with its first and last line."""
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != block[-1][0] + 1:
                yield block[0][0], block[-1][0], "\n".join(line for _, line in block)
                block = []
            block.append((token.start[0], token.string.lstrip("#! ")))
    if block:
        yield block[0][0], block[-1][0], "\n".join(line for _, line in block)
    tree = ast.parse(text)
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            value = "".join(part.value if isinstance(part, ast.Constant) else CODE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            value = node.value
        else:
            continue
        if re.search(r"[a-zA-Z]\W* +\W*[a-zA-Z]", value):
            yield node.lineno, node.end_lineno or node.lineno, value


def found_in(path: Path, text: str, rules: list[Rule]) -> Iterator[tuple[int, str, Rule]]:
    """Line, words and rule of every hit in a file's text."""
    if path.suffix == ".py":
        lines = text.split("\n")
        for first, last, piece in python(text):
            prose = without_code(piece)
            for rule in rules:
                for match in rule.match.finditer(prose):
                    yield line_of(match, prose, lines, first, last), trimmed(match, piece), rule
        return
    prose = markdown(text) if path.suffix == ".md" else without_code(comments(text))
    for rule in rules:
        for match in rule.match.finditer(prose):
            yield 1 + prose.count("\n", 0, start_of(match)), trimmed(match, text), rule


def start_of(match: re.Match[str]) -> int:
    """Where the match's first word begins: the end of the sentence before it is no part of it."""
    return match.start() + len(match[0]) - len(match[0].lstrip(" \t\n.!?:;|*_->()0123456789"))


def trimmed(match: re.Match[str], text: str) -> str:
    """The words of a match as they stand in the file, code among them included."""
    return " ".join(text[match.start() : match.end()].strip(" \t\n.!?:;|*_->()#").split())


def line_of(match: re.Match[str], prose: str, lines: list[str], first: int, last: int) -> int:
    """The line of a match: strings that are joined, and escapes in them, have other lines in the file than here."""
    guess = first + prose.count("\n", 0, start_of(match))
    words = re.findall(r"\w+", match[0])
    for looked_for in (words[:2], words[:1]):
        for number in [guess, *range(first, last + 1)]:
            if number <= len(lines) and all(word in lines[number - 1] for word in looked_for):
                return number
    return guess


def files_of(names: list[str]) -> Iterator[Path]:
    for name in names:
        path = Path(name).resolve()
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        else:
            yield path


def check(files: Iterator[Path], rules: list[Rule], allowed: list[Allowed]) -> tuple[list[Hit], set[Allowed]]:
    """The hits outside the allow-list, and what of the allow-list was needed."""
    hits, used = [], set()
    for path in files:
        if path == RULES:
            continue
        name = next(
            (str(path.relative_to(root)) for root in (Path.cwd(), ROOT) if path.is_relative_to(root)), str(path)
        )
        for line, text, rule in found_in(path, path.read_text(encoding="utf-8"), rules):
            # The phrase of an exception may hold more words than the hit, to name its place.
            excused = [a for a in allowed if a.file == name and text.lower() in a.phrase.lower()]
            used.update(excused)
            if not excused:
                hits.append(Hit(name, line, text, rule))
    return hits, used


def main(names: list[str]) -> int:
    rules, allowed = read_rules()
    hits, used = check(files_of(names or [str(ROOT / name) for name in READ]), rules, allowed)
    for hit in sorted(hits, key=lambda hit: (hit.file, hit.line)):
        print(hit)
    idle = [] if names else [one for one in allowed if one not in used]
    for one in idle:
        print(f"{RULES.name}: nothing in {one.file} needs the exception {one.phrase!r}: remove it.")
    if hits or idle:
        print(f"{len(hits)} phrases to reword. Where one is right, add it to the allow-list in scripts/words.toml.")
    return int(bool(hits or idle))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
