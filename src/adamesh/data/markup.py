"""Wikitext to plain text: what a reader of the page would see of its prose, near enough to train on."""

import html
import re
from collections import Counter

__all__ = ["plain_text"]

# What opens and what closes something that may hold other things. Tables only at the start of a line, where
# they are tables: elsewhere "|}" ends a template with an empty last argument.
_TOKEN = re.compile(
    r"""
    (?P<template>\{\{) | (?P<template_end>\}\})
    | (?P<link>\[\[) | (?P<link_end>\]\])
    | ^[ \t:*\#]*(?P<table>\{\|) | ^[ \t]*(?P<table_end>\|\}(?!\}))
    | <(?P<tag>ref|math|chem|gallery|timeline|score|syntaxhighlight|source|code|pre|imagemap|hiero|table)\b
      [^<>]*?(?P<alone>/)?>
    | </(?P<tag_end>ref|math|chem|gallery|timeline|score|syntaxhighlight|source|code|pre|imagemap|hiero|table)\s*>
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_NO_PROSE = re.compile(r":?\s*(file|image|media|category|special)\s*:", re.IGNORECASE)
_EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]*+[ \t]*+([^\[\]\n]*+)\]", re.IGNORECASE)
_HEADING = re.compile(r"^=(.*)$", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_QUOTES = re.compile(r"'{2,}")
_SWITCH = re.compile(r"__[A-Z]+__")
_LIST_MARK = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_SPACES = re.compile(r"[ \t\xa0]+")
# Links nest two or three deep; what is deeper is no page's prose, and moving it outwards takes its time.
_DEEPEST_LINK = 16


def plain_text(wikitext: str) -> str:
    """The prose of a page: links by their words, without templates, references, tables and other markup.

    One paragraph, heading or list item a line. Time grows with the page's length alone, however it is nested;
    what is opened and never closed stays as text.
    """
    text = _without_nested(_without_comments(wikitext))
    text = _EXTERNAL_LINK.sub(r"\1", text)
    text = _HEADING.sub(lambda heading: heading[1].strip("= \t"), text)
    text = html.unescape(_TAG.sub("", text))
    text = _LIST_MARK.sub("", _SWITCH.sub("", _QUOTES.sub("", text)))
    lines = (line.strip() for line in _SPACES.sub(" ", text).splitlines())
    return "\n".join(filter(None, lines))


def _without_comments(text: str) -> str:
    before, *others = text.split("<!--")
    return before + "".join(other.partition("-->")[2] if "-->" in other else other for other in others)


def _without_nested(text: str) -> str:
    """Everything that nests, taken away or replaced by its words, in one pass over a stack."""
    done: list[str] = []
    opened: list[tuple[str, int]] = []  # what, and where in `done` its content starts
    open_counts: Counter[str] = Counter()
    position = 0
    for match in _TOKEN.finditer(text):
        done.append(text[position : match.start()])
        position = match.end()
        group = match.lastgroup
        assert group is not None
        closes = group.endswith("_end")
        kind = group.removesuffix("_end")
        if kind == "tag":
            kind = match[group].lower()
        if closes and open_counts[kind]:
            while opened[-1][0] != kind:
                open_counts[opened.pop()[0]] -= 1
            _, start = opened.pop()
            open_counts[kind] -= 1
            is_prose = kind == "link" and len(opened) < _DEEPEST_LINK
            done[start:] = [_words_of_link("".join(done[start:]))] if is_prose else []
        elif not closes and kind != "alone":
            opened.append((kind, len(done)))
            open_counts[kind] += 1
    done.append(text[position:])
    return "".join(done)


def _words_of_link(content: str) -> str:
    """``target``, ``target|words`` or ``File:name|options|caption`` to what is shown of it in running text."""
    return "" if _NO_PROSE.match(content) else content.rpartition("|")[2]
