"""Decodes the files of a sample whole, in a child process that a bad one may kill."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import MediaTimeout
from infra.media.child import end_child, error_of_end, limit_memory
from infra.units import BYTES_PER_MIB

_STALL_S = 60.0
_MEMORY_MIB = 2048
_ROOT = Path(__file__).resolve().parents[2]


class MediaChecker:
    """One child for one sample after another; one that ended is replaced."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, files: Mapping[str, Path], *, subject: str) -> dict[str, Any]:
        """What `video` and `sound` decode to, by what they are; see check_child.py.

        Raises:
            MediaError, ChildKilled: the child did not survive it.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(
                json.dumps({what: str(path.absolute()) for what, path in files.items()}).encode() + b"\n"
            )
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(_STALL_S):
                    self.close()
                    raise MediaTimeout(f"a sample must decode within {_STALL_S:g} s, it did not ({subject})")
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self._stderr.seek(0)
            stderr = self._stderr.read()
            status = process.wait()
            self.close()
            raise error_of_end(status, stderr, subject)
        return dict(json.loads(line))

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            end_child(self._process)
            for stream in (self._process.stdin, self._process.stdout, self._stderr):
                assert stream is not None
                stream.close()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "infra.media.check_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
        )
        limit_memory(self._process, _MEMORY_MIB * BYTES_PER_MIB)
        return self._process
