"""Text with markup: whatever the model says, elements come back, once each and well nested, around the right words."""

import collections
import itertools
import random
import re

import pytest

from transformer_jax.cli.translate_markup import translate_documents
from transformer_jax.cli.translation_job import TranslationJob
from transformer_jax.errors import UserError
from transformer_jax.inference.markup.html_reader import read_html
from transformer_jax.inference.markup.projection import Mark, project
from transformer_jax.inference.markup.translation import TagNames, translate_texts
from transformer_jax.inference.markup.tree import Element, Raw, write
from transformer_jax.inference.markup.xml_reader import read_xml
from transformer_jax.inference.translation import Translation

WORDS = "the old dog did not cross the street, because it was tired. (big) red book".split()


def upper(lines: list[str], kept=()) -> list[Translation]:
    """A translator whose every word is its own translation, in capitals."""
    return [
        Translation(line.upper(), 0.0, 0.0, (), alignment=tuple((i, i) for i in range(len(line.split())))) for line in lines
    ]


def backwards(lines: list[str], kept=()) -> list[Translation]:
    """As `upper`, with the words in the opposite order."""
    translations = []
    for line in lines:
        words = line.upper().split()[::-1]
        links = tuple((i, len(words) - 1 - i) for i in reversed(range(len(words))))
        translations.append(Translation(" ".join(words), 0.0, 0.0, (), alignment=tuple(sorted(links))))
    return translations


def html(text: str, translate=upper, **names) -> str:
    return translate_texts([text], "html", TagNames(**names), translate)[0].text


def xml(text: str, translate=upper, **names) -> str:
    return translate_texts([text], "xml", TagNames(**names), translate)[0].text


def elements(nodes) -> collections.Counter:
    """How often each element, with its attributes, is among these nodes and in them."""
    found = collections.Counter()
    for node in nodes:
        if isinstance(node, Element):
            found[node.name, tuple(node.attributes.items())] += 1
            found += elements(node.children)
    return found


def stripped(nodes) -> str:
    return "".join(node if isinstance(node, str) else stripped(node.children) for node in nodes if not isinstance(node, Raw))


def random_tree(chance: random.Random, words: list[str], xml: bool, depth: int = 0) -> str:
    """Markup around these words: elements in each other, beside each other, empty, at the edges, around several words."""
    parts, i = [], 0
    names = "b i span a em g x-y".split()
    while i < len(words) or (chance.random() < 0.2 and depth < 4):
        kind = chance.random()
        if depth < 5 and kind < 0.35:
            count = chance.randint(0, min(4, len(words) - i))
            inside = random_tree(chance, words[i : i + count], xml, depth + 1) if count else ""
            name = chance.choice(names)
            parts.append(f'<{name} id="{chance.randint(0, 10**6)}">{inside}</{name}>')
            i += count
        elif kind < 0.42:
            parts.append(chance.choice(["<x/>", "<!-- no -->", "<b></b>"] if xml else ['<img alt="">', "<wbr>", "<b></b>"]))
        elif i < len(words):
            parts.append(words[i])
            i += 1
    return " ".join(parts)


@pytest.mark.parametrize("kind", ["html", "xml"])
def test_elements_come_back_once_whatever_the_model_says(kind):
    read = read_html if kind == "html" else read_xml
    for seed in range(700):
        chance = random.Random(seed)
        said = []

        def anything(lines, kept, chance=chance, said=said):
            for line in lines:
                count, length = len(line.split()), chance.randint(0, 12)
                text = " ".join(chance.choice(["Hund", "(Hund)", "nicht,", "<b>", "&amp;", '"so"']) for _ in range(length))
                links = {(chance.randrange(count), chance.randrange(length)) for _ in range(length)}
                said.append(Translation(text, 0.0, 0.0, (), alignment=tuple(sorted(links))))
            return said[-len(lines) :] if lines else []

        text = random_tree(chance, chance.choices(WORDS, k=chance.randint(1, 12)), kind == "xml")
        if kind == "xml":
            text = f"<p>so {text}</p>"  # beside text, all of them belong to one sentence
        (translated,) = translate_texts([text], kind, TagNames(), anything)
        assert elements(read(translated.text)) == elements(read(text)), text
        if said:
            assert stripped(read(translated.text)).strip() == said[0].text, text
            assert translated.parts == tuple(said)


