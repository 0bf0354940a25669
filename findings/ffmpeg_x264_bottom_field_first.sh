#!/usr/bin/env bash
# FFmpeg 8 and x264: interlaced frames marked "bottom field first" give a stream of which header and frames disagree.
#
# With the flag +ildct, libx264 takes the order of fields from the frames. But it is opened before the first frame, for
# the top field first, and is only then told otherwise: the pictures' messages say bottom first, their order counts say top
# first. So the header is read as top first (AVFieldOrder 2), while every decoded frame is marked bottom first: a player
# that trusts the header shows the fields of a tape in the wrong order. Told `x264-params bff=1` as well, both agree (3).
# Seen with av 18.1.0 (FFmpeg 8.1) from PyPI, Linux x86_64.
set -euo pipefail
python=${PYTHON:-python3.11}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat > "$place/look.py" <<'PY'
import io
from fractions import Fraction

import av
from av.filter import Graph


def graph(frame, name, arguments):
    made = Graph()
    source = made.add_buffer(width=96, height=64, format=frame.format, time_base=Fraction(1, 25))
    step, end = made.add(name, arguments), made.add("buffersink")
    source.link_to(step)
    step.link_to(end)
    made.configure()
    return made


def film(more):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=25, options={"flags": "+ildct+ilme", "bf": "0", **more})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(3):
            frame = av.VideoFrame(96, 64, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            marks = graph(frame, "setfield", "mode=bff")
            marks.push(frame)
            frame = marks.pull()
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    file.seek(0)
    return file


def order(frame):
    asked = graph(frame, "select", r"eq(interlace_type\,BOTTOMFIRST)")
    asked.push(frame)
    try:
        asked.pull()
        return "bottom"
    except av.error.BlockingIOError:
        return "top"


for more in ({}, {"x264-params": "bff=1"}):
    with av.open(film(more)) as container:
        header = container.streams.video[0].codec_context.field_order
        frames = {order(frame) for frame in container.decode(video=0)}
    print(f"{more or 'as it is'}: header {header}, frames {','.join(sorted(frames))} first")
PY
"$python" -m venv "$place/env"
"$place/env/bin/pip" install -q "av==18.1.0" >/dev/null
told=$("$place/env/bin/python" "$place/look.py")
echo "$told"
[[ $told == *"as it is: header 2, frames bottom first"* ]] || { echo "it changed"; exit 1; }
[[ $told == *"bff=1'}: header 3, frames bottom first"* ]] || { echo "the way round it changed"; exit 1; }
echo "as found: header and frames disagree unless x264 is told when it is opened"
