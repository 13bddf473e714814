"""Check which libraries compute SAM's two gradients correctly and restore the complete state.

    python benchmarks/conformance.py [--libraries …] [--cases …] [--jobs 2] [--timeout 120] [--out benchmarks/results]

Runs every case on every installed library, each in a new process with a time limit, and writes conformance.json and
conformance.md. Exits with status 1 if sharpless does not pass.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from conformance import CASES, LIBRARIES, record_of  # the folder beside this file

PROCESSES = multiprocessing.get_context("forkserver")
SYMBOLS = {"passes": "✓", "unsupported": "–", "raises": "raises", "time-out": "time-out"}


def main():
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    missing = [name for name in options.libraries if LIBRARIES[name].version() is None]
    libraries = [name for name in options.libraries if name not in missing]
    results = run_all(options.cases, libraries, options.jobs, options.timeout)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/conformance.py", *sys.argv[1:]]),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processor": processor()},
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            **{name: LIBRARIES[name].version() for name in libraries},
        },
        "missing": missing,
        "usage": {name: LIBRARIES[name].about for name in libraries},
        "score": {name: sum(results[case][name]["outcome"] == "passes" for case in results) for name in libraries},
        "cases": {case: {"checks": CASES[case].__doc__, "results": results[case]} for case in results},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "conformance.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "conformance.md").write_text(markdown(report))
    print(", ".join(f"{name} {score}/{len(results)}" for name, score in report["score"].items()))
    return int(report["score"].get("sharpless", len(results)) < len(results))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel processes")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one case")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def run_all(cases, libraries, jobs, timeout):
    """Return case → library → record, in the order of the table."""
    results = {case: dict.fromkeys(libraries) for case in cases}
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run_one, case, name, timeout): (case, name) for case in cases for name in libraries}
        for count, future in enumerate(as_completed(running), 1):
            case, name = running[future]
            record = results[case][name] = future.result()
            print(f"[{count}/{len(running)}] {name}: {case}: {cell(record)} {record['detail']}", flush=True)
    return results


def run_one(case, library, timeout):
    """Run one case in a new process group, so that a time-out ends its ranks too."""
    results, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=send_record, args=(send, case, library))
    process.start()
    send.close()
    try:
        if results.poll(timeout):
            record = results.recv()
        else:
            os.killpg(process.pid, signal.SIGKILL)
            record = {"outcome": "time-out", "detail": f"after {timeout:g} s", "by": None}
        process.join()
    except EOFError:
        process.join()
        record = {"outcome": "raises", "detail": f"the process ended with status {process.exitcode}", "by": None}
    return record


def send_record(connection, case, library):
    os.setpgrp()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    connection.send(record_of(CASES[case], LIBRARIES[library]()))


def markdown(report):
    """The table, with a line for each failed case below."""
    names, cases = list(report["score"]), report["cases"]
    machine, versions = report["machine"], ", ".join(f"{name} {of}" for name, of in report["versions"].items())
    lines = [
        "# Conformance",
        "",
        "Every library against the same reference, which computes SAM's two gradients as its paper writes them, each",
        "case in a fresh process. A library is used as it documents; what a loop around it can do is done by hand.",
        "✓ passes · **wrong** (by how much) · **raises** · – not offered.",
        "",
        f"{report['date']}, {machine['system']}, {machine['processor']}, {versions}.",
        f"`{report['command']}`",
        "",
        *[f"- **{name}**: {usage}" for name, usage in report["usage"].items()],
        *[f"- **{name}** is not installed: left out." for name in report["missing"]],
        "",
        "| case | " + " | ".join(f"{name} **{report['score'][name]}/{len(cases)}**" for name in names) + " | checks |",
        "|---" * (len(names) + 2) + "|",
    ]
    for case, of in cases.items():
        cells = [cell(of["results"][name]) for name in names]
        lines.append(f"| {case} | {' | '.join(cells)} | {of['checks']} |")
    lines += ["", "## What does not pass", ""]
    for name in names:
        for case, of in cases.items():
            record = of["results"][name]
            if record["outcome"] != "passes":
                lines.append(f"- {name}, {case}: {cell(record)}: {record['detail']}".replace("*", ""))
    return "\n".join(lines) + "\n"


def cell(record):
    if record["outcome"] == "wrong":
        return "**wrong**" + (f" ({record['by']:.0e})" if record["by"] is not None else "")
    return SYMBOLS[record["outcome"]]


def processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.exit(main())