def test_without_its_tags_it_is_what_is_translated():
    seen = []

    def watched(lines, kept):
        seen.extend(lines)
        return upper(lines)

    html("<p>The\n  <b>old</b> <i> dog</i>sleeps  &amp; eats.</p>", watched)
    assert seen == ["The old dogsleeps & eats."]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("The <b>dog</b> sleeps.", "THE <b>DOG</b> SLEEPS."),
        ("<b>The <i>old</i> dog</b>, it", "<b>THE <i>OLD</i> DOG</b>, IT"),
        ("a (<b>dog</b>).", "A (<b>DOG</b>)."),
        ("<b>a dog.</b>", "<b>A DOG.</b>"),
        ("h<sub>2</sub>o, a word<sup>1</sup>.", "H<sub>2</sub>O, A WORD<sup>1</sup>."),
        ("<frameset><frame src=a></frameset>", '<frameset><frame src="a"></frameset>'),
        ("<b><i>a dog</i></b>", "<b><i>A DOG</i></b>"),
        ("a <b></b>dog", "A <b></b>DOG"),
        ("a dog<b></b> is", "A DOG<b></b> IS"),
        ("a dog<b></b>.", "A DOG<b></b>."),
        ('a <img src="x">dog', 'A <img src="x">DOG'),
        ("<p> a dog\n<p>b cat</p> ", "<p> A DOG\n</p><p>B CAT</p> "),
        ("a<br>b", "A<br>B"),
        ("<b>a<p>b</b> c", "<b>A</b><p><b>B</b> C</p>"),  # as a browser reads it
        ("<ul><li>a<li>b</ul>", "<ul><li>A</li><li>B</li></ul>"),
        ("<table><tr><td>a<td>42</table>", "<table><tr><td>A</td><td>42</td></tr></table>"),
        ("<tr><td>a</td></tr>", "<tr><td>A</td></tr>"),
        ("1 &lt; a &nbsp;&eacute;", "1 &lt; A &nbsp;É"),
        ("<pre>\n\na b\n  c <b>d</b>\n</pre>", "<pre>\n\nA B\n  C <b>D</b>\n</pre>"),
        ("<script>a < b</script><style>p { }</style><!-- a -->", "<script>a < b</script><style>p { }</style><!-- a -->"),
        ("use <code>ls -l</code> now", "USE <code>ls -l</code> NOW"),
        ('a <span translate="no">dog</span>.', 'A <span translate="no">dog</span>.'),
        ('<div class="x notranslate">a <b>dog</b></div>', '<div class="x notranslate">a <b>dog</b></div>'),
        ('<div translate="no">a <p translate="yes">b</p></div>', '<div translate="no">a <p translate="yes">B</p></div>'),
        ('<a href="/a?b=1&amp;c" title="a &quot;b&quot;">x</a>', '<a href="/a?b=1&amp;c" title="A &quot;B&quot;">X</a>'),
        ('<img alt="a dog" src="a b.png">', '<img alt="A DOG" src="a b.png">'),
        ('<input type="submit" value="go" disabled>', '<input type="submit" value="GO" disabled="">'),
        ('<input type="text" value="go" placeholder="a">', '<input type="text" value="go" placeholder="A">'),
        ("<textarea>a\nb</textarea>", "<textarea>A\nB</textarea>"),
        ("<svg viewBox='0 0'><path d='M'/></svg> a", '<svg viewBox="0 0"><path d="M"></path></svg> A'),
        ("<unknown>a</unknown> b", "<unknown>A</unknown> B"),
        ("a </b> dog", "A DOG"),
        ("", ""),
    ],
)
def test_html(source, expected):
    assert html(source) == expected


def test_a_page_stays_a_page():
    page = (
        '<!DOCTYPE html><html lang="en"><head><title>a</title>\n<meta charset="utf-8"></head>\n<body class="x"><p>b</p></body>'
        "</html>"
    )
    assert html(page) == page.replace(">a<", ">A<").replace(">b<", ">B<")
    assert html("<!doctype html><title>a</title>b") == "<!DOCTYPE html><title>A</title>B"


