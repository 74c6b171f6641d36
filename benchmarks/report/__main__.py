"""Shows results, and writes them into docs/performance.md, where nobody types a number by hand.

python -m benchmarks.report                  the newest results that are kept, on the terminal
python -m benchmarks.report FILE --docs      into docs/performance.md, with the picture drawn anew
python -m benchmarks.report --check          whether docs/performance.md shows the newest ones
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import tools
from benchmarks.report import picture, text
from benchmarks.report.results import FOLDER, Results, latest, load

_DOCUMENT = tools.ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- results: written by `python -m benchmarks.report --docs` -->", "<!-- end of results -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Show results.")
    parser.add_argument("file", nargs="?", type=Path, default=latest(), help="the results [the newest that are kept]")
    parser.add_argument("--docs", action="store_true", help="write them into docs/performance.md")
    parser.add_argument("--check", action="store_true", help="fail unless docs/performance.md shows them")
    options = parser.parse_args()
    if options.file is None:
        print("there are no results yet: make bench", file=sys.stderr)
        return 1
    results = load(options.file)
    if options.check:
        current = _DOCUMENT.read_text(encoding="utf-8")
        if _filled(current, results, options.file) == current:
            return 0
        print(f"{_DOCUMENT} does not show {options.file}: python -m benchmarks.report --docs", file=sys.stderr)
        return 1
    text.show(results, [case.name for case in results.cases])
    if options.docs:
        if options.file.resolve().parent != FOLDER:
            print(
                f"the docs show only what is kept in {os.path.relpath(FOLDER)}: move the results there", file=sys.stderr
            )
            return 1
        picture.draw(results, options.file.with_suffix(".svg"))
        document = _DOCUMENT.read_text(encoding="utf-8")
        _DOCUMENT.write_text(_filled(document, results, options.file), encoding="utf-8")
        print(f"written: {_DOCUMENT}")
    return 0


def _filled(document: str, results: Results, path: Path) -> str:
    before, _, rest = document.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    parts = [_BEGIN, text.markdown(results).split("\n\n", 1)[0], "### Goals", text.goals(results)]
    drawn = path.with_suffix(".svg")
    if drawn.exists():
        parts.append(f"![Ratios to Envoy]({os.path.relpath(drawn, _DOCUMENT.parent)})")
    parts += ["### The machine meanwhile", text.conditions(results)]
    parts += ["### All numbers", text.markdown(results).split("\n\n", 1)[1], _END]
    return before + "\n\n".join(parts) + after


if __name__ == "__main__":
    sys.exit(main())
