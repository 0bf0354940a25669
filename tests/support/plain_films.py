"""Films that go through all passes but the restoring, for tests of what is kept beside the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from bfr_core.video.encode import EncodeSettings, choose_encoding
from bfr_core.video.join import join
from bfr_core.video.probe import probe
from bfr_core.video.reader import Reader
from bfr_core.video.segments import SegmentWriter
from bfr_core.video.streams import plan_streams

FAST = EncodeSettings(preset="ultrafast", crf=0)


def passed(source: Path, target: Path, *, each=25, window=None, drop=(), on_damage="stop") -> dict[str, Any]:
    """Read, encode, join and verify a clip; return the report, with the notes of the plan as `plan`."""
    info = probe(source)
    streams, notes = plan_streams(info, target, drop)
    encoding = choose_encoding(info, target, FAST, gop=each)
    segments, pts, writer = [], [], None
    for moment in Reader(info, window=window, on_damage=on_damage):
        writer = writer or SegmentWriter(target.parent, encoding, info, len(segments), moment.index)
        writer.write(moment.picture, moment.pts)
        pts.append(moment.pts)
        if (moment.index + 1) % each == 0:
            segments.append(writer.finish())
            writer = None
    if writer is not None:
        segments.append(writer.finish())
    report = join(segments, info, target, encoding, streams, np.array(pts), window=window)
    for segment in segments:
        segment.path.unlink()
    return report | {"plan": [*info.notes, *notes]}


def packets_of(path: Path, kind="audio") -> list[tuple[float, bytes]]:
    """Times and bytes of the packets of the first stream of a kind, by FFmpeg alone."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        found = [packet for packet in container.demux(stream) if packet.size and packet.pts is not None]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in found]
