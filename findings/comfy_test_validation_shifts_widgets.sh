#!/usr/bin/env bash
# comfy-test 0.4.15: its level "validation" judges saved widget values by the wrong widgets.
#
# A workflow file holds a node's widget values by position. The validator pairs them with the inputs of /object_info, but
# passes over inputs of the type "COMBO", which is how nodes of the newer (V3) schema announce a list of choices, and
# does not know of the extra value that the page saves after a seed ("fixed", "randomize"). Either moves every value
# after it by one: files that ComfyUI opens and runs are refused. The same list of choices in the older schema, which
# names no type, is read as it should be. Seen with Python 3.11.
set -euo pipefail
python=${PYTHON:-python3.11}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat > "$place/look.py" <<'PY'
from comfy_test.comfyui.validator import WorkflowValidation

CHOICES, STEPS = ["euler", "heun"], ["INT", {"default": 20, "min": 1, "max": 100}]
SEED = ["INT", {"default": 0, "min": 0, "max": 2**32, "control_after_generate": True}]
NODES = {
    "list of choices, older schema": ({"sampler": [CHOICES, {}], "steps": STEPS}, ["euler", 20]),
    "list of choices, newer schema": ({"sampler": ["COMBO", {"options": CHOICES}], "steps": STEPS}, ["euler", 20]),
    "a seed": ({"seed": SEED, "steps": STEPS}, [1, "fixed", 20]),
}
for name, (inputs, values) in NODES.items():
    schema = {"Node": {"input": {"required": inputs}, "output": [], "output_name": []}}
    node = {"id": 1, "type": "Node", "inputs": [], "outputs": [], "widgets_values": values}
    found = WorkflowValidation(schema).validate({"nodes": [node], "links": []})
    words = [error.message for error in found.errors if error.level == "schema"]
    print(f"{name}: {'; '.join(words) or 'nothing'}")
PY
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install -q "comfy-test==0.4.15" >/dev/null
found=$("$place/venv/bin/python" "$place/look.py")
echo "comfy-test 0.4.15 reports"
echo "$found"
expected="list of choices, older schema: nothing
list of choices, newer schema: 'steps': expected INT, got non-numeric string 'euler'
a seed: 'steps': expected INT, got non-numeric string 'fixed'"
[[ $found == "$expected" ]] || { echo "comfy-test 0.4.15 changed"; exit 1; }
echo "as found: values after a COMBO of the newer schema, or after a seed, are read one widget too early"
