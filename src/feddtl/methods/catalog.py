"""The methods by name: title, settings and where the code is. Known without torch, so that `--help` is instant.

A new method is a folder beside this file and one entry in `METHODS`. A method outside the repository needs no entry:
`--method path/to/my_method.py:MyMethod` and `--method package.module:MyMethod` name a subclass of
`feddtl.methods.base.Method`. The fields of its `Settings` are its flags.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from feddtl.errors import ConfigError, did_you_mean
from feddtl.methods.fedclip.settings import FedCLIPSettings
from feddtl.methods.fedmaple.settings import FedMaPLeSettings
from feddtl.methods.fedmgp.settings import FedMGPSettings
from feddtl.methods.fedpgp.settings import FedPGPSettings
from feddtl.methods.pfedmma.settings import PFedMMASettings
from feddtl.methods.promptfl.settings import PromptFLSettings
from feddtl.prompts import is_ensemble
from feddtl.state_folder import expanded

if TYPE_CHECKING:
    from feddtl.config import Experiment
    from feddtl.methods.base import Method
    from feddtl.methods.task import Task

Stages = Literal["sft-then-rl", "sft"]
LoraAggregation = Literal["factors", "product", "residual", "frozen-a", "alternate"]


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


@dataclass(frozen=True)
class MethodEntry:
    """A method, before its code is loaded.

    Attributes:
        title: Name in tables.
        code: 'module:Class'.
        settings: Type of its own settings; their table in an experiment is named after the method.
        stages: What `schedule.stages = "auto"` means for it.
        plain_stages: The stages that the bare title stands for.
        has_lora: Whether what clients send are LoRA factors.
        aggregation: The only value of `lora.aggregation` that it works with; None: any.
        trains: Whether it has rounds at all.
        trains_on_server: Whether the server trains too, with `server.learning_rate`.
        learns_prompts: Whether it has prompts of its own, so that there are no templates to average.
    """

    title: str
    code: str
    settings: type[Any] = NoSettings
    stages: Stages = "sft"
    plain_stages: Stages = "sft"
    has_lora: bool = False
    trains: bool = True
    aggregation: LoraAggregation | None = None
    trains_on_server: bool = False
    learns_prompts: bool = False


METHODS: dict[str, MethodEntry] = {
    "feddtl": MethodEntry(
        "FedDTL",
        "feddtl.methods.feddtl.method:FedDTL",
        stages="sft-then-rl",
        plain_stages="sft-then-rl",
        has_lora=True,
        trains_on_server=True,
    ),
    "fedlora": MethodEntry("FedLoRA", "feddtl.methods.fedlora.method:FedLoRA", stages="sft-then-rl", has_lora=True),
    "fedsa-lora": MethodEntry(
        "FedSA-LoRA", "feddtl.methods.fedsa_lora.method:FedSALoRA", has_lora=True, aggregation="factors"
    ),
    "ffa-lora": MethodEntry(
        "FFA-LoRA", "feddtl.methods.ffa_lora.method:FFALoRA", has_lora=True, aggregation="frozen-a"
    ),
    "rolora": MethodEntry("RoLoRA", "feddtl.methods.rolora.method:RoLoRA", has_lora=True, aggregation="alternate"),
    "fedex-lora": MethodEntry(
        "FedEx-LoRA", "feddtl.methods.fedex_lora.method:FedExLoRA", has_lora=True, aggregation="residual"
    ),
    "promptfl": MethodEntry(
        "PromptFL", "feddtl.methods.promptfl.method:PromptFL", PromptFLSettings, learns_prompts=True
    ),
    "fedmaple": MethodEntry(
        "FedMaPLe", "feddtl.methods.fedmaple.method:FedMaPLe", FedMaPLeSettings, learns_prompts=True
    ),
    "fedpgp": MethodEntry("FedPGP", "feddtl.methods.fedpgp.method:FedPGP", FedPGPSettings, learns_prompts=True),
    "fedmgp": MethodEntry("FedMGP", "feddtl.methods.fedmgp.method:FedMGP", FedMGPSettings, learns_prompts=True),
    "pfedmma": MethodEntry("pFedMMA", "feddtl.methods.pfedmma.method:PFedMMA", PFedMMASettings),
    "fedclip": MethodEntry("FedCLIP", "feddtl.methods.fedclip.method:FedCLIP", FedCLIPSettings),
    "zero-shot": MethodEntry("Zero-shot", "feddtl.methods.zero_shot.method:ZeroShot", trains=False),
}


def is_own_method(name: str) -> bool:
    """Whether a name is 'FILE.py:Class' or 'module:Class', that is, of a method outside the table."""
    return ":" in name


def with_absolute_file(name: str) -> str:
    """The name of a user's own method with the whole path of its file; any other name unchanged."""
    path, _, kind = name.rpartition(":")
    return f"{expanded(path).absolute()}:{kind}" if path.endswith(".py") else name


