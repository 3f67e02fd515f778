"""What became of a child process: its result, or its failure as a sentence that says what to try."""

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar import machine
from attar.errors import BY_EXIT_CODE, StageFailed
from attar.events import Event
from attar.shortage import advice

CRASHES = {
    "SIGSEGV": "touched memory that is not its own",
    "SIGABRT": "a library gave up",
    "SIGBUS": "memory behind a mapped file was gone, as when the disk is full",
    "SIGILL": "an instruction this processor does not know",
    "SIGFPE": "an arithmetic fault",
}
FULL = 1 << 20  # free bytes under which a process may have had no room for its last words
FRAME = re.compile(r'^ *File "(.+)", line (\d+) in (\S+)', re.MULTILINE)
AGAIN = "what is finished is kept, and the same command goes on from there"


def outcome(
    code: int, last: Event, title: str, log: Path, sizes: Mapping[str, Any], memory: str = ""
) -> dict[str, Any]:
    """The result of a child's ``done`` event.

    Args:
        code: its exit code, negative for a signal.
        last: its last event.
        title: how the job is called in error messages, e.g. ``3 quantize.gptq``.
        log: everything it printed.
        sizes: settings that its need of memory may depend on.
        memory: evidence that memory ran out while it ran, half a sentence.

    Raises:
        AttarError: of the class that belongs to the exit code, with the child's own sentence or one about its end.
    """
    if code == 0 and last.get("kind") == "done":
        return dict(last["result"])
    if last.get("kind") == "error" and code in BY_EXIT_CODE:
        raise BY_EXIT_CODE[code](_titled(last["text"], title))
    if code < 0:
        raise StageFailed(_ended(signal.Signals(-code).name, title, log, sizes, memory))
    if machine.free_disk(log.parent) < FULL:
        raise StageFailed(f"{title} broke, and the disk of {log.parent} is full; make room: {AGAIN}")
    raise StageFailed(f"{title} broke with exit code {code}: {_last_line(log)} (all of it: {log})")


def silence(seconds: float, title: str, log: Path) -> StageFailed:
    """The failure of a child that was ended because it said nothing for so long."""
    span = f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    return StageFailed(
        f"{title} made no progress for {span} and was ended; {AGAIN}. Raise progress_timeout if this machine needs "
        f"longer between two signs of life (0 waits for ever), or see what it last said in {log}"
    )


def _ended(name: str, title: str, log: Path, sizes: Mapping[str, Any], memory: str) -> str:
    said = log.read_text(errors="replace")
    if name == "SIGABRT" and "bad_alloc" in said:  # C++ gives up when memory ends inside a thread of a library
        memory = memory or "a library got no more"
    if memory and name in ("SIGKILL", "SIGABRT"):
        return f"{title} ran out of memory and was killed ({memory}); {advice(sizes)}; {AGAIN}"
    if name in CRASHES:
        return (
            f"{title} crashed in native code ({name}: {CRASHES[name]}){_library(said)}; run the same command again: "
            f"{AGAIN}. If it crashes there again, try dtype=float32, another device or another version of that library "
            f"(all it said: {log})"
        )
    ended = "killed" if name == "SIGKILL" else "ended"
    return f"{title} was {ended} from outside by {name}, not by Attar; run the same command again: {AGAIN}"


def _library(text: str) -> str:
    """Where Python's last words put a crash: the library and function of the innermost frame."""
    begin = text.rfind("Fatal Python error")
    frame = FRAME.search(text, begin) if begin >= 0 else None
    if frame is None:
        return ""
    path, line, function = frame.groups()
    library = path.rpartition("site-packages/")[2].split("/")[0] if "site-packages/" in path else Path(path).name
    return f" under {library} ({function}, {Path(path).name} line {line})"


def _titled(text: str, title: str) -> str:
    """The child's sentence, with the name of the stage in front unless it says it itself."""
    return text if title.split()[-1] in text else f"{title}: {text}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
