"""Rows on several devices, in a process that has eight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALL = "Auto 1 Auto 2 Explicit 1 Explicit 2 Explicit 8"


@pytest.mark.parametrize("meshes", ["Auto 8", pytest.param(ALL, marks=pytest.mark.whole)])
def test_rows_on_devices(meshes):
    """Equal results, derivatives, and collectives of no more than p² numbers from each device."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("on_mesh.py")
    done = subprocess.run(
        [sys.executable, script, *meshes.split()], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "all agree\n", done.stderr[-3000:]
