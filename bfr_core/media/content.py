"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

from pathlib import Path

_HEAD = 1024
"""Bytes that are looked at; a transport stream shows itself by the distance of its packets."""

_PACKETS = ((0, 188), (4, 192), (0, 204))
"""Where the first packet of a transport stream has its sync byte, and how far the next ones are: plain, as discs and
camcorders write it (four bytes of time before each), and with the parity of a broadcast."""

_STILL_BRANDS = {
    "heif": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "avif": (b"avif", b"avis"),
    "raw": (b"crx ",),
}
"""Brands of ISO's base media format, which is that of MP4, that hold pictures."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"FLV\x01", "flv"),
    (b"\x1f\x07\x00", "dv"),
    (b"OggS\0", "ogg"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "mxf"),
    (b".RMF", "rm"),
    (b"DKIF", "ivf"),
    (b"YUV4MPEG2 ", "yuv4mpegpipe"),
    (b"nut/multimedia container\0", "nut"),
    (b"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d", "wtv"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpegvideo"),
)
"""First bytes, and the format's name in the tables."""

_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def name_of(path: Path) -> str | None:
    """Return the format of a file by its content, as `formats` names it; of pictures that have no place there as well.

    None where that cannot be told: the file is not there, is none, or begins like nothing that is known. Some raw
    streams and damaged films do, and are read nevertheless.
    """
    try:
        # A pipe would block.
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return _name(file.read(_HEAD))
    except (OSError, ValueError):
        return None


def _name(head: bytes) -> str | None:
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX", b"WEBP"):
        return "webp" if head[8:12] == b"WEBP" else "avi"
    if head[4:8] == b"ftyp":
        return next((name for name, brands in _STILL_BRANDS.items() if head[8:12] in brands), _of_brand(head[8:12]))
    if head[4:8] in _ATOMS:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "matroska"
    for first, step in _PACKETS:
        places = range(first, len(head), step)
        if len(places) > 2 and all(head[place] == 0x47 for place in places):
            return "mpegts"
    return _raw(head)


def _of_brand(brand: bytes) -> str:
    return "mov" if brand == b"qt  " else "3gp" if brand[:2] == b"3g" else "mp4"


def _raw(head: bytes) -> str | None:
    """Return the name of a stream without a container that begins with a parameter set or a delimiter.

    Source:
        ITU-T H.264, 7.3.1, and H.265, 7.3.1.2: the header of a unit.
    """
    start = head[:4].find(b"\0\0\x01")
    if start not in (0, 1) or len(head) < start + 5 or (start == 1 and head[0]):
        return None
    first, second = head[start + 3], head[start + 4]
    if first >> 1 in (32, 33, 35) and second == 1:
        return "hevc"
    return "h264" if first < 0x80 and first & 0x1F in (7, 9) else None
