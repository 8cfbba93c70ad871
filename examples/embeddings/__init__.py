"""The parts of serve_embeddings.py: text, bert, rank, gang, batcher, server, reference.

Only `bert`, `rank` and `reference` need torch, so the launcher's own process never loads it.
"""
