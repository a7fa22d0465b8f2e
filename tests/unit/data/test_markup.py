import time

import pytest

from adamesh.data.markup import plain_text


@pytest.mark.parametrize(
    ("wikitext", "plain"),
    [
        ("A [[dog]] and [[Canis lupus|wolves]].", "A dog and wolves."),
        ("'''Bold''', ''italic'' and '''''both'''''", "Bold, italic and both"),
        ("a{{cite|x={{nested|[[y]]}}}}b", "ab"),
        ("{{empty|last=|}}after", "after"),
        ('fact<ref name="x">source [[z]]</ref> and<ref name="x" /> more', "fact and more"),
        ("one\n{| class=wikitable\n| cell || {{t}}\n|}\ntwo", "one\ntwo"),
        ("[[File:a.jpg|thumb|A [[dog]] runs]]text[[Category:Dogs]]", "text"),
        ("see [https://example.org the page] or [https://example.org]", "see the page or"),
        ("== Heading ==\n* item\n# other", "Heading\nitem\nother"),
        ("3&nbsp;km &amp; <small>more</small><br/>", "3 km & more"),
        ("a<!-- hidden [[ -->b", "ab"),
        ("__NOTOC__\n<math>x^2 < y</math>prose", "prose"),
        ("open [[link and {{template", "open link and template"),
        ("stray }} and ]] end", "stray and end"),
        ("======", ""),
        ("", ""),
    ],
)
def test_markup_is_reduced_to_its_prose(wikitext, plain):
    assert plain_text(wikitext) == plain


@pytest.mark.parametrize(
    "unit", ["[[", "{{", "<ref>", "<!--", "[//", "=", "<", "{{[[", " ", "\n ", "''", "[[a|", "\n=", "__", "&"]
)
def test_time_grows_with_length_alone_whatever_is_left_open(unit):
    text = unit * (200_000 // len(unit))
    began_s = time.process_time()
    plain_text(text)
    plain_text(text + "]]" * 50_000)
    # Anything quadratic takes minutes.
    assert time.process_time() - began_s < 10
