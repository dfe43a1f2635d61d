"""Article text or HTML to sentences with character offsets.

sentencex finds the boundaries; this module prepares the text, keeps headlines and list items apart,
mends the few boundaries that matter for news (initials, quotations that go on), and sets site
furniture aside. All offsets refer to the cleaned text that is returned with them.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from stance.errors import DataError, InputError
from stance.records import Sentence

_HTML = re.compile(r"<(?:!doctype\s+html|html|body|article|head|div|p|h1)\b[^>]*>", re.I)
_SPACES = re.compile(r"[^\S\n]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_BULLET = re.compile(r"(?:[-*•·▪◦‣–—►■]|\(?(?:\d{1,2}|[a-z])[.)])\s+(?=\S)")
_TERMINATOR = re.compile(r"[.!?…][\"'”’»)\]]*$")
_QUOTED_END = re.compile(r"[\"”’»)\]]$")
# A full stop after these ends no sentence when a name or number follows.
_TITLE_END = re.compile(
    r"(?:^|[\s(\"“‘'«])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Gen|Lt|Col|Maj|Capt|Cmdr|Adm|Sgt|Brig|Sen|Rep|Gov|"
    r"Pres|Amb|Hon|Rev|Fr|St|Messrs|Lt\. Gen|Maj\. Gen|No|Nos|Art|Fig|vs|approx|ca|cf)\.$"
)
_INITIALS_END = re.compile(r"(?:[A-Z]\.){2,}$")
_INSTITUTION = re.compile(
    r"^(?:(?:President|Vice|Secretary|Congress|Senate|House|State|Treasury|Army|Navy|Air|Embassy|"
    r"Ambassador|Special|Envoy|Capitol|National|General|Security|Charter|Supreme|Department|Defense|"
    r"Foreign|Government|Representative|Sen|Rep|Gen|Attorney|Marine|Central)\b)"
)

# Whole lines; a line that ends like a sentence is never one of these ...
_FURNITURE = re.compile(
    r"(?:"
    r"(?:read|see|learn|find out|watch|view)\s+(?:more|also|next|the full)\b.{0,90}"
    r"|(?:also read|related|recommended|more on this|more from|most read|"
    r"trending|you may also like|don't miss|editor's picks?|what to read next|in pictures|"
    r"live updates?)(?:\W.{0,90})?"
    r"|related (?:articles|stories|topics)|recommended for you|most popular"
    r"|(?:sign up|subscribe|log in|register|donate)(?:\s+(?:now|here|today))?"
    r"|(?:sign up|subscribe)\s+(?:for|to)\s+(?:our|the|this|my|all)\b.{0,110}"
    r"|share|save|print|email|tweet|comments?|copy link|bookmark|listen|advertisement|sponsored"
    r"|loading\W*|skip to (?:main )?content|back to top|menu|search|home|next|previous|show more"
    r"|all news|top stories|newsletter"
    r"|share\s+(?:this|on|via|with)\b.{0,60}"
    r"|\d+\s+(?:comments?|shares?|views|min(?:ute)?s? read)"
    r"|follow\s+(?:us|the\s+\w+)\s+on\b.{0,80}"
    r"|(?:click|tap)\s+here\b.{0,80}"
    r"|(?:photo|image|picture|video|credit|photograph|file photo|getty images|ap photo|reuters)"
    r"\s*(?:by|credit|:|/|©).{0,120}"
    r"|(?:published|updated|last (?:updated|modified)|posted)"
    r"(?:\s+(?:on|at|by))?\s*:?\s.{0,40}\d.{0,30}"
    r"|by\s+(?-i:[A-Z][\w.'’-]+(?:\s+[A-Z][\w.'’-]+){1,3})(?:\s*(?:,|\||and|in)\s.{0,60})?"
    r"|(?:tags?|topics?|keywords?|categories|filed under)\s*:.{0,160}"
    r"|home\s*[>›»/|].{0,120}"
    r"|https?://\S+|www\.\S+|\S+@\S+\.\w+"
    r")",
    re.I,
)
# ... while these notices are sentences.
_NOTICE = re.compile(
    r"(?:"
    r"\(?(?:additional )?(?:reporting|writing|editing) by\b.{0,160}"
    r"|(?:copyright|©|\(c\)).{0,120}|.{0,60}all rights reserved\.?"
    r"|(?:this (?:article|story|post) (?:was|is|has been) (?:originally |first )?(?:"
    r"published|updated|corrected|posted|produced|translated)|the views expressed)\b.{0,160}"
    r"|(?:we use|this (?:web)?site uses) cookies\b.{0,160}|accept (?:all )?cookies"
    r"|(?:sign up|subscribe) (?:for|to) (?:our|the) .{0,60}newsletter.{0,40}"
    r")",
    re.I,
)
# An apostrophe inside a word is no quotation mark; sentencex takes it for one.
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_DATELINE = re.compile(r"[A-Z][A-Z .-]+, (?:\w+ \d{1,2}|\d{1,2} \w+)(?:, \d{4})?\.(?: /\w+/\.)?")


@dataclass(frozen=True, slots=True)
class SegmentedText:
    """Cleaned text, its sentences in reading order, and the lines set aside as site furniture."""

    text: str
    sentences: tuple[Sentence, ...]
    dropped: tuple[Sentence, ...] = ()


def clean_text(text: str) -> str:
    """Normalise to NFC with plain spaces; control characters and lone surrogates go."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n\n").replace("\x0c", "\n")
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        text = unicodedata.normalize("NFC", text)
    return _SPACES.sub(" ", _CONTROLS.sub("", text))


