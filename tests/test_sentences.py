"""Where sentences end, and the pieces of a line: nothing lost, nothing too long, sentences whole."""

import numpy as np
import pytest

from transformer_jax.inference.sentences import split_line, split_sentences

# "|" stands where a sentence begins.
ENGLISH = """
The dog sleeps.
The dog sleeps. |The cat runs.
The dog sleeps.  |The cat runs. |Why?
Mr. Smith and Mrs. Jones met Dr. Brown. |They talked.
Gen. Grant, Sen. Clay and Rev. King came. |Nobody left.
J. R. R. Tolkien wrote it. |George W. Bush read it.
Plan A failed, so we took plan B. |The next day it worked.
He came at 5 p.m. |She left at 9 a.m. on Monday.
The U.S. Army came. |It left the U.S. |They stayed in Washington, D.C. |It rained.
She has a Ph.D. in physics. |He has none.
Some animals, e.g. Dogs and cats, sleep; others, i.e. Bats, do not. |Do they?
See Fig. 3 and eq. 4 on p. 12. |Then read chap. 5.
No. 5 is alive. |No. |I said no. |No. 7 as well.
It costs $3.50. |That is 0.5% more than 3.5 years ago.
Version 2.0.1 came out in 1999. |In 2001 it was gone. |20 people cried.
Open www.example.com. |Write to a.b@example.org. |Then wait.
The file is README.md. |Read it with node.js and open it.
Wait... |What was that? |He hesitated ... and left.
Really?! |Yes!!! |Are you sure? |Of course.
"Stop!" he said. |"Why?" she asked. |"Because."
He said: "I am here." |She left.
He said: “I am here.” |“So am I,” she said.
'It is late.' |She nodded.
(It was late.) |She nodded. |[And left.] |He stayed (for now). |Good.
They sell apples, pears, etc. in the shop. |They sell apples, etc. |Prices rise.
Acme Inc. makes cars. |He works at Acme Inc. |She works at Widgets Ltd. in London.
Martin Luther King Jr. spoke. |Sammy Davis Jr. |He sang.
St. Louis is far. |He lives on Main St. in town.
Brown vs. Board was in 1954. |Smith v. Jones was not.
Jan. 5 was cold. |Sept. 11 was not. |It was in Dec. 2010.
1. Open the door. |2. Close the door.
He is in Room 3. |Room 4 is free.
World War II. |It ended in 1945. |Henry VIII. |He had six wives.
eBay grew. |iPhones sold. and so on.
the dog sleeps. |the cat runs, e.g. here. |why? |i do not know.
THE DOG SLEEPS. |THE CAT RUNS.
The dog sleeps . |The cat runs .
He left: good. |She... |He stayed; fine!
It was [...] Great. |Then it ended.
Hello 😀. |😀 Hello! |— Who is there?
One.Two is one word. |Three.
¿Qué? |¡No! |Fine.
He knew (as did I. Newton) that it falls. |Apples fall.
Approx. 50 people came. |Cf. Smith et al. 2007. |That is all.
""".strip().splitlines()
GERMAN = """
Der Hund schläft.
Der Hund schläft. |Die Katze läuft. |Warum?
Am 3. Oktober ist Feiertag. |Am 4. ist keiner.
Der 1. FC Köln gewann am 2. Spieltag. |Danach nicht mehr.
Im 19. Jahrhundert war z. B. Berlin klein. |Heute nicht.
Er kam auf Platz 3. |Der Sieger weinte. |Er wurde 85. |Viele trauerten.
Das war 1999. |Danach kam 2000. |Menschen feierten.
Dr. Müller und Prof. Schmidt kamen. |Frau Meier ging.
Das heißt, d. h. Hunde, u. a. Pudel, bzw. Möpse. |Mehr nicht.
Hunde, z.B. Pudel, i. d. R. Möpse, d.h. Tiere. |Gut.
Äpfel, Birnen usw. |Alles ist da. |Äpfel, Birnen usw. sind da.
Ludwig XIV. regierte lange. |Friedrich II. Barbarossa nicht. |Wilhelm II. |Er ging.
Die Hauptstr. 5 ist neu. |Die Bahnhofstr. ist alt.
Nr. 5 lebt. |Siehe Abb. 3 und S. 12. |Vgl. Kap. 4.
Es kostet ca. 3,50 Euro. |Früher waren es 2.500.000 Mark.
„Halt!“ rief er. |„Warum?“ fragte sie. |„Darum.“
Er sagte: „Ich bin da.“ |Sie ging. |»Nein.« |»Doch.«
Geboren am 1. 1. 1970 in Bonn. |Gestorben am 31.12.2020. |Ende.
Was?! |Ja... |Nein … |Gut!
(Er kam.) |Sie ging (später). |Aus.
Wir sehen uns um 8 Uhr. |Bis dann.
1. Tür öffnen. |2. Tür schließen.
Das ist Geschmackssache. |Öl ist teuer. |Über Öl redet man.
Sie kam vor Chr. Geburt, d. i. im Jahr 5 v. Chr. |Das ist lange her.
J. S. Bach lebte in Leipzig. |A. Dürer nicht.
der hund schläft. |die katze läuft. |warum?
Es gab 5 Mio. Euro. |Die GmbH u. Co. KG zahlte.
Öffnen Sie www.beispiel.de. |Dann warten Sie.
Er ist im Okt. 2020 gekommen. |Im Jan. ging er.
""".strip().splitlines()