@pytest.mark.parametrize(
    "source, expected",
    [
        ("<a>the <b>dog</b> sleeps</a>", "<a>SLEEPS <b>DOG</b> THE</a>"),
        ("<a><b>one two</b><b>three</b></a>", "<a><b>TWO ONE</b><b>THREE</b></a>"),
        ("the <b>one</b> <i>two</i>", "<i>TWO</i> <b>ONE</b> THE"),
        ('a <x id="1"/>b &amp; c', 'C &amp; <x id="1"/>B A'),
        ("<!-- a --><?b c?><a>d</a>", "<!-- a --><?b c?><a>D</a>"),
        ("<?xml version='1.0' encoding='latin-1'?>\n<a>é</a>", "<?xml version='1.0' encoding='latin-1'?>\n<a>É</a>"),
        ('<!DOCTYPE a SYSTEM "a.dtd"><a>b &c;d</a>', '<!DOCTYPE a SYSTEM "a.dtd"><a>&c;D B</a>'),
        ("<a>b <![CDATA[<c>]]></a>", "<a>&lt;C&gt; B</a>"),
        ('<a xml:space="preserve"> b\n c  d </a>', '<a xml:space="preserve"> B\n D C </a>'),
        ('<a>b <c translate="no">d</c></a>', '<a><c translate="no">d</c> B</a>'),
        ('<a q="1 &lt; 2&#10;">b</a>', '<a q="1 &lt; 2&#10;">B</a>'),
    ],
)
def test_xml(source, expected):
    assert xml(source, backwards) == expected


def test_names_say_otherwise():
    assert xml("<a>b <c>d e</c> f</a>", backwards, splitting=["c"]) == "<a>B <c>E D</c> F</a>"
    assert xml("<a><b>c</b> <b>d</b></a>", backwards, non_splitting=["b"]) == "<a><b>D</b> <b>C</b></a>"
    assert xml("<a>b <n>d</n></a>", upper, ignore=["n"]) == "<a>B <n>d</n></a>"
    assert html("a <NAME>dog</NAME>", ignore=["name"]) == "A <name>dog</name>"
    with pytest.raises(UserError, match="for --markup=xml"):
        html("a", splitting=["b"])


@pytest.mark.parametrize(
    "source, message",
    [
        ("<a>\n<b></a>", "text 1: --markup=xml: line 2, column 6: mismatched tag"),
        ("a < b", "text 1: --markup=xml: line 1, column 4: not well-formed"),
        ("<a>&nbsp;</a>", "line 1, column 4: undefined entity"),
        ("<a>\x01</a>", "not well-formed"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a document type with declarations of its own is not read; take it out"),
        ("<a>" * 1000 + "</a>" * 1000, "more than 250 deep"),
        ("<" + "a" * 2_000_000, "line 1"),
    ],
)
def test_xml_that_is_not_read(source, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        xml(source)
    assert len(str(error.value)) < 300


def test_names_of_elements_that_are_none():
    job = TranslationJob(text=["<b>a</b>"], workdir="no such run", markup="html", ignore_tags="b, ")
    with pytest.raises(UserError, match=r"^--ignore_tags=b,  should be names of elements with commas between, as in "):
        translate_documents(job)


def test_html_that_is_odd_is_read():
    with pytest.raises(UserError, match="more than 250 deep"):
        html("<b>" * 1000)
    assert html("&lol;" * 10) == "&amp;LOL;" * 10
    assert html("a <b") == "A "
    assert "A" in html("<" + "b" * 10**6 + ">a")


def test_the_links_decide():
    source, target = "He did not see the dog.", "Er sah den Hund nicht."
    links = [(0, 0), (1, 1), (2, 4), (3, 1), (4, 2), (5, 3)]

    def place(start: int, end: int) -> str:
        (found,) = project(source, [Mark(None, start, end)], target, links)
        return target[found.start : found.end]

    assert [place(*match.span()) for match in re.finditer(r"\w+", source)] == ["Er", "sah", "nicht", "sah", "den", "Hund"]
    assert place(15, 22) == "den Hund"
    assert place(0, len(source)) == target


def test_two_elements_do_not_share_a_word():
    source, target = "sun flower", "Sonnenblume"
    marks = [Mark("sun", 0, 3), Mark("flower", 4, 10)]
    places = project(source, marks, target, [(0, 0), (1, 0)])
    spans = sorted((place.start, place.end) for place in places)
    assert (0, 11) in spans and all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_writing_and_reading_are_inverse():
    text = '<p class="a &amp; &quot;b&quot;">x &lt; y &amp;amp; <b>z</b></p>'
    assert write(read_html(text)) == text
    assert write(read_xml(text), xml=True) == text
