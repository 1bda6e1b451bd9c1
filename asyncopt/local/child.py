"""The program of the embedded model's server process. It is run as a file, not imported, and imports nothing of ours.

Its settings come as one JSON line on stdin: a command line and an environment can be read by other users, and the API
key is among the settings. When the model is loaded, one JSON line with the address goes to stdout. From then
on the end of stdin ends the process: the system closes that pipe in whatever way the owner dies. (While it loads a
model, xllamacpp lets no other thread run, so that an end during that time is noticed right after it.)
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any


def main() -> int:
    """The exit code; returns only if the model cannot be served."""
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_owner, daemon=True).start()
    # llama.cpp writes to the descriptors, not to sys.stdout; its words belong in the log that stderr is.
    with os.fdopen(os.dup(1), "w") as ready:
        os.dup2(2, 1)
        try:
            server = _serve(settings)
        except (ImportError, RuntimeError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        print(json.dumps({"address": server.listening_address}), file=ready, flush=True)
        threading.Event().wait()
    return 0


def _exit_with_owner() -> None:
    while os.read(0, 4096):  # not through sys.stdin: its lock, held here, would break the interpreter's own exit
        pass
    os._exit(0)


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.api_keys = [settings["api_key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.endpoint_slots = False  # it shows other callers' prompts
    # Left alone, any page in a browser may read the answers. This origin is nobody's: it names no port.
    params.cors_origins, params.cors_origins_explicit, params.cors_credentials = "http://127.0.0.1", True, False
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.cache_ram_mib = settings["cache_mib"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.fit_params = False  # it would make the context smaller or larger by the memory that happens to be free
    params.verbosity = 1  # errors only: information lines would be ten per request
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
