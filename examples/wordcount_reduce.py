"""Adds up what the tasks of wordcount.bcl printed, and compares it with ``wc -w`` over the same files.

Usage: borgcfg logs demo/wordcount | wordcount_reduce.py FILE...
Ends with 0 when the sums agree, 1 when they do not.
"""

import collections
import json
import subprocess
import sys


def main() -> int:
    """Read the lines of JSON, print a table and the verdict."""
    files = sys.argv[1:]
    if not files:
        sys.stderr.write(f"{__doc__}")
        return 2
    counts: dict[str, int] = {}
    common: collections.Counter[str] = collections.Counter()
    for line in sys.stdin:
        result = json.loads(line)
        counts[result["file"]] = result["words"]
        common.update(result["common"])
    for file, words in sorted(counts.items()):
        sys.stdout.write(f"{words:8}  {file}\n")
    total = sum(counts.values())
    expected = _words_of(files)
    common_words = ", ".join(f"{word} ({count})" for word, count in common.most_common(5))
    sys.stdout.write(f"{total:8}  words in {len(counts)} files; most common: {common_words}\n")
    if len(counts) != len(files) or total != expected:
        sys.stdout.write(f"WRONG: wc -w counts {expected} words in {len(files)} files\n")
        return 1
    sys.stdout.write("correct: wc -w counts the same\n")
    return 0


def _words_of(files: list[str]) -> int:
    counted = subprocess.run(
        ["wc", "-w", *files], capture_output=True, text=True, check=True, timeout=60
    )
    return int(counted.stdout.splitlines()[-1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
