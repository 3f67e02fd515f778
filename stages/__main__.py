"""The child process: ``python -m stages SPEC.json`` does one job and tells its parent through ``events.jsonl``."""

import ctypes
import signal
import sys
import traceback
import warnings
from pathlib import Path

from attar.errors import AttarError, BadInput
from attar.events import Events
from stages import parse
from stages.spec import ImportSpec, MeasureSpec, Spec, StageSpec, read_spec

PR_SET_PDEATHSIG = 1


def main(path: Path) -> int:
    """Do the job in ``path``; the exit code is that of the error, 0 when all went well."""
    _die_with_parent()
    spec = read_spec(path)
    events = Events(Path(spec.events))
    try:
        events.done(_do(spec, events))
        return 0
    except AttarError as error:
        events.error(str(error), error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        events.error("cancelled", 130)
        return 130
    except MemoryError:
        events.error("the process ran out of memory; try a smaller batch, fewer windows or a smaller model", 4)
        return 4
    except Exception as error:  # the last line of defence: a sentence for the reader, the traceback for the log
        traceback.print_exc()
        events.error(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}", 4)
        return 4


def _do(spec: Spec, events: Events) -> dict[str, str]:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(spec.machine.threads)
    if spec.machine.device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device={spec.machine.device!r} does not exist for this build of torch; use device=cpu")
    home = Path(spec.home)
    match spec:
        case StageSpec():
            parse(spec.settings).run(spec, events)
        case MeasureSpec():
            from stages.measure import run_measure

            run_measure(spec, events)
        case ImportSpec():
            from attar.importing import import_source
            from attar.sources import resolve
            from attar.store import Store

            import_source(resolve(spec.spec, home), Store(home / "store"), events)
    return {"fingerprint": spec.fingerprint}


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(Path(sys.argv[1])))
