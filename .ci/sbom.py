"""Writes the product's software bill of materials: `uv run python .ci/sbom.py sbom.json`.

CycloneDX 1.5: every package with its version, its files' digests and its licence. Needs no network.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXPORT = ["uv", "export", "--frozen", "--quiet", "--no-dev", "--format", "cyclonedx1.5"]
SPDX = re.compile(r"[A-Za-z0-9.+() -]{2,80}")
NOT_INSTALLED = "not installed on this platform"


def main() -> None:
    """Writes the bill to the file that is named."""
    (target,) = sys.argv[1:]
    done = subprocess.run(EXPORT, cwd=ROOT, capture_output=True, text=True, check=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    for component in bill["components"]:
        component["licenses"] = [{"license": {"name": _licence(component["name"])}}]
    Path(target).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{len(bill['components'])} packages: {target}")


def _licence(package: str) -> str:
    """Returns what an installed package says of its licence."""
    try:
        said = metadata(package)
    except PackageNotFoundError:
        return NOT_INSTALLED
    for name in ("License-Expression", "License"):
        value = str(said.get(name) or "").strip()
        if SPDX.fullmatch(value):
            return value
    classified = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if "License ::" in line
    ]
    return ", ".join(classified) or "not stated"


if __name__ == "__main__":
    main()