def decode_text(raw: bytes, name: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises
    ------
    DataError : another encoding, or a file that is no text, with the line.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: the file is UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise DataError(
            f"{name}:{line}: byte 0x{raw[err.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from err
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}:{line}: NUL character; the file is damaged or not text")
    return text


def is_html(text: str) -> bool:
    """Whether the text starts out like a web page."""
    return bool(_HTML.search(text[:4096]))


def text_of_html(html: str) -> str:
    """Article text of a web page, headline first, one paragraph a line.

    Raises
    ------
    DataError : where no article text is found.
    """
    import logging

    import trafilatura

    log = logging.getLogger("trafilatura")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        body = trafilatura.extract(html, include_comments=False, include_tables=False) or ""
        meta = trafilatura.extract_metadata(html)
    except Exception as err:  # any fault inside the parser is a fault of this page
        raise DataError("the HTML could not be parsed; save the article as plain text") from err
    finally:
        log.setLevel(level)
    if not body.strip():
        raise DataError("no article text found in the HTML; save the article as plain text")
    title = re.sub(r"\s+", " ", (meta.title if meta else "") or "").strip()
    if title and not body.lstrip().lower().startswith(title.lower()):
        body = f"{title}\n{body}"
    return body


def split_sentences(text: str, *, drop_furniture: bool = True) -> SegmentedText:
    """Split an article (plain text or HTML) into sentences.

    Parameters
    ----------
    text : plain text (paragraphs or one sentence a line; hard-wrapped lines are joined) or HTML.
    drop_furniture : set menus, share links, credits and the like aside (kept in `dropped`).

    Returns
    -------
    SegmentedText : ``result.text[s.start:s.end] == s.text`` for every sentence.

    Raises
    ------
    InputError : `text` is not a string.
    DataError : HTML without article text.
    """
    if not isinstance(text, str):
        raise InputError(f"expected the article as one str, got {type(text).__name__}")
    if is_html(text):
        text = text_of_html(text)
    text = _join_wrapped_lines(clean_text(text))
    sentences: list[Sentence] = []
    dropped: list[Sentence] = []
    for start, end in _blocks(text):
        block = text[start:end]
        if drop_furniture and is_furniture(block):
            dropped.append(Sentence(block, start, end))
            continue
        sentences.extend(
            Sentence(text[a:b], a, b) for a, b in _sentence_spans(text, start, end) if b > a
        )
    return SegmentedText(text, tuple(sentences), tuple(dropped))


def is_furniture(line: str) -> bool:
    """Whether a whole line is a menu entry, credit, share link or other part of the site."""
    line = line.strip()
    if not any(c.isalpha() for c in line):
        return True
    if len(line) > 240:
        return False
    is_sentence = line.endswith((".", "!", "?")) and " " in line
    return bool(_NOTICE.fullmatch(line) or (not is_sentence and _FURNITURE.fullmatch(line)))


def _join_wrapped_lines(text: str) -> str:
    """Turn the newlines inside hard-wrapped paragraphs into spaces, keeping every offset."""

    def join(match: re.Match[str]) -> str:
        lines = match[0].split("\n")
        widths = [len(line) for line in lines]
        widest = max(widths)
        is_wrapped = (
            len(lines) > 1
            and 45 <= widest <= 100
            and all(width >= widest - 25 for width in widths[:-1])
            and sum(bool(_TERMINATOR.search(line.rstrip())) for line in lines[:-1])
            < max(1, len(lines) / 2)
            and not any(_BULLET.match(line.lstrip()) for line in lines[1:])
        )
        out = lines[0]
        for before, line in itertools.pairwise(lines):
            goes_on = line.lstrip()[:1].islower() and not _TERMINATOR.search(before.rstrip())
            is_item = bool(_BULLET.match(line.lstrip()))
            out += (" " if is_wrapped or (goes_on and not is_item) else "\n") + line
        return out

    return re.sub(r"[^\n]+(?:\n[^\n]+)*", join, text)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Spans of non-empty lines without surrounding space or list marker."""
    for match in re.finditer(r"[^\n]+", text):
        start, end = _strip(text, match.start(), match.end())
        if marker := _BULLET.match(text, start, end):
            start = marker.end()
        if end > start:
            yield start, end


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _sentence_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    from sentencex import get_sentence_boundaries

    block = _APOSTROPHE.sub("\u02bc", text[start:end])
    spans: list[tuple[int, int]] = []
    position = 0
    for boundary in get_sentence_boundaries("en", block):
        piece = boundary["text"]
        found = block.find(piece, position) if piece else position
        if found < 0:  # sentencex changed the text: take the rest whole rather than lose it
            break
        position = found + len(piece)
        spans.append(_strip(text, start + found, start + position))
    if position < len(block):
        spans.append(_strip(text, start + position, end))
    return _mend([span for span in spans if span[1] > span[0]], text)


def _mend(spans: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    mended: list[tuple[int, int]] = []
    for start, end in spans:
        if mended and _goes_on(text[mended[-1][0] : mended[-1][1]], text[start:end]):
            mended[-1] = (mended[-1][0], end)
        else:
            mended.append((start, end))
    return mended


def _goes_on(before: str, after: str) -> bool:
    """Whether `after` continues the sentence `before` that the splitter ended."""
    if not any(c.isalnum() for c in after):
        return True
    first = after.lstrip("\"'“‘«([")[:1]
    if first.islower() and not before.endswith((":", ";")):
        return True
    if _DATELINE.fullmatch(before):
        return True
    if before.endswith((".m.", ".M.")) and re.match(r"(?:\w+ ){0,2}time\b", after):
        return True
    if _TITLE_END.search(before) and (first.isupper() or first.isdigit()):
        return not before.endswith((" I.", "“I.", '"I.'))
    return bool(_INITIALS_END.search(before) and _INSTITUTION.match(after))
