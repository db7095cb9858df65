"""The families: transformers 5 configurations with random weights, traced in seconds.

A family is told apart by the shape of its blocks, not by its name: encoders with and without a
position bias, encoder-decoders, decoders with and without grouped queries, with and without a
key/value cache, and a vision encoder. Biases and norms get random values, because zeros and ones
would hide a misplaced one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers as hf
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()

Kind = Literal["encoder", "decoder", "cached decoder", "encoder-decoder", "vision"]
Attention = Literal["sdpa", "eager"]
Feeds = dict[str, torch.Tensor]

VOCABULARY = 1024


@dataclass(frozen=True)
class Width:
    """Sizes of a family's layers.

    Attributes:
        hidden: model width.
        heads: query heads.
        kv_heads: key/value heads of families with grouped queries.
        inner: width of the feed-forward block.
        layers: number of layers (half of them in each stack of an encoder-decoder).
    """

    hidden: int
    heads: int
    kv_heads: int
    inner: int
    layers: int

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


SMALL = Width(hidden=64, heads=4, kv_heads=2, inner=96, layers=2)
"""For equivalence: every dim differs from every other, so a swapped axis shows."""

DECODER = Width(hidden=512, heads=8, kv_heads=2, inner=1408, layers=4)
ENCODER = Width(hidden=768, heads=12, kv_heads=12, inner=3072, layers=4)
SEQ2SEQ = Width(hidden=512, heads=8, kv_heads=8, inner=2048, layers=4)


@dataclass(frozen=True)
class Family:
    """One architecture and how it is called.

    Attributes:
        name: as in the coverage table.
        kind: what its inputs are.
        build: a transformers model of the given width.
        width: sizes of the latency benchmark.
        rotary: RotaryEmbedding nodes a layer.
        grouped: whether queries share key/value heads.
    """

    name: str
    kind: Kind
    build: Callable[[Width], Any]
    width: Width
    rotary: int = 0
    grouped: bool = False

    def blocks(self, width: Width) -> int:
        """Attention blocks: an encoder-decoder of n layers has n / 2 encoder and n decoder ones."""
        return width.layers * 3 // 2 if self.kind == "encoder-decoder" else width.layers


@dataclass(frozen=True)
class Traceable:
    """A model in the form exporters take: tensors in, tensors out.

    Attributes:
        module: positional tensors in, a tuple of tensors out.
        outputs: names of its outputs.
        cache: [layers, kv heads, head size] of a cached decoder.
    """

    family: Family
    module: Any
    outputs: tuple[str, ...]
    cache: tuple[int, int, int] | None = None

    def feeds(
        self, batch: int, sequence: int, *, past: int = 0, target: int = 0, full_row: bool = False
    ) -> Feeds:
        """Random inputs; rows after the first have padding, the last none at all when asked."""
        generator = torch.Generator().manual_seed(batch * 100 + sequence)
        if self.family.kind == "vision":
            size = self.module.model.config.image_size
            return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}

        def ids(length: int) -> torch.Tensor:
            return torch.randint(5, VOCABULARY, (batch, length), generator=generator)

        past = past if self.cache is not None else 0
        feeds = {
            "input_ids": ids(sequence),
            "attention_mask": self._padding(batch, past + sequence, full_row),
        }
        if self.family.kind == "encoder-decoder":
            feeds["decoder_input_ids"] = ids(target or sequence)
        if self.cache is not None:
            layers, heads, size = self.cache
            for layer in range(layers):
                for part in ("key", "value"):
                    shape = (batch, heads, past, size)
                    feeds[f"past_{part}_{layer}"] = torch.randn(shape, generator=generator)
        return feeds

    def _padding(self, batch: int, length: int, full_row: bool) -> torch.Tensor:
        mask = torch.ones(batch, length, dtype=torch.long)
        for row in range(1, batch):
            hidden = min(length - 1, 1 + row)
            if self.cache is not None:
                mask[row, :hidden] = 0
            else:
                mask[row, length - hidden :] = 0
        if full_row:
            mask[-1] = 0
        return mask


def make(family: Family, attention: Attention, width: Width = SMALL) -> Traceable:
    """Build a family with seeded random weights.

    Raises:
        ValueError: when transformers has no such attention for it.
    """
    torch.manual_seed(0)
    model = family.build(width)
    model.set_attn_implementation(attention)
    if model.config._attn_implementation != attention:  # noqa: SLF001 (there is no public name)
        raise ValueError(f"{type(model).__name__} of transformers has no {attention} attention")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.eval()
    wrapper = _WRAPPERS[family.kind](model).eval()
    if family.kind != "cached decoder":
        return Traceable(family, wrapper, ("logits" if "decoder" in family.kind else "hidden",))
    kv_heads = width.kv_heads if family.grouped else width.heads
    names = [f"present_{part}_{i}" for i in range(width.layers) for part in ("key", "value")]
    cache = (width.layers, kv_heads, width.head_size)
    return Traceable(family, wrapper, ("logits", *names), cache)


class _Encoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _Vision(_Encoder):
    def forward(self, pixel_values: torch.Tensor) -> Any:  # type: ignore[override]
        return self.model(pixel_values=pixel_values).last_hidden_state


class _Decoder(_Encoder):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits


class _EncoderDecoder(_Encoder):
    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
    ) -> Any:
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class _CachedDecoder(_Encoder):
    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *past: torch.Tensor
    ) -> Any:
        cache = hf.DynamicCache(config=self.model.config)
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        answer = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        present = [t for layer in answer.past_key_values.layers for t in (layer.keys, layer.values)]
        return (answer.logits, *present)


_WRAPPERS: Mapping[Kind, type[_Encoder]] = {
    "encoder": _Encoder,
    "vision": _Vision,
    "decoder": _Decoder,
    "encoder-decoder": _EncoderDecoder,
    "cached decoder": _CachedDecoder,
}


def _bert_like(width: Width) -> dict[str, Any]:
    return {
        "num_hidden_layers": width.layers,
        "hidden_size": width.hidden,
        "num_attention_heads": width.heads,
        "intermediate_size": width.inner,
        "vocab_size": VOCABULARY,
    }


def _grouped(width: Width) -> dict[str, Any]:
    return {
        **_bert_like(width),
        "num_key_value_heads": width.kv_heads,
        "max_position_embeddings": 2048,
    }


def _distilbert(w: Width) -> Any:
    config = hf.DistilBertConfig(
        n_layers=w.layers, dim=w.hidden, n_heads=w.heads, hidden_dim=w.inner, vocab_size=VOCABULARY
    )
    return hf.DistilBertModel(config)


def _deberta(w: Width) -> Any:
    config = hf.DebertaV2Config(
        **_bert_like(w),
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    )
    return hf.DebertaV2Model(config)


def _modernbert(w: Width) -> Any:
    config = hf.ModernBertConfig(
        **_bert_like(w),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        global_attn_every_n_layers=2,
        local_attention=8,
    )
    return hf.ModernBertModel(config)


def _t5(w: Width) -> Any:
    config = hf.T5Config(
        num_layers=w.layers,
        d_model=w.hidden,
        d_kv=w.head_size,
        num_heads=w.heads,
        d_ff=w.inner,
        vocab_size=VOCABULARY,
    )
    return hf.T5EncoderModel(config)


def _bart(w: Width) -> Any:
    config = hf.BartConfig(
        encoder_layers=w.layers // 2,
        decoder_layers=w.layers // 2,
        d_model=w.hidden,
        encoder_attention_heads=w.heads,
        decoder_attention_heads=w.heads,
        encoder_ffn_dim=w.inner,
        decoder_ffn_dim=w.inner,
        vocab_size=VOCABULARY,
    )
    return hf.BartForConditionalGeneration(config)


def _gpt2(w: Width) -> Any:
    config = hf.GPT2Config(
        n_layer=w.layers, n_embd=w.hidden, n_head=w.heads, n_inner=w.inner, vocab_size=VOCABULARY
    )
    return hf.GPT2LMHeadModel(config)


def _qwen3(w: Width) -> Any:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_grouped(w), head_dim=w.head_size))


def _bert(config: Any, model: Any, **extra: Any) -> Callable[[Width], Any]:
    return lambda width: model(config(**_bert_like(width), **extra))


def _vit(w: Width) -> Any:
    image, patch = (32, 8) if w is SMALL else (224, 16)
    sizes = {key: value for key, value in _bert_like(w).items() if key != "vocab_size"}
    return hf.ViTModel(hf.ViTConfig(**sizes, image_size=image, patch_size=patch))


def _llama(w: Width) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_grouped(w)))


def _qwen2(w: Width) -> Any:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**_grouped(w)))


FAMILIES: tuple[Family, ...] = (
    Family("bert", "encoder", _bert(hf.BertConfig, hf.BertModel), ENCODER),
    Family(
        "roberta",
        "encoder",
        _bert(hf.RobertaConfig, hf.RobertaModel, max_position_embeddings=514),
        ENCODER,
    ),
    Family("distilbert", "encoder", _distilbert, ENCODER),
    Family("albert", "encoder", _bert(hf.AlbertConfig, hf.AlbertModel, embedding_size=48), ENCODER),
    Family(
        "mpnet",
        "encoder",
        _bert(hf.MPNetConfig, hf.MPNetModel, max_position_embeddings=514),
        ENCODER,
    ),
    Family("deberta-v2", "encoder", _deberta, ENCODER),
    Family("modernbert", "encoder", _modernbert, ENCODER, rotary=2),
    Family("vit", "vision", _vit, ENCODER),
    Family("t5-encoder", "encoder", _t5, SEQ2SEQ),
    Family("bart", "encoder-decoder", _bart, SEQ2SEQ),
    Family("gpt2", "decoder", _gpt2, ENCODER),
    Family("gpt2-cached", "cached decoder", _gpt2, ENCODER),
    Family("llama", "decoder", _llama, DECODER, rotary=2, grouped=True),
    Family("llama-cached", "cached decoder", _llama, DECODER, rotary=2, grouped=True),
    Family("qwen2", "decoder", _qwen2, DECODER, rotary=2, grouped=True),
    Family("qwen3", "decoder", _qwen3, DECODER, rotary=2, grouped=True),
    Family("qwen3-cached", "cached decoder", _qwen3, DECODER, rotary=2, grouped=True),
)
"""Every row of the coverage table."""
