"""PyTorch's side of `train_speed.py`: the same models in `torch.nn`, written for speed.

Attention by `scaled_dot_product_attention`, queries, keys and values in one product, Adam in its fused form, mixed precision by
autocast, `torch.compile` if asked for; batches padded to their own longest sentence, made by a thread that works ahead.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_work import Job, config_of, snug_batches

from transformer_jax.config import ModelConfig
from transformer_jax.data.batching import Batch
from transformer_jax.data.prefetch import prefetch


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, width = config.heads, config.width
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None, mask: Tensor) -> Tensor:
        rows, length, width = x.shape
        if memory is None:
            weight = torch.cat([self.query.weight, self.key_value.weight])
            query, key, value = self.split(F.linear(x, weight), 3)
        else:
            (query,), (key, value) = self.split(self.query(x), 1), self.split(self.key_value(memory), 2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(out.transpose(1, 2).reshape(rows, length, width))

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, T, parts D] -> [B, H, T, K] each"""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Layer(nn.Module):
    """Post-norm, of an encoder or a decoder."""

    def __init__(self, config: ModelConfig, cross: bool):
        super().__init__()
        width, hidden = config.width, config.feed_forward_width
        self.attention, self.attention_norm = Attention(config), nn.LayerNorm(width, 1e-6)
        self.cross = Attention(config) if cross else None
        self.cross_norm = nn.LayerNorm(width, 1e-6) if cross else None
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.feed_forward_norm = nn.LayerNorm(width, 1e-6)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None, cross_mask: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.drop(self.attention(x, None, mask)))
        if self.cross is not None:
            x = self.cross_norm(x + self.drop(self.cross(x, memory, cross_mask)))
        return self.feed_forward_norm(x + self.drop(self.feed_forward(x)))


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig, vocab_size: int, longest: int = 512):
        super().__init__()
        self.table = nn.Embedding(vocab_size, config.width)
        nn.init.normal_(self.table.weight, std=config.width**-0.5)
        self.encoder = nn.ModuleList(Layer(config, False) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(Layer(config, True) for _ in range(config.num_layers))
        self.drop, self.scale = nn.Dropout(config.dropout), config.width**0.5
        angle = torch.arange(longest)[:, None] / 10000 ** (torch.arange(0, config.width, 2) / config.width)
        self.register_buffer("positions", torch.stack([angle.sin(), angle.cos()], -1).flatten(1))

    def embed(self, ids: Tensor) -> Tensor:
        return self.drop(self.table(ids) * self.scale + self.positions[: ids.shape[1]])

    def forward(self, source: Tensor, source_real: Tensor, target: Tensor) -> Tensor:
        memory, mask = self.embed(source), source_real[:, None, None]
        for layer in self.encoder:
            memory = layer(memory, mask)
        x, length = self.embed(target), target.shape[1]
        # Padding comes last: no token attends to it.
        past = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for layer in self.decoder:
            x = layer(x, past, memory, mask)
        return F.linear(x, self.table.weight)


class LSTM(nn.Module):
    """`nn.LSTM`s, with attention of the kind "general" or without, the source read both ways or reversed."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__()
        width, self.both = config.width, config.direction == "both"
        self.table = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        of_encoder = {"hidden_size": width // 2, "bidirectional": True} if self.both else {"hidden_size": width}
        common = {"num_layers": config.num_layers, "batch_first": True, "dropout": config.dropout}
        self.encoder, self.decoder = nn.LSTM(width, **of_encoder, **common), nn.LSTM(width, width, **common)
        self.attends = config.attention != "none"
        if self.attends:
            self.key, self.combine = nn.Linear(width, width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.drop, self.scale = nn.Dropout(config.dropout), width**0.5

    def embed(self, ids: Tensor) -> Tensor:
        return self.drop(self.table(ids) * self.scale)

    def forward(self, source: Tensor, source_real: Tensor, target: Tensor) -> Tensor:
        lengths = source_real.sum(1)
        if not self.both:  # each sentence from its end, the padding last
            back = (lengths[:, None] - 1 - torch.arange(source.shape[1], device=source.device)) % source.shape[1]
            source = source.gather(1, back)
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(source), lengths.cpu(), batch_first=True, enforce_sorted=False)
        memory, states = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(memory, batch_first=True, total_length=source.shape[1])
        if self.both:  # [layers 2, B, D/2] -> [layers, B, D]
            states = tuple(x.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2).contiguous() for x in states)
        x, _ = self.decoder(self.embed(target), states)
        if self.attends:
            scores = (x @ self.key(memory).transpose(1, 2)).masked_fill(~source_real[:, None], -torch.inf)
            x = torch.tanh(self.combine(torch.cat([scores.softmax(-1) @ memory, x], -1)))
        return F.linear(self.drop(x), self.table.weight)


def from_ours(params: dict, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our Transformer's parameters (`model.norm` post) under the names and in the shapes of the one above."""
    state = dict(state) | {"table.weight": torch.tensor(params["target_embedding"]["table"])}

    def put(name: str, array: np.ndarray) -> None:
        """Of weights [in, out], or of a vector."""
        state[name] = torch.tensor(array.reshape(state[name].shape[::-1]).T)

    for stack, layer in ((name.split("_")[0], name) for name in params if name.startswith(("encoder_", "decoder_"))):
        ours, theirs = params[layer], f"{stack}.{layer.split('_')[1]}"
        qkv = ours["attention"]["query_key_value"]["kernel"]
        put(f"{theirs}.attention.query.weight", qkv[:, 0])
        put(f"{theirs}.attention.key_value.weight", qkv[:, 1:])
        put(f"{theirs}.attention.output.weight", ours["attention"]["output"]["kernel"])
        if stack == "decoder":
            put(f"{theirs}.cross.query.weight", ours["cross_attention"]["query"]["kernel"])
            put(f"{theirs}.cross.key_value.weight", ours["cross_attention"]["key_value"]["kernel"])
            put(f"{theirs}.cross.output.weight", ours["cross_attention"]["output"]["kernel"])
        for place, dense in (("0", "inner"), ("2", "outer")):
            put(f"{theirs}.feed_forward.{place}.weight", ours["feed_forward"][dense]["kernel"])
            put(f"{theirs}.feed_forward.{place}.bias", ours["feed_forward"][dense]["bias"])
        norms = {"attention": "attention", "cross": "cross_attention", "feed_forward": "feed_forward"}
        for norm, of in norms.items() if stack == "decoder" else list(norms.items())[::2]:
            put(f"{theirs}.{norm}_norm.weight", ours[f"{of}_residual"]["norm"]["scale"])
            put(f"{theirs}.{norm}_norm.bias", ours[f"{of}_residual"]["norm"]["bias"])
    return state


class Torch:
    """One training, a lap at a time."""

    def __init__(self, job: Job, compiled: bool):
        torch.set_num_threads(job.threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        config = config_of(job)
        family = Transformer if config.model.family == "transformer" else LSTM
        self._model = family(config.model, job.vocab_size).to(self._device)
        self._adam = torch.optim.Adam(self._model.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self._smoothing, self._mixed = config.train.label_smoothing, job.precision == "bfloat16"
        real_text = not job.data.startswith("random:")
        self._loss = torch.compile(self.loss, dynamic=real_text) if compiled else self.loss
        batches, self.steps = snug_batches(job, multiple=8 if self._device == "cuda" else 1)
        self._batches = prefetch(batches)

    def loss(self, source: Tensor, source_real: Tensor, target_input: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._mixed):
            logits = self._model(source, source_real, target_input)
            return F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=self._smoothing, ignore_index=-1)

    def first(self) -> float:
        """Some batches of several shapes: seconds, of which compilation is most where there is any."""
        started = time.perf_counter()
        self.lap(3)
        return time.perf_counter() - started

    def check(self, params: dict, batch: Batch) -> float:
        """The loss of a batch with our parameters and without dropout. Training then goes on from them."""
        with torch.no_grad():
            self._model.load_state_dict(from_ours(params, self._model.state_dict()))
            self._model.eval()
            loss = float(self.loss(*self.tensors(batch)))
        self._model.train()
        return loss

    def lap(self, steps: int) -> dict[str, float]:
        waited, tokens, losses = 0.0, 0, []
        started = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - asked
            loss = self._loss(*self.tensors(batch))
            loss.backward()
            self._adam.step()
            self._adam.zero_grad(set_to_none=True)
            real = int((batch.target_segment > 0).sum())
            tokens += real
            losses.append(loss.detach() * real)
        loss = float(sum(losses)) / tokens  # waits for the device
        return {"seconds": time.perf_counter() - started, "waited": waited, "tokens": tokens, "flops": 0.0, "loss": loss}

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        target = batch.target_output.copy()
        target[batch.target_segment == 0] = -1
        source, target_input, target = (x.astype("int64") for x in (batch.source, batch.target_input, target))
        arrays = source, batch.source_segment > 0, target_input, target
        return tuple(torch.from_numpy(x).to(self._device, non_blocking=True) for x in arrays)

    def memory(self) -> int:
        """The accelerator's peak memory in bytes; 0 on CPU, where that of the process counts."""
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else 0

    def peaks(self) -> dict[str, float]:
        """FLOP/s of a large product of two matrices in each precision."""
        size, found = 2048 if self._device == "cpu" else 8192, {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            a = torch.ones(size, size, dtype=dtype, device=self._device)
            seconds = []
            for _ in range(8):
                started = time.perf_counter()
                float((a @ a)[0, 0])
                seconds.append(time.perf_counter() - started)
            found[name] = 2 * size**3 / min(seconds)
        return found
