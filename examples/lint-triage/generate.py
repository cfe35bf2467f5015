#!/usr/bin/env python3
"""Turns ruff's JSON report (standard input) into packets.json, next to this script.

usage: ruff check --output-format json ... | generate.py PROJECT_ROOT
"""

import json
import sys
from pathlib import Path


def severity(code):
    """Pyflakes (F) and bugbear (B) report mistakes, pycodestyle (E, W) bad style, the rest better ways to write it."""
    family = code.rstrip("0123456789")
    return {"F": "error", "B": "error", "E": "warning", "W": "warning"}.get(family, "info")


def finding(diagnostic, path):
    code = diagnostic["code"]
    line, column = diagnostic["location"]["row"], diagnostic["location"]["column"]
    fix = diagnostic["fix"]
    return {
        "id": f"{code}:{line}:{column}",
        "code": code,
        "type": code,
        "severity": severity(code),
        "path": path,
        "message": diagnostic["message"],
        "line": line,
        "column": column,
        # What `ruff check --fix` repairs: it leaves unsafe fixes alone.
        "fixable": fix is not None and fix["applicability"] == "safe",
    }


def packets(diagnostics, root):
    by_path = {}
    for diagnostic in diagnostics:
        path = Path(diagnostic["filename"]).resolve().relative_to(root).as_posix()
        by_path.setdefault(path, []).append(finding(diagnostic, path))
    for path, findings in sorted(by_path.items()):
        findings.sort(key=lambda it: (it["line"], it["column"], it["code"]))
        ids = {it["id"] for it in findings}
        if len(ids) != len(findings):
            sys.exit(f"generate.py: {path} has two findings with the same id")
        yield {"id": path, "source": "ruff", "findings": findings}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = Path(sys.argv[1]).resolve(strict=True)
    report = list(packets(json.load(sys.stdin), root))
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    Path(__file__).with_name("packets.json").write_text(text, encoding="utf-8")


main()
