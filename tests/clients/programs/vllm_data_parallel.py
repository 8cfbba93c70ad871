"""Two vLLM engines as Ray actors (``data_parallel_backend="ray"``) behind one asynchronous front.

    python vllm_data_parallel.py FOLDER

Prints JSON: the tokens of each prompt, those of Hugging Face, the classes of the actors that live.  FOLDER
keeps the model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.clients.programs.vllm_engine import PROMPTS, TOKENS, model, reference


async def serve(path: str) -> tuple[list[list[int]], list[str]]:
    """Tokens of the prompts, each asked for twice and at once; the classes of the actors."""
    from ray.util.state import list_actors
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    front = AsyncLLM.from_engine_args(AsyncEngineArgs(
        model=path, skip_tokenizer_init=True, dtype="float32", max_model_len=128, enforce_eager=True,
        data_parallel_size=2, data_parallel_size_local=2, data_parallel_backend="ray",
        distributed_executor_backend="ray",
    ))  # fmt: skip

    async def answer(number: int, prompt: list[int]) -> list[int]:
        asked: Any = {"prompt_token_ids": prompt}
        seen = [out async for out in front.generate(asked, sampling, f"request-{number}")]
        return list(seen[-1].outputs[0].token_ids)

    try:
        answers = await asyncio.gather(*map(answer, range(2 * len(PROMPTS)), PROMPTS * 2))
        return answers, sorted(actor.class_name for actor in list_actors(filters=[("state", "=", "ALIVE")]))
    finally:
        front.shutdown()


def main() -> None:
    """Entry of the program."""
    path = model(sys.argv[1])
    wanted = reference(path)
    import ray

    ray.init(num_cpus=4, num_gpus=4, log_to_driver=False)
    tokens, actors = asyncio.run(serve(path))
    seen = {"engine": ray.__file__, "tokens": tokens, "wanted": wanted * 2, "actors": actors}
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
