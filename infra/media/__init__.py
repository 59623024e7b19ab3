"""Media of the outside world, always opened in a child process that a bad file may kill.

probe.py     what a header says
reader.py    files -> frames and samples on one clock, through the reading child
  reader_child.py  the child: requests -> answers and shared memory
  header.py        file -> the fields of a probe
  packets.py       file -> packets of picture and sound on one clock
  pictures.py      packets -> frames at a constant rate, and key frames
  scaling.py       frames -> upright, small, bt709 (tone_map.py: HDR)
  sound.py         packets -> samples without gaps
  decoding.py      packets -> frames, some of them broken
section_child.py  the child of crawl/section.py: byte ranges or files -> one file by copying packets
  remux.py         packets of files -> one file, times as they are
  range_file.py    a file that is read by byte ranges
resample.py  samples -> one channel at another rate
encode.py    frames and samples -> mp4 and flac
child.py     where ffmpeg is, what files may be, and how a child ends
"""

from infra.media.probe import Probe

__all__ = ["Probe"]