def method_entry(name: str) -> MethodEntry:
    """The method of a name in the table, or of a user's own class.

    Raises:
        ConfigError: There is no such method, file or class.
    """
    if not is_own_method(name):
        if name not in METHODS:
            hint = did_you_mean(name, METHODS)
            raise ConfigError(f"method = {name!r} is not known.", f"{hint} Your own: FILE.py:Class or module:Class.")
        return METHODS[name]
    kind = method_class(name)
    return MethodEntry(
        kind.title or kind.__name__,
        name,
        kind.Settings,
        has_lora=kind.trains_lora,
        trains=kind.trains,
        aggregation=kind.own_aggregation,
        trains_on_server=kind.trains_on_server,
        learns_prompts=kind.learns_prompts,
    )


def settings_table(name: str) -> str:
    """The table of a method's own settings in an experiment: its name, or that of a user's class in lower case."""
    return re.sub(r"\W", "_", name.rpartition(":")[2].lower() if is_own_method(name) else name)


@cache
def method_class(name: str) -> type[Method]:
    """The class of a method. Raises ConfigError naming what cannot be loaded."""
    from feddtl.methods.base import Method

    code = name if is_own_method(name) else METHODS[name].code
    module_name, _, class_name = code.rpartition(":")
    found = getattr(_module(name, module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        what = "has no class" if found is None else "has something other than a method under the name"
        raise ConfigError(
            f"method = {name!r}: {module_name} {what} {class_name!r}.",
            "Name a subclass of feddtl.methods.base.Method, see docs/how-to/add-a-method.md.",
        )
    return found


def _module(name: str, source: str) -> ModuleType:
    try:
        return _module_of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    # A user's file may fail in any way; the error must say which file it was.
    except Exception as error:
        raise ConfigError(
            f"method = {name!r} cannot be loaded: {type(error).__name__}: {error}.",
            "Give FILE.py:Class with a path from here, or package.module:Class of an installed package.",
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"feddtl_method_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def method_digest(name: str) -> str:
    """SHA-256 of the file that a user's own method is in; empty for a method of the table."""
    if not is_own_method(name):
        return ""
    source = sys.modules[method_class(name).__module__].__file__
    return hashlib.sha256(Path(str(source)).read_bytes()).hexdigest()


def require_fitting_prompt(method: str, prompt: str) -> None:
    """Raise ConfigError for several templates where the method has prompts of its own."""
    if method_entry(method).learns_prompts and is_ensemble(prompt):
        raise ConfigError(
            f"data.prompt has several templates, and method = '{method}' learns its own prompts: there is nothing to "
            "average.",
            "Leave out data.prompt or give one template, or choose a method that reads them, such as 'feddtl', "
            "'fedlora' or 'zero-shot'.",
        )


def build_method(task: Task, experiment: Experiment) -> Method:
    """The experiment's method on this task. Raises ConfigError for several templates if it learns its prompts."""
    require_fitting_prompt(experiment.method, task.prompt_template)
    return method_class(experiment.method)(task, experiment.method_settings, experiment.training)


def titles() -> Mapping[str, str]:
    """Titles of the methods in the table, by name, in its order."""
    return {name: entry.title for name, entry in METHODS.items()}
