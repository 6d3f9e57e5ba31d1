"""What a stranger's file may be taken for: its name made harmless, its type judged by its bytes."""

from __future__ import annotations

import re
import unicodedata

# So many bytes at the beginning tell what a file is.
HEAD = 512
UNKNOWN = "application/octet-stream"

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.ASCII)
# https://mimesniff.spec.whatwg.org/#image-type-pattern-matching-algorithm, and the containers of cameras.
_PICTURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBPVP", re.DOTALL), "image/webp"),
    (re.compile(rb".{4}ftyp(?:heic|heix|mif1)", re.DOTALL), "image/heic"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff"),
    (re.compile(rb"BM.{4}\0{4}", re.DOTALL), "image/bmp"),
)
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*|<\?xml[^>]*>\s*)*"
    rb"<(?:!doctype\s+(?:html|svg)|(?:html|head|title|body|script|style|iframe|svg|meta|table|div|a|br|p|h1|img)[\s/>])",
    re.IGNORECASE | re.DOTALL,
)
# Types that a browser runs instead of showing.
_ACTIVE = re.compile(r"text/(html|xml|css|.*script)|application/(.*script|xml|x-shockwave-flash)|.*\+xml")
_ACTIVE_NAME = re.compile(r"\.(x?html?|svg|xml)$", re.IGNORECASE)

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_RESERVED_CHARACTERS = re.compile(r'[<>:"|?*]')
_RESERVED_NAMES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_LONGEST_NAME = 150
_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
}


def judged_type(claimed: str | None, served: str | None, head: bytes, name: str) -> str | None:
    """The media type to treat content as, None where it is not what it was said to be.

    A picture is what its first bytes say, whatever it was claimed to be, and None where they say no picture. HTML (also
    SVG) that comes instead of something else is None: often a page to sign in. What a browser would run is UNKNOWN,
    never its own type. For all else the claim stands, of the sender before that of the server.

    Args:
        head: the first HEAD bytes.
    """
    said = next((each for each in (_media_type(claimed), _media_type(served)) if each), None)
    picture = next((kind for pattern, kind in _PICTURES if pattern.match(head)), None)
    if (said or claimed or "").lower().startswith("image/"):
        return picture
    active = said is not None and _ACTIVE.fullmatch(said) is not None
    if active or (_HTML.match(head) and _ACTIVE_NAME.search(name)):
        return UNKNOWN
    if _HTML.match(head):
        is_source = (said or "").startswith("text/") and not _ACTIVE.fullmatch(_media_type(served) or "")
        return said if is_source else None
    return said or picture or UNKNOWN


def safe_name(name: str, content_type: str = UNKNOWN) -> str:
    """A name to store a file under, on any system: one part of a path, never empty, at most 150 characters.

    It has no control and no invisible characters (one that turns the direction makes `exe.fdp` of `pdf.exe`), no dot
    at its ends, and is none of the names that stand for devices on Windows. The extension proves nothing.
    """
    visible = "".join(
        character
        for character in unicodedata.normalize("NFC", name)
        if unicodedata.category(character)[0] != "C" and unicodedata.category(character) not in ("Zl", "Zp")
    )
    last = re.split(r"[/\\]", visible)[-1]
    clean = _RESERVED_CHARACTERS.sub("_", last).strip(". \u00a0")
    if not clean:
        return "attachment" + _EXTENSIONS.get(content_type, "")
    if _RESERVED_NAMES.match(clean):
        clean = "_" + clean
    stem, dot, extension = clean.rpartition(".")
    ending = dot + extension if stem and len(extension) <= 16 else ""
    body = clean.removesuffix(ending)[: _LONGEST_NAME - len(ending)]
    while len((body + ending).encode()) > 255:  # what file systems take
        body = body[:-1]
    return body.rstrip(". ") + ending


def _media_type(text: str | None) -> str | None:
    """A concrete media type without parameters; None for what says nothing, such as `image/*` or a card of Teams."""
    found = (text or "").partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(found) or found == UNKNOWN or found.startswith("application/vnd.microsoft.teams."):
        return None
    return None if found in ("binary/octet-stream", "application/x-download", "application/force-download") else found