@pytest.mark.parametrize("language, line", [*(("en", line) for line in ENGLISH), *(("de", line) for line in GERMAN)])
def test_sentences_end_where_they_end(language, line):
    expected = line.split("|")
    assert split_sentences("".join(expected), language) == expected


@pytest.mark.parametrize("seed", range(10))
def test_sentences_and_pieces_lose_nothing_and_keep_the_limits(seed):
    random = np.random.default_rng(seed)
    for _ in range(20):
        text = "".join(random.choice(list("aB1\u00e4 ..!?\u2026\u3002\u2028\t)\"'\u201c("), int(random.integers(0, 200))))
        sentences = split_sentences(text, str(random.choice(["en", "de", "xx"])))
        assert "".join(sentences) == text and all(each.strip() for each in sentences[1:])
        for count in (len, lambda text: len(text.split()) + 1, lambda text: len(text.encode()) + 1):
            longest = int(random.integers(4, 40))
            usual = int(random.integers(4, 50))
            pieces = split_line(text, count, longest, split=str(random.choice(["long", "always"])), usual=usual)
            assert "".join(piece.text + piece.gap for piece in pieces) == text.strip()
            assert all(piece.text == piece.text.strip() != "" and not piece.gap.strip() for piece in pieces)
            assert all(count(piece.text) <= longest for piece in pieces)
            whole = {sentence.strip() for sentence in split_sentences(text.strip())}
            assert all(count(piece.text) <= usual or piece.text in whole for piece in pieces) or len(pieces) == 1
            assert not pieces or (not pieces[-1].cut and not pieces[-1].gap)


def test_which_lines_are_split_and_where():
    text = "One two three. Four five!  Six. Seven eight nine ten? Eleven."
    words = lambda text: len(text.split())  # noqa: E731
    texts = lambda *limits, **how: [piece.text for piece in split_line(text, words, *limits, **how)]  # noqa: E731
    sentences = ["One two three.", "Four five!", "Six.", "Seven eight nine ten?", "Eleven."]
    assert texts(5, split="never") == texts(11) == [text]
    assert texts(11, split="always") == texts(4, usual=1) == sentences
    assert texts(10) == ["One two three. Four five!  Six. Seven eight nine ten?", "Eleven."]
    assert texts(10, usual=5) == ["One two three. Four five!", "Six. Seven eight nine ten?", "Eleven."]
    assert texts(3, usual=2)[-4:] == ["Six.", "Seven eight", "nine ten?", "Eleven."]
    assert [piece.gap for piece in split_line(text, words, 11, split="always")] == [" ", "  ", " ", " ", ""]
    assert [piece.cut for piece in split_line(text, words, 3)] == [False, False, True, False, False]
    assert split_line(" One.\t", words, 9, split="always") == [("One.", "", False)]


def test_a_word_too_long_is_cut_inside_and_a_letter_is_not():
    assert "".join(piece.text for piece in split_line("x" * 1000, len, 7)) == "x" * 1000
    assert [piece.text for piece in split_line("\U0001f600", lambda text: 4 * len(text), 3)] == ["\U0001f600"]
    assert split_line(" \t\u2028", len, 7) == split_line("", len, 7, split="always") == []


def test_languages_by_any_of_their_codes_and_without_a_list():
    line = "Am 3. Oktober kam Dr. Mai. Er ging."
    assert len({tuple(split_sentences(line, language)) for language in ("de", "deu", "ger", "de_AT", "DE-de")}) == 1
    assert split_sentences("Foo bar. Baz U.S. Army. Qux?", "xx") == ["Foo bar. ", "Baz U.S. Army. ", "Qux?"]
    assert split_sentences("\u4f60\u597d\u3002\u518d\u89c1\uff01", "zh") == ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01"]
