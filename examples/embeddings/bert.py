"""One rank's share of a BERT encoder, in plain torch.

The cut is Megatron's.  Of every layer a rank holds some attention heads (columns of the query, key and
value projections, rows of the output projection) and some feed-forward columns (rows of the second
matrix), so that each half layer needs one all-reduce and nothing else.  Embeddings and layer norms are
whole on every rank: the weights file is mapped, so ranks of one node share those pages.  Biases of the
row-cut matrices are added after the sum, once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from .text import ModelConfig

AllReduce = Callable[[Tensor], None]  # sums its argument over the ranks, in place


class Weights:
    """The tensors of model.safetensors, cut as one rank of `world` needs them."""

    def __init__(self, model_dir: Path, rank: int, world: int) -> None:
        self._file: Any = safe_open(str(model_dir / "model.safetensors"), framework="pt")
        self._rank = rank
        self._world = world
        self.parameters = 0

    def _count(self, tensor: Tensor) -> Tensor:
        self.parameters += tensor.numel()
        return tensor

    def _share(self, size: int) -> slice:
        part = size // self._world
        return slice(self._rank * part, (self._rank + 1) * part)

    def whole(self, name: str) -> Tensor:
        """The tensor as it is."""
        return self._count(self._file.get_tensor(name))

    def rows(self, name: str) -> Tensor:
        """This rank's outputs: of a matrix (out, in) its rows, of a bias its elements."""
        cut = self._file.get_slice(name)
        return self._count(cut[self._share(cut.get_shape()[0])])

    def columns(self, name: str) -> Tensor:
        """This rank's inputs of a matrix (out, in)."""
        cut = self._file.get_slice(name)
        return self._count(cut[:, self._share(cut.get_shape()[1])].contiguous())


class Layer:
    """This rank's share of one encoder layer."""

    def __init__(self, weights: Weights, index: int, config: ModelConfig, world: int) -> None:
        name = f"encoder.layer.{index}"
        attention, output = f"{name}.attention.self", f"{name}.attention.output"
        parts = [f"{attention}.{part}" for part in ("query", "key", "value")]
        self._qkv = torch.cat([weights.rows(f"{part}.weight") for part in parts])
        self._qkv_bias = torch.cat([weights.rows(f"{part}.bias") for part in parts])
        self._out = weights.columns(f"{output}.dense.weight")
        self._out_bias = weights.whole(f"{output}.dense.bias")
        self._norm1 = self._norm(weights, f"{output}.LayerNorm")
        self._up = weights.rows(f"{name}.intermediate.dense.weight")
        self._up_bias = weights.rows(f"{name}.intermediate.dense.bias")
        self._down = weights.columns(f"{name}.output.dense.weight")
        self._down_bias = weights.whole(f"{name}.output.dense.bias")
        self._norm2 = self._norm(weights, f"{name}.output.LayerNorm")
        self._heads = config.heads // world
        self._head_size = config.hidden_size // config.heads
        self._eps = config.layer_norm_eps

    @staticmethod
    def _norm(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
        return weights.whole(f"{name}.weight"), weights.whole(f"{name}.bias")

    def forward(self, x: Tensor, mask: Tensor, all_reduce: AllReduce) -> Tensor:
        """(texts, tokens, hidden) to the same shape; `mask` is true where a token may be looked at."""
        texts, tokens, hidden = x.shape
        qkv = F.linear(x, self._qkv, self._qkv_bias)
        q, k, v = qkv.view(texts, tokens, 3, self._heads, self._head_size).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        partial = F.linear(heads.transpose(1, 2).reshape(texts, tokens, -1), self._out)
        all_reduce(partial)
        x = F.layer_norm(x + partial + self._out_bias, (hidden,), *self._norm1, eps=self._eps)
        partial = F.linear(F.gelu(F.linear(x, self._up, self._up_bias)), self._down)
        all_reduce(partial)
        return F.layer_norm(x + partial + self._down_bias, (hidden,), *self._norm2, eps=self._eps)


class ShardedBert:
    """A sentence encoder: BERT, the mean over a text's tokens, unit length.  Load it part by part."""

    def __init__(self, model_dir: Path, rank: int, world: int) -> None:
        self.config = ModelConfig.read(model_dir)
        self.config.check_shards(world)
        self._weights = Weights(model_dir, rank, world)
        self._world = world
        self._layers: list[Layer] = []
        self._embeddings: list[Tensor] = []

    @property
    def parameters(self) -> int:
        """How many numbers of the model this rank has loaded."""
        return self._weights.parameters

    def load_embeddings(self) -> None:
        """Read the embedding tables and their norm."""
        names = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
        names = [f"{name}.weight" for name in names] + ["LayerNorm.weight", "LayerNorm.bias"]
        self._embeddings = [self._weights.whole(f"embeddings.{name}") for name in names]

    def load_layer(self) -> None:
        """Read this rank's share of the next layer."""
        self._layers.append(Layer(self._weights, len(self._layers), self.config, self._world))

    @torch.inference_mode()
    def embed(self, ids: Tensor, lengths: Tensor, all_reduce: AllReduce) -> Tensor:
        """Unit vectors (texts, hidden) of padded ids (texts, tokens); `lengths` counts each row's own."""
        if len(self._layers) != self.config.layers or not self._embeddings:
            raise RuntimeError("the weights are not loaded")
        words, positions, kinds, norm, norm_bias = self._embeddings
        tokens = ids.shape[1]
        kept = torch.arange(tokens) < lengths[:, None]
        x = F.embedding(ids, words) + positions[:tokens] + kinds[0]
        x = F.layer_norm(x, x.shape[-1:], norm, norm_bias, eps=self.config.layer_norm_eps)
        mask = kept[:, None, None, :]
        for layer in self._layers:
            x = layer.forward(x, mask, all_reduce)
        mean = (x * kept[:, :, None]).sum(1) / lengths[:, None]
        return F.normalize(mean, dim=1)
