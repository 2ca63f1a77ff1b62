"""One spelling for text that looks the same: white space, invisible characters and accents, before it is cut into pieces."""

import re
import unicodedata

__all__ = ["VERSION", "normalize", "visible", "word_numbers"]

VERSION = 1  # of these rules; a tokenizer keeps the number of those that it was trained with

# Written out instead of asking `unicodedata.category`, whose answer depends on the version of Python: a run must not.
_CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # those that are not white space
_FORMAT = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
)
_FILLERS = "\u034f\u3164\uffa0"  # letters and marks without any width: the grapheme joiner, fillers of Hangul
_TAGS, _FLAG = "\U000e0020-\U000e007f", "\U0001f3f4"
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
# Latin letters and their accents. They have no variants, so that a selector after one has no effect; neither has a joiner
# beside one of them, an ASCII character or white space.
_LATIN = (
    "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0300-\u036f\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff\ufb00-\ufb06"
    "\uff21-\uff3a\uff41-\uff5a"
)

_INVISIBLE = re.compile(f"[{_CONTROLS}{_FORMAT}{_FILLERS}]")
_STRAY_TAG = re.compile(f"({_FLAG}[\U000e0020-\U000e007e]+\U000e007f)|[{_TAGS}]")
_STRAY_SELECTOR = re.compile(rf"(?:^|(?<=[{_LATIN}\s]))[{_SELECTORS}{_JOINERS}]+")
_JOINED = rf"[^\x00-\x7f{_LATIN}{_JOINERS}\s]"
_STRAY_JOINER = re.compile(f"((?<={_JOINED})[{_JOINERS}](?={_JOINED}))|[{_JOINERS}]")
# What `visible` may have to change beside accents.
_SUSPECT = re.compile(f"[{_CONTROLS}{_FORMAT}{_FILLERS}{_TAGS}{_JOINERS}{_SELECTORS}]")


def normalize(text: str) -> str:
    r"""The text as a model sees it, in training and ever after: its visible characters, with single spaces between words.

    | in the text | becomes |
    |---|---|
    | white space (`str.isspace`: no-break space, tab, U+3000, U+2028, U+0085, form feed, ...), runs of it | one space |
    | ... at either end | nothing |
    | U+2581, which is a space to SentencePiece | a space |
    | controls (Cc), NUL among them, that are no white space | nothing |
    | format characters (Cf): soft hyphen, zero-width space, word joiner, byte-order mark, direction marks | nothing |
    | U+034F, U+3164, U+FFA0, which no font shows | nothing |
    | letters and accents that are one character (NFC) | that character |

    What looks different stays different: there is no NFKC, so that ligatures, superscripts and full-width letters stay. Format
    characters that can be seen stay, too: a zero-width joiner or non-joiner between two characters neither of which is ASCII, a
    Latin letter, an accent on one or white space (families of emoji, Persian, Hindi), the tags of a flag, variation selectors
    that follow a sign which has variants, and the signs that enclose numbers (U+0600 to U+0605, U+06DD and so on).

    Normalised text is left as it is. The rules do not depend on the version of Python, but for what NFC does with
    characters that it does not know yet.

    >>> normalize("\ufeffThe\u00a0ele\u00adphant \u2028 is hu\u0308ngry.\t")
    'The elephant is h\xfcngry.'
    >>> normalize("\u200b \ufeff")
    ''
    """
    # Nearly all text is printable and in Latin-1, which is NFC and has no invisible letter: encoding is a fast way to see that.
    if text.isprintable() and "  " not in text and not text.startswith(" ") and not text.endswith(" "):
        try:
            text.encode("latin-1")
            return text
        except UnicodeEncodeError:
            pass
    return " ".join(visible(text).split())


def visible(text: str) -> str:
    r"""As `normalize`, with all white space as it is: for those that want it back.

    >>> visible("The\u00a0ele\u00adphant")
    'The\xa0elephant'
    """
    if _SUSPECT.search(text):
        text, before = _STRAY_TAG.sub(r"\1", _INVISIBLE.sub("", text)), None
        # Removing a character may change the order of accents, and with it the neighbours of selectors and joiners.
        while text != before:
            before, text = text, _STRAY_SELECTOR.sub("", unicodedata.normalize("NFC", text))
            text = _STRAY_JOINER.sub(r"\1", text)
    text = text.replace("\u2581", " ")
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def word_numbers(text: str) -> list[int]:
    r"""For each word of the normalised text the number, from 0, of its word in the text; words as `str.split` finds them.

    >>> word_numbers("a \u200b b")
    [0, 2]
    """
    return [number for number, word in enumerate(text.split()) for _ in visible(word).split()]
