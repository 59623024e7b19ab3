"""Media of the outside world, always handled in child processes.

probe.py   header of a file -> Probe          (a PyAV child, restarted when a file kills it)
decode.py  file -> aligned frames and samples (one ffmpeg child a source)
encode.py  frames and samples -> mp4 and flac (one ffmpeg child a clip)
pipes.py   several pipes of one child -> bytes, in bounded memory
child.py   what every child gets: limits, whitelists, an end
"""

from infra.media.probe import Probe

__all__ = ["Probe"]
