"""The unsharded model, the yardstick of `--check`: torch's own TransformerEncoder with the same weights.

It shares no arithmetic with `bert`: another attention, one text at a time, so no padding and no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .text import ModelConfig


def _layer_state(weights: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    name = f"encoder.layer.{index}"
    state: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        state[f"self_attn.in_proj_{kind}"] = torch.cat(
            [weights[f"{name}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        )
        state[f"self_attn.out_proj.{kind}"] = weights[f"{name}.attention.output.dense.{kind}"]
        state[f"linear1.{kind}"] = weights[f"{name}.intermediate.dense.{kind}"]
        state[f"linear2.{kind}"] = weights[f"{name}.output.dense.{kind}"]
        state[f"norm1.{kind}"] = weights[f"{name}.attention.output.LayerNorm.{kind}"]
        state[f"norm2.{kind}"] = weights[f"{name}.output.LayerNorm.{kind}"]
    return state


class UnshardedBert:
    """The whole encoder in one process."""

    def __init__(self, model_dir: Path) -> None:
        config = ModelConfig.read(model_dir)
        weights = load_file(str(model_dir / "model.safetensors"))
        self._tables = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in
                        ("word", "position", "token_type")}  # fmt: skip
        self._norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._norm.load_state_dict({k: weights[f"embeddings.LayerNorm.{k}"] for k in ("weight", "bias")})
        self._layers = nn.ModuleList()
        for index in range(config.layers):
            layer = nn.TransformerEncoderLayer(
                config.hidden_size, config.heads, config.feed_forward_size, dropout=0.0,
                activation="gelu", layer_norm_eps=config.layer_norm_eps, batch_first=True,
            )  # fmt: skip
            layer.load_state_dict(_layer_state(weights, index))
            self._layers.append(layer)
        self._layers.eval()
        self._norm.eval()

    def embed(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Unit vectors (texts, hidden) of token id lists."""
        vectors = []
        with torch.no_grad():
            for row in rows:
                x = self._tables["word"][list(row)] + self._tables["position"][: len(row)]
                x = self._norm(x + self._tables["token_type"][0])[None]
                for layer in self._layers:
                    x = layer(x)
                mean = x[0].mean(0)
                vectors.append((mean / mean.norm()).numpy())
        return np.stack(vectors)
