"""A vLLM engine of two ranks through its Ray executor, on a tiny model with random weights.

    python vllm_engine.py FOLDER [--ready] [--kill] [--pipeline]

Prints JSON: the tokens, those of Hugging Face, seconds to a ready engine, and with ``--kill`` how long
the engine took to notice that a worker was killed, and how.  With ``--ready`` it ends when the engine is
ready.  FOLDER keeps the model.  The ranks are tensor parallel, with ``--pipeline`` stages of a pipeline.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

PROMPTS = [[1, 5, 9, 33], [1, 100, 101, 102, 103]]
TOKENS = 12


def model(folder: str) -> str:
    """The folder of the model, made at the first call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = os.path.join(folder, "tiny-llama")
    if not os.path.exists(os.path.join(path, "config.json")):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(path)
    return path


def reference(path: str) -> list[list[int]]:
    """Hugging Face's greedy tokens."""
    import torch
    from transformers import LlamaForCausalLM

    made = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None}
    rows = [(made.generate(torch.tensor([p]), pad_token_id=0, **options)[0], len(p)) for p in PROMPTS]
    return [row[length:].tolist() for row, length in rows]


def pid_of_worker(worker: Any) -> int:
    """Runs in each rank."""
    return os.getpid()


def shared_memory_of_worker(worker: Any = None) -> list[str]:
    """Runs in each rank, and here: vLLM's blocks of shared memory that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as file:
        lines = file.read().splitlines()
    names = {line.rsplit("/", 1)[1].split()[0] for line in lines if "/dev/shm/" in line}
    return sorted(name for name in names if name.startswith("psm_") or "-cpushm_" in name)


def noticed_kill(llm: Any, generate: Any) -> dict[str, Any]:
    """Kill one rank and generate on: how the engine answers, and after how many seconds."""
    victim = llm.collective_rpc(pid_of_worker)[1]
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while time.monotonic() - started < 60:
        try:
            generate()
        except Exception as error:
            return {"error": type(error).__name__, "seconds": time.monotonic() - started}
    return {"error": None, "seconds": time.monotonic() - started}


def executor_of(llm: Any) -> str | None:
    """The kind of executor of an engine in this process."""
    core = getattr(llm.llm_engine.engine_core, "engine_core", None)
    return None if core is None else type(core.model_executor).__name__


def main() -> None:
    """Entry of the program."""
    path = model(sys.argv[1])
    only_ready = "--ready" in sys.argv
    wanted = [] if only_ready else reference(path)
    import ray
    from vllm import LLM, SamplingParams

    started = time.monotonic()
    ray.init(num_cpus=4, num_gpus=4, log_to_driver=False)
    # An engine in a process of its own joins the cluster as a second driver.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    parallel: dict[str, Any] = {"tensor_parallel_size": 2, "enforce_eager": True}
    if "--pipeline" in sys.argv:  # which vLLM's CPU runner cannot do eagerly, with any executor
        parallel = {"pipeline_parallel_size": 2, "compilation_config": {"mode": 2, "backend": "eager"}}
    llm = LLM(
        model=path, skip_tokenizer_init=True, distributed_executor_backend="ray", dtype="float32",
        max_model_len=128, **parallel,
    )  # fmt: skip
    ready = time.monotonic() - started
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)

    def generate() -> list[list[int]]:
        prompts: Any = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
        return [list(out.outputs[0].token_ids) for out in llm.generate(prompts, sampling, use_tqdm=False)]

    mapped = [shared_memory_of_worker(), *llm.collective_rpc(shared_memory_of_worker)]
    seen: dict[str, Any] = {
        "engine": ray.__file__,
        "executor": executor_of(llm),
        "tokens": [] if only_ready else generate(),
        "wanted": wanted,
        "ready_s": round(ready, 2),
        "shared_memory": sorted({name for names in mapped for name in names}),
    }
    if "--kill" in sys.argv:
        seen["kill"] = noticed_kill(llm, generate)
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
