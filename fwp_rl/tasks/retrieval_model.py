"""The models of associative retrieval: the published one, and any core in its place.

A step of a sequence is one number: ``S + S * value + key`` for a pair, ``key`` for the query, with
which a sequence ends. With E the embedding of keys and 1_v the one-hot vector of a value, a pair is
x = [1_v; E_key], the query E_key. Of Schlag et al., "Linear Transformers Are Secretly Fast Weight
Programmers" (2021), section 6.1, as in the released code:

    k = W_k x + b_k    q = W_q E_key + b_q    β = sigmoid(w x + b)
    sum        y = Σ 1_v (φ(k)·φ(q)) / (Σ φ(k)·φ(q) + 1e-6)
    delta      W ← W + β (1_v - W k') k'ᵀ, k' = φ(k) / Σφ(k);   y = W φ(q) / (Σφ(q) + 1e-6)
    softmax    y = Σ 1_v softmax(k·q / sqrt(64))
"""

import math
from typing import Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.cores import CoreConfig, build_core
from fwp_rl.cores.feature_maps import FeatureMap
from fwp_rl.kernels.fast_weight import fast_weight
from fwp_rl.types import State

__all__ = ["KEY_SIZE", "CoreModel", "FeatureName", "PublishedModel", "Rule", "embedding_size"]

Rule: TypeAlias = Literal["sum", "delta"]
FeatureName: TypeAlias = Literal["elu1", "dpfp1", "dpfp2", "dpfp3", "favor", "softmax"]

KEY_SIZE: Final = 64
"""Of keys and queries, before φ."""
_EPSILON: Final = 1e-6


def embedding_size(symbols: int) -> int:
    """Features of a key's embedding: 1.1 for each of S keys and S values."""
    return int(2 * symbols * 1.1)


