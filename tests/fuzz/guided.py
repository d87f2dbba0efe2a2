"""Feed inputs that coverage chooses: `make fuzz`, or python -m tests.fuzz.guided NAME [-runs=N].

Needs atheris. Each format gets a fixed number of inputs, from the seeds on. A fault ends the run
and leaves its input in a file crash-*; more than 5 seconds, or 2 GB, for an input is a fault too.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rebasin_cli"]):
    from tests.fuzz.targets import TARGETS, feed


def main(name: str, *options: str) -> None:
    """Run libFuzzer on one format. Does not return: libFuzzer ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, work = Path(folder, "corpus"), Path(folder, "work")
        corpus.mkdir()
        work.mkdir()
        for number, seed in enumerate(TARGETS[name][1]):
            (corpus / str(number)).write_bytes(seed)
        limits = ["-timeout=5", "-rss_limit_mb=2000", "-max_len=20000", "-seed=1", "-verbosity=0"]
        words = [sys.argv[0], str(corpus), *limits, "-runs=20000", *options]
        atheris.Setup(words, lambda data: feed(name, data, work))
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
