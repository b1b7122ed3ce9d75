"""The app of a client: its number comes from the node configuration, everything else from the server's broadcast."""

from __future__ import annotations

from feddtl.deployment import answer
from feddtl.flower_app.orphans import end_with_parent
from feddtl.runtimes.flower.apps import client_app

end_with_parent()
app = client_app(answer)