class PublishedModel(nn.Module):
    """A memory alone: it is written with the pairs and read with the query.

    forward(sequences [L + 1, B], state (), reset) -> answers [B, S], ()

    The projection Ω of favor is drawn anew in each forward pass that takes gradients, from torch's
    global generator, and for each sequence in ``answers``.
    """

    def __init__(
        self, symbols: int, *, feature_map: FeatureName, rule: Rule, favor_features: int
    ) -> None:
        super().__init__()
        size = embedding_size(symbols)
        self.symbols, self.rule = symbols, rule
        self.embedding = nn.Embedding(symbols, size)
        self.key = nn.Linear(symbols + size, KEY_SIZE)
        self.query = nn.Linear(size, KEY_SIZE)
        self.beta = nn.Linear(symbols + size, 1) if rule == "delta" else None
        self.phi = None
        for linear in (self.key, self.query):
            if feature_map == "softmax":
                nn.init.xavier_uniform_(linear.weight)
            else:
                nn.init.uniform_(linear.weight, -1 / math.sqrt(KEY_SIZE), 1 / math.sqrt(KEY_SIZE))
        if feature_map != "softmax":
            self.phi = FeatureMap(feature_map, KEY_SIZE, rows=favor_features)
        self.redraws = feature_map == "favor"

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """Nothing: a sequence begins with an empty memory."""
        return ()

    def redraw(self) -> None:
        """Take another Ω."""
        if self.phi is not None:
            self.phi.redraw()

    def forward(self, sequences: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """The answers to the queries; W itself is never made, see ``_read_back``."""
        if self.redraws and self.training and torch.is_grad_enabled():
            self.redraw()
        pairs = sequences[:-1].flip(0)  # the last one first
        k, beta, total = self._write(pairs)  # [L, B, F], [L, B], [L, B]
        q = self._read(self.query(self.embedding(sequences[-1])))  # [B, F]
        if beta is not None:
            # on k / total, without computing it: β shrinks in its place
            weight = _read_back(k, beta / total.square(), q) * total
        else:
            weight = (k * q).sum(-1)  # [L, B]; a product of matrix and vector takes longer
            weight = weight.softmax(0) if self.phi is None else weight / (weight.sum(0) + _EPSILON)
        answers = q.new_zeros(q.shape[0], self.symbols)
        return answers.scatter_add(1, self._values(pairs).T, weight.T), state

    def answers(self, pairs: Tensor) -> Tensor:
        """The answers to every key: [B, S keys, S values] for sequences without a query [L, B]."""
        if self.phi is None or not self.redraws:
            return self._answers(pairs)
        kept, parts = self.phi.projection, []
        for one in pairs.split(1, dim=1):
            self.redraw()
            parts.append(self._answers(one))
        self.phi.projection = kept
        return torch.cat(parts)

    def _answers(self, pairs: Tensor) -> Tensor:
        k, beta, total = self._write(pairs)  # [L, B, F], [L, B], [L, B]
        k = k / total.unsqueeze(-1)
        q = self._read(self.query(self.embedding.weight))  # [S, F]
        v = F.one_hot(self._values(pairs), self.symbols).to(k.dtype)  # [L, B, S]
        if self.phi is None:
            attention = torch.einsum("lbk,sk->lbs", k, q).softmax(0)
            return torch.einsum("lbs,lbv->bsv", attention, v)
        if beta is None:
            v = F.pad(v, (0, 1), value=1.0)  # one more row of W: the sum of the keys
        B, V, K = k.shape[1], v.shape[-1], k.shape[-1]
        k, v = k.unsqueeze(2), v.unsqueeze(2)
        beta = None if beta is None else beta.unsqueeze(2)
        _, W = fast_weight(k, k, v, beta, k.new_zeros(B, 1, V, K), rule=self.rule)
        y = torch.einsum("bvk,sk->bsv", W.squeeze(1), q)
        return y if beta is not None else y[..., :-1] / (y[..., -1:] + _EPSILON)

    def _values(self, pairs: Tensor) -> Tensor:
        return pairs // self.symbols - 1

    def _write(self, pairs: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """What keys become [L, B, F], β [L, B] for the delta rule, and what the keys are yet to be
        divided by, [L, B] or a number."""
        k = self._of_pairs(self.key, pairs)
        one = k.new_ones(())
        if self.phi is None:
            return k / math.sqrt(KEY_SIZE), None, one
        if self.beta is None:
            return self.phi.unnormalised(k), None, one
        beta = self._of_pairs(self.beta, pairs).squeeze(-1).sigmoid()
        if self.phi.projection is not None:
            # as a softmax; the authors' quotient is 0 / 0 where each feature is below 1e-45
            return self.phi(k), beta, one
        features = self.phi.unnormalised(k)
        return features, beta, features.sum(-1)

    def _read(self, q: Tensor) -> Tensor:
        """φ(q), of [..., 64]."""
        if self.phi is None:
            return q
        features = self.phi.unnormalised(q)
        if self.beta is None:
            return features
        return features / (features.sum(-1, keepdim=True) + _EPSILON)

    def _of_pairs(self, linear: nn.Linear, pairs: Tensor) -> Tensor:
        """A linear layer's outputs for pairs [L, B]: sums of two rows of tables, since a value is
        one-hot and there are but S keys."""
        of_value, of_key = linear.weight.T.tensor_split([self.symbols])
        of_key = torch.addmm(linear.bias, self.embedding.weight, of_key)
        keys = F.embedding(pairs % self.symbols, of_key)
        return keys + F.embedding(self._values(pairs), of_value)


def _read_back(k: Tensor, beta: Tensor, q: Tensor) -> Tensor:
    """How much of each value one query reads from what the delta rule wrote.

    k, beta  [L, B, F], [L, B]: the last step first
    q        [B, F]
    returns  [L, B]

    W_t q = W_{t-1} (q - c k_t) + c v_t with c = β_t k_t·q. So read from the last step back, a query
    costs a vector at each step, where writing costs a matrix. What is left of the query follows the
    delta rule itself, on a memory of one row that is told to answer each key with 0. The op reads
    after it writes: it is read with the key that comes next.
    """
    rest = k.shape[0] - 1
    first, following = k.split([1, rest])  # split, not sliced: cheaper in the backward pass
    keys, _ = k.unsqueeze(2).split([rest, 1])
    zeros = k.new_zeros(rest, k.shape[1], 1, 1)
    y, _ = fast_weight(
        following.unsqueeze(2), keys, zeros, beta[:-1].unsqueeze(2), q[:, None, None]
    )
    return beta * torch.cat([(first * q).sum(-1), y[..., 0, 0]])


class CoreModel(nn.Module):
    """Any core in place of the published memory; its last output is the answer, by a linear layer.

    forward(sequences [L + 1, B], state, reset [L + 1, B]) -> answers [B, S], state

    The core sees pairs as the published model does, and the query as a pair without a value.
    """

    def __init__(self, symbols: int, core: CoreConfig) -> None:
        super().__init__()
        self.symbols = symbols
        self.embedding = nn.Embedding(symbols, embedding_size(symbols))
        self.core = build_core(core, symbols + embedding_size(symbols))
        self.head = nn.Linear(self.core.output_size, symbols)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        """The core's state at the start of a sequence."""
        return self.core.initial_state(batch_size, device or self.head.weight.device)

    def forward(self, sequences: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """The answers to the queries, with which the sequences end."""
        y, state = self.core(self._inputs(sequences), state, reset)
        return self.head(y[-1]), state

    def answers(self, pairs: Tensor) -> Tensor:
        """The answers to every key: [B, S keys, S values] for sequences without a query [L, B]."""
        reset = torch.zeros_like(pairs, dtype=torch.bool)
        _, state = self.core(self._inputs(pairs), self.initial_state(pairs.shape[1]), reset)
        queries = torch.arange(self.symbols, device=pairs.device).unsqueeze(0)  # [1, S]
        x, reset = self._inputs(queries), torch.zeros_like(queries, dtype=torch.bool)
        answers = []
        for column in range(pairs.shape[1]):
            copies = (leaf[column].expand(self.symbols, *leaf.shape[1:]) for leaf in state)
            y, _ = self.core(x, tuple(copy.contiguous() for copy in copies), reset)
            answers.append(self.head(y[0]))
        return torch.stack(answers)

    def _inputs(self, steps: Tensor) -> Tensor:
        """[T, B, S + embedding size] for steps [T, B]."""
        value = F.one_hot(steps // self.symbols, self.symbols + 1)[..., 1:]
        key = self.embedding(steps % self.symbols)
        return torch.cat([value.to(key.dtype), key], dim=-1)
