"""Runs tests that are coroutines, and gives them nodes."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "python"
MIB = 1024**2
NOBODY = "00000000-0000-4000-8000-000000000000"
#: How long any test may take that waits for something to happen.
LIMIT = 60


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Optional[bool]:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), LIMIT))
    return True


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, for the paths of Unix sockets have few bytes.
    with tempfile.TemporaryDirectory(prefix="dwcp-") as path:
        yield Path(path)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address where connections are made and nothing is ever answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def environment(**more: str) -> dict[str, str]:
    """The environment of a program that is tested."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DWCP_")}
    return {**kept, "DWCP_BACKEND": os.environ.get("DWCP_BACKEND", "sim"), **more}


def vm_config(name: str = "vm", **more: Any) -> Any:
    import dwcp

    fields = {"memory": 32 * MIB, "cpus": 1, "annotations": {"dwcp.pulse/fill": str(MIB)}, **more}
    return dwcp.VMConfig(name=name, **fields)


def image_folder(path: Path) -> Path:
    """A folder with an image called `mini`: the smallest kernel, and a root disk of 1 MiB."""
    path.mkdir()
    start = 16 * MIB
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    # One segment of 16 bytes.
    head += struct.pack("<IIQQQQQQ", 1, 5, len(head) + 56, start, start, 16, 16, 4096)
    (path / "vmlinuz").write_bytes(head + b"\xf4" * 16)
    (path / "root.img").write_bytes(bytes(MIB))
    (path / "image.toml").write_text(
        'format = 1\nname = "mini"\ncmdline = "quiet"\n'
        '[kernel]\nfile = "vmlinuz"\n[disk]\nfile = "root.img"\n'
    )
    return path


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", *arguments]
