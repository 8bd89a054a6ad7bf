"""The script that HAProxy is started through: what it writes into the configuration, once and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving import haproxy

CONFIG = """defaults
    mode http
    option httplog
    option abortonclose
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray's HAProxy is Linux's")


def edited(tmp_path: Path, *ports: str) -> str:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    script = haproxy.write(tmp_path / "haproxy", ports, binary="/bin/true")
    subprocess.run([script, "-db", "-f", config], check=True)
    return config.read_text()


def test_a_request_is_taken_whole(tmp_path: Path) -> None:
    assert edited(tmp_path) == CONFIG.replace(
        "    option httplog\n", "    option httplog\n    option http-buffer-request\n"
    )


def test_named_ports_are_loopback_s_and_the_service_s_own_is_not(tmp_path: Path) -> None:
    config = edited(tmp_path, "9101", "9102")
    assert "bind 127.0.0.1:9101\n" in config and "bind *:8000\n" in config


def test_the_template_of_ray_has_the_line_that_the_script_looks_for() -> None:
    from importlib.util import find_spec

    ray = find_spec("ray")
    assert ray is not None and ray.origin is not None
    template = Path(ray.origin).parent / "serve/_private/haproxy_templates.py"
    assert template.read_text().count("\n    option httplog\n") == 1
