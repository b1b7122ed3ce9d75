"""The commands by name, one file each.

A new command is a file beside this one and a line in `COMMANDS`. The file holds the command's flags and its work, and
imports what is heavy inside functions, so that `--help` is instant.
"""

from __future__ import annotations

from feddtl.cli.command import Command
from feddtl.cli.commands.cache import Cache
from feddtl.cli.commands.client import Client
from feddtl.cli.commands.compare import Compare
from feddtl.cli.commands.doctor import Doctor
from feddtl.cli.commands.embed import Embed
from feddtl.cli.commands.evaluate import Evaluate
from feddtl.cli.commands.export import Export
from feddtl.cli.commands.follow import Follow
from feddtl.cli.commands.keys import Keys
from feddtl.cli.commands.partition import Partition
from feddtl.cli.commands.predict import Predict
from feddtl.cli.commands.report import Report
from feddtl.cli.commands.run import Run
from feddtl.cli.commands.server import Server
from feddtl.cli.commands.status import Status
from feddtl.cli.commands.stop import Stop
from feddtl.cli.commands.submit import Submit

# In the order of `feddtl --help`.
COMMANDS: dict[str, type[Command]] = {
    "run": Run,
    "compare": Compare,
    "evaluate": Evaluate,
    "predict": Predict,
    "embed": Embed,
    "export": Export,
    "report": Report,
    "partition": Partition,
    "keys": Keys,
    "server": Server,
    "client": Client,
    "submit": Submit,
    "status": Status,
    "follow": Follow,
    "stop": Stop,
    "cache": Cache,
    "doctor": Doctor,
}
