"""A stranger's first minute with an installed seglog: imported by itself, not from here, and it does its work."""

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import seglog
import seglog.engine.checksum

tree = Path(sys.argv[1]).resolve()
editable = sys.argv[2] == "editable"

assert seglog.__version__ == metadata.version("seglog"), seglog.__version__
assert (tree in Path(seglog.__file__).resolve().parents) == editable, seglog.__file__
assert seglog.engine.checksum.xxh3(b"seglog") == 0xD462B8433499FE2B

with tempfile.TemporaryDirectory() as folder, seglog.open(os.path.join(folder, "data")) as store:
    topic = store.topic("greetings")
    topic.send(b"hello", key=b"1")
    topic.send_many([b"and", b"again"])
    assert [record.value for record in topic.read(start="earliest")] == [b"hello", b"and", b"again"]

print("smoke:", seglog.__version__, "on", sys.version.split()[0], "from", os.path.dirname(seglog.__file__))
