"""The loop one would write: both models' full logits, KL by torch, AdamW. ``python kd_plain.py JOB.json``

``autocast`` keeps the weights in fp32 and computes in bf16, as most do; ``bf16`` keeps the weights and the optimizer's
state in bf16 as well, which is faster and loses the small updates. Both use the fused AdamW of torch. The KL needs no
labels, so the last token of a window counts too, and no logits are copied to cut it off.
"""

import torch
from kd_meter import Meter, job
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM


def main() -> None:
    told = job()
    torch.set_num_threads(told["threads"])
    narrow = told["contender"] == "plain-bf16"
    teacher = AutoModelForCausalLM.from_pretrained(told["teacher"], dtype=torch.bfloat16).eval()
    student = AutoModelForCausalLM.from_pretrained(told["student"], dtype=torch.bfloat16 if narrow else torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=told["learning_rate"], betas=(0.9, 0.95), fused=True)
    windows = load_file(told["windows"])["read"]

    def learn(ids: torch.Tensor) -> float:  # a function, so that no logits outlive their step
        with torch.no_grad():
            taught = teacher(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=not narrow):
            logits = student(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        targets = functional.log_softmax(taught.float(), -1)
        found = functional.log_softmax(logits.float(), -1)
        loss = functional.kl_div(found, targets, log_target=True, reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    meter = Meter()
    for step in range(told["steps"]):
        meter.begin()
        meter.end(learn(windows[step * told["batch"] : (step + 1) * told["batch"]]))
    meter.save(told["result"])


if __name__ == "__main__":
    main()
