"""The attentive probe that evaluates video encoders (Bardes et al., V-JEPA, arXiv 2404.08471), frame by frame."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import glorot_normal_
from models.recurrent_layer import RecurrentLayer, diagonal_scan

MAX_HEADS = 16


class AttentiveProbe(RecurrentLayer):
    """A learned query attends to the frames so far, which carry their positions; then an MLP, each with a residual.

    x_t = LayerNorm(W x_t + p_t), y_t = q + sum_s a_ts V x_s with the weights a_t = softmax_{s <= t}(Q q . K x_s /
    sqrt(d)) of each head, and h_t = y_t + MLP(LayerNorm(y_t)). p_t are the sines and cosines of Vaswani et al. (arXiv
    1706.03762, section 3.5). Encoders that mix frames have positions of their own; features of single frames do not.

    The query is the same for all frames, so the attention goes on step by step with a constant state (an online
    softmax), and h_t is what the probe answers if the sequence ends at t. The probe of V-JEPA reads h_T only:
    ``--readout last --inputs frames --no-skip-connection``. V-JEPA 2 puts self-attention before it, which this lacks.

    There are 16 heads, or the largest power of 2 below that divides the hidden units. Weights are normal with a
    standard deviation of 0.02 as in the authors' code, so the attention starts uniform; W is Glorot normal.

    The state is the attended values, the logarithm of each head's sum of weights, and the number of frames:
    ``[B, hidden + heads + 1]``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        num_heads = math.gcd(hidden_size, MAX_HEADS)
        super().__init__(input_size, hidden_size, hidden_size + num_heads + 1)
        self.num_heads = num_heads
        self.embedding = nn.Linear(input_size, hidden_size)
        self.norm_frames, self.norm_attended = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.query = nn.Parameter(torch.empty(hidden_size))
        self.queries = nn.Linear(hidden_size, hidden_size)
        self.keys_and_values = nn.Linear(hidden_size, 2 * hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        nn.init.trunc_normal_(self.query, std=0.02)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        glorot_normal_(self.embedding.weight)

    def project(self, inputs: Tensor) -> Tensor:
        return self.embedding(inputs)

    def _attend(self, projected: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[..., heads]`` and values ``[..., hidden]`` of frames at a position ``[..., 1]``."""
        frames = self.norm_frames(projected + position_encoding(position, self.hidden_size))
        keys, values = self.keys_and_values(frames).to(projected.dtype).chunk(2, -1)
        products = (keys * self.queries(self.query)).unflatten(-1, (self.num_heads, -1)).sum(-1)
        return products / math.sqrt(self.hidden_size // self.num_heads), values

    def _per_unit(self, heads: Tensor) -> Tensor:
        """One number for each hidden unit, that of its head: ``[..., heads]`` -> ``[..., hidden]``."""
        return heads.repeat_interleave(self.hidden_size // self.num_heads, -1)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        attended, before, number = state.split([self.hidden_size, self.num_heads, 1], -1)
        scores, values = self._attend(projected, number)
        total = torch.where(number == 0, scores, before + F.softplus(scores - before))
        share = self._per_unit((scores - total).exp())
        return torch.cat([(1 - share) * attended + share * values, total, number + 1], -1)

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        numbers = torch.arange(len(projected), device=projected.device, dtype=projected.dtype)[:, None, None]
        numbers = numbers.expand(*projected.shape[:2], 1)
        attended, before, number = None, None, None
        if state is not None:
            attended, before, number = state.split([self.hidden_size, self.num_heads, 1], -1)
            numbers = numbers + number
        scores, values = self._attend(projected, numbers)
        totals = scores.logcumsumexp(0)
        if before is not None and number is not None:
            totals = torch.where(number == 0, totals, torch.logaddexp(before, totals))
        share = self._per_unit((scores - totals).exp())
        return torch.cat([diagonal_scan(1 - share, share * values, attended), totals, numbers + 1], -1)

    def read(self, states: Tensor, projected: Tensor) -> Tensor:
        attended = self.query + states[..., : self.hidden_size]
        return attended + self.mlp(self.norm_attended(attended))


def position_encoding(position: Tensor, size: int) -> Tensor:
    """Sines, then cosines at ``size / 2`` wavelengths from 2 pi to 20,000 pi steps: ``[..., 1]`` -> ``[..., size]``."""
    half = (size + 1) // 2
    frequencies = 1e4 ** -(torch.arange(half, device=position.device, dtype=position.dtype) / half)
    angles = position * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :size]
