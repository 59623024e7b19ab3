"""The checking child: decodes files whole and says what is in them, for a JSON request a line on stdin.

A request names files by what they are (`video`, `sound`); the answer counts what they decode to, or says why not.
"""

import json
import sys
from typing import Any

import av

from infra.media.child import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from infra.media.decoding import reason_of

_FORMATS = f"{FORMAT_WHITELIST},flac"


def _video(path: str) -> dict[str, Any]:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        rate = stream.average_rate
        sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
    return {
        "num_frames": len(sizes),
        "sizes_px": sorted(set(sizes)),
        "frame_rate_fps": float(rate) if rate else 0.0,
    }


def _sound(path: str) -> dict[str, Any]:
    with _opened(path) as container:
        stream = container.streams.audio[0]
        num_samples = sum(frame.samples for frame in container.decode(stream))
        return {
            "num_samples": num_samples,
            "sample_rate_hz": stream.rate,
            "num_channels": stream.codec_context.channels,
        }


def _opened(path: str) -> Any:
    options = {
        "protocol_whitelist": PROTOCOL_WHITELIST,
        "format_whitelist": _FORMATS,
        "err_detect": "explode",
    }
    return av.open(path, options=options)


def main() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        for what, path in json.loads(line).items():
            try:
                answer[what] = {"video": _video, "sound": _sound}[what](path)
            except (av.FFmpegError, IndexError, ValueError) as err:
                answer[what] = {"error": reason_of(err)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
