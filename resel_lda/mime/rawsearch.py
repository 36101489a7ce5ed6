"""A quick "surely not" for searches in text, on a message as it lies on disk."""

from __future__ import annotations

from resel_lda.mime.fold import fold

# Where one of these stands, the octets are not the text, or may not be.
_CODED = ("base64", "quoted-printable", "=?", "utf-7", "iso-2022", "hz-gb", "utf-16", "utf-32")


def may_contain(message: bytes, needle: str) -> bool:
    """Whether the decoded header or body may contain `needle` (folded, without line ends).

    False is certain; True has to be verified on the decoded text.
    """
    try:
        text = fold(message.decode("utf-8"))
    except UnicodeDecodeError:
        return True
    if needle in text:
        return True
    if any(word in text for word in _CODED):
        return True
    if not message.isascii():
        # Octets beyond ASCII are other letters in another character set.
        return text.count("charset") != text.count("charset=utf-8") + text.count('charset="utf-8"')
    # A text that is folded in the header has its line ends taken out when decoded.
    return "\n " in text or "\n\t" in text if " " in needle else False
