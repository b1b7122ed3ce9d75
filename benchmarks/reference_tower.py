"""One tower of transformers' CLIP with adapters of peft, as the opponent of the speed comparison uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from benchmarks.reference_parts import Adapter, Compute, Settings


class Tower:
    """A tower of CLIP with LoRA on q, k and v of its last two blocks."""

    def __init__(self, kind: Any, part: str, folder: Path, compute: Compute, settings: Settings) -> None:
        model = kind.from_pretrained(folder, dtype=compute.dtype, attn_implementation=compute.attention)
        self.compute, self.settings = compute, settings
        last = model.config.num_hidden_layers
        # The full path: a bare 'q_proj' would adapt every block.
        self._targets = rf"{part}\.encoder\.layers\.({last - 2}|{last - 1})\.self_attn\.(q|k|v)_proj"
        self.model = get_peft_model(model, self._lora(1), adapter_name="policy").to(compute.device).eval()

    def _lora(self, ranks: int) -> LoraConfig:
        s = self.settings
        return LoraConfig(r=ranks * s.rank, lora_alpha=ranks * s.lora_alpha, target_modules=self._targets)

    def add(self, name: str, ranks: int = 1) -> None:
        """Add a frozen adapter."""
        self.model.add_adapter(name, self._lora(ranks))
        self.model.to(self.compute.device).set_adapter("policy")

    def use(self, name: str) -> None:
        """Select the adapter of the next forward passes; only 'policy' is trained."""
        self.model.set_adapter(name, inference_mode=name != "policy")

    def get(self) -> Adapter:
        """A copy of the trained adapter, on the CPU."""
        state = get_peft_model_state_dict(self.model, adapter_name="policy", save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def set(self, adapter: Adapter, name: str = "policy") -> None:
        """Load an adapter."""
        set_peft_model_state_dict(self.model, adapter, adapter_name=name)

    def optimizer(self) -> torch.optim.Optimizer:
        """A new Adam of the trained factors."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.settings.learning_rate)
