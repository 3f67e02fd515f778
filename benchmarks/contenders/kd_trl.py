"""TRL's GKD trainer on given text: no sampling (lmbda=0), forward KL (beta=0). ``python kd_trl.py JOB.json``

Set to its best on a CPU: bf16 autocast over fp32 weights, fused AdamW, no gradient checkpointing, no padding; in
``trl-bf16`` the weights and the optimizer's state are bf16 as well, as in ``plain-bf16``.
"""

import tempfile
from typing import Any

import torch
from datasets import Dataset
from kd_meter import Meter, job
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Whole windows: every token but the first is a target."""
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


class Timed(GKDTrainer):
    """Tells the meter each step's loss."""

    last = 0.0

    def compute_loss(self, *arguments: Any, **more: Any) -> Any:
        found = super().compute_loss(*arguments, **more)
        self.last = float(found[0] if isinstance(found, tuple) else found)
        return found


class Steps(TrainerCallback):
    """Begins and ends the meter's steps."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.trainer: Timed | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.meter.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        self.meter.end(self.trainer.last)


def main() -> None:
    told = job()
    torch.set_num_threads(told["threads"])
    tokenizer = AutoTokenizer.from_pretrained(told["student"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    windows = load_file(told["windows"])["read"]
    narrow = told["contender"].endswith("-bf16")
    meter = Meter()
    steps = Steps(meter)
    with tempfile.TemporaryDirectory() as scratch:
        settings = GKDConfig(
            output_dir=scratch,
            max_steps=told["steps"],
            per_device_train_batch_size=told["batch"],
            learning_rate=told["learning_rate"],
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            lmbda=0.0,
            beta=0.0,
            seq_kd=False,
            max_length=windows.shape[1],
            bf16=True,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(
                told["student"], dtype=torch.bfloat16 if narrow else torch.float32
            ),
            teacher_model=AutoModelForCausalLM.from_pretrained(told["teacher"], dtype=torch.bfloat16),
            args=settings,
            data_collator=collate,
            train_dataset=Dataset.from_dict({"input_ids": windows.tolist()}),
            processing_class=tokenizer,
            callbacks=[steps],
        )
        steps.trainer = trainer
        trainer.train()
    meter.save(told["result"])


if __name__ == "__main__":
    main()
