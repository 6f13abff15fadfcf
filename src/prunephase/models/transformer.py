"""A small vision transformer."""

# B batch, C channels, H height, W width, P pixels along a patch, N patches, D features, h heads, K classes.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from prunephase.models.checks import Shape, check_whole, image_shape


def vit(
    input_shape: Shape,
    classes: int,
    patch: int = 4,
    dim: int = 512,
    depth: int = 6,
    heads: int = 8,
    mlp_dim: int = 512,
    dropout: float = 0.1,
) -> nn.Module:
    """The ViT of Quetu, Milovanovic and Tartaglione (2023): 9,466,880 weights of linear layers on CIFAR-10.

    Patches of patch x patch pixels as `dim` features each, `depth` blocks of `heads` attention heads of dim / heads
    features and a perceptron of `mlp_dim` units; pre-norm, GELU, a class token, learned positions. `dropout` follows
    the embedding, each attention and each linear layer of the perceptrons. The paper prunes every linear layer:
    `include = ["*"]`. Layers embedding, blocks.0.attention.qkv, blocks.0.attention.project, blocks.0.mlp.0, ...,
    output, drawn as torch draws them; token and positions are standard normal, and never pruned.
    """
    check_whole(patch=patch, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim)
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout!r}: expected a fraction from 0 to below 1")
    if dim % heads:
        raise ValueError(f"dim = {dim}: cannot be shared by {heads} heads; give a multiple of heads")
    shape = image_shape(input_shape)
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch = {patch}: does not divide images of {shape[1]} x {shape[2]} pixels")
    return Transformer(shape, classes, patch, dim, depth, heads, mlp_dim, dropout)


class Transformer(nn.Module):
    """See `vit`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.grid = (channels, height // patch, patch, width // patch, patch)
        self.embedding = nn.Linear(channels * patch * patch, dim)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 1 + self.grid[1] * self.grid[3], dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_dim, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, K]."""
        patches = x.reshape(-1, *self.grid).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [B, N, P * P * C]
        x = self.embedding(patches)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = self.blocks(self.dropout(x))
        return self.output(self.norm(x[:, 0]))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a perceptron, each behind its norm and added to what came in. [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            *(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(mlp_dim, dim), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of `heads` heads; queries, keys and values are one linear layer without bias."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.project = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        heads = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, h, N, D / h]
        y = scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2)
        return self.dropout(self.project(y))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The number of heads, which no weight tells."""
        return f"heads={self.heads}"
