"""What aggregation adds to the frozen weights of adapted layers, beside their adapters: named tensors of two forms.

A layer has factors like an adapter's, `<layer>.lora_A.weight` (R, in) and `<layer>.lora_B.weight` (out, R), or as soon
as that is smaller the whole matrix, `<layer>.weight` (out, in). Both are multiplied by alpha/rank, as an adapter is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddtl.models.lora import A_SUFFIX, B_SUFFIX, Tensors, layer_names

SUFFIX = ".weight"


def grown(residual: Mapping[str, Tensor], change: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    """The residual plus the products of these factors, each layer in the smaller form.

    Args:
        residual: Before; empty for none.
        change: Factors of every layer.
        dtype: Of the result.
    """
    after: Tensors = {}
    for layer in layer_names(change):
        down, up = change[layer + A_SUFFIX].to(dtype), change[layer + B_SUFFIX].to(dtype)
        if not (up.any() and down.any()):  # as of a round with one client, or with clients that are all alike
            after |= {name: tensor for name, tensor in residual.items() if name.startswith(f"{layer}.")}
            continue
        if layer + SUFFIX in residual:
            after[layer + SUFFIX] = residual[layer + SUFFIX] + up @ down
            continue
        if layer + A_SUFFIX in residual:
            down = torch.cat([residual[layer + A_SUFFIX], down])
            up = torch.cat([residual[layer + B_SUFFIX], up], dim=1)
        if down.numel() + up.numel() < len(up) * down.shape[1]:
            after |= {layer + A_SUFFIX: down, layer + B_SUFFIX: up}
        else:
            after[layer + SUFFIX] = up @ down
    return after


def as_factors(residual: Mapping[str, Tensor]) -> Tensors:
    """Factors of every layer; of a whole matrix W these are W and the identity."""
    factors: Tensors = {}
    for name, tensor in residual.items():
        if name.endswith((A_SUFFIX, B_SUFFIX)):
            factors[name] = tensor
        else:
            layer = name.removesuffix(SUFFIX)
            factors[layer + A_SUFFIX] = torch.eye(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
            factors[layer + B_SUFFIX] = tensor
    return factors


def joined(factors: Mapping[str, Tensor], residual: Mapping[str, Tensor]) -> Tensors:
    """Factors whose product is B·A plus the residual's, [B B_res]·[A; A_res]; a layer without a residual stays as it
    is."""
    whole, added = dict(factors), as_factors(residual)
    for layer in layer_names(added):
        whole[layer + A_SUFFIX] = torch.cat([factors[layer + A_SUFFIX], added[layer + A_SUFFIX]])
        whole[layer + B_SUFFIX] = torch.cat([factors[layer + B_SUFFIX], added[layer + B_SUFFIX]], dim=1)
    return whole


def of_one_rank(factors: Mapping[str, Tensor]) -> Tensors:
    """The same products with factors of one rank for all layers, the smallest that is enough for each of them.

    Factors with more directions than the product's smaller side are replaced by the product itself and an identity; a
    layer with fewer directions than another gets zeros.
    """
    exact = dict(factors)
    for layer in layer_names(factors):
        down, up = factors[layer + A_SUFFIX], factors[layer + B_SUFFIX]
        if len(down) > min(len(up), down.shape[1]):
            exact[layer + A_SUFFIX], exact[layer + B_SUFFIX] = _shorter(down, up)
    rank = max(len(exact[layer + A_SUFFIX]) for layer in layer_names(exact))
    for layer in layer_names(exact):
        down, up = exact[layer + A_SUFFIX], exact[layer + B_SUFFIX]
        missing = rank - len(down)
        exact[layer + A_SUFFIX] = torch.cat([down, down.new_zeros(missing, down.shape[1])])
        exact[layer + B_SUFFIX] = torch.cat([up, up.new_zeros(len(up), missing)], dim=1)
    return exact


def _shorter(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of the same product: the product itself and an identity on its smaller side."""
    product = (up.double() @ down.double()).to(up.dtype)
    smaller = torch.eye(min(product.shape), dtype=product.dtype, device=product.device)
    return (product, smaller) if len(product) <= product.shape[1] else (smaller, product)
