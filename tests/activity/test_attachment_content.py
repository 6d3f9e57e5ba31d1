"""A stranger's file: its name, and what it may be taken for."""

from __future__ import annotations

import pytest

from agent_core.activity.attachment_content import UNKNOWN, judged_type, safe_name

PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"
HTML = b"\n <!DOCTYPE html><html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">'


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system32\\x.dll", "x.dll"),
        ("C:\\autoexec.bat", "autoexec.bat"),
        ("C:autoexec.bat", "C_autoexec.bat"),
        ("file.txt:stream", "file.txt_stream"),
        ("/", "attachment.png"),
        ("..", "attachment.png"),
        (".", "attachment.png"),
        ("", "attachment.png"),
        ("   ", "attachment.png"),
        (".htaccess", "htaccess"),
        ("name. . .", "name"),
        ("a\0b\r\nc\x7f\x85.txt", "abc.txt"),
        ("gnp\u202efdp.exe", "gnpfdp.exe"),
        ("a\u200b\ufeff\u2066b\u2028.txt", "ab.txt"),
        ("\ud800.txt", "txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("資料.xlsx", "資料.xlsx"),
        ('a<b>c"d|e?f*.txt', "a_b_c_d_e_f_.txt"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("nul .txt", "_nul.txt"),
        ("LPT1.tar.gz", "_LPT1.tar.gz"),
        ("COM¹", "_COM¹"),
        ("CONIN$", "_CONIN$"),
        ("console.log", "console.log"),
        ("x" * 300 + ".pdf", "x" * 146 + ".pdf"),
        ("料" * 300 + ".pdf", "料" * 83 + ".pdf"),
        ("x." + "y" * 300, "x." + "y" * 148),
    ],
)
def test_p9_3_a_name_is_safe_on_any_system(name: str, safe: str) -> None:
    assert safe_name(name, "image/png") == safe
    assert len(safe.encode()) <= 255


def test_p9_3_a_name_stays_as_it_is_once_it_is_safe() -> None:
    for name in ("a b.txt", "_CON", "x" * 146 + ".pdf", "attachment", "v1.2 (final).docx"):
        assert safe_name(name) == name


@pytest.mark.parametrize(
    ("claimed", "served", "head", "judged"),
    [
        ("image/*", None, PNG, "image/png"),
        ("image/*", "image/png", JPEG, "image/jpeg"),
        ("image/png", "image/png", GIF, "image/gif"),
        ("image/jpeg", None, b"RIFF\1\2\3\4WEBPVP8 ", "image/webp"),
        ("image/heic", None, b"\0\0\0\x18ftypheic", "image/heic"),
        ("image/tiff", None, b"II*\0", "image/tiff"),
        ("image/bmp", None, b"BM\1\2\3\4\0\0\0\0", "image/bmp"),
        ("image/png", None, b"MZ\x90\0", None),
        ("image/png", None, b"", None),
        ("image/png", "image/png", HTML, None),
        ("image/svg+xml", "image/svg+xml", SVG, None),
        ("application/octet-stream", "image/png", b"MZ", None),
        ("", "image/gif", GIF, "image/gif"),
    ],
)
def test_p9_3_a_picture_is_what_its_bytes_say(
    claimed: str, served: str | None, head: bytes, judged: str | None
) -> None:
    assert judged_type(claimed, served, head, "x") == judged


@pytest.mark.parametrize(
    ("claimed", "served", "head", "name", "judged"),
    [
        ("text/html", None, HTML, "page.html", UNKNOWN),
        ("text/html", "text/html", b"no tags", "page.html", UNKNOWN),
        ("application/xhtml+xml", None, HTML, "", UNKNOWN),
        ("text/javascript", None, b"alert(1)", "a.js", UNKNOWN),
        ("application/javascript", None, b"alert(1)", "a.js", UNKNOWN),
        ("application/xml", None, b"<a/>", "a.xml", UNKNOWN),
        ("application/octet-stream", "text/html", HTML, "page.HTML", UNKNOWN),
        ("", None, SVG, "drawing.svg", UNKNOWN),
        ("application/pdf", "text/html; charset=utf-8", HTML, "x.pdf", None),
        ("application/pdf", None, b"\xef\xbb\xbf<!-- x --> <HTML>", "x.pdf", None),
        ("text/plain", "text/html", HTML, "notes.txt", None),
        ("text/plain", "text/plain", HTML, "notes.txt", "text/plain"),
        ("", "", HTML, "x", None),
    ],
)
def test_p9_3_html_is_never_trusted(
    claimed: str, served: str | None, head: bytes, name: str, judged: str | None
) -> None:
    """What a browser would run has no type of its own, and a page that comes instead of a file is none."""
    assert judged_type(claimed, served, head, name) == judged


@pytest.mark.parametrize(
    ("claimed", "served", "head", "judged"),
    [
        ("application/pdf", "application/octet-stream", b"%PDF", "application/pdf"),
        ("application/vnd.microsoft.teams.file.download.info", "application/pdf", b"%PDF", "application/pdf"),
        ("", "TEXT/Plain; charset=utf-8", b"x", "text/plain"),
        ("", None, PNG, "image/png"),
        ("nonsense", "more nonsense/", b"x", UNKNOWN),
        ("text/plain\r\nx: y", None, b"x", UNKNOWN),
        (None, None, b"x", UNKNOWN),
    ],
)
def test_p9_3_other_types_are_those_of_the_claims(
    claimed: str | None, served: str | None, head: bytes, judged: str
) -> None:
    assert judged_type(claimed, served, head, "x") == judged
