"""What a time step launches on a GPU: counted from programs, and held where the compiler is."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The benchmarks are not installed with the library.
_spec = importlib.util.spec_from_file_location("benchmarks_gpu", ROOT / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu)

# Launches of the whole gradient at the quick shape, of 128 steps. A change may lower them, not
# raise them.
LIMITS = {"elman": 592, "gru": 621, "lstm": 785, "gru, plain": 822}

PROGRAM = """HloModule jit_f

%fused_computation (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %negate = f32[4]{0} negate(%p)
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%t), index=1
  %fusion.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %copy.1 = f32[4]{0} copy(%fusion.1)
  ROOT %tuple = (s32[], f32[4]{0}) tuple(%x, %copy.1)
}

%outer (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t.1 = (s32[], f32[4]{0}) parameter(0)
  %gemm = f32[4]{0} custom-call(%t.1), custom_call_target="__cublas$gemm"
  ROOT %while.1 = (s32[], f32[4]{0}) while(%t.1), condition=%c, body=%body, backend_config={COUNT}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %fusion.2 = f32[4]{0} fusion(%x.1), kind=kLoop, calls=%fused_computation
  %while.2 = (s32[], f32[4]{0}) while(%fusion.2), condition=%c, body=%outer, backend_config={COUNT}
  ROOT %r = f32[4]{0} get-tuple-element(%while.2), index=1
}
"""


def test_instructions_of_a_loop_count_as_often_as_it_runs():
    hlo = PROGRAM.replace("{COUNT}", '{"known_trip_count":{"n":"5"}}')
    assert gpu.launches(hlo) == 1 + 5 * (1 + 5 * 2)


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="hlo: got a loop of unknown length"):
        gpu.launches(PROGRAM.replace("{COUNT}", "{}"))


def test_a_step_launches_no_more_than_it_did(tmp_path):
    if reason := gpu.missing():
        pytest.skip(f"{reason}: pip install '.[gpu-compile]'")
    file = tmp_path / "launches.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--quick", "--json", file],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=600,
        capture_output=True,
    )
    rows = json.loads(file.read_text())["rows"]
    counted = {(row["step"], row["loop"]): row["launches"] for row in rows}
    for step, limit in LIMITS.items():
        assert counted[step, "bptt"] <= limit, step
        assert counted[step, "bptt"] < counted[step, "scan"] / 3, step
