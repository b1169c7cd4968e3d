"""Bytes of a document to its text. Every error names the document and the byte."""

from latentpress.errors import InputError

# The longer marks first: one of UTF-32 starts with one of UTF-16.
_WIDE_ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def decode(data: bytes, name: str) -> str:
    """Bytes of a document to its text.

    Raises:
        InputError: binary, not UTF-8, or empty, naming the first offending byte.
    """
    for mark, encoding in _WIDE_ENCODINGS.items():
        if data.startswith(mark):
            raise InputError(f"{name}: starts with the byte order mark of {encoding}; save it as UTF-8")
    at = data.find(b"\x00")
    if at >= 0:
        raise InputError(f"{name}: NUL byte at offset {at}, so it is binary; convert it to plain text first")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8; "
            "if it is text save it as UTF-8, else convert it to plain text first"
        ) from error
    return check_not_blank(text, name)


def check_not_blank(text: str, name: str) -> str:
    """Gives the text back.

    Raises:
        InputError: it is empty or white space.
    """
    if not text.strip():
        what = f"holds white space only ({len(text)} characters)" if text else "is empty"
        raise InputError(f"{name}: {what}; give a document with at least one word")
    return text
