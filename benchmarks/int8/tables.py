"""The figures as Markdown, and a section of a page exchanged for its new text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HEADING = "INT8"
"""Where the section stands in docs/peers.md."""

_LEGEND = """*Linears*: products with a constant weight. *Inputs of linears*: with
OpTypesToExcludeOutputQuantization and DedicatedQDQPair, options that are off by default, so that
Q/DQ stand where fuselage puts them. *Streamed*: with CalibStridedMinMax=1, so that histograms take
texts of any length. *uint8*: activations with a zero point, which ONNX Runtime's x86 kernels fuse
better. *Default operators* leaves the pooling in float. Weights are int8, per channel unless the
row says otherwise; other options are the tools' defaults. Alpha 0.9 is no tool's default: it is
near what fuselage finds for this model. Texts went in unpadded, or padded to the longest where a
tool refused that (below)."""

_HEAD = (
    "| quantizer | Spearman | drop | cosine, mean | least | SQNR dB | Q / DQ | seconds | CPU s "
    "| peak MB | file MB |"
)


def accuracy_table(rows: Sequence[Mapping[str, Any]], float_spearman: float) -> str:
    """A row a quantizer; what fails says so in its row."""
    lines = [_HEAD, "|---" * (_HEAD.count("|") - 1) + "|"]
    lines += [f"| {row['name']} | {_cells(row, float_spearman)} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], float_spearman: float) -> str:
    cost = "- | - | -"
    if "seconds" in row:
        cpu = f"{row['cpu_seconds']:.1f}" if "cpu_seconds" in row else "-"
        cost = f"{row['seconds']:.1f} | {cpu} | {row['peak_mb']:.0f}"
    if "spearman" not in row:
        return f"**no result** | - | - | - | - | - | {cost} | - "
    placed = f"{row['quantize']} / {row['dequantize']}"
    if row["dynamic"]:
        placed = f"{row['dynamic']} dynamic"
    return (
        f"{row['spearman']:.2f} | {float_spearman - row['spearman']:.2f} "
        f"| {row['cosine_mean']:.4f} | {row['cosine_min']:.3f} | {row['sqnr_db']:.1f} "
        f"| {placed} | {cost} | {row['megabytes']:.1f}"
    )


def failures(rows: Sequence[Mapping[str, Any]]) -> str:
    """What did not work, in the tool's own words; tools that say the same share a line."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for failure in row.get("failures", ()):
            found.setdefault((failure["feed"], failure["error"]), []).append(row["name"])
    return "\n".join(
        f"* texts {feed}, `{error}`: {'; '.join(names)}" for (feed, error), names in found.items()
    )


def latency_table(race: Mapping[str, Any]) -> str:
    """A row a contender, a column a shape: milliseconds and the ratio to plain ONNX Runtime."""
    shapes = list(race["shapes"])
    lines = [f"| engine | {' | '.join(shapes)} |", "|---" * (len(shapes) + 1) + "|"]
    for name in race["shapes"][shapes[0]]["engines"]:
        found = [race["shapes"][shape]["engines"][name] for shape in shapes]
        cells = [f"{cell['ms']:.2f} ms, {cell['ratio']:.3f}" for cell in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def section(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    header, found = record["header"], record["rows"]
    versions = {line for row in found for line in _versions(row)}
    text = f"""Made by `{header["command"]}` on {header["date"]}; {header["machine"]}; load average
{header["load_average"]:.1f} at the start. Every tool calibrated on the same {header["texts"]} texts
from the same ONNX file, and one judge with ONNX Runtime {header["judge"]} measured what it wrote:
Spearman x100 over {header["pairs"]} pairs (float: {header["spearman"]:.2f}), cosine of the sentence
vectors to float, signal to noise of the last hidden state over real tokens. Seconds (wall clock and
CPU) and growth of the resident memory are those of the tool's own process, imports left out; other
work on the machine lengthens the former. Versions:
{"; ".join(sorted(versions))}.

{accuracy_table(found, header["spearman"])}

{_LEGEND}
"""
    failed = failures(found)
    if failed:
        text += f"\nWhat a tool refused:\n\n{failed}\n"
    if "latency" in record:
        text += f"\n{_latency_text(record['latency'])}\n"
    return text


def _versions(row: Mapping[str, Any]) -> Iterator[str]:
    versions = row.get("versions") or {}
    if versions:
        yield " with ".join(f"{name} {number}" for name, number in versions.items())


def _latency_text(result: Mapping[str, Any]) -> str:
    busy = " **Other work kept the machine busy: take the order at most.**" * result["busy"]
    rounds = ", ".join(str(heat["rounds"]) for heat in result["shapes"].values())
    return f"""Latency on ONNX Runtime, {result["threads"]} threads, no spinning, rows padded,
interleaved in one process; medians, and the median of the ratios within a round to ONNX Runtime on
the plain file ({result["date"]}, {rounds} rounds, load average {result["load_average"]:.1f} at the
start).{busy} The static peers are the least noisy and the fastest.

{latency_table(result)}"""


def replace_section(page: str, heading: str, text: str) -> str:
    """The page with everything below a heading of the second level exchanged, or appended."""
    section = f"## {heading}\n\n{text.strip()}\n"
    found = re.search(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{page.rstrip()}\n\n{section}"
    rest = page[found.end() :]
    return page[: found.start()] + section + (f"\n{rest}" if rest else "")


def section_of(path: Path, heading: str) -> str:
    """What stands below a heading of the second level, empty when there is no such page."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found[1].strip() if found else ""
