"""The child process: ``python -m stages SPEC.json`` does one job and tells its parent through ``events.jsonl``."""

import faulthandler
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from attar import machine, shortage
from attar.errors import AttarError, BadInput, first_line
from attar.events import Events
from stages import parse
from stages.spec import ImportSpec, MeasureSpec, Spec, StageSpec, read_spec

PARENT = "ATTAR_PARENT"  # the process that started this one
SAVING_SECONDS = 10  # less than the parent's patience

stop = Event()
saves = Event()  # the job looks at ``stop`` and saves what it has


def main(path: Path) -> int:
    """Do the job in ``path``; the exit code is that of the error, 0 when all went well."""
    if PARENT in os.environ:
        machine.die_with_parent(int(os.environ[PARENT]))
    faulthandler.enable()  # where a native crash was, for the log
    spec = read_spec(path)
    events = Events(Path(spec.events))
    try:
        events.done(_do(spec, events))
        return 0
    except AttarError as error:
        return _failed(events, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(events, "cancelled", 130)
    except Exception as error:  # the last line of defence: a sentence for the reader, the traceback for the log
        short = shortage.sentence(error, spec.sizes)
        if short is None:
            traceback.print_exc()
        return _failed(events, short or f"{type(error).__name__}: {first_line(error)}", 4)


def _failed(events: Events, text: str, code: int) -> int:
    try:
        events.error(text, code)
    except OSError:  # the disk is full, which the parent sees as well
        sys.stderr.write(f"{text}\n")
    return code


def _do(spec: Spec, events: Events) -> dict[str, Any]:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(spec.machine.threads)
    if spec.machine.device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device={spec.machine.device!r} does not exist for this build of torch; use device=cpu")
    home = Path(spec.home)
    match spec:
        case StageSpec():
            stage = parse(spec.settings)
            if stage.trains:
                saves.set()
            made = stage.run(spec, events, cancelled=stop.is_set)
            return {"fingerprint": spec.fingerprint, "new": made.new}
        case MeasureSpec():
            from stages.measure import run_measure

            run_measure(spec, events)
        case ImportSpec():
            from attar.importing import import_source
            from attar.sources import resolve
            from attar.store import Store

            import_source(resolve(spec.spec, home), Store(home / "store"), events, spec.who)
    return {"fingerprint": spec.fingerprint}


def _asked_to_stop(number: int, frame: FrameType | None) -> None:
    """Let a training save its step first, for some seconds; everything else is interrupted at once."""
    if stop.is_set() or not saves.is_set():
        raise KeyboardInterrupt
    stop.set()
    signal.alarm(SAVING_SECONDS)


if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, _asked_to_stop)
    signal.signal(signal.SIGALRM, _asked_to_stop)
    sys.exit(main(Path(sys.argv[1])))
