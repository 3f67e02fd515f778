"""Says in a sentence that memory or disk ran out, whichever library noticed it, and what to try."""

import errno
import re
from collections.abc import Iterator, Mapping
from typing import Any

SHRINKING = ("batch", "length", "windows", "batch_sizes")  # settings whose smaller values need less memory
DISK = ("no space left on device", "os error 28", "disk quota exceeded")
MEMORY = ("can't allocate memory", "cannot allocate memory", "std::bad_alloc", "out of memory", "failed to allocate")


def sentence(error: BaseException, sizes: Mapping[str, Any]) -> str | None:
    """What ran out and what to try; None for an error of another kind."""
    for cause in _causes(error):
        text = str(cause).lower()
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(words in text for words in DISK):
            where = f" ({cause.filename})" if isinstance(cause, OSError) and cause.filename else ""
            return f"the disk is full{where}; make room and run the same command again: what is finished is kept"
        kind = isinstance(cause, RuntimeError | OSError) or type(cause).__name__ == "SafetensorError"
        said = kind and any(words in text for words in MEMORY)
        if said or isinstance(cause, MemoryError) or number == errno.ENOMEM:
            where = "the GPU" if "cuda" in text else "the process"
            asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(cause), re.IGNORECASE)
            size = f" when it asked for {asked[1]}" if asked else ""
            return f"{where} ran out of memory{size}; {advice(sizes)}"
    return None


def advice(sizes: Mapping[str, Any]) -> str:
    """What to try against want of memory, by what the job's need depends on."""
    lower = [f"{name} (now {sizes[name]})" for name in SHRINKING if isinstance(sizes.get(name), int)]
    close = "close other programs that hold memory"
    return f"lower {' or '.join(lower)}, or {close}" if lower else f"{close}, or take a smaller model"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
