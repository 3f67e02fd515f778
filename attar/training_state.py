"""What a training needs to go on after a crash, as one file that is either the old one or the new one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from attar.optimizer import MasterAdamW

STATE_FILE = "training.safetensors"


def save_state(optimizer: MasterAdamW, alive: set[str], folder: Path) -> None:
    """Write everything the next steps depend on: masters, moments, steps, and which parameters ever got a gradient."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{STATE_FILE}.draft"
    metadata = {"steps": str(optimizer.steps), "alive": json.dumps(sorted(alive))}
    save_file({name: tensor.contiguous() for name, tensor in optimizer.state().items()}, draft, metadata)
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    draft.replace(folder / STATE_FILE)


def load_state(optimizer: MasterAdamW, alive: set[str], folder: Path, log: Callable[..., None]) -> None:
    """Go on from the last saved step, if there is one; a state that does not fit is said and left aside."""
    path = folder / STATE_FILE
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            expected = {name: list(tensor.shape) for name, tensor in optimizer.state().items()}
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
            if found != expected:
                log(f"the training state {path} is of another training and is not used", level="warning")
                return
            metadata = file.metadata()
            optimizer.load(file.get_tensor, int(metadata["steps"]))
            alive |= set(json.loads(metadata["alive"]))
    except SafetensorError as error:
        log(f"the training state {path} cannot be read and is not used: {error}", level="warning")
        return
    log(f"training goes on after step {optimizer.steps}")
