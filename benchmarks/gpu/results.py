"""One JSON file and one Markdown file a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1


def write(folder: Path, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``gpu-<card>-<date>.json`` and ``.md``; of a smoke run, ``cpu-smoke``.

    Returns:
        Both paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "cpu-smoke"
    if not content["smoke"]:
        gpus = content["machine"]["gpus"]
        card = gpus[0]["name"] if gpus else "none"
        plain = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
        name = f"gpu-{plain}-{content['machine']['date'][:10]}"
    paths = folder / f"{name}.json", folder / f"{name}.md"
    body = json.dumps({"schema": SCHEMA, **content}, indent=1)
    paths[0].write_text(body + "\n", encoding="utf-8")
    paths[1].write_text(markdown(content), encoding="utf-8")
    return paths


def markdown(content: Mapping[str, Any]) -> str:
    """A table a part; what was skipped, with its reason."""
    here = content["machine"]
    cards = ", ".join(gpu["name"] for gpu in here["gpus"]) or "no GPU"
    title = "Smoke run without a GPU" if content["smoke"] else f"GPU check: {cards}"
    lines = [f"# {title}", ""]
    if content["smoke"]:
        lines += ["The GPU is a fake and sizes are tiny: no figure below says anything.", ""]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    lines += [
        f"- {here['date']}, commit {here['commit'] or 'unknown'}, {content['seconds']:.0f} s",
        f"- {cards}, driver {here['driver'] or 'none'}, {here['system']}, Python {here['python']}",
        f"- {versions}",
    ]
    lines += [
        f"- {', '.join(f'{k} {v}' for k, v in row.items())}" for row in content["clocks_after"]
    ]
    for name, part in content["parts"].items():
        lines += ["", f"## {name}", "", *_part(part)]
    return "\n".join(lines) + "\n"


def _part(part: Mapping[str, Any]) -> list[str]:
    lines = [] if part["status"] == "ran" else [f"{part['status']}: {part['reason']}", ""]
    if not part.get("rows"):
        return lines
    columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    cells = ([_cell(row.get(column)) for column in columns] for row in part["rows"])
    lines += [f"| {' | '.join(row)} |" for row in cells]
    notes = [f"- {note}" for note in dict.fromkeys(part["notes"])]
    return [*lines, *([""] if notes else []), *notes]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(str(value).replace("|", "/").split())
