#!/usr/bin/env bash
# PyAV 19: len(frame.side_data) counts the types of side data, while side_data[i] still addresses single entries.
#
# A frame of H.265 can carry two entries of one type (x265 writes two unregistered SEI messages). In PyAV 18 both count
# entries, so a loop over range(len(...)) sees all of them. In PyAV 19 the same loop ends one entry early: of a film with
# HDR10 light levels it drops those, without an error. Seen with av 19.0.2 and 18.1.0, Python 3.12, Linux x86_64.
set -euo pipefail
python=${PYTHON:-python3.12}  # PyAV 19 needs Python 3.12
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat > "$place/look.py" <<'PY'
import io
from fractions import Fraction

import av

file = io.BytesIO()
with av.open(file, "w", format="mp4") as film:
    options = {"x265-params": "bframes=0:max-cll=1000,400:log-level=none"}
    stream = film.add_stream("libx265", rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
    for index in range(2):
        frame = av.VideoFrame(96, 64, "yuv420p10le")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        film.mux(stream.encode(frame))
    film.mux(stream.encode(None))
file.seek(0)
with av.open(file) as film:
    data = next(film.decode(video=0)).side_data
    seen = [data[index].type.name for index in range(len(data))]
    try:
        beyond = data[len(data)].type.name
    except IndexError:
        beyond = "nothing"
print(f"{len(data)} {','.join(seen)} beyond: {beyond}")
PY
look() {
    "$python" -m venv "$place/$1"
    "$place/$1/bin/pip" install -q "av==$1" >/dev/null
    "$place/$1/bin/python" "$place/look.py"
}
old=$(look 18.1.0)
new=$(look 19.0.2)
echo "av 18.1.0: $old"
echo "av 19.0.2: $new"
[[ $old == "3 "*CONTENT_LIGHT_LEVEL*"beyond: nothing" ]] || { echo "av 18.1.0 changed"; exit 1; }
[[ $new == "2 "*"beyond: CONTENT_LIGHT_LEVEL" ]] || { echo "av 19.0.2 changed"; exit 1; }
echo "as found: with 19.0.2 range(len(side_data)) never reaches the light levels"
